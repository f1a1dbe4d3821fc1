//! Clients with a limit in flight, and users with a limit of patience.

use super::*;

#[test]
fn a_bounded_client_has_no_more_in_flight_than_workers() {
    let mut config = world(&TWO, Topology::Proxy { site: 0 });
    config.client = Client::Bounded { workers: 4 };
    let out = go(&config, "least-load", &traffic(9, 200, 1.0));
    assert_eq!(finished(&out), 200);
    let mut edges: Vec<(Time, i32)> = Vec::new();
    for r in &out.records {
        edges.extend([(r.sent, 1), (r.done.get().unwrap(), -1)]);
    }
    edges.sort_unstable();
    let (mut open, mut most) = (0, 0);
    for (_, change) in edges {
        open += change;
        most = most.max(open);
    }
    assert_eq!(most, 4);
    assert!(out.records.iter().any(|r| r.sent > r.scheduled), "someone waited for a worker");
}

#[test]
fn an_impatient_user_leaves_and_frees_the_engine() {
    let mut config = world(&TWO[..1], Topology::Proxy { site: 0 });
    config.patience_ms = Some(120.0);
    let trace: Vec<_> = (0..40).map(|i| request(i as f64, i, 3_000, 50, FRANKFURT)).collect();
    let out = go(&config, "gorgo", &trace);
    let left = out.records.iter().filter(|r| r.status == Status::Cancelled).count();
    assert!(left > 20 && finished(&out) + left == 40, "{left}");
}

#[test]
fn less_patience_never_leaves_fewer_requests_undone() {
    let undone = |ms: f64| {
        let mut config = world(&TWO, Topology::Proxy { site: 0 });
        config.patience_ms = Some(ms);
        let trace: Vec<_> = (0..60).map(|i| request(i as f64 * 20.0, i, 1_500, 30, SAN_FRANCISCO)).collect();
        let out = go(&config, "gorgo", &trace);
        let left = |r: &&RequestRecord| r.status == Status::Cancelled && r.first_token.is_none();
        let left = out.records.iter().filter(left).count();
        assert_eq!(finished(&out) + left, 60);
        assert!(
            out.records.iter().filter_map(RequestRecord::ttft).all(|ttft| ttft.ms() <= ms),
            "no request waited longer"
        );
        left
    };
    let undone: Vec<usize> = [1.0, 20.0, 80.0, 200.0, 1_000.0, 100_000.0].map(undone).to_vec();
    assert_eq!(undone[0], 60, "they leave while the request is on its way to the router");
    assert!(undone.is_sorted_by(|a, b| a >= b) && undone[5] == 0, "{undone:?}");
}
