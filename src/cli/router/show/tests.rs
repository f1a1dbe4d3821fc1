use super::explanation::CANDIDATE;
use super::*;
use serde_json::json;

fn candidates() -> Vec<Value> {
    let one = |id: &str, total: f64, excluded: Value| {
        json!({"id": id, "total_ms": total, "network_ms": 0.38, "prefill_ms": 75.25, "waiting_ms": 0.0,
            "running_ms": 0.0, "egress_ms": 0.0, "cached_tokens": 1_024, "waiting_requests": 0,
            "running_requests": 3, "rtt_age_ms": 134.1, "excluded": excluded})
    };
    vec![one("10.0.0.1:8080", 1_234.5, Value::Null), one("10.0.0.2:8080", 9.0, json!("down"))]
}

#[test]
fn a_table_fits_the_terminal_and_leaves_out_what_says_nothing() {
    for width in [40, 80, 120, usize::MAX] {
        let text = fit(&CANDIDATE, &candidates(), "  ", width);
        assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
        assert!(text.lines().nth(1).unwrap().contains("1234"), "{width}:\n{text}");
    }
    let free = fit(&CANDIDATE, &candidates()[..1], "", usize::MAX);
    assert!(!free.contains("excluded") && free.contains("RTT age"), "{free}");
}

#[test]
fn an_explanation_says_what_decided() {
    let value = json!({"request_id": "r-1", "status": "finished", "replica": "a", "attempts": 2, "reason": "",
        "predicted_ttft_ms": 70.0, "actual_ttft_ms": 74.24, "predicted_cached_tokens": 8,
        "actual_cached_tokens": null, "decisions": [{"policy": "gorgo", "chosen": "a", "prompt_tokens": 9,
        "tokens": "estimated", "reason": null, "candidates_left_out": 3, "candidates": candidates(),
        "deciding": {"ahead_by": 0.752, "deciding_term": "prefill", "runner_up": "b", "fastest": "b",
        "regret_ms": 12.0}}]});
    let text = explanation(&value);
    assert!(
        text.starts_with(
            "request r-1: finished at a after 2 attempts\nfirst token: predicted 70.0 ms, actual 74.2 ms\n\
         cached tokens: predicted 8, actual unknown\n\n\
         gorgo chose a for 9 prompt tokens (estimated), ahead of b by 0.75 in prefill; b was expected 12.0 ms sooner\n"
        ),
        "{text}"
    );
    assert!(text.ends_with("3 more candidates are not kept"), "{text}");
}

#[test]
fn an_explanation_names_the_residency_and_whom_it_leaves_out() {
    let told = |residency: Value, outside: usize| {
        let out = |n: usize| json!({"id": format!("e{n}"), "excluded": "outside"});
        let all: Vec<Value> = (0..outside).map(out).chain([json!({"id": "in", "excluded": null})]).collect();
        let value = json!({"request_id": "r", "decisions": [{"policy": "gorgo", "chosen": "in", "prompt_tokens": 9,
            "residency": residency, "candidates": all}]});
        explanation(&value).lines().nth(5).unwrap().to_owned()
    };
    assert_eq!(
        told(json!("eu-west,eu-north;hipaa"), 2),
        "its residency, eu-west or eu-north and hipaa, leaves out e0, e1"
    );
    assert_eq!(told(json!("eu"), 0), "its residency, eu, leaves out no replica");
    assert!(told(json!("eu"), 12).ends_with("leaves out e0, e1, e2, e3, e4, e5, e6, e7 and 4 more"));
    assert!(told(Value::Null, 2).starts_with("  replica"), "{}", told(Value::Null, 2));
}

#[test]
fn what_is_empty_is_said_in_a_sentence() {
    assert!(shadows(&json!({"shadows": [], "dropped_events": 0})).contains("shadow.policies"));
    assert!(round_trips(&json!({})).contains("gorgo proxy servers add"));
    assert_eq!(replicas_table(&json!([])), "none");
}

#[test]
fn tables_are_aligned_and_nested_fields_left_out() {
    let value =
        json!({"queue": 0, "servers": [{"id": "a", "rtt": 1.5, "x": {}}, {"id": "long", "rtt": 20.25, "x": {}}]});
    assert_eq!(fields(&value), "queue: 0\nservers:\n  id    rtt\n  a     1.500\n  long  20.250");
}
