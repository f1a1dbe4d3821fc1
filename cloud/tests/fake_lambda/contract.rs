//! Requests against the published OpenAPI document: known paths, bodies by schema, no unknown fields.
//!
//! `region_name` is free, as it is since version 1.10.

use jsonschema::Validator;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;

struct Call {
    method: String,
    path: Vec<String>,
    body: Option<Validator>,
}

static CALLS: LazyLock<Vec<Call>> = LazyLock::new(|| {
    let mut document: Value = serde_json::from_str(include_str!("lambda-openapi-1.8.3.json")).unwrap();
    let schemas = document["components"]["schemas"].as_object_mut().unwrap();
    schemas.insert("PublicRegionCode".to_owned(), json!({"type": "string"}));
    for schema in schemas.values_mut().filter(|schema| schema["type"] == "object") {
        schema["additionalProperties"] = Value::Bool(false);
    }
    let paths: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_value(document["paths"].take()).unwrap();
    let calls = paths.into_iter().flat_map(|(path, methods)| {
        let document = &document;
        methods.into_iter().map(move |(method, call)| {
            let body = call.get("body").map(|body| {
                let schema = json!({"$ref": body["$ref"], "components": document["components"]});
                jsonschema::validator_for(&schema).unwrap()
            });
            Call { method, path: path.split('/').map(str::to_owned).collect(), body }
        })
    });
    calls.collect()
});

pub(super) fn check(method: &str, path: &str, body: &Value) -> Result<(), String> {
    let words: Vec<&str> = path.split('/').collect();
    let fits = |call: &&Call| {
        call.method == method
            && call.path.len() == words.len()
            && call.path.iter().zip(&words).all(|(rule, word)| rule == word || rule.starts_with('{'))
    };
    // A literal path goes before one with an id.
    let call =
        CALLS.iter().filter(fits).min_by_key(|call| call.path.iter().filter(|rule| rule.starts_with('{')).count());
    let call = call.ok_or("no such call")?;
    match &call.body {
        None if body.is_null() => Ok(()),
        None => Err("a body where none is taken".to_owned()),
        Some(schema) => schema.validate(body).map_err(|error| format!("{} at {}", error, error.instance_path())),
    }
}

#[test]
fn the_contract_refuses_what_the_service_would() {
    let launch = "/api/v1/instance-operations/launch";
    let good = json!({"region_name": "mars-1", "instance_type_name": "t", "ssh_key_names": ["k"], "name": "n"});
    check("post", launch, &good).unwrap();
    for (key, value) in [("quantity", json!(2)), ("name", json!("n".repeat(65))), ("ssh_key_names", json!("k"))] {
        let mut bad = good.clone();
        bad[key] = value;
        assert!(check("post", launch, &bad).is_err(), "{key}");
    }
    assert!(check("put", "/api/v1/instances", &Value::Null).is_err());
    let tag = json!({"region_name": "r", "instance_type_name": "t", "ssh_key_names": ["k"], "tags": [{"key": "A", "value": "v"}]});
    assert!(check("post", launch, &tag).is_err());
}
