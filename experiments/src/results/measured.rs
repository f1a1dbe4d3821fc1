//! Runs that the load generator measured, in the form of simulated ones.

use super::ArmRun;
use gorgo_benchmark::load::run::Run;
use gorgo_core::record::RequestRecord;
use gorgo_core::{MaybeIndex, Span, Time};
use gorgo_sim::engine::GapBucket;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    let failed = run.rows.iter().filter(|row| !row.warmup && !row.is_successful());
    let failures = failed.filter_map(|row| Some((row.record.request, row.error.clone()?))).collect();
    ArmRun { failures, records: records.collect(), itl: run.gaps.buckets().collect(), span: run.span, ..arm }
}

/// What one of several load generators of one run measured, as it travels between machines.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Start of its schedule, nanoseconds since 1970 by its own clock.
    pub epoch_ns: u64,
    /// Rows of the trace that it sent, in the order of `records`.
    pub rows: Vec<u64>,
    /// Names of origins that records refer to.
    pub origins: Vec<String>,
    /// Names of replicas that records refer to.
    pub replicas: Vec<String>,
    /// One record per request.
    pub records: Vec<RequestRecord>,
    /// Inter-token latencies.
    pub itl: Vec<GapBucket>,
    /// Longest delay of sending behind the schedule, ms.
    pub lateness_ms: f64,
}

impl Part {
    /// The results of one run that sent these rows of a trace.
    pub fn of(run: &Run, epoch_ns: u64, rows: &[u64], origins: Vec<String>) -> Self {
        let row = |record: &RequestRecord| rows.get(record.request as usize).copied().unwrap_or(record.request);
        Self {
            epoch_ns,
            rows: run.rows.iter().map(|result| row(&result.record)).collect(),
            origins,
            replicas: run.replicas.clone(),
            records: run.rows.iter().map(|result| result.record.clone()).collect(),
            itl: run.gaps.buckets().collect(),
            lateness_ms: run.rows.iter().map(|result| result.lateness.ms()).fold(0.0, f64::max),
        }
    }
}

/// A part with its place in the whole run.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// The part.
    pub part: Part,
    /// Router at which its users entered.
    pub router: u16,
    /// Start of its schedule behind that of the run, ns, after its clock was aligned.
    pub behind_ns: i64,
}

/// Joins the parts of one run into `arm`, which has a name, a seed and the names of replicas and origins. `name` turns
/// the name that a router gives its engine into that of a replica.
pub fn join(arm: ArmRun, parts: Vec<Placed>, name: impl Fn(&str) -> String) -> ArmRun {
    let index = |names: &[String], wanted: &str| -> MaybeIndex {
        names.iter().position(|known| known == wanted).and_then(|i| u16::try_from(i).ok()).into()
    };
    let mut records: Vec<RequestRecord> = Vec::new();
    let mut itl: BTreeMap<u64, GapBucket> = BTreeMap::new();
    for Placed { part, router, behind_ns } in parts {
        let replicas: Vec<MaybeIndex> = part.replicas.iter().map(|r| index(&arm.names.replicas, &name(r))).collect();
        let origins: Vec<MaybeIndex> = part.origins.iter().map(|o| index(&arm.names.origins, o)).collect();
        let at = |i: MaybeIndex, map: &[MaybeIndex]| i.get().and_then(|i| map.get(usize::from(i))).copied();
        for (mut record, row) in part.records.into_iter().zip(part.rows) {
            record.request = row;
            record.router = router;
            record.replica = at(record.replica, &replicas).unwrap_or_default();
            record.origin = at(record.origin, &origins).unwrap_or_default();
            record.shift(behind_ns);
            records.push(record);
        }
        for bucket in part.itl {
            let joined = itl.entry(bucket.upper_ms.to_bits()).or_insert(GapBucket { count: 0, ..bucket });
            joined.count += bucket.count;
        }
    }
    records.sort_by_key(|record| record.request);
    let last = records.iter().filter_map(|record| record.done.get()).max().unwrap_or(Time::ZERO);
    let span: Span = last - Time::ZERO;
    let mut itl: Vec<GapBucket> = itl.into_values().collect();
    itl.sort_by(|a, b| a.upper_ms.total_cmp(&b.upper_ms));
    ArmRun { records, itl, span, ..arm }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Names;
    use gorgo_core::request::TraceRequest;

    #[test]
    fn parts_of_several_machines_become_one_run_on_one_clock() {
        let part = |rows: &[u64], at: u64| {
            let row = TraceRequest::lone(0, Time(at), 1, 1, 16, [1].into());
            let record = |i: usize| RequestRecord {
                replica: Some(0).into(),
                origin: Some(0).into(),
                done: Time(at + 10).into(),
                ..RequestRecord::scheduled(i as u64, &row, Time(at), 0)
            };
            Part {
                rows: rows.to_vec(),
                origins: vec!["Chile".to_owned()],
                replicas: vec!["b-engine".to_owned()],
                records: (0..rows.len()).map(record).collect(),
                itl: vec![GapBucket { upper_ms: 1.5, count: 2 }],
                ..Part::default()
            }
        };
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let names =
            Names { origins: names(&["Peru", "Chile"]), routers: names(&["x", "y"]), replicas: names(&["a", "b"]) };
        let placed = |part, router, behind_ns| Placed { part, router, behind_ns };
        let parts = vec![placed(part(&[1, 2], 100), 1, 40), placed(part(&[0], 30), 0, -50)];
        let whole = join(ArmRun { names, ..ArmRun::default() }, parts, |name| name.replace("-engine", ""));
        let all: Vec<_> = whole.records.iter().map(|r| (r.request, r.router, r.scheduled.0, r.done.get())).collect();
        assert_eq!(all, [(0, 0, 0, Some(Time(0))), (1, 1, 140, Some(Time(150))), (2, 1, 140, Some(Time(150)))]);
        assert!(whole.records.iter().all(|r| (r.replica.get(), r.origin.get()) == (Some(1), Some(1))));
        assert_eq!((whole.itl, whole.span), (vec![GapBucket { upper_ms: 1.5, count: 4 }], Span(150)));
    }
}
