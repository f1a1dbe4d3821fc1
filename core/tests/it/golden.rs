//! The shipped policies choose what a real router recorded. See `tests/data/README.md`.

use gorgo_core::decide::decide_line;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::rng::stream;
use serde_json::{Map, Value, json};

/// What became of the rows of one recording.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    rows: usize,
    /// Rows whose least total is shared: the recorder drew at random there.
    ties: usize,
    /// Rows with one least total that is not the recorded target's, or another choice of ours.
    wrong: Vec<String>,
}

/// One row as a line of `gorgo decide`.
fn state(fields: &[&str]) -> String {
    let number = |i: usize| serde_json::from_str::<Value>(fields[i]).unwrap();
    let replicas: Vec<Value> = (0..3)
        .map(|replica| {
            let at = 4 + 6 * replica;
            json!({
                "id": replica.to_string(), "rtt_ms": number(at), "cached_tokens": number(at + 1),
                "waiting_tokens": number(at + 2),
                "engine": {"running": number(at + 3), "queued": number(at + 4), "used_tokens": number(at + 5), "age_ms": number(3)}
            })
        })
        .collect();
    json!({"id": fields[0], "prompt_tokens": number(2), "replicas": replicas}).to_string()
}

fn replay(recording: &str, name: &str, settings: Value) -> Tally {
    let settings: Map<String, Value> = serde_json::from_value(settings).unwrap();
    let mut policy = PolicyConfig::parse(name, settings).unwrap().build();
    let (mut rng, mut tally) = (stream(1, "policy", 0), Tally::default());
    for line in recording.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())) {
        let fields: Vec<&str> = line.split(',').collect();
        let decision = decide_line(&mut *policy, &mut rng, &state(&fields)).unwrap();
        let least = decision.candidates.iter().map(|c| c.terms.total).fold(f64::INFINITY, f64::min);
        let holders: Vec<_> = decision.candidates.iter().filter(|c| c.terms.total == least).map(|c| &*c.id).collect();
        tally.rows += 1;
        tally.ties += usize::from(holders.len() > 1);
        let chosen = decision.chosen.as_deref().unwrap_or("none");
        let same = if holders.len() > 1 { holders.contains(&fields[1]) } else { chosen == fields[1] };
        if !same || !holders.contains(&chosen) || decision.reason.is_some() {
            tally.wrong.push(format!("row {}: {chosen}, recorded {}", fields[0], fields[1]));
        }
    }
    tally
}

#[test]
fn least_load_by_engine_reports_chooses_what_the_recorded_router_chose() {
    let tally = replay(include_str!("../data/least-load.csv"), "least-load", json!({"signal": "engine"}));
    assert_eq!(tally, Tally { rows: 309, ties: 1, wrong: vec![] });
}

#[test]
fn gorgo_with_the_papers_first_weights_chooses_what_the_recorded_router_chose() {
    let tally = replay(include_str!("../data/gorgo-static.csv"), "gorgo", json!({"preset": "paper-v1"}));
    assert_eq!(tally, Tally { rows: 309, ties: 0, wrong: vec![] });
}

#[test]
fn the_recordings_can_tell_policies_apart() {
    // A golden test that any policy passed would show nothing.
    for (name, settings) in [
        ("nearest", json!({})),
        ("prefix-tree", json!({})),
        ("gorgo", json!({"preset": "paper-v3"})),
        ("gorgo", json!({"preset": "paper-v1", "used_factor": 0})),
        ("least-load", json!({"signal": "own"})),
    ] {
        let tally = replay(include_str!("../data/gorgo-static.csv"), name, settings.clone());
        assert!(tally.wrong.len() > 30, "{name} {settings}: {} of {} differ", tally.wrong.len(), tally.rows);
    }
}
