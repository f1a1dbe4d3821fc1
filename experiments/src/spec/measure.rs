//! `[measure]`: which requests of a run count, and the objective that goodput counts.

use gorgo_core::Span;
use gorgo_core::range::{OutOfRange, check_ranges};
use gorgo_core::record::{RequestRecord, Status};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which requests count.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MeasureSpec {
    /// Requests scheduled in the first seconds are not counted.
    pub warm_up_s: f64,
    /// Requests scheduled in the last seconds before the last arrival are not counted.
    pub cool_down_s: f64,
    /// The objective of goodput; without it every finished request is a good one.
    pub slo: Slo,
}

/// Objective of a request, ms. What is absent is not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Slo {
    /// Time to first token at the user.
    pub ttft_ms: Option<f64>,
    /// Time per output token after the first; met by an answer of one token.
    pub tpot_ms: Option<f64>,
    /// End-to-end latency.
    pub e2e_ms: Option<f64>,
}

impl MeasureSpec {
    pub(super) fn check_ranges(&self) -> Result<(), OutOfRange> {
        check_ranges([
            ("measure.warm_up_s", self.warm_up_s, 0.0..=1e9),
            ("measure.cool_down_s", self.cool_down_s, 0.0..=1e9),
        ])?;
        let limits = [
            ("measure.slo.ttft_ms", self.slo.ttft_ms),
            ("measure.slo.tpot_ms", self.slo.tpot_ms),
            ("measure.slo.e2e_ms", self.slo.e2e_ms),
        ];
        check_ranges(limits.into_iter().filter_map(|(key, limit)| Some((key, limit?, 1e-3..=1e9))))
    }
}

impl Slo {
    /// Whether a request finished within the objective.
    pub fn is_met_by(&self, record: &RequestRecord) -> bool {
        let within =
            |value: Option<f64>, limit: Option<f64>| limit.is_none_or(|limit| value.is_none_or(|v| v <= limit));
        record.status == Status::Finished
            && record.done.is_some()
            && within(record.ttft().map(Span::ms), self.ttft_ms)
            && within(record.tpot_ms(), self.tpot_ms)
            && within(record.e2e().map(Span::ms), self.e2e_ms)
    }

    /// The objective in words: `TTFT <= 500 ms, TPOT <= 50 ms`; `None` if there is none.
    pub fn words(&self) -> Option<String> {
        let limits = [("TTFT", self.ttft_ms), ("TPOT", self.tpot_ms), ("E2E", self.e2e_ms)];
        let words: Vec<String> =
            limits.into_iter().filter_map(|(name, limit)| Some(format!("{name} <= {} ms", limit?))).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}
