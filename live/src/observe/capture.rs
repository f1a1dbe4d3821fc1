//! Timeline capture: while it is on, every request that ends is recorded in the simulator's format.

use crate::observe::request_log::{DecisionSummary, RequestEntry, RoutedReplica};
use gorgo_core::Time;
use gorgo_core::policy::Exclusion;
use gorgo_core::record::RequestRecord;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Most requests of a capture; later ones are only counted.
pub(crate) const MAX_RECORDS: usize = 100_000;

/// One router's part of a timeline. Times in `records` are ns since `started_unix_ns`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Captured {
    /// Names this capture.
    pub session: String,
    /// The router.
    pub node: String,
    /// Its policy at the end.
    pub policy: String,
    /// Wall clock of its time 0.
    pub started_unix_ns: u64,
    /// How far the clocks of its peers run ahead of its own, from their reports.
    pub clock_offsets: Vec<ClockOffset>,
    /// Replicas behind `RequestRecord::replica`.
    pub replicas: Vec<String>,
    /// Round trip to each at the end, ms.
    pub rtt_ms: Vec<f64>,
    /// `X-Request-ID` of each record: how the parts of a forwarded request are found.
    pub request_ids: Vec<String>,
    /// The requests.
    pub records: Vec<RequestRecord>,
    /// The candidates of each record's last decision, none before the first; empty from older routers.
    #[serde(default)]
    pub candidates: Vec<Vec<CapturedCandidate>>,
    /// Requests that did not fit.
    pub dropped: u64,
}

/// A candidate of the decision behind a captured request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CapturedCandidate {
    /// The replica or peer.
    pub replica: String,
    /// Prompt tokens believed cached there.
    pub cached_tokens: u32,
    /// Why it could not be chosen.
    pub excluded: Option<Exclusion>,
    /// Its score, in the policy's unit; `None` where it was excluded.
    pub total_ms: Option<f64>,
}

/// How far a peer's clock runs ahead of the router's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockOffset {
    /// The peer, by replica name.
    pub peer: String,
    /// The peer's clock less the router's, ns.
    pub ns: i64,
}

#[derive(Debug)]
struct ActiveCapture {
    session: String,
    since: Time,
    request_ids: Vec<String>,
    records: Vec<RequestRecord>,
    decisions: Vec<DecisionSummary>,
    /// Names behind `RequestRecord::replica`: of its own, since a slot may change hands while it runs.
    replicas: Vec<Arc<str>>,
    dropped: u64,
}

/// The requests of a finished capture.
#[derive(Debug)]
pub struct CapturedRequests {
    /// Its name.
    pub session: String,
    /// As of [`Captured`].
    pub request_ids: Vec<String>,
    /// As of [`Captured`].
    pub records: Vec<RequestRecord>,
    /// As of [`Captured`].
    pub candidates: Vec<Vec<CapturedCandidate>>,
    /// As of [`Captured`].
    pub replicas: Vec<Arc<str>>,
    /// As of [`Captured`].
    pub dropped: u64,
}

/// The response of `trace/status`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaptureStatus {
    /// Whether it is on.
    pub active: bool,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// For how long, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// Requests so far.
    pub event_count: usize,
}

/// The capture of one router.
#[derive(Debug, Default)]
pub struct Capture(Mutex<Option<ActiveCapture>>);

impl Capture {
    /// Starts a new capture; drops a running one.
    pub fn start(&self, now: Time, unix_ns: u64) -> String {
        let session = format!("trace-{unix_ns}");
        let active = ActiveCapture {
            session: session.clone(),
            since: now,
            request_ids: vec![],
            records: vec![],
            decisions: vec![],
            replicas: vec![],
            dropped: 0,
        };
        *self.0.lock() = Some(active);
        session
    }

    /// The capture's state.
    pub fn status(&self, now: Time) -> CaptureStatus {
        let guard = self.0.lock();
        let active = guard.as_ref();
        CaptureStatus {
            active: active.is_some(),
            session_id: active.map(|a| a.session.clone()),
            duration_ms: active.map(|a| (now - a.since).ms()),
            event_count: active.map_or(0, |a| a.records.len()),
        }
    }

    /// Ends the capture and returns its requests.
    pub fn stop(&self) -> Option<CapturedRequests> {
        let active = self.0.lock().take()?;
        let ActiveCapture { session, request_ids, records, decisions, replicas, dropped, .. } = active;
        let candidates = decisions.iter().map(candidates).collect();
        Some(CapturedRequests { session, request_ids, records, candidates, replicas, dropped })
    }

    /// Records a request that ended.
    pub fn push(&self, row: &RequestEntry) {
        let mut guard = self.0.lock();
        let Some(active) = guard.as_mut().filter(|a| row.arrived >= a.since) else { return };
        if active.records.len() >= MAX_RECORDS {
            active.dropped += 1;
            return;
        }
        let index = active.records.len() as u64;
        active.request_ids.push(row.id().to_owned());
        let mut record = record(row, index);
        if let Some(RoutedReplica { name, .. }) = &row.replica {
            let known = active.replicas.iter().position(|there| there == name);
            let at = known.unwrap_or(active.replicas.len());
            if known.is_none() {
                active.replicas.push(Arc::clone(name));
            }
            record.replica = u16::try_from(at).ok().into();
        }
        active.records.push(record);
        active.decisions.push(row.decision.clone());
    }
}

/// The candidates of a decision, by name.
fn candidates(decision: &DecisionSummary) -> Vec<CapturedCandidate> {
    let shown = decision.by_name().into_iter().map(|(name, score)| CapturedCandidate {
        replica: name.to_owned(),
        cached_tokens: score.cached_tokens,
        excluded: score.excluded,
        total_ms: Some(score.total_ms).filter(|total| score.excluded.is_none() && total.is_finite()),
    });
    shown.collect()
}

/// Converts an entry to the simulator's format. Times at the replica are not observed: a request's arrival and its first
/// token are placed half a round trip inside the observed times.
pub(crate) fn record(row: &RequestEntry, request: u64) -> RequestRecord {
    let half = gorgo_core::Span::from_ms(row.rtt_ms / 2.0);
    let sooner = |at: Time| Time(at.0.saturating_sub(half.0));
    let accepted = row.dispatched.map(|at| (at + half).min(row.done));
    let engine_first = row.first_token.map(|at| sooner(at).max(accepted.unwrap_or(at)));
    let engine_done = engine_first.map(|first| sooner(row.done).max(first));
    RequestRecord {
        request,
        session: row.session,
        turn: 1,
        origin: 0.into(),
        router: 0,
        replica: row.replica.as_ref().map(|replica| replica.slot).into(),
        status: row.end.status(),
        reason: Some(row.end),
        attempts: row.attempts,
        hops: row.hops,
        prompt_tokens: row.counted_tokens.unwrap_or(row.prompt_tokens),
        output_tokens: row.output_tokens,
        predicted_cached_tokens: row.predicted_cached_tokens,
        cached_tokens: row.cached_tokens.unwrap_or(0),
        predicted_ttft_ms: row.predicted_ttft_ms.map(|ms| ms as f32),
        scheduled: row.arrived,
        sent: row.arrived,
        arrived: row.arrived.into(),
        dispatched: row.dispatched.into(),
        accepted: accepted.into(),
        prefill: accepted.into(),
        engine_first: engine_first.into(),
        router_first: row.first_token.into(),
        first_token: row.first_token.into(),
        engine_done: engine_done.into(),
        done: row.done.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::request_log::tests::row;

    #[test]
    fn a_capture_without_a_predicted_ttft_survives_json() {
        let mut lone = row("a", 5.0);
        lone.predicted_ttft_ms = None;
        let record = record(&lone, 0);
        let text = serde_json::to_value(&record).unwrap();
        let read = serde_json::from_value::<RequestRecord>(text).unwrap();
        assert_eq!(read, RequestRecord { reason: None, ..record }, "the status travels, the reason behind it does not");
    }

    #[test]
    fn only_what_arrives_while_it_is_on_is_captured_in_causal_order() {
        let capture = Capture::default();
        capture.push(&row("before", 5.0));
        assert!(capture.stop().is_none() && !capture.status(Time::ZERO).active);
        capture.start(Time::from_ms(5.0), 7);
        capture.push(&row("during", 5.0));
        assert_eq!(capture.status(Time::from_ms(6.0)).event_count, 1);
        let CapturedRequests { session, request_ids: ids, records, replicas, .. } = capture.stop().unwrap();
        assert_eq!((replicas, records[0].replica), (vec!["a".into()], 0.into()));
        assert_eq!((session.as_str(), ids), ("trace-7", vec!["during".to_owned()]));
        let r = &records[0];
        let order = [r.arrived, r.dispatched, r.accepted, r.engine_first, r.router_first, r.engine_done, r.done];
        assert!(order.map(|at| at.get().unwrap()).is_sorted(), "{order:?}");
    }
}
