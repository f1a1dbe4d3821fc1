//! Requests refused by the prediction, and prices of data.

use super::*;
use crate::egress::{EgressConfig, EgressPrice};
use crate::policy::PolicyConfig;
use crate::router::Admission;

/// 100,000 tokens take some seconds at the prior rate.
fn long(id: u64, deadline_ms: u64) -> RequestEvent {
    let RequestEvent::Arrived(request) = ask(id, "ab") else { unreachable!() };
    let info = RequestInfo { prompt_tokens: 100_000, ..RequestInfo::default() };
    RequestEvent::Arrived(Request { info, deadline: Some(at(deadline_ms)), ..request })
}

fn refused(actions: &[Action]) -> Option<u32> {
    actions.iter().find_map(|action| match action {
        Action::Done { reason: EndReason::Admission { retry_after_s }, .. } => Some(*retry_after_s),
        _ => None,
    })
}

fn config(admission: Admission) -> RouterConfig {
    RouterConfig { admission, ..RouterConfig::default() }
}

#[test]
fn a_deadline_out_of_reach_is_refused_at_once_and_says_when_to_come_back() {
    let mut r = router(config(Admission::Predicted), &[REMOTE; 2]);
    let ttft_ms = r.rates().learned(0, None).ttft_ms(100_000, 0, 0, 0);
    assert!(ttft_ms > 1_500.0, "{ttft_ms}");
    let late = tell(&mut r, 0, long(1, 500));
    assert_eq!((sent(&late), refused(&late)), (vec![], Some(((ttft_ms - 500.0) / 1_000.0).ceil() as u32)));
    assert_eq!((r.in_flight(), r.stats().dispatched), (0, 0));
    let fits = ttft_ms as u64 + 1;
    assert_eq!(sent(&tell(&mut r, 0, long(2, fits))).len(), 1);
    assert_eq!(sent(&tell(&mut r, 0, long(3, fits))).len(), 1, "the other replica is idle");
    let behind_ms = r.rates().learned(0, None).ttft_ms(100_000, 100_000, 0, 1);
    let wait_s = ((behind_ms - fits as f64) / 1_000.0).ceil();
    assert!(wait_s >= 2.0, "behind one of them it takes longer: {behind_ms}");
    assert_eq!(refused(&tell(&mut r, 0, long(4, fits))), Some(wait_s as u32));
    assert_eq!(sent(&tell(&mut r, 0, ask(5, "ab"))).len(), 1, "without a deadline nothing is refused");
}

#[test]
fn it_is_off_unless_asked_for() {
    let mut r = router(RouterConfig::default(), &[REMOTE]);
    assert_eq!(sent(&tell(&mut r, 0, long(1, 1))), [(1, 0, 1)]);
}

#[test]
fn requests_in_the_queue_count_and_a_dead_fleet_refuses_nothing() {
    let mut one = config(Admission::Predicted);
    (one.gates.max_running, one.unhealthy_after) = (Some(1), 1);
    let mut r = router(one, &[REMOTE]);
    assert_eq!(sent(&tell(&mut r, 0, ask(1, "ab"))), [(1, 0, 1)]);
    let (mut admitted, mut waits) = (0, Vec::new());
    for id in 2..40 {
        match refused(&tell(&mut r, 0, long(id, 60_000))) {
            Some(wait) => waits.push(wait),
            None => admitted += 1,
        }
    }
    assert!((1..30).contains(&admitted) && r.queue_len() == admitted, "{admitted}");
    assert!(waits.windows(2).all(|two| two[0] == two[1]), "a refused request delays no other: {waits:?}");
    tell(&mut r, 1, ReplicaEvent::ProbeFailed { replica: ReplicaId(0), connected: false });
    let down = tell(&mut r, 2, long(50, 3));
    assert_eq!((refused(&down), r.queue_len()), (None, admitted + 1), "no prediction is made for a dead fleet");
}

#[test]
fn a_price_sends_a_request_to_the_region_where_data_is_free() {
    for name in ["gorgo", "predictive"] {
        let policy: PolicyConfig = serde_json::from_value(serde_json::json!(name)).unwrap();
        let to = |ms_per_unit: f64| {
            let price = |from: &str, to: &str| EgressPrice { from: from.into(), to: to.into(), per_gb: 0.09 };
            let prices = vec![price("eu", "us"), price("us", "eu")];
            let egress = EgressConfig { ms_per_unit, prices };
            let config =
                RouterConfig { region: "eu".into(), egress, record_decisions: true, ..RouterConfig::default() };
            let mut r = Router::new(config, policy.build(), Some(1), rng::stream(1, "ties", 0));
            for (slot, region, rtt_ms) in [(0, "us", 5.0), (1, "eu", 30.0)] {
                let spec = ReplicaSpec { region: Some(region.to_owned()), ..spec(region, REMOTE) };
                tell(&mut r, 0, ReplicaEvent::Added { replica: ReplicaId(slot), spec });
                tell(&mut r, 0, ReplicaEvent::Probed { replica: ReplicaId(slot), rtt_ms });
            }
            let RequestEvent::Arrived(mut request) = ask(1, "ab") else { unreachable!() };
            request.info.bytes = 1_000_000;
            let actions = tell(&mut r, 1, RequestEvent::Arrived(request));
            let predicted = actions.iter().find_map(|action| match action {
                Action::Dispatch(dispatch) => dispatch.predicted_ttft_ms,
                _ => None,
            });
            let terms = actions.iter().find_map(|action| match action {
                Action::Decided(record) => Some(record.candidates.iter().map(|c| c.terms.egress).collect::<Vec<_>>()),
                _ => None,
            });
            (sent(&actions)[0].1, predicted.unwrap(), terms.unwrap())
        };
        let (free, _, none) = to(0.0);
        let (priced, predicted, terms) = to(1e7);
        assert_eq!((free, none), (0, vec![0.0, 0.0]), "{name}");
        assert_eq!(priced, 1, "{name}");
        assert!(terms[0] > 900.0 && terms[1] == 0.0, "{name}: a megabyte at 0.09 a GB: {terms:?}");
        assert!(predicted < 900.0, "{name}: a price is no time");
        assert_eq!(to(1.0).0, 0, "{name}: a small weight changes nothing");
    }
}
