use super::*;
use crate::fleet::{Learned, ReplicaSpec};
use crate::policy::{PolicyConfig, RequestInfo};
use crate::rng::stream;
use crate::router::{AdminEvent, ReplicaEvent, Request, RequestEvent, RouterConfig};
use std::sync::Arc;

/// A hundred requests of 300 ms, half a second apart, from `start_ms` on.
fn serve(router: &mut Router, start_ms: u64) {
    for i in 0..100 {
        let (id, attempt) = (RequestId(start_ms + i), 1);
        let at = |ms: u64| Time::from_ms((start_ms + 500 * i + ms) as f64);
        let info = RequestInfo { prompt_tokens: 1_000, ..RequestInfo::default() };
        let request = Request::new(id, Arc::from([]), info);
        let usage = Usage { cached_tokens: None, output_tokens: 20 };
        router.handle(at(0), RequestEvent::Arrived(request), &mut Vec::new());
        router.handle(at(300), RequestEvent::FirstToken { id, attempt }, &mut Vec::new());
        router.handle(at(400), RequestEvent::Finished { id, attempt, usage, answer: None }, &mut Vec::new());
    }
}

fn router() -> Router {
    let mut router = Router::new(RouterConfig::default(), PolicyConfig::default().build(), None, stream(1, "p", 0));
    let added = ReplicaEvent::Added { replica: ReplicaId(0), spec: ReplicaSpec::new("a", Kind::Remote) };
    router.handle(Time::ZERO, added, &mut Vec::new());
    router
}

#[test]
fn frozen_rates_stay_and_restored_ones_are_in_force() {
    let learned = |router: &Router| router.rates().learned(0, None);
    let mut first = router();
    let frozen = RouterConfig { learn_rates: false, ..RouterConfig::default() };
    first.handle(Time::ZERO, AdminEvent::ConfigSet(Box::new(frozen)), &mut Vec::new());
    serve(&mut first, 1_000);
    assert_eq!(learned(&first), Learned::default());
    first.handle(Time::from_ms(90_000.0), AdminEvent::ConfigSet(Box::default()), &mut Vec::new());
    serve(&mut first, 100_000);
    let now = learned(&first);
    assert!(now.ms_per_token > 1.2 * Learned::default().ms_per_token && now.output_tokens < 150.0, "{now:?}");
    let mut second = router();
    let saved = AdminEvent::RatesRestored(Box::new(first.saved_rates()));
    second.handle(Time::ZERO, saved, &mut Vec::new());
    assert_eq!(learned(&second), learned(&first));
}
