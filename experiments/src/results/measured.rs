//! Runs that the load generator measured, in the form of simulated ones.

use super::ArmRun;
use gorgo_benchmark::load::run::Run;
use gorgo_core::MaybeIndex;

/// Fills `arm`, which has a name, a seed and the names of replicas, with the counted requests of `run`. A replica that
/// `arm` does not name becomes none.
pub fn arm_run(arm: ArmRun, run: &Run) -> ArmRun {
    let place =
        |name: &String| arm.names.replicas.iter().position(|r| r == name).and_then(|i| u16::try_from(i).ok()).into();
    let replicas: Vec<MaybeIndex> = run.replicas.iter().map(place).collect();
    let records = run.rows.iter().filter(|row| !row.warmup).map(|row| {
        let mut record = row.record.clone();
        record.replica = record.replica.get().and_then(|i| replicas.get(usize::from(i))).copied().unwrap_or_default();
        record
    });
    ArmRun { records: records.collect(), itl: run.gaps.buckets().collect(), span: run.span, ..arm }
}
