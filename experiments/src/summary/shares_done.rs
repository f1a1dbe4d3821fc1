//! Arms that finish unequal shares of their requests: their latencies are of different requests.

use super::ArmSummary;

/// Shares of finished requests that differ by more than this are reported: latencies are then of different requests.
const UNEQUAL: f64 = 0.01;

/// Whether `arm` finishes clearly less of its requests than `than`.
pub(crate) fn finishes_less(arm: &ArmSummary, than: &ArmSummary) -> bool {
    than.share_done() - arm.share_done() > UNEQUAL
}

/// What arms are ranked by: goodput where they finish unequal shares of their requests.
pub(crate) fn by_goodput(arms: &[ArmSummary]) -> Vec<&ArmSummary> {
    let mut ranked: Vec<&ArmSummary> = arms.iter().collect();
    let goodput = |arm: &ArmSummary| arm.goodput_per_second.map_or(0.0, |e| e.value);
    ranked.sort_by(|a, b| goodput(b).total_cmp(&goodput(a)));
    ranked
}

/// One sentence when arms finish unequal shares of their requests.
pub(crate) fn unequal(arms: &[ArmSummary]) -> Option<String> {
    let least = arms.iter().min_by(|a, b| a.share_done().total_cmp(&b.share_done()))?;
    let most = arms.iter().max_by(|a, b| a.share_done().total_cmp(&b.share_done()))?;
    finishes_less(least, most).then(|| {
        let reasons = least.reasons_in_words();
        format!(
            "arms finish unequal shares of their requests: {} leaves {} of {} undone ({:.1} % finish{}), {} finishes {:.1} %; latencies are of the requests that got that far, so arms are ranked by goodput",
            least.arm,
            least.undone(),
            least.counts.requests,
            100.0 * least.share_done(),
            if reasons.is_empty() { String::new() } else { format!("; {reasons}") },
            most.arm,
            100.0 * most.share_done()
        )
    })
}
