//! Crashes, drained replicas and refused requests.

use super::*;

#[test]
fn a_crash_loses_nothing_that_had_no_first_token() {
    for topology in [Topology::Edge, Topology::Proxy { site: 0 }] {
        let mut config = world(&TWO, topology);
        config.replicas.iter_mut().for_each(|r| r.engine.cold_start_s = 2.0);
        for (at, replica) in [(3_000.0, 0), (9_000.0, 1)] {
            config.faults.push(Fault { at: Time::from_ms(at), replica, kind: FaultKind::Crash { down_ms: 1_500.0 } });
        }
        let trace = traffic(7, 600, 25.0);
        let out = go(&config, "gorgo", &trace);
        let mut failed = 0;
        for r in &out.records {
            match r.status {
                Status::Finished => {}
                Status::Failed => {
                    assert!(r.router_first.is_some(), "{topology:?}: lost before its first token: {r:?}");
                    failed += 1;
                }
                other => panic!("{topology:?}: {other:?} {r:?}"),
            }
        }
        assert!(failed > 0 && failed < 200, "{failed}");
        let retried = out.records.iter().filter(|r| r.attempts > 1).count();
        assert!(retried > 0, "{topology:?}: no request was waiting");
        let back = |i: u16| {
            out.records
                .iter()
                .filter(|r| r.replica == i.into() && r.dispatched.get().is_some_and(|at| at.ms() > 14_000.0))
                .count()
        };
        assert!(back(0) > 0 && back(1) > 0, "both are used again");
    }
}

#[test]
fn drained_replicas_get_nothing_new() {
    let mut config = world(&TWO, Topology::Edge);
    let fault = |at, kind| Fault { at: Time::from_ms(at), replica: 1, kind };
    config.faults = vec![fault(1_000.0, FaultKind::Drain), fault(6_000.0, FaultKind::Undrain)];
    let out = go(&config, "least-request", &traffic(11, 400, 25.0));
    assert_eq!(finished(&out), 400);
    let there = |from: f64, to: f64| {
        let within = |at: Time| (from..to).contains(&at.ms());
        out.records.iter().filter(|r| r.replica == 1.into() && r.dispatched.get().is_some_and(within)).count()
    };
    assert!(there(0.0, 1_000.0) > 0 && there(6_500.0, 1e9) > 0);
    assert_eq!(there(1_200.0, 6_000.0), 0, "what was forwarded before the order may still arrive for 200 ms");
}

#[test]
fn a_refused_request_is_answered_400_without_work_and_leaves_its_connection_open() {
    let mut config = world(&TWO, Topology::Proxy { site: 0 });
    config.replicas[0].site = 1;
    config.replicas.truncate(1);
    config.scrape_ms = 60_000.0;
    let plain = request(0.0, 0, 3_000, 20, FRANKFURT);
    let refused = TraceRequest { refused: true, ..plain.clone() };
    let next = request(1_500.0, 1, 512, 3, FRANKFURT);
    let out = go(&config, "nearest", &[refused, next.clone()]);
    let (r, after) = (&out.records[0], &out.records[1]);
    assert_eq!((r.reason, r.attempts, r.accepted.get()), (Some(EndReason::ClientError), 1, None));
    // Opening and two round trips for 13.9 kB make 300 ms; the engine adds none.
    assert!((r.done.get().unwrap() - r.dispatched.get().unwrap()).ms() < 302.0 + 10.0, "{r:?}");
    let alone = go(&config, "nearest", &[next]).records[0].ttft().unwrap().ms();
    assert!((alone - after.ttft().unwrap().ms() - 150.0).abs() < 1.0, "the next request finds the connection open");
}
