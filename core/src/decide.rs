//! One decision from a recorded fleet state: the part of `gorgo decide` without I/O.
//!
//! States and decisions are JSON lines. Replaying recorded states through the shipped policies explains what a router
//! did; a file of recorded states is also a regression test for a policy.

use crate::ReplicaId;
use crate::policy::{Candidate, CostTerms, Exclusion, Policy, Selection};
use crate::rng::ChaCha8Rng;
use serde::{Deserialize, Serialize};

mod state;

pub use state::{DecideError, Key, ReplicaState, State};

/// One candidate of a [`Decision`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The replica.
    pub id: String,
    /// Its terms, in the policy's unit.
    #[serde(flatten)]
    pub terms: CostTerms,
    /// Why it could not be chosen.
    pub excluded: Option<Exclusion>,
}

/// A decision with the score of every candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The request.
    pub id: String,
    /// The replica; `None` when every one is excluded.
    pub chosen: Option<String>,
    /// The fallback that decided (see [`crate::policy::reason`]), `all-excluded`, or `None` for the policy's own rule.
    pub reason: Option<String>,
    /// Every replica, in the order of the state.
    pub candidates: Vec<Scored>,
}

/// Decides one state.
pub fn decide(policy: &mut dyn Policy, rng: &mut ChaCha8Rng, state: &State) -> Decision {
    let candidates: Vec<Candidate> =
        (0u16..).zip(&state.replicas).map(|(slot, replica)| replica.candidate(ReplicaId(slot))).collect();
    let mut terms = vec![CostTerms::default(); candidates.len()];
    let Selection { chosen, reason } = policy.choose(&state.info(), &candidates, &mut terms, rng);
    let scored = state.replicas.iter().zip(&candidates).zip(terms);
    Decision {
        id: state.id.clone(),
        chosen: chosen.and_then(|i| state.replicas.get(i)).map(|replica| replica.id.clone()),
        reason: if chosen.is_none() { Some("all-excluded") } else { reason }.map(str::to_owned),
        candidates: scored
            .map(|((replica, candidate), terms)| Scored { id: replica.id.clone(), terms, excluded: candidate.excluded })
            .collect(),
    }
}

/// Decides one line of JSON: a [`State`].
///
/// # Errors
/// As [`State::parse`].
pub fn decide_line(policy: &mut dyn Policy, rng: &mut ChaCha8Rng, line: &str) -> Result<Decision, DecideError> {
    State::parse(line).map(|state| decide(policy, rng, &state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MAX_REPLICAS;
    use crate::policy::PolicyConfig;
    use crate::rng::stream;

    const EXAMPLE: &str = r#"{"id": "r1", "prompt_tokens": 5200, "session": "u7", "replicas": [
        {"id": "a", "healthy": true, "rtt_ms": 25.6, "cached_tokens": 4096, "waiting_requests": 1, "waiting_tokens": 900,
         "waiting_uncached_tokens": 300, "running_requests": 3, "running_tokens": 15000,
         "engine": {"running": 3, "queued": 0, "used_tokens": 48000, "age_ms": 12000}},
        {"id": "b", "healthy": false}, {"id": "c", "rtt_ms": 900, "excluded": "full"}]}"#;

    fn decided(line: &str) -> Result<Decision, DecideError> {
        let mut policy = PolicyConfig::default().build();
        decide_line(&mut *policy, &mut stream(1, "policy", 0), line)
    }

    #[test]
    fn the_documented_example_gives_the_documented_answer() {
        let mut decision = decided(EXAMPLE).unwrap();
        for scored in &mut decision.candidates {
            let t = &mut scored.terms;
            for term in [&mut t.network, &mut t.prefill, &mut t.waiting, &mut t.running, &mut t.total] {
                *term = (*term * 10.0).round() / 10.0;
            }
        }
        assert_eq!(
            serde_json::to_string(&decision).unwrap(),
            concat!(
                r#"{"id":"r1","chosen":"a","reason":null,"candidates":["#,
                r#"{"id":"a","network":25.6,"prefill":103.8,"waiting":84.6,"running":705.0,"total":919.0,"excluded":null},"#,
                r#"{"id":"b","network":0.0,"prefill":488.8,"waiting":0.0,"running":0.0,"total":488.8,"excluded":"unhealthy"},"#,
                r#"{"id":"c","network":900.0,"prefill":488.8,"waiting":0.0,"running":0.0,"total":1388.8,"excluded":"full"}]}"#
            )
        );
    }

    #[test]
    fn a_state_survives_writing_and_reading() {
        let state = State::parse(EXAMPLE).unwrap();
        assert_eq!(State::parse(&serde_json::to_string(&state).unwrap()).unwrap(), state);
    }

    #[test]
    fn bad_lines_name_the_field_the_value_and_what_to_do() {
        for (line, expected) in [
            ("{\"id\"", "not a JSON object: EOF while parsing an object (column 5)"),
            ("[1]", "not a JSON object: invalid type: sequence, expected a map (column 0)"),
            (r#"{"replicas": []}"#, "`id`: is missing; name the request"),
            (r#"{"id": "r"}"#, "`replicas`: is missing or not a list; give a list of replicas"),
            (
                r#"{"id": "r", "prompt_tokens": -5, "replicas": []}"#,
                "`prompt_tokens`: invalid value: integer `-5`, expected a whole number from 0 to 4294967295",
            ),
            (
                r#"{"id": "r", "session": -7, "replicas": []}"#,
                "`session`: invalid value: integer `-7`, expected text or a whole number of 0 or more",
            ),
            (r#"{"id": "r", "replicas": [7]}"#, "`replicas[0]`: is 7; give an object with an `id`"),
            (r#"{"id": "r", "replicas": [{}]}"#, "`replicas[0].id`: is missing or empty; name the replica"),
            (
                r#"{"id": "r", "replicas": [{"id": "a"}, {"id": "a"}]}"#,
                "`replicas[1].id`: \"a\" is also the id of replicas[0]; ids must differ",
            ),
            (
                r#"{"id": "r", "replicas": [{"id": "a", "rtt_ms": -3}]}"#,
                "`replicas[0].rtt_ms`: is -3; it must lie between 0 and 1000000000",
            ),
            (
                r#"{"id": "r", "replicas": [{"id": "a", "learned": {"ms_per_token": -5}}]}"#,
                "`replicas[0].learned.ms_per_token`: is -5.0; it must lie between 0 and 1000000000",
            ),
            (
                r#"{"id": "r", "replicas": [{"id": "a", "learned": {"offset_ms": -1e300}}]}"#,
                "`replicas[0].learned.offset_ms`: is -1e300; it must lie between -1000000000 and 1000000000",
            ),
            (
                r#"{"id": "r", "replicas": [{"id": "a", "engine": {"queued": "no"}}]}"#,
                "`replicas[0].engine.queued`: invalid type: string \"no\", expected a whole number from 0 to 4294967295",
            ),
            (
                r#"{"id": "r", "replicas": [{"id": "a", "engine": 4}]}"#,
                "`replicas[0].engine`: is 4; give an object or leave it out",
            ),
        ] {
            assert_eq!(decided(line).unwrap_err().to_string(), expected, "{line}");
        }
    }

    #[test]
    fn misspelt_fields_name_the_nearest() {
        for (line, expected) in [
            (r#"{"id": "r", "replica": []}"#, "`line`: unknown field `replica`; did you mean `replicas`?"),
            (
                r#"{"id": "r", "replicas": [{"id": "a", "rttms": 3}]}"#,
                "`replicas[0]`: unknown field `rttms`; did you mean `rtt_ms`?",
            ),
            (
                r#"{"id": "r", "replicas": [{"id": "a", "engine": {"used": 3}}]}"#,
                "`replicas[0].engine`: unknown field `used`; did you mean",
            ),
            (
                r#"{"id": "r", "replicas": [{"id": "a", "excluded": "ful"}]}"#,
                "`replicas[0].excluded`: unknown variant `ful`; did you mean `full`?",
            ),
        ] {
            let message = decided(line).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn a_logged_decision_is_passed_over() {
        let logged = EXAMPLE.replacen('{', r#"{"decision": {"chosen": "b", "policy": "random"}, "#, 1);
        assert_eq!(decided(&logged).unwrap(), decided(EXAMPLE).unwrap());
    }

    #[test]
    fn no_candidate_is_an_answer() {
        for line in [r#"{"id": "r", "replicas": []}"#, r#"{"id": "r", "replicas": [{"id": "a", "healthy": false}]}"#] {
            let decision = decided(line).unwrap();
            assert_eq!((decision.chosen, decision.reason.as_deref()), (None, Some("all-excluded")));
        }
    }

    #[test]
    fn too_many_replicas_are_refused() {
        let replicas: Vec<_> = (0..=MAX_REPLICAS).map(|i| format!(r#"{{"id": "{i}"}}"#)).collect();
        let message = decided(&format!(r#"{{"id": "r", "replicas": [{}]}}"#, replicas.join(","))).unwrap_err();
        assert_eq!(message.to_string(), "`replicas`: has 257 entries; at most 256 fit");
    }

    #[test]
    fn keys_hash_text_and_pass_numbers() {
        assert_eq!((Key::Hash(7).hash(), Key::Text(String::new()).hash()), (7, 0));
        assert_eq!(Key::Text("u7".into()).hash(), Key::Text("u7".into()).hash());
        assert_ne!(Key::Text("u7".into()).hash(), Key::Text("u8".into()).hash());
    }
}
