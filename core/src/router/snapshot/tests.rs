use super::*;
use crate::fleet::{Kind, ReplicaSpec};
use crate::policy::{PolicyConfig, RequestInfo};
use crate::rng::stream;
use crate::router::{AdminEvent, Failure, ReplicaEvent, Request, RequestEvent, RouterConfig, Usage};
use crate::{RequestId, Time};
use std::sync::Arc;

fn router(names: &[&str]) -> Router {
    let mut router = Router::new(RouterConfig::default(), PolicyConfig::default().build(), None, stream(1, "p", 0));
    for (slot, name) in names.iter().enumerate() {
        let spec = ReplicaSpec::new(*name, Kind::Remote);
        handle(&mut router, 0, ReplicaEvent::Added { replica: ReplicaId(slot as u16), spec });
    }
    router
}

fn handle(router: &mut Router, ms: u64, event: impl Into<crate::router::Event>) {
    router.handle(Time::from_ms(ms as f64), event, &mut Vec::new());
}

fn ask(router: &mut Router, ms: u64, symbols: &[u64]) {
    let id = RequestId(ms);
    let info = RequestInfo { prompt_tokens: 16 * symbols.len() as u32, ..RequestInfo::default() };
    handle(router, ms, RequestEvent::Arrived(Request::new(id, symbols.into(), info)));
    handle(router, ms + 1, RequestEvent::FirstToken { id, attempt: 1 });
    let usage = Usage { cached_tokens: None, output_tokens: 20 };
    handle(router, ms + 2, RequestEvent::Finished { id, attempt: 1, usage, answer: None });
}

fn held(router: &Router, symbols: &[u64], slot: usize) -> u32 {
    let mut matched = [0; 3];
    router.index().lookup(symbols, &mut matched);
    matched[slot]
}

#[test]
fn another_process_knows_what_this_one_learned_though_slots_and_clocks_differ() {
    let mut first = router(&["a", "b"]);
    handle(&mut first, 10, ReplicaEvent::Probed { replica: ReplicaId(0), rtt_ms: 12.0 });
    handle(&mut first, 10, ReplicaEvent::Probed { replica: ReplicaId(1), rtt_ms: 90.0 });
    (0..30).for_each(|i| ask(&mut first, 1_000 + 10 * i, &[1, 2, 3, 100 + i]));
    let at: Vec<u32> = (0..2).map(|slot| held(&first, &[1, 2, 3], slot)).collect();
    let now = Time::from_ms(5_000.0);
    let snapshot = Arc::new(first.snapshot(now, usize::MAX));
    let mut second = router(&["c", "b", "a"]);
    handle(&mut second, 7, AdminEvent::Restored(Arc::clone(&snapshot)));
    assert_eq!([held(&second, &[1, 2, 3], 2), held(&second, &[1, 2, 3], 1)], [at[0], at[1]]);
    assert_eq!(held(&second, &[1, 2, 3], 0), 0);
    assert_eq!([second.replicas()[2].rtt.smoothed_ms(), second.replicas()[1].rtt.smoothed_ms()], [12.0, 90.0]);
    assert_eq!(second.replicas()[2].rtt.updated(), Some(Time::from_ms(7.0)));
    assert_eq!(second.rates().learned(2, None), first.rates().learned(0, None));
    // The second process makes the same choices as the first.
    assert_eq!(second.snapshot(now, usize::MAX).index.symbols.len(), snapshot.index.symbols.len());
}

#[test]
fn a_breaker_stays_open_for_the_rest_of_its_time_and_a_dead_replica_stays_down() {
    let mut first = router(&["a", "b"]);
    let failed = |router: &mut Router, ms: u64| {
        let at = &mut router.replicas[0];
        at.breaker.failed(Time::from_ms(ms as f64), Failure::Unreachable, true, true, &router.config.breaker);
    };
    (0..3).for_each(|i| failed(&mut first, 100 + i));
    for _ in 0..first.config().unhealthy_after {
        handle(&mut first, 200, ReplicaEvent::ProbeFailed { replica: ReplicaId(1), connected: false });
    }
    let snapshot = first.snapshot(Time::from_ms(302.0), usize::MAX);
    let text = serde_json::to_string(&snapshot.replicas).unwrap();
    assert_eq!(serde_json::from_str::<Vec<SavedReplica>>(&text).unwrap(), snapshot.replicas);
    let mut second = router(&["a", "b"]);
    handle(&mut second, 1, AdminEvent::Restored(Arc::new(snapshot)));
    let until = second.replicas()[0].breaker.reopens(Time::from_ms(1.0)).unwrap();
    assert!((until.ms() - 301.0).abs() < 0.01, "500 ms since it opened, 200 of them before: {}", until.ms());
    assert_eq!(second.replicas()[1].health, Health::Down);
    handle(&mut second, 50, ReplicaEvent::Probed { replica: ReplicaId(1), rtt_ms: 5.0 });
    assert_eq!(second.replicas()[1].health, Health::Up);
}

#[test]
fn numbers_that_cannot_be_are_left_out() {
    let mut first = router(&["a"]);
    handle(&mut first, 10, ReplicaEvent::Probed { replica: ReplicaId(0), rtt_ms: 12.0 });
    let mut snapshot = first.snapshot(Time::from_ms(20.0), usize::MAX);
    let text = serde_json::to_string(&snapshot.replicas[0]).unwrap().replace("12.0", "-12.0");
    snapshot.replicas[0] = serde_json::from_str(&text).unwrap();
    let mut second = router(&["a"]);
    handle(&mut second, 1, AdminEvent::Restored(Arc::new(snapshot)));
    assert_eq!(second.replicas()[0].rtt, Rtt::default());
}
