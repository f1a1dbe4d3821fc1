//! Routers that tune their weights.

use super::*;
use gorgo_core::tuner::{OnlineConfig, usual};

#[test]
fn each_router_tunes_on_its_own_requests_and_repeats() {
    for (topology, routers) in [(Topology::Proxy { site: 0 }, 1), (Topology::Edge, 2)] {
        let mut config = world(&TWO, topology);
        let policy = PolicyConfig::default();
        let online = OnlineConfig { block: 16, guard: 0.4, guard_after: 8 };
        let trace = traffic(5, 600, 150.0);
        let plain = go(&config, "gorgo", &trace);
        config.tune = Some(TuneConfig { dimensions: usual(&policy), policy, online });
        let (one, two) = (go(&config, "gorgo", &trace), go(&config, "gorgo", &trace));
        assert_eq!((one.event_hash, &one.tuned), (two.event_hash, &two.tuned));
        assert_eq!((finished(&one), one.tuned.len(), plain.tuned.len()), (600, routers, 0));
        for (i, tuned) in one.tuned.iter().enumerate() {
            let own = one.records.iter().filter(|r| r.router == i as u16).count() as u64;
            // A trial takes a block of 16 and the 8 requests of the guard at least.
            assert!(tuned.trials.ended >= 1 && tuned.trials.ended <= own / 24, "{own}: {tuned:?}");
            assert_eq!(tuned.weights.len(), 3);
        }
        assert_ne!(one.event_hash, plain.event_hash, "{topology:?}: candidates served");
    }
}
