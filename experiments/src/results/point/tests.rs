use super::queues::queues;
use super::*;
use crate::results::QueueSample;
use crate::results::test_data::{points, run};
use gorgo_core::router::EndReason;
use gorgo_core::{MaybeTime, Time};

#[test]
fn ends_are_counted_once_each_and_a_request_without_an_end_is_lost() {
    let mut run = run("gorgo", 1, 6);
    let statuses = [Status::Rejected, Status::TimedOut, Status::Failed, Status::Cancelled, Status::Finished];
    for (r, status) in run.records.iter_mut().zip(statuses) {
        r.status = status;
        r.hops = 1;
        r.attempts = 3;
    }
    run.records[5].done = MaybeTime::NONE;
    let c = counts(&run.records.iter().collect::<Vec<_>>());
    assert_eq!((c.requests, c.rejected, c.timed_out, c.failed, c.cancelled, c.finished, c.lost), (6, 1, 1, 1, 1, 1, 1));
    assert_eq!((c.forwarded - u64::from(run.records[5].hops > 0), c.retries), (5, 10));
    let latency = Point::of(0, &run).latency;
    assert_eq!(latency.e2e.samples(), 1, "a lost request has no end-to-end latency");
    assert_eq!(latency.ttft.samples(), 6, "a first token counts even where the last never came");
}

#[test]
fn waiting_is_at_the_router_and_in_the_engine() {
    let mut r = run("gorgo", 1, 1).records.remove(0);
    (r.arrived, r.dispatched, r.accepted, r.prefill) =
        (Time(10).into(), Time(17).into(), Time(30).into(), Time(35).into());
    assert_eq!(queue_wait(&r), Some(Span(12)));
    r.prefill = MaybeTime::NONE;
    assert_eq!(queue_wait(&r), None);
}

#[test]
fn expectation_errors_are_signed_and_absolute() {
    let mut run = run("gorgo", 1, 2);
    for (r, (expected, actual_ns)) in run.records.iter_mut().zip([(5.0, 3_000_000), (1.0, 2_500_000)]) {
        (r.predicted_cached_tokens, r.cached_tokens) = (30, 50);
        r.predicted_ttft_ms = Some(expected);
        r.dispatched = Time(1000).into();
        r.router_first = Time(1000 + actual_ns).into();
    }
    let p = prediction(&run.records.iter().collect::<Vec<_>>());
    assert_eq!((p.cache_samples, p.cache_abs_tokens, p.cache_signed_tokens), (2, 40, -40));
    assert_eq!((p.ttft_abs.mean_ms(), p.ttft_signed_ns), (Some(1.75), 500_000));
}

#[test]
fn thinning_keeps_the_largest_queue_and_the_last_known_one() {
    let sample = |ms: u64, replica, waiting| QueueSample {
        at: Time(ms * 1_000_000),
        replica,
        waiting,
        running: 0,
        kv_tokens: 0,
        queued_at_router: waiting / 2,
    };
    let few = queues(2, &[sample(0, 0, 4), sample(0, 1, 1), sample(10, 1, 7), sample(20, 0, 0)]);
    assert_eq!((few.at_ms, few.waiting), (vec![0, 10, 20], vec![vec![4, 4, 0], vec![1, 7, 7]]));
    assert_eq!((few.max_waiting, few.max_router), (7, 3));
    let many: Vec<QueueSample> = (0..50_000).map(|i| sample(i, (i % 2) as u16, u32::from(i == 31_415) * 99)).collect();
    let many = queues(2, &many);
    assert!(many.at_ms.len() * 4 <= MAX_CELLS, "{}", many.at_ms.len());
    assert_eq!(many.waiting[1].iter().max(), Some(&99));
}

#[test]
fn no_request_and_one_request_make_a_point() {
    let none = Point::of(0, &ArmRun::default());
    assert_eq!((none.hit_rate(), none.busiest_over_mean(), none.per_second(0)), (None, None, None));
    let one = Point::of(0, &run("gorgo", 1, 1));
    assert_eq!(one.busiest_over_mean(), Some(3.0));
}

#[test]
fn points_survive_their_file() {
    for point in points(&["gorgo", "<least \"load\">"], 1, 300) {
        let text = serde_json::to_string(&point).unwrap();
        assert!(serde_json::from_str::<Point>(&text).unwrap() == point, "{}", point.arm);
    }
}

#[test]
fn keys_tell_arms_and_seeds_apart() {
    assert_ne!(Point::key("a:1", 2), Point::key("a", 12));
    assert_ne!(Point::key("a", 1), Point::key("a", 2));
    assert_eq!(Point::key("a", 1).len(), 16);
}

#[test]
fn only_counted_requests_make_figures_and_goodput_asks_for_the_objective() {
    let mut run = run("gorgo", 1, 400);
    let whole = Point::of(0, &run);
    let last = run.records.iter().map(|r| r.scheduled).max().unwrap();
    run.measure.warm_up_s = 10.0;
    run.measure.cool_down_s = 5.0;
    run.measure.slo = crate::spec::measure::Slo { ttft_ms: Some(120.0), ..Default::default() };
    let part = Point::of(0, &run);
    let counted = |r: &&RequestRecord| r.scheduled.secs() >= 10.0 && r.scheduled + Span::from_secs(5.0) <= last;
    let expected: Vec<&RequestRecord> = run.records.iter().filter(counted).collect();
    assert!(expected.len() < 390 && part.counts.requests == expected.len() as u64, "{}", part.counts.requests);
    let good = |r: &&&RequestRecord| r.status == Status::Finished && r.ttft().unwrap().ms() <= 120.0;
    let good = expected.iter().filter(good).count() as u64;
    assert!(good > 0 && good < part.counts.finished && part.loaded.good == good);
    assert_eq!((whole.loaded.good, whole.loaded.slo), (whole.counts.finished, None));
    assert_eq!(part.loaded.slo.as_deref(), Some("TTFT <= 120 ms"));
    let span = part.loaded.span_ns as f64 / 1e9;
    assert!(span < last.secs() - 14.0, "the rate is over the loaded span: {span}");
}

#[test]
fn requests_that_did_not_finish_carry_their_reason() {
    let mut run = run("gorgo", 1, 50);
    for r in &mut run.records[..3] {
        (r.status, r.reason) = (Status::TimedOut, Some(EndReason::Deadline));
    }
    let point = Point::of(0, &run);
    assert_eq!(point.reasons[EndReason::Deadline.as_str()], 3);
    assert_eq!(point.reasons.values().sum::<u64>(), point.counts.requests - point.counts.finished);
}
