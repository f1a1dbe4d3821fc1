//! The JSON schema of an experiment file.

use super::RunSpec;
use gorgo_core::settings::schema_of;
use schemars::JsonSchema;
use serde_json::{Map, Value};

/// Definitions that a file gives in full. Of all others an arm may give a part.
const WHOLE: [&str; 5] = ["ReplicaSpec", "FaultSpec", "Policy", "LiveNode", "Arrivals"];

/// An experiment: settings of a run, arms that change some of them, and settings that are varied.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "the schema is made of the fields")]
struct ExperimentFile {
    /// One line.
    title: Option<String>,
    /// The question that the experiment answers.
    question: Option<String>,
    /// The expected result.
    expect: Option<String>,
    /// Seeds of every arm: their number, or a list. A seed above 2^63 - 1 is a text. 5 when absent.
    seeds: Option<Seeds>,
    /// Name of the arm that the others are compared with; the first when absent.
    baseline: Option<String>,
    /// The arms. Each takes the settings of the file and changes some of them.
    arms: Option<Vec<Arm>>,
    /// Settings that are crossed with the arms: dotted keys with lists of values.
    vary: Option<Map<String, Value>>,
    /// The machines of live runs.
    cloud: Option<Map<String, Value>>,
    #[schemars(flatten)]
    settings: RunSpec,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "the schema is made of the variants")]
enum Seeds {
    Number(u16),
    List(Vec<Seed>),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "the schema is made of the variants")]
enum Seed {
    Number(u64),
    Text(String),
}

/// One arm.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "the schema is made of the fields")]
struct Arm {
    /// Name in results; made from what sets the arm apart when absent.
    name: Option<String>,
    #[schemars(flatten)]
    settings: RunSpec,
}

/// The JSON schema (draft 2020-12) of an experiment file. `cloud` is the schema of `[cloud]`, whose keys the command line
/// reads.
pub fn experiment_schema(cloud: Value) -> Value {
    let mut schema = schema_of::<ExperimentFile>();
    schema["properties"]["cloud"] = cloud;
    // The reader of traces keeps them; an experiment draws them.
    schema["$defs"]["WorkloadSpec"]["properties"]["unknown_places"]["default"] =
        serde_json::json!(super::workload::DRAWN);
    // The run's seed is the reader's.
    if let Some(options) = schema["$defs"]["WorkloadSpec"]["properties"].as_object_mut() {
        options.remove("seed");
    }
    partial(&mut schema);
    if let Some(definitions) = schema.get_mut("$defs").and_then(Value::as_object_mut) {
        definitions.iter_mut().filter(|(name, _)| !WHOLE.contains(&name.as_str())).for_each(|(_, one)| partial(one));
    }
    schema
}

/// No key must be there: it may stand in another arm, or in the file.
fn partial(schema: &mut Value) {
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("required");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_file_would_be_refused_for_is_in_no_schema() {
        let schema = experiment_schema(Value::Null);
        let workload = &schema["$defs"]["WorkloadSpec"]["properties"];
        assert!(workload.get("rate").is_some() && workload.get("seed").is_none(), "{workload}");
    }
}
