//! Notes faults that come after a run's last request and so change nothing.

use crate::results::ArmRun;
use crate::spec::run::FaultSpec;
use gorgo_core::Time;

/// A note on the first fault that comes when every request has ended.
pub(super) fn late_fault(faults: &[FaultSpec], run: &ArmRun) -> Option<String> {
    faults.first()?; // mostly there is none, and many requests
    let ends = run.records.iter().map(|record| record.done.get().unwrap_or(record.scheduled));
    let end_s = (ends.max()? - Time::ZERO).ms() / 1e3;
    let late = faults.iter().find(|fault| fault.at_s > end_s)?;
    Some(format!(
        "arm `{}`: the fault at {} s for `{}` changes nothing, since the last request ends at {end_s:.1} s; set an earlier \
         at_s, or a longer workload.duration_s",
        run.arm, late.at_s, late.replica
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::run::FaultKindSpec;

    #[test]
    fn a_fault_after_the_last_request_is_noted_and_an_earlier_one_is_not() {
        let run = crate::results::test_data::run("gorgo", 1, 100);
        let fault = |at_s: f64| FaultSpec { at_s, replica: "a".to_owned(), kind: FaultKindSpec::Crash, down_s: 1.0 };
        assert_eq!(late_fault(&[], &run), None);
        assert_eq!(late_fault(&[fault(1.0)], &run), None);
        let note = late_fault(&[fault(1.0), fault(5_000.0)], &run).unwrap();
        assert!(note.contains("the fault at 5000 s for `a` changes nothing"), "{note}");
    }
}
