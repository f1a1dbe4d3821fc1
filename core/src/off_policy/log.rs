//! Reads the decision log of an exploring router line by line: the other policy repeats each decision, and each
//! decision is joined with the outcome of its request.

use super::Logged;
use super::open::Open;
use crate::decide::{DecideError, ReplicaState, State, decide};
use crate::policy::Policy;
use crate::rng::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a request ended, as one line of a decision log. Only requests that finished have both times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// The request's name in its decisions.
    pub id: String,
    /// From arrival at the router to the first token, ms.
    pub ttft_ms: Option<f64>,
    /// From arrival at the router to the last token, ms.
    pub e2e_ms: Option<f64>,
    /// From the last dispatch to the first token, ms; absent in logs of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dispatch_ttft_ms: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutcomeLine {
    outcome: Outcome,
}

impl Outcome {
    /// The line of a log.
    pub fn line(&self) -> String {
        serde_json::json!({ "outcome": self }).to_string()
    }

    /// Reads a line; `None` if it is no outcome.
    ///
    /// # Errors
    /// When the outcome is malformed, a time is negative, or the last token comes before the first one.
    pub fn parse(line: &str) -> Result<Option<Self>, DecideError> {
        // Outcomes are short, and states, which are not, begin otherwise.
        if !line.trim_start().starts_with("{\"outcome\"") {
            return Ok(None);
        }
        let OutcomeLine { outcome } =
            serde_json::from_str(line).map_err(|error| fault("outcome", format!("cannot be read: {error}")))?;
        let times =
            [("ttft_ms", outcome.ttft_ms), ("e2e_ms", outcome.e2e_ms), ("dispatch_ttft_ms", outcome.dispatch_ttft_ms)];
        for (key, ms) in times.into_iter().filter_map(|(key, ms)| Some((key, ms?))) {
            if !(0.0..=MOST_MS).contains(&ms) {
                let message = format!("is {ms}; it must lie between 0 and {MOST_MS}");
                return Err(fault(&format!("outcome.{key}"), message));
            }
        }
        if let (Some(ttft), Some(e2e)) = (outcome.ttft_ms, outcome.e2e_ms)
            && ttft > e2e
        {
            let message =
                format!("is {e2e}, less than ttft_ms = {ttft}; the last token cannot come before the first one");
            return Err(fault("outcome.e2e_ms", message));
        }
        Ok(Some(outcome))
    }
}

/// Longest time of a request, ms.
const MOST_MS: f64 = 1e9;

fn fault(field: &str, message: String) -> DecideError {
    DecideError::Field { field: field.to_owned(), message }
}

/// The replica that a decision of `state` chose, as its line tells it.
pub(super) fn chosen<'a>(decision: &Value, state: &'a State) -> Result<Option<&'a ReplicaState>, DecideError> {
    let Some(name) = decision.get("chosen").and_then(Value::as_str) else { return Ok(None) };
    let found = state.replicas.iter().find(|replica| replica.id == name);
    found
        .map(Some)
        .ok_or_else(|| fault("decision.chosen", format!("is `{name}`, which is none of the line's replicas")))
}

/// What a log holds about another policy.
pub struct Log<'a> {
    policy: &'a mut dyn Policy,
    rng: ChaCha8Rng,
    /// Odds of a decision, and whether the other policy decides the same.
    open: Open<(f64, bool)>,
    /// Decisions with their time to first token.
    pub ttft: Vec<Logged>,
    /// Decisions with their end-to-end time.
    pub e2e: Vec<Logged>,
    /// Decisions that carry the odds of an exploring router.
    pub with_odds: usize,
    /// Decisions between more than one replica.
    pub with_choice: usize,
}

impl std::fmt::Debug for Log<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("ttft", &self.ttft.len()).finish_non_exhaustive()
    }
}

impl<'a> Log<'a> {
    /// An empty log, judged for `policy`, whose ties `rng` breaks.
    pub fn new(policy: &'a mut dyn Policy, rng: ChaCha8Rng) -> Self {
        Self { policy, rng, open: Open::default(), ttft: Vec::new(), e2e: Vec::new(), with_odds: 0, with_choice: 0 }
    }

    /// Reads the next line, a decision or an outcome.
    ///
    /// # Errors
    /// As [`State::parse`] and [`Outcome::parse`]; also when the line is a state without a decision, the chosen replica is
    /// none of its replicas, or odds are not above 0 and at most 1.
    pub fn line(&mut self, line: &str) -> Result<(), DecideError> {
        if let Some(outcome) = Outcome::parse(line)? {
            self.outcome(&outcome);
            return Ok(());
        }
        let state = State::parse(line)?;
        let whole: Value = serde_json::from_str(line).unwrap_or_default();
        let Some(decision) = whole.get("decision") else {
            return Err(fault("decision", "is missing; give the decision log of a router (`explain.log`)".to_owned()));
        };
        let Some(chosen) = chosen(decision, &state)?.map(|replica| replica.id.as_str()) else { return Ok(()) };
        self.with_choice += usize::from(state.replicas.len() > 1);
        let odds = match decision.get("odds") {
            None => 1.0,
            Some(odds) => {
                self.with_odds += 1;
                let odds = odds.as_f64().unwrap_or(f64::NAN);
                if !(odds > 0.0 && odds <= 1.0) {
                    return Err(fault("decision.odds", format!("is {odds}; it must be above 0 and at most 1")));
                }
                odds
            }
        };
        let same = decide(self.policy, &mut self.rng, &state).chosen.as_deref() == Some(chosen);
        self.decided(state.id, odds, same);
        Ok(())
    }

    /// Adds a decision.
    pub fn decided(&mut self, id: String, odds: f64, same: bool) {
        self.open.decided(id, (odds, same));
    }

    /// Adds an outcome to the decision before it.
    pub fn outcome(&mut self, outcome: &Outcome) {
        if let Some((odds, same)) = self.open.ended(&outcome.id) {
            let logged = |outcome_ms| Logged { odds, same, outcome_ms };
            self.ttft.extend(outcome.ttft_ms.map(logged));
            self.e2e.extend(outcome.e2e_ms.map(logged));
        }
    }

    /// Requests that were left out because they were decided more than once.
    pub fn retried(&self) -> usize {
        self.open.retried
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PolicyConfig;
    use crate::rng::stream;

    fn decision(id: &str, chosen: &str, odds: &str) -> String {
        format!(
            r#"{{"id": "{id}", "prompt_tokens": 10, "replicas": [{{"id": "a", "rtt_ms": 5}}, {{"id": "b", "rtt_ms": 9}}], "decision": {{"chosen": "{chosen}"{odds}}}}}"#
        )
    }

    #[test]
    fn decisions_meet_their_outcomes_and_retried_requests_are_left_out() {
        let mut policy = PolicyConfig::parse("nearest", serde_json::Map::new()).unwrap().build();
        let mut log = Log::new(&mut *policy, stream(1, "policy", 0));
        let end = |id: &str| {
            Outcome { id: id.to_owned(), ttft_ms: Some(7.0), e2e_ms: Some(70.0), dispatch_ttft_ms: None }.line()
        };
        for line in [
            decision("1", "a", ", \"odds\": 0.75"),
            decision("2", "b", ", \"odds\": 0.25"),
            end("1"),
            decision("3", "a", ", \"odds\": 0.75"),
            decision("3", "b", ", \"odds\": 0.25"),
            end("2"),
            end("3"),
            end("unknown"),
        ] {
            log.line(&line).unwrap();
        }
        let logged = |odds, same| Logged { odds, same, outcome_ms: 7.0 };
        assert_eq!(log.ttft, [logged(0.75, true), logged(0.25, false)]);
        assert_eq!((log.e2e.len(), log.retried(), log.with_odds), (2, 1, 4));
    }

    #[test]
    fn bad_lines_name_the_field() {
        let mut policy = PolicyConfig::default().build();
        let mut log = Log::new(&mut *policy, stream(1, "policy", 0));
        let odds = log.line(&decision("1", "a", ", \"odds\": 0")).unwrap_err().to_string();
        assert_eq!(odds, "`decision.odds`: is 0; it must be above 0 and at most 1");
        let state = log.line(r#"{"id": "1", "replicas": []}"#).unwrap_err().to_string();
        assert!(state.starts_with("`decision`: is missing"), "{state}");
        let ghost = log.line(&decision("1", "zzz", "")).unwrap_err().to_string();
        assert_eq!(ghost, "`decision.chosen`: is `zzz`, which is none of the line's replicas");
        for (outcome, told) in [
            (r#""ttft_ms": -5, "e2e_ms": 9"#, "`outcome.ttft_ms`: is -5; it must lie between 0 and 1000000000"),
            (r#""ttft_ms": 900, "e2e_ms": 100"#, "`outcome.e2e_ms`: is 100, less than ttft_ms = 900; "),
            (r#""ttft_ms": "fast", "e2e_ms": 100"#, "`outcome`: cannot be read: invalid type: string \"fast\""),
            (r#""ttft_ms": 1, "e2e_ms": 2, "x": 3"#, "`outcome`: cannot be read: unknown field `x`"),
        ] {
            let error = log.line(&format!(r#"{{"outcome": {{"id": "1", {outcome}}}}}"#)).unwrap_err().to_string();
            assert!(error.starts_with(told), "{error}");
        }
    }
}
