//! Predicted against actual time to first token, from a router's decision log.
//!
//! ```text
//! bias     = mean predicted / mean actual - 1                        of each tenth of the requests by prediction
//! coverage = share of requests whose TTFT is at most the predicted quantile; 0.50, 0.90 and 0.95 if it is calibrated
//! ```
//!
//! The prediction is that of the learned rates at the chosen replica ([`Candidate::predicted_ttft_ms`]), the time runs from
//! the dispatch to the first token at the router. The log of a policy that reads no learned rates contains no rates, so
//! its predictions are those of the priors, which have no quantiles.
//!
//! [`Candidate::predicted_ttft_ms`]: crate::policy::Candidate::predicted_ttft_ms

use super::log::{Outcome, chosen};
use super::open::Open;
use crate::ReplicaId;
use crate::decide::{DecideError, State};
use crate::fleet::Learned;
use serde::Serialize;
use serde_json::Value;

/// One request that was dispatched once and got its first token. Times in ms.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicted {
    /// The replica.
    pub replica: String,
    /// Predicted.
    pub predicted_ms: f64,
    /// Quantiles as predicted, those of [`crate::fleet::QUANTILES`]; `None` where the log has none.
    pub quantiles_ms: Option<[f64; 3]>,
    /// Actual.
    pub actual_ms: f64,
}

/// Predictions and outcomes of a log, read line by line.
#[derive(Debug, Default)]
pub struct Predictions {
    open: Open<Predicted>,
    /// Requests with prediction and outcome.
    pub rows: Vec<Predicted>,
    /// Decisions read.
    pub decisions: usize,
}

impl Predictions {
    /// Reads the next line, a decision or an outcome.
    ///
    /// # Errors
    /// As [`State::parse`] and [`Outcome::parse`]; also when the chosen replica is none of the line's replicas.
    pub fn line(&mut self, line: &str) -> Result<(), DecideError> {
        if let Some(outcome) = Outcome::parse(line)? {
            let predicted = self.open.ended(&outcome.id);
            let actual = outcome.dispatch_ttft_ms.or(outcome.ttft_ms);
            let row = predicted.zip(actual).map(|(predicted, actual_ms)| Predicted { actual_ms, ..predicted });
            self.rows.extend(row);
            return Ok(());
        }
        let state = State::parse(line)?;
        let whole: Value = serde_json::from_str(line).unwrap_or_default();
        let chosen = whole.get("decision").map(|decision| chosen(decision, &state)).transpose()?;
        let Some(replica) = chosen.flatten() else { return Ok(()) };
        self.decisions += 1;
        let candidate = replica.candidate(ReplicaId(0));
        let predicted_ms = candidate.predicted_ttft_ms(&state.info());
        // The priors' factors are 1: they stand for no quantile.
        let learned = Some(candidate.learned.quantiles).filter(|&factors| factors != Learned::default().quantiles);
        let quantiles_ms = learned.map(|factors| factors.map(|factor| predicted_ms * factor));
        let row = Predicted { replica: replica.id.clone(), predicted_ms, quantiles_ms, actual_ms: 0.0 };
        self.open.decided(state.id, row);
        Ok(())
    }

    /// Requests left out because they were dispatched more than once.
    pub fn retried(&self) -> usize {
        self.open.retried
    }
}

/// How good the predictions of some requests are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// Requests.
    pub requests: usize,
    /// Mean prediction, ms.
    pub predicted_ms: f64,
    /// Mean TTFT, ms.
    pub actual_ms: f64,
    /// Mean prediction over mean TTFT, less 1.
    pub bias: f64,
    /// Mean size of the error, ms.
    pub error_ms: f64,
    /// Share of predictions within 25 % or 10 ms of the actual time.
    pub near: f64,
    /// Shares of requests at or below their predicted quantiles, those of [`crate::fleet::QUANTILES`]; a request from before
    /// any was learned counts with its prediction. `None` where no request has quantiles.
    pub coverage: Option<[f64; 3]>,
}

impl Calibration {
    /// Of these requests; `None` without any.
    #[expect(clippy::needless_pass_by_value, reason = "an iterator by value reads as one")]
    pub fn of<'a>(rows: impl Iterator<Item = &'a Predicted> + Clone) -> Option<Self> {
        let requests = rows.clone().count();
        let mean = |of: &dyn Fn(&Predicted) -> f64| rows.clone().map(of).sum::<f64>() / requests as f64;
        let share = |is: &dyn Fn(&Predicted) -> bool| mean(&|row| f64::from(u8::from(is(row))));
        let (predicted_ms, actual_ms) = (mean(&|row| row.predicted_ms), mean(&|row| row.actual_ms));
        let off = |row: &Predicted| (row.predicted_ms - row.actual_ms).abs();
        (requests > 0).then(|| Self {
            requests,
            predicted_ms,
            actual_ms,
            bias: predicted_ms / actual_ms.max(1e-9) - 1.0,
            error_ms: mean(&off),
            near: share(&|row| off(row) <= (0.25 * row.actual_ms).max(10.0)),
            coverage: coverage(rows.clone()),
        })
    }

    /// Of each tenth of the requests, from the least predictions to the greatest.
    pub fn deciles(rows: &[Predicted]) -> Vec<Self> {
        let mut order: Vec<&Predicted> = rows.iter().collect();
        order.sort_by(|a, b| a.predicted_ms.total_cmp(&b.predicted_ms));
        let at = |tenth: usize| tenth * order.len() / 10;
        (0..10).filter_map(|tenth| Self::of(order[at(tenth)..at(tenth + 1)].iter().copied())).collect()
    }

    /// Of each replica's requests, by name.
    pub fn by_replica(rows: &[Predicted]) -> Vec<(String, Self)> {
        let mut names: Vec<&str> = rows.iter().map(|row| row.replica.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let of = |name: &str| Some((name.to_owned(), Self::of(rows.iter().filter(|row| row.replica == name))?));
        names.into_iter().filter_map(of).collect()
    }
}

fn coverage<'a>(rows: impl Iterator<Item = &'a Predicted>) -> Option<[f64; 3]> {
    let (mut all, mut learned, mut within) = (0.0, false, [0.0; 3]);
    for row in rows {
        all += 1.0;
        learned |= row.quantiles_ms.is_some();
        for (count, quantile) in within.iter_mut().zip(row.quantiles_ms.unwrap_or([row.predicted_ms; 3])) {
            *count += f64::from(u8::from(row.actual_ms <= quantile));
        }
    }
    learned.then(|| within.map(|count| count / all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(id: &str, chosen: &str, rtt_ms: f64) -> String {
        format!(
            r#"{{"id": "{id}", "prompt_tokens": 1000, "replicas": [{{"id": "a", "rtt_ms": {rtt_ms}, "cached_tokens": 1000,
            "learned": {{"offset_ms": 0.0, "quantiles": [0.5, 2.0, 4.0]}}}}, {{"id": "b"}}], "decision": {{"chosen": "{chosen}"}}}}"#
        )
    }

    fn end(id: &str, ttft_ms: f64, dispatch_ttft_ms: Option<f64>) -> String {
        Outcome { id: id.to_owned(), ttft_ms: Some(ttft_ms), e2e_ms: None, dispatch_ttft_ms }.line()
    }

    #[test]
    fn deciles_hold_what_was_predicted_and_what_came() {
        let mut log = Predictions::default();
        for i in 1..=20u32 {
            let id = i.to_string();
            log.line(&decision(&id, "a", f64::from(i) * 10.0)).unwrap();
            // A request that waited in the router's queue before its dispatch.
            log.line(&end(&id, 9_999.0, Some(f64::from(i) * 15.0))).unwrap();
        }
        let deciles = Calibration::deciles(&log.rows);
        assert_eq!((deciles.len(), deciles[0].requests, deciles[9].predicted_ms), (10, 2, 195.0));
        assert!(deciles.iter().all(|d| (d.bias + 1.0 / 3.0).abs() < 1e-9 && d.coverage == Some([0.0, 1.0, 1.0])));
        assert_eq!((deciles[0].near, deciles[9].near), (1.0, 0.0), "5 and 10 ms are near, 95 ms are not");
        assert_eq!(Calibration::by_replica(&log.rows)[0].0, "a");
    }

    #[test]
    fn a_log_without_quantiles_has_no_coverage_of_them() {
        let plain = decision("1", "a", 10.0).replace(", \"quantiles\": [0.5, 2.0, 4.0]", "");
        let mut log = Predictions::default();
        for line in [plain, end("1", 5.0, None)] {
            log.line(&line).unwrap();
        }
        assert_eq!(Calibration::of(log.rows.iter()).unwrap().coverage, None);
        for line in [decision("2", "a", 10.0), end("2", 15.0, None)] {
            log.line(&line).unwrap();
        }
        assert_eq!(Calibration::of(log.rows.iter()).unwrap().coverage, Some([0.5, 1.0, 1.0]));
    }

    #[test]
    fn requests_decided_twice_and_those_without_a_replica_are_left_out() {
        let mut log = Predictions::default();
        let nowhere =
            decision("1", "a", 5.0).replace("\"a\"}}", "null}}").replace("\"chosen\": \"a\"", "\"chosen\": null");
        for line in [nowhere, decision("1", "a", 5.0), end("1", 7.0, None), end("2", 7.0, None)] {
            log.line(&line).unwrap();
        }
        assert_eq!((log.rows.len(), log.rows[0].actual_ms, log.decisions), (1, 7.0, 1));
        for line in [decision("3", "a", 5.0), decision("3", "b", 5.0), end("3", 7.0, None)] {
            log.line(&line).unwrap();
        }
        assert_eq!((log.rows.len(), log.retried()), (1, 1));
        assert!(Calibration::of([].iter()).is_none() && Calibration::deciles(&[]).is_empty());
    }
}
