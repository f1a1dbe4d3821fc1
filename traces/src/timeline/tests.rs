//! Laws of writer and reader together.

use super::*;
use gorgo_core::policy::Exclusion;
use gorgo_core::record::{RequestRecord, Status};
use gorgo_core::{MaybeTime, Span, Time, rng};
use rand::RngExt;
use std::collections::BTreeSet;

fn names(of: &[&str]) -> Vec<String> {
    of.iter().map(|&n| n.to_owned()).collect()
}

/// Requests with random stages, some of which stop early.
fn records(n: u64, seed: u64) -> Vec<RequestRecord> {
    let mut rng = rng::stream(seed, "timeline test", 0);
    (0..n)
        .map(|request| {
            let mut at = Time(rng.random_range(0..2_000_000_000));
            let sent = at;
            let reached = if rng.random_range(0..10) == 0 { rng.random_range(0..8) } else { 8 };
            let mut step = |i: i32| {
                // One in four stages has no length, as on one machine.
                at += Span(if rng.random_range(0..4) == 0 { 0 } else { rng.random_range(1..50_000_000) });
                if i < reached { at.into() } else { MaybeTime::NONE }
            };
            let [arrived, dispatched, accepted, prefill, engine_first, router_first, first_token, engine_done] =
                std::array::from_fn(|i| step(i as i32));
            let done = at + Span(30_000);
            RequestRecord {
                request,
                session: request / 3,
                turn: 1,
                origin: 0.into(),
                router: (request % 2) as u16,
                replica: dispatched.get().map(|_| (request % 3) as u16).into(),
                status: if reached == 8 { Status::Finished } else { Status::Failed },
                reason: None,
                attempts: 1,
                hops: 0,
                prompt_tokens: 100,
                output_tokens: 10,
                predicted_cached_tokens: 64,
                cached_tokens: 50,
                predicted_ttft_ms: (request % 2 == 1).then_some(12.5),
                scheduled: sent,
                sent,
                arrived,
                dispatched,
                accepted,
                prefill,
                engine_first,
                router_first,
                first_token,
                engine_done,
                done: done.into(),
            }
        })
        .collect()
}

fn file(records: &[RequestRecord], limit: usize) -> Vec<u8> {
    let (origins, routers, replicas) = (names(&["IL"]), names(&["tlv", "fra"]), names(&["a", "b", "c"]));
    let counters =
        [Counter { place: "a".to_owned(), what: "waiting", values: vec![(Time(1_000), 3), (Time(u64::MAX / 2), 9)] }];
    let candidate = |replica: &str, total: Option<f64>| ShownCandidate {
        replica: replica.to_owned(),
        cached_tokens: 64,
        excluded: total.is_none().then_some(Exclusion::Full),
        terms: total.iter().map(|&total| ("total".to_owned(), total)).collect(),
    };
    let decision = |request: u64, total: f64| Decision {
        request,
        chosen: Some("b".to_owned()),
        reason: None,
        candidates: vec![candidate("a", None), candidate("b", Some(total))],
    };
    let decisions = [decision(1, 8.0), decision(0, 35.5), decision(1, 9.25)];
    let run = |label| Run {
        label,
        policy: "gorgo",
        seed: 1,
        origins: &origins,
        routers: &routers,
        replicas: &replicas,
        records,
        total: records.len() as u64,
        decisions: &decisions,
        counters: &counters,
    };
    let mut out = Vec::new();
    write(&mut out, &[run("gorgo \"x\""), run("least-load")], limit).unwrap();
    out
}

#[test]
fn what_is_written_reads_back_with_nested_spans_and_paired_arrows() {
    for seed in 0..20 {
        let records = records(200, seed);
        let timeline = read(file(&records, 1000).as_slice()).unwrap();
        let served = records.iter().filter(|r| r.accepted.is_some()).count();
        let of = |kind: &str| timeline.spans.iter().filter(|s| s.depth == 0 && s.category == kind).count();
        assert_eq!((of("router"), of("replica"), timeline.flows.len()), (400, 2 * served, 2 * served));
        let names: BTreeSet<&str> = timeline.spans.iter().filter(|s| s.depth == 0).map(|s| s.name.as_str()).collect();
        assert_eq!(names, BTreeSet::from(["gorgo failed", "gorgo finished", "serve"]));
        assert_eq!(timeline.processes.values().collect::<Vec<_>>(), ["gorgo \"x\"", "least-load"]);
        let at = |time: MaybeTime| time.get().unwrap();
        let queue = timeline.stage("least-load", "queue");
        let prefill = timeline.stage("least-load", "prefill");
        for r in records.iter().filter(|r| r.status == Status::Finished) {
            assert_eq!(queue[&r.request], at(r.dispatched) - at(r.arrived));
            assert_eq!(prefill[&r.request], at(r.engine_first) - at(r.prefill));
        }
        for flow in &timeline.flows {
            assert!(flow.from.at <= flow.to.at, "an arrow goes forward in time");
        }
    }
}

#[test]
fn the_cut_keeps_the_earliest_requests_and_says_so() {
    let records = records(50, 3);
    let timeline = read(file(&records, 10).as_slice()).unwrap();
    let drawn = Cut { run: "least-load".to_owned(), seed: 1, requests: 50, drawn: 10 };
    assert_eq!(timeline.runs[1], drawn);
    let latest = timeline.spans.iter().filter(|s| s.is_request()).map(|s| s.start).max().unwrap();
    assert_eq!(records.iter().filter(|r| r.sent <= latest).count(), 10);
}

#[test]
fn rows_are_named_by_their_node_with_each_replica_beside_its_router_and_counters_end_with_the_requests() {
    let text = String::from_utf8(file(&records(60, 4), 60)).unwrap();
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = file["traceEvents"].as_array().unwrap();
    let mut nodes: Vec<&str> = Vec::new();
    for event in events.iter().filter(|e| e["name"] == "thread_name" && e["pid"] == 1) {
        let name = event["args"]["name"].as_str().unwrap().split(',').next().unwrap();
        if nodes.last() != Some(&name) {
            nodes.push(name);
        }
    }
    assert_eq!(nodes, ["router tlv", "replica a", "router fra", "replica b", "replica c"]);
    let counted: Vec<_> = events.iter().filter(|e| e["ph"] == "C").map(|e| &e["args"]["waiting"]).collect();
    assert_eq!(counted, [3, 3], "the values after the last request are left out");
}

#[test]
fn no_requests_make_a_file_with_only_names() {
    let timeline = read(file(&[], 10).as_slice()).unwrap();
    assert!(timeline.spans.is_empty() && timeline.processes.len() == 2);
}

#[test]
fn equal_records_make_equal_bytes() {
    assert_eq!(file(&records(30, 5), 20), file(&records(30, 5), 20));
}

#[test]
fn a_request_shows_the_terms_of_its_last_decision() {
    let timeline = read(&file(&records(3, 5), 10)[..]).unwrap();
    let shown = |request: u64| {
        let of = |span: &&SpanEvent| span.depth == 0 && span.category == "router" && span.args["request"] == request;
        timeline.spans.iter().find(of).unwrap().args.get("decision").cloned().unwrap_or_default()
    };
    assert_eq!(shown(0)["candidates"]["b"]["total"], 35.5);
    assert_eq!(shown(1)["candidates"]["b"]["total"], 9.25);
    assert_eq!(shown(1)["candidates"]["a"]["excluded"], "full");
    assert_eq!((&shown(1)["chosen"], &shown(2)), (&"b".into(), &serde_json::Value::Null));
}
