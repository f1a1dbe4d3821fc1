//! Selects the requests of a run that count: those outside of warm-up and cool-down.

use super::RunError;
use crate::results::ArmRun;
use crate::results::point::counted;
use crate::spec::measure::MeasureSpec;

/// Share of the requests below which a note says how few count.
const FEW: f64 = 0.05;

/// A note where warm-up and cool-down leave a small share of the requests.
///
/// # Errors
/// They leave none.
pub(crate) fn few_counted(run: &ArmRun) -> Result<Option<String>, RunError> {
    let (counted, requests) = (counted(run), run.records.len());
    let (arm, seed) = (run.arm.clone(), run.seed);
    let MeasureSpec { warm_up_s, cool_down_s, .. } = run.measure;
    if counted == 0 && requests > 0 {
        let last_s = run.records.iter().map(|r| r.scheduled).max().unwrap_or_default().secs();
        return Err(RunError::NothingCounted { arm, seed, warm_up_s, cool_down_s, requests, last_s });
    }
    let few = (counted as f64) < FEW * requests as f64;
    Ok(few.then(|| {
        format!(
            "arm `{arm}`: measure.warm_up_s = {warm_up_s} and measure.cool_down_s = {cool_down_s} leave {counted} of {requests} requests"
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_that_leaves_nothing_is_an_error_and_one_that_leaves_little_a_note() {
        let with = |warm_up_s: f64, cool_down_s: f64| {
            let mut run = crate::results::test_data::run("gorgo", 1, 100);
            run.measure = MeasureSpec { warm_up_s, cool_down_s, ..MeasureSpec::default() };
            few_counted(&run)
        };
        assert_eq!(with(0.0, 0.0).unwrap(), None);
        let last = crate::results::test_data::run("gorgo", 1, 100).records.last().unwrap().scheduled.secs();
        let note = with(last - 0.001, 0.0).unwrap().unwrap();
        assert!(note.ends_with(" leave 1 of 100 requests"), "{note}");
        for (warm_up, cool_down) in [(500.0, 0.0), (0.0, 500.0)] {
            let message = with(warm_up, cool_down).unwrap_err().to_string();
            let numbers = format!("warm_up_s = {warm_up} and measure.cool_down_s = {cool_down} leave none of the 100");
            assert!(message.contains(&numbers), "{message}");
        }
    }
}
