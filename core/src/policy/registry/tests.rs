use super::*;
use serde_json::json;

fn parse(name: &str, settings: Value) -> Result<PolicyConfig, PolicyError> {
    let Value::Object(map) = settings else { panic!("an object") };
    PolicyConfig::parse(name, map)
}

fn message(name: &str, settings: Value) -> String {
    parse(name, settings).unwrap_err().to_string()
}

#[test]
fn every_name_builds_a_policy_of_that_name_and_survives_a_round_trip() {
    assert_eq!(PolicyConfig::names().len(), 27);
    for name in PolicyConfig::names() {
        let config = parse(name, json!({})).unwrap();
        assert_eq!((config.name(), config.build().name()), (*name, *name));
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<PolicyConfig>(&text).unwrap(), config, "{text}");
        assert_eq!(serde_json::from_value::<PolicyConfig>(json!(name)).unwrap(), config);
        assert!(config.settings().keys().all(|key| PolicyConfig::keys(name).contains(&key.as_str())), "{name}");
    }
}

#[test]
fn a_live_router_refuses_exactly_the_policies_that_need_a_truth() {
    for name in PolicyConfig::names() {
        let config = parse(name, json!({})).unwrap();
        assert_eq!(config.check_live().is_err(), config.build().needs_truth(), "{name}");
        assert_eq!(PolicyConfig::live_names().contains(name), config.check_live().is_ok(), "{name}");
    }
    let refused = parse("oracle-sum", json!({})).unwrap().check_live().unwrap_err().to_string();
    assert!(refused.starts_with("policy `oracle-sum` knows the future of the engines"), "{refused}");
}

#[test]
fn keys_are_known_by_the_policy_that_reads_them_under_all_its_names() {
    assert!(PolicyConfig::keys("gorgo").contains(&"ms_per_token"));
    assert_eq!(PolicyConfig::keys("leastloaded"), PolicyConfig::keys("least-load"));
    assert!(PolicyConfig::keys("random").is_empty() && PolicyConfig::keys("nonsense").is_empty());
}

#[test]
fn spellings_of_gotoni_are_understood() {
    for (given, known) in [
        ("least-loaded", "least-load"),
        ("least_loaded", "least-load"),
        ("leastload", "least-load"),
        ("least_load", "least-load"),
        ("prefixtree", "prefix-tree"),
        ("prefix_tree", "prefix-tree"),
        ("prefix", "prefix-tree"),
        ("GORGO", "gorgo"),
    ] {
        assert_eq!(PolicyConfig::canonical(given), Ok(known));
    }
}

#[test]
fn misspelt_names_and_keys_name_the_nearest() {
    assert_eq!(message("gorog", json!({})), "unknown policy `gorog`; did you mean `gorgo`?");
    let text = message("best", json!({}));
    assert!(text.starts_with("unknown policy `best`; it must be one of gorgo, predictive, prefix-tree,"), "{text}");
    let text = message("gorgo", json!({"ms_per_tokn": 0.1}));
    assert!(text.starts_with("policy `gorgo`: unknown field `ms_per_tokn`; did you mean `ms_per_token`?"), "{text}");
    let text = message("gorgo", json!({"preset": "paper"}));
    assert!(text.starts_with("policy `gorgo`: `preset`: unknown variant `paper`; did you mean `paper-v3`?"), "{text}");
    let text = message("random", json!({"seed": 1}));
    assert!(text.contains("unknown field `seed`"), "{text}");
}

#[test]
fn values_out_of_range_are_refused_in_one_sentence() {
    for (name, settings, expected) in [
        (
            "gorgo",
            json!({"queue_factor": -1}),
            "policy `gorgo`: `queue_factor` is -1; it must lie between 0 and 1000000000",
        ),
        (
            "gorgo",
            json!({"tie_band": null}),
            "policy `gorgo`: `tie_band` is null, NaN or infinite; give a number or leave the key out",
        ),
        (
            "gorgo",
            json!({"rtt_weight": "high"}),
            "policy `gorgo`: `rtt_weight`: invalid type: string \"high\", expected a number",
        ),
        (
            "prefix-tree",
            json!({"min_match": 1.5}),
            "policy `prefix-tree`: `min_match` is 1.5; it must lie between 0 and 1",
        ),
        (
            "cache-aware",
            json!({"cache_threshold": 2}),
            "policy `cache-aware`: `cache_threshold` is 2; it must lie between 0 and 1",
        ),
        (
            "kv-cost",
            json!({"block_tokens": 0}),
            "policy `kv-cost`: `block_tokens` is 0; it must lie between 1 and 1000000000",
        ),
        (
            "kv-cost",
            json!({"temperature": -0.5}),
            "policy `kv-cost`: `temperature` is -0.5; it must lie between 0 and 1000000000",
        ),
    ] {
        assert_eq!(message(name, settings), expected);
    }
}

#[test]
fn a_table_without_a_name_says_so() {
    let error = serde_json::from_value::<PolicyConfig>(json!({"ms_per_token": 1})).unwrap_err().to_string();
    assert!(error.starts_with("a policy needs a `name`, one of gorgo, predictive, prefix-tree"), "{error}");
    let error = serde_json::from_value::<PolicyConfig>(json!(7)).unwrap_err().to_string();
    assert!(error.contains("invalid type: integer `7`, expected a policy's name, or a table"), "{error}");
}

#[test]
fn one_key_can_be_tuned_and_the_rest_stays() {
    let config = parse("gorgo", json!({"preset": "paper-v3", "tie_band": 2.0})).unwrap();
    let tuned = config.with("queue_factor", json!(0.25)).unwrap();
    assert_eq!(tuned, parse("gorgo", json!({"preset": "paper-v3", "tie_band": 2, "queue_factor": 0.25})).unwrap());
    assert!(config.with("queue", json!(1)).is_err());
}
