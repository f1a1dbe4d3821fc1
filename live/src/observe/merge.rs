//! Merges captures of several routers into one timeline: aligns clocks and joins the parts of forwarded requests.
//!
//! Times are on the clock of the first router. The times of another router are shifted by the offset that the first
//! router measured with its peer reports (the error is half the asymmetry of the path), or by the difference of the
//! wall clocks if there is no measurement.

use crate::observe::capture::{Captured, CapturedCandidate};
use gorgo_core::record::RequestRecord;
use gorgo_core::{MaybeTime, Time};
use std::collections::BTreeMap;

/// A merged timeline.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Merged {
    /// Routers behind `RequestRecord::router`.
    pub routers: Vec<String>,
    /// Engines behind `RequestRecord::replica`.
    pub replicas: Vec<String>,
    /// The requests, each once.
    pub records: Vec<RequestRecord>,
    /// The candidates that the first router of each saw.
    pub candidates: Vec<Vec<CapturedCandidate>>,
    /// Policies in force.
    pub policy: String,
    /// Requests that did not fit into a capture.
    pub dropped: u64,
}

/// A request on its way into the timeline.
struct Row {
    record: RequestRecord,
    candidates: Vec<CapturedCandidate>,
}

/// Merges captures; an empty list gives an empty timeline.
pub fn merge(parts: Vec<Captured>) -> Merged {
    let mut merged = Merged::default();
    let shifts = shifts(&parts);
    let mut policies: Vec<String> = Vec::new();
    // A forwarded request has two records: the entry router's is kept, the peer's adds the replica and its times.
    let mut entries: BTreeMap<String, Row> = BTreeMap::new();
    let mut inner: BTreeMap<String, Row> = BTreeMap::new();
    for (number, (part, shift)) in parts.into_iter().zip(shifts).enumerate() {
        let slots: Vec<u16> = part.replicas.iter().map(|name| slot(&mut merged.replicas, name)).collect();
        let candidates = part.candidates.into_iter().chain(std::iter::repeat_with(Vec::new));
        let rows = part.records.into_iter().zip(candidates);
        for (nth, (id, (mut record, candidates))) in part.request_ids.into_iter().zip(rows).enumerate() {
            record.router = number as u16;
            record.replica = record.replica.get().and_then(|i| slots.get(usize::from(i))).copied().into();
            shift_times(&mut record, shift);
            let forwarded = record.hops > 0;
            let rows = if forwarded { &mut inner } else { &mut entries };
            // A client may reuse an id; later records then get a key of their own.
            let key = if rows.contains_key(&id) { format!("{id}#{number}.{nth}") } else { id };
            rows.insert(key, Row { record, candidates });
        }
        if !policies.contains(&part.policy) {
            policies.push(part.policy);
        }
        merged.routers.push(part.node);
        merged.dropped += part.dropped;
    }
    for (id, there) in inner {
        match entries.get_mut(&id) {
            Some(here) => join(&mut here.record, &there.record),
            None => drop(entries.insert(id, there)), // the router it came from was not captured
        }
    }
    let mut rows: Vec<Row> = entries.into_values().collect();
    rows.sort_by_key(|row| (row.record.sent, row.record.router));
    (merged.records, merged.candidates) = rows.into_iter().map(|row| (row.record, row.candidates)).unzip();
    // Time 0 of the timeline is the first arrival.
    let first = merged.records.iter().filter_map(|r| r.arrived.get()).min().unwrap_or_default().0;
    merged.records.iter_mut().for_each(|r| shift_times(r, -i128::from(first)));
    for (n, record) in merged.records.iter_mut().enumerate() {
        record.request = n as u64;
    }
    merged.policy = policies.join(", ");
    drop_unused(&mut merged);
    merged
}

/// Removes lanes without requests: peers in place of their engines, and unused engines.
fn drop_unused(merged: &mut Merged) {
    let mut kept = Vec::new();
    for record in &mut merged.records {
        if let Some(name) = record.replica.get().and_then(|i| merged.replicas.get(usize::from(i))) {
            record.replica = slot(&mut kept, name).into();
        }
    }
    merged.replicas = kept;
}

/// Offset of each part's times, ns, relative to the earliest start on the first router's wall clock.
fn shifts(parts: &[Captured]) -> Vec<i128> {
    let Some(first) = parts.first() else { return Vec::new() };
    let base = parts.iter().map(|p| p.started_unix_ns).min().unwrap_or(0);
    parts
        .iter()
        .map(|part| {
            let wall = i128::from(part.started_unix_ns) - i128::from(base);
            let offset = first.clock_offsets.iter().find(|o| o.peer == part.node).map_or(0, |o| o.ns);
            wall - i128::from(offset)
        })
        .collect()
}

fn slot(names: &mut Vec<String>, name: &str) -> u16 {
    let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    });
    at as u16
}

fn shift_times(r: &mut RequestRecord, by: i128) {
    let shift = |at: Time| {
        let ns = (i128::from(at.0) + by).clamp(0, i128::from(u64::MAX - 1));
        Time(u64::try_from(ns).unwrap_or(0))
    };
    (r.scheduled, r.sent) = (shift(r.scheduled), shift(r.sent));
    for at in [
        &mut r.arrived,
        &mut r.dispatched,
        &mut r.accepted,
        &mut r.prefill,
        &mut r.engine_first,
        &mut r.router_first,
        &mut r.first_token,
        &mut r.engine_done,
        &mut r.done,
    ] {
        *at = at.get().map(shift).into();
    }
}

/// Adds to the entry router's record the times that only the router beside the engine observed. They are clamped to the
/// entry router's times, because clocks are not aligned exactly and the stages must stay in order.
fn join(here: &mut RequestRecord, there: &RequestRecord) {
    here.replica = there.replica;
    here.hops = there.hops;
    (here.cached_tokens, here.predicted_cached_tokens) = (there.cached_tokens, there.predicted_cached_tokens);
    let mut at = here.dispatched.get().unwrap_or(here.sent);
    let mut within = |time: MaybeTime, end: MaybeTime| {
        let time_and_end = time.get().zip(end.get());
        MaybeTime::from(time_and_end.map(|(time, end)| {
            at = time.max(at).min(end);
            at
        }))
    };
    here.accepted = within(there.accepted, here.done);
    here.prefill = within(there.prefill, here.done);
    here.engine_first = within(there.engine_first, here.router_first);
    here.engine_done = within(there.engine_done, here.done);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::capture::{Capture, ClockOffset};
    use crate::observe::request_log::tests::row;

    fn part(node: &str, unix: u64, hops: u8, replica: &str, offset: i64) -> Captured {
        let capture = Capture::default();
        capture.start(Time::ZERO, unix);
        let mut one = row("same", 30.0);
        one.hops = hops;
        capture.push(&one);
        let crate::observe::capture::CapturedRequests { session, request_ids, records, candidates, dropped, .. } =
            capture.stop().unwrap();
        Captured {
            session,
            node: node.into(),
            policy: "gorgo".into(),
            started_unix_ns: unix,
            clock_offsets: vec![ClockOffset { peer: "b".into(), ns: offset }],
            replicas: vec![replica.into()],
            rtt_ms: vec![5.0],
            request_ids,
            records,
            candidates,
            dropped,
        }
    }

    #[test]
    fn a_forwarded_request_is_one_row_of_its_entry_and_clocks_are_aligned() {
        // b started 3 ms later by a clock that runs 5 s ahead.
        let merged =
            merge(vec![part("a", 1_000_000_000, 0, "b", 5_000_000_000), part("b", 6_003_000_000, 1, "engine-b", 0)]);
        assert_eq!((merged.routers.len(), merged.records.len(), merged.policy.as_str()), (2, 1, "gorgo"));
        let r = &merged.records[0];
        assert_eq!(merged.replicas.len(), 1);
        assert_eq!(
            (merged.replicas[usize::from(r.replica.get().unwrap())].as_str(), r.router, r.hops),
            ("engine-b", 0, 1)
        );
        assert_eq!(r.arrived, Time::ZERO.into());
        // There: dispatched at 12 ms + half of 5 ms, plus 3 ms, less the first arrival at 10 ms.
        assert_eq!(r.accepted, Time::from_ms(7.5).into());
        let order =
            [r.arrived, r.dispatched, r.accepted, r.prefill, r.engine_first, r.router_first, r.engine_done, r.done];
        assert!(order.map(|at| at.get().unwrap()).is_sorted(), "{order:?}");
    }

    #[test]
    fn parts_whose_other_half_is_missing_stand_alone() {
        assert_eq!(merge(vec![part("b", 5, 1, "engine-b", 0)]).records.len(), 1);
        assert!(merge(Vec::new()).records.is_empty());
    }
}
