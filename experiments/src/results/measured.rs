//! Runs that the load generator measured, in the form of simulated ones.

use super::ArmRun;
use gorgo_benchmark::load::run::Run;

/// Fills `arm`, which has a name, a seed and the names of replicas, with the counted requests of `run`. A replica that
/// `arm` does not name becomes `u16::MAX`.
pub fn arm_run(arm: ArmRun, run: &Run) -> ArmRun {
    let place = |name: &String| arm.names.replicas.iter().position(|r| r == name).map_or(u16::MAX, |i| i as u16);
    let replicas: Vec<u16> = run.replicas.iter().map(place).collect();
    let records = run.rows.iter().filter(|row| !row.warmup).map(|row| {
        let mut record = row.record.clone();
        record.replica = replicas.get(usize::from(record.replica)).copied().unwrap_or(u16::MAX);
        record
    });
    ArmRun { records: records.collect(), itl: run.gaps.buckets().collect(), span: run.span, ..arm }
}
