//! What is drawn of one request: its row at the router and its row at the replica.

use super::decision::Decision;
use super::write::Run;
use gorgo_core::record::RequestRecord;
use gorgo_core::{MaybeIndex, MaybeTime, Span, Time};

/// One row's content: the outer span, its stages, and the end of the arrow that belongs to it.
pub(super) struct TimelineRow<'a> {
    pub(super) record: &'a RequestRecord,
    pub(super) start: Time,
    pub(super) end: Time,
    pub(super) name: String,
    pub(super) category: &'static str,
    pub(super) stages: Vec<(&'static str, Time, Time)>,
    pub(super) args: serde_json::Value,
    pub(super) arrow: Option<(char, u64, Time)>,
}

pub(super) fn router_row<'a>(
    run: &Run<'_>,
    r: &'a RequestRecord,
    decision: Option<&Decision>,
    arrow: Option<u64>,
) -> TimelineRow<'a> {
    let (stages, end) = chain(
        r.sent,
        &[("uplink", r.arrived), ("queue", r.dispatched), ("forward", r.accepted), ("first-token", r.router_first)],
        ("stream", r.done),
    );
    let status = if r.done.is_none() { "lost" } else { r.status.as_str() };
    let name = |names: &[String], i: MaybeIndex| names.get(usize::from(i.get()?)).cloned();
    let mut args = serde_json::json!({
        "request": r.request,
        "session": r.session,
        "turn": r.turn,
        "origin": name(run.origins, r.origin),
        "replica": name(run.replicas, r.replica),
        "policy": run.policy,
        "status": status,
        "attempts": r.attempts,
        "hops": r.hops,
        "prompt_tokens": r.prompt_tokens,
        "output_tokens": r.output_tokens,
        "predicted_cached_tokens": r.predicted_cached_tokens,
        "cached_tokens": r.cached_tokens,
    });
    if let Some(decision) = decision {
        args["decision"] = decision.args();
    }
    let mut number = |key: &str, value: Option<f64>| {
        if let Some(value) = value.filter(|v| v.is_finite()) {
            args[key] = value.into();
        }
    };
    // By its digits: 119.6 is not to become 119.599998.
    number("predicted_ttft_ms", r.predicted_ttft_ms.and_then(|ms| ms.to_string().parse().ok()));
    number("ttft_ms", r.ttft().map(Span::ms));
    number("e2e_ms", r.e2e().map(Span::ms));
    TimelineRow {
        record: r,
        start: r.sent,
        end,
        name: format!("{} {status}", run.policy),
        category: "router",
        stages,
        args,
        arrow: arrow.zip(r.dispatched.get()).map(|(id, dispatched)| ('s', id, dispatched)),
    }
}

pub(super) fn replica_row(r: &RequestRecord, accepted: Time, id: u64) -> TimelineRow<'_> {
    let (stages, end) =
        chain(accepted, &[("engine-queue", r.prefill), ("prefill", r.engine_first)], ("decode", r.engine_done));
    let args = serde_json::json!({
        "request": r.request,
        "prompt_tokens": r.prompt_tokens,
        "cached_tokens": r.cached_tokens,
        "output_tokens": r.output_tokens,
    });
    TimelineRow {
        record: r,
        start: accepted,
        end,
        name: "serve".to_owned(),
        category: "replica",
        stages,
        args,
        arrow: Some(('f', id, accepted)),
    }
}

/// Stages one after the other, each from the end of the one before to its own end; those not reached or of no length
/// are left out. What follows the last stage reached goes to `last` when its end is known and every stage was reached;
/// otherwise it belongs to the stage that was under way (a request that timed out in the queue shows its queue).
fn chain(
    start: Time,
    stages: &[(&'static str, MaybeTime)],
    last: (&'static str, MaybeTime),
) -> (Vec<(&'static str, Time, Time)>, Time) {
    let mut spans = Vec::with_capacity(stages.len() + 1);
    let mut at = start;
    let mut open = last.0;
    for &(name, end) in stages {
        let Some(end) = end.get() else {
            open = name;
            break;
        };
        if end > at {
            spans.push((name, at, end));
            at = end;
        }
    }
    if let Some(end) = last.1.get().filter(|&end| end > at) {
        spans.push((open, at, end));
        at = end;
    }
    (spans, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_timed_out_in_the_queue_shows_its_queue() {
        let (spans, end) =
            chain(Time(0), &[("uplink", Time(5).into()), ("queue", MaybeTime::NONE)], ("stream", Time(9).into()));
        assert_eq!(spans, [("uplink", Time(0), Time(5)), ("queue", Time(5), Time(9))]);
        assert_eq!(end, Time(9));
    }

    #[test]
    fn a_request_without_an_end_stops_where_it_was_last_seen() {
        let (spans, end) = chain(
            Time(1),
            &[("uplink", Time(5).into()), ("queue", Time(5).into()), ("forward", MaybeTime::NONE)],
            ("stream", MaybeTime::NONE),
        );
        assert_eq!((spans, end), (vec![("uplink", Time(1), Time(5))], Time(5)));
    }
}
