use super::*;
use crate::observe::request_log::tests::row;

#[test]
fn every_family_is_in_the_text_and_labels_are_bounded() {
    let metrics = Metrics::default();
    metrics.dispatched(&metrics.dispatches("a"), 2, None);
    metrics.ended(&row("r", 25.0), true);
    let replica = ReplicaGauges { name: "a".into(), rtt_s: 0.025, rtt_p95_s: 0.03, ..ReplicaGauges::default() };
    let levels = Levels {
        queued: 3.0,
        replicas: vec![replica],
        shadows: vec![ShadowGauges { policy: "random".into(), hit_ratio: 0.5, ..ShadowGauges::default() }],
        ..Levels::default()
    };
    let text = metrics.text(&levels);
    for line in [
        "gorgo_requests_total{status=\"finished\",reason=\"\"} 1",
        "gorgo_retries_total 1",
        "gorgo_time_to_first_token_seconds_bucket{le=\"0.025\"} 1",
        "gorgo_replica_rtt_seconds{replica=\"a\"} 0.025",
        "gorgo_cached_tokens_total 55",
        "gorgo_queue_requests 3.0",
        "gorgo_shadow_hit_ratio{policy=\"random\"} 0.5",
        "# TYPE gorgo_requests_total counter",
        "# HELP gorgo_requests_total Requests that are over, by how and why.",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(
        !metrics.text(&Levels::default()).contains("replica_rtt_seconds{replica=\"a\"}"),
        "a removed replica is gone"
    );
    assert!(!text.contains("request_id"));
    assert!(text.contains("gorgo_dispatches_total{replica=\"a\"} 1"));
    metrics.forget("a");
    assert!(!metrics.text(&Levels::default()).contains("replica=\"a\""));
}
