//! The JSON schema of a settings file, from the types that read it.

use super::duration::is_time;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

/// What a duration in a file looks like.
const DURATION: &str = r"^[0-9]+(\.[0-9]+)?([eE][0-9]+)? ?(ms|s|m|min|h)$";

/// The JSON schema (draft 2020-12) of a file that is read as a `T` once its durations are milliseconds.
pub fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(allow_durations));
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// Lets each key that counts milliseconds be a duration too.
fn allow_durations(schema: &mut Schema) {
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    for (_, property) in properties.iter_mut().filter(|(key, _)| is_time(key)) {
        let Some(property) = property.as_object_mut() else { continue };
        let mut number = serde_json::Map::new();
        for key in ["type", "format", "minimum", "maximum"] {
            number.extend(property.remove_entry(key));
        }
        property.insert("anyOf".to_owned(), json!([number, {"type": "string", "pattern": DURATION}]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct File {
        /// How long.
        idle_ms: Option<u64>,
        name: String,
    }

    #[test]
    fn a_time_may_be_a_number_or_a_duration() {
        let schema = schema_of::<File>();
        let idle = &schema["properties"]["idle_ms"];
        assert_eq!(idle["description"], "How long.");
        assert_eq!(idle["anyOf"][0]["type"], json!(["integer", "null"]));
        assert_eq!(idle["anyOf"][1]["pattern"], DURATION);
        assert_eq!(
            (&schema["properties"]["name"]["type"], &schema["additionalProperties"]),
            (&json!("string"), &json!(false))
        );
    }
}
