//! The service level objective (SLO) that goodput counts.

use super::run::RequestResult;
use crate::input_error::InputError;
use serde::Serialize;

/// Service level objective: upper limits of latencies, ms. Absent limits are not checked.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Slo {
    /// Time to first token.
    pub ttft: Option<f64>,
    /// Mean inter-token latency.
    pub itl: Option<f64>,
    /// Time per output token, the first included.
    pub tpot: Option<f64>,
    /// End-to-end latency.
    pub e2e: Option<f64>,
}

impl Slo {
    /// Parses `ttft=500,itl=50,tpot=60,e2e=10000`, or the same with colons.
    ///
    /// # Errors
    /// One sentence that names the invalid part.
    pub fn parse(text: &str) -> Result<Self, InputError> {
        let mut slo = Self::default();
        for part in text.split([',', ' ']).filter(|p| !p.is_empty()) {
            let bad = || format!("`{part}` in the objective: write ttft=MS, itl=MS, tpot=MS or e2e=MS");
            let (key, value) = part.split_once(['=', ':']).ok_or_else(bad)?;
            let ms = value.parse::<f64>().ok().filter(|ms| ms.is_finite() && *ms > 0.0).ok_or_else(bad)?;
            let field = match key {
                "ttft" => &mut slo.ttft,
                "itl" => &mut slo.itl,
                "tpot" => &mut slo.tpot,
                "e2e" => &mut slo.e2e,
                _ => return Err(bad().into()),
            };
            *field = Some(ms);
        }
        Ok(slo)
    }

    /// Whether a request met the objective.
    pub(super) fn is_met_by(&self, result: &RequestResult) -> bool {
        let within = |limit: Option<f64>, value: Option<f64>| limit.is_none_or(|most| value.is_none_or(|v| v <= most));
        result.is_successful()
            && within(self.ttft, result.ttft_ms())
            && within(self.itl, result.itl_ms())
            && within(self.tpot, result.tpot_ms())
            && within(self.e2e, result.latency_s().map(|s| s * 1e3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read_and_bad_ones_named() {
        let slo = Slo::parse("ttft=500,itl:50").unwrap();
        assert_eq!((slo.ttft, slo.itl, slo.e2e), (Some(500.0), Some(50.0), None));
        assert_eq!(
            Slo::parse("ttfb=5").unwrap_err().to_string(),
            "`ttfb=5` in the objective: write ttft=MS, itl=MS, tpot=MS or e2e=MS"
        );
        assert!(Slo::parse("ttft=-1").is_err());
    }
}
