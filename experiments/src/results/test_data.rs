//! Runs for tests: a small queueing model, so that distributions, queues and caches look like real ones.

use super::{ArmRun, Names, Point, QueueSample, Results};
use gorgo_core::record::{RequestRecord, Status};
use gorgo_core::{Span, Time, rng};
use gorgo_sim::engine::GapBucket;
use rand::RngExt;
use std::collections::BTreeMap;

fn names(of: &[&str]) -> Vec<String> {
    of.iter().map(|&n| n.to_owned()).collect()
}

/// `n` requests from three countries to three replicas, first come, first served, one at a time a replica. Arms whose
/// name holds `gorgo` send repeated prompts to the replica that knows them.
pub(crate) fn run(arm: &str, seed: u64, n: u64) -> ArmRun {
    let gorgo = arm.contains("gorgo");
    let mut rng = rng::stream(seed, "test data", 0);
    let mut free = [0.0f64; 3];
    let (mut at, mut records, mut samples, mut itl) = (0.0, Vec::new(), Vec::new(), BTreeMap::new());
    for request in 0..n {
        at += -200.0 * (1.0 - rng.random::<f64>()).ln();
        let origin = rng.random_range(0..3u16);
        let session = rng.random_range(0..40u64);
        let prompt_tokens = rng.random_range(50..4000u32);
        let output_tokens = rng.random_range(1..120u32);
        let other = rng.random_range(0..3u16);
        let fate = rng.random::<f64>();
        let home = (session % 3) as u16;
        let replica = if gorgo { home } else { other };
        let cached_tokens = if replica == home { prompt_tokens * 7 / 10 } else { 0 };
        let way = 8.0 + 60.0 * f64::from(u8::from(replica != origin));
        let router = at + 8.0;
        let arrival = router + way / 2.0;
        let queue = &mut free[usize::from(replica)];
        let start = arrival.max(*queue);
        let prefill = 12.0 + 0.15 * f64::from(prompt_tokens - cached_tokens);
        let first = start + prefill;
        let done = first + 9.0 * f64::from(output_tokens - 1);
        *queue = first + 120.0;
        *itl.entry(9).or_insert(0) += u64::from(output_tokens - 1);
        let waiting = ((start - arrival) / 200.0) as u32;
        let t = Time::from_ms;
        let finished = fate < 0.98;
        records.push(RequestRecord {
            request,
            session,
            turn: 1 + (request / 40) as u32,
            origin: origin.into(),
            router: origin,
            replica: replica.into(),
            status: if finished { Status::Finished } else { Status::Cancelled },
            reason: None,
            attempts: 1,
            hops: u8::from(replica != origin),
            prompt_tokens,
            output_tokens,
            predicted_cached_tokens: cached_tokens.saturating_sub(16),
            cached_tokens,
            predicted_ttft_ms: gorgo.then_some((way + prefill) as f32),
            scheduled: t(at),
            sent: t(at),
            arrived: t(router).into(),
            dispatched: t(router).into(),
            accepted: t(arrival).into(),
            prefill: t(start).into(),
            engine_first: t(first).into(),
            router_first: t(first + way / 2.0).into(),
            first_token: t(first + way / 2.0 + 8.0).into(),
            engine_done: t(done).into(),
            done: t(done + way / 2.0 + 8.0).into(),
        });
        samples.push(QueueSample {
            at: t(arrival),
            replica,
            waiting,
            running: 1,
            kv_tokens: 500,
            queued_at_router: waiting / 3,
        });
    }
    samples.sort_by_key(|s| s.at);
    let last = records.iter().filter_map(|r| r.done.get()).max().unwrap_or(Time::ZERO);
    ArmRun {
        decisions: Vec::new(),
        measure: Default::default(),
        arm: arm.to_owned(),
        baseline: String::new(),
        policy: if gorgo { "gorgo" } else { "least-load" }.to_owned(),
        shared: None,
        topology: "edge".to_owned(),
        settings: BTreeMap::new(),
        seed,
        names: Names {
            origins: names(&["IL", "DE", "US"]),
            routers: names(&["tel-aviv", "frankfurt", "san-francisco"]),
            replicas: names(&["tel-aviv-0", "frankfurt-0", "san-francisco-0"]),
        },
        records,
        failures: BTreeMap::new(),
        itl: itl.into_iter().map(|(ms, count)| GapBucket { upper_ms: f64::from(ms), count }).collect(),
        samples,
        event_hash: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        events: 12 * n,
        span: last - Time::ZERO,
        fenced: None,
    }
}

/// A run of an arm `policy x=.. y=..` whose latencies depend on the settings, with a valley.
pub(crate) fn swept(policy: &str, settings: &[(&str, f64)], seed: u64, n: u64) -> ArmRun {
    let pairs: Vec<String> =
        settings.iter().map(|(k, v)| format!("{}={v}", k.rsplit('.').next().unwrap_or(k))).collect();
    let mut run = run(&format!("{policy} {}", pairs.join(" ")), seed, n);
    let factor: f64 = settings.iter().enumerate().map(|(i, (_, v))| (v - 0.6 - 0.2 * i as f64).powi(2) * 0.8).sum();
    for r in &mut run.records {
        let longer = Span::from_ms(r.ttft().unwrap_or_default().ms() * factor);
        for at in [&mut r.router_first, &mut r.first_token, &mut r.engine_done, &mut r.done] {
            *at = at.get().map(|at| at + longer).into();
        }
    }
    run.settings = settings.iter().map(|(k, v)| ((*k).to_owned(), v.to_string())).collect();
    run
}

/// Points of the arms, each with seeds 1..=`seeds` of `n` requests, in order.
pub(crate) fn points(arms: &[&str], seeds: u64, n: u64) -> Vec<Point> {
    let point = |i: usize, arm: &str, seed| {
        let mut run = run(arm, seed, n);
        run.baseline = arms[0].to_owned();
        Point::of(i as u32, &run)
    };
    arms.iter().enumerate().flat_map(|(i, arm)| (1..=seeds).map(move |seed| point(i, arm, seed))).collect()
}

/// Points as if read from a folder.
pub(crate) fn results(points: Vec<Point>) -> Results {
    Results::of(String::new(), points)
}
