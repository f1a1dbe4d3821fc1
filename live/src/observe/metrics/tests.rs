use super::*;
use crate::observe::request_log::tests::row;
use gorgo_core::fleet::EngineReport;

#[test]
fn every_family_is_in_the_text_and_labels_are_bounded() {
    let metrics = Metrics::default();
    metrics.dispatched(&metrics.dispatches("a"), 2, None);
    metrics.ended(&row("r", 25.0), true, Some("m"), "gorgo");
    let replica = ReplicaGauges {
        name: "a".into(),
        draining: 1.0,
        rtt_s: 0.025,
        rtt_p95_s: 0.03,
        engine: Some((EngineReport { running: 3, ..EngineReport::default() }, 0.5)),
        ..ReplicaGauges::default()
    };
    let levels = Levels {
        queued: 3.0,
        policy: "gorgo".into(),
        started_s: 1_700_000_000.0,
        limits: vec![("connections", 30.0, 7.0)],
        replicas: vec![replica],
        shadows: vec![ShadowGauges { policy: "random".into(), hit_ratio: Some(0.5), ..ShadowGauges::default() }],
        ..Levels::default()
    };
    let text = metrics.text(&levels);
    for line in [
        "gorgo_requests_total{status=\"finished\",reason=\"\",code=\"200\",replica=\"a\",model=\"m\",policy=\"gorgo\"} 1",
        "gorgo_retries_total 1",
        "gorgo_time_to_first_token_seconds_bucket{le=\"0.025\",replica=\"a\",model=\"m\",policy=\"gorgo\"} 1",
        "gorgo_ttft_prediction_under_seconds_sum{replica=\"a\",model=\"m\",policy=\"gorgo\"} 0.003",
        "gorgo_replica_usable{replica=\"a\"} 0.0",
        "gorgo_replica_draining{replica=\"a\"} 1.0",
        "gorgo_replica_engine_running_requests{replica=\"a\"} 3.0",
        "gorgo_replica_engine_report_age_seconds{replica=\"a\"} 0.5",
        "gorgo_limit{limit=\"connections\"} 30.0",
        "gorgo_limit_used{limit=\"connections\"} 7.0",
        "gorgo_policy_info{policy=\"gorgo\"} 1.0",
        "process_start_time_seconds 1700000000",
        "gorgo_replica_rtt_seconds{replica=\"a\"} 0.025",
        "gorgo_cached_tokens_total{replica=\"a\",model=\"m\",policy=\"gorgo\"} 55",
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

#[test]
fn what_is_not_known_has_no_value() {
    let metrics = Metrics::default();
    let replica = ReplicaGauges { name: "a".into(), ..ReplicaGauges::default() };
    let text = metrics.text(&Levels { replicas: vec![replica], ..Levels::default() });
    for family in ["rtt_age_seconds", "engine_running_requests", "engine_kv_tokens", "engine_report_age_seconds"] {
        assert!(!text.contains(&format!("gorgo_replica_{family}{{")), "{family}: {text}");
    }
}

#[test]
fn models_that_clients_make_up_fill_nothing_and_the_one_used_longest_ago_makes_room() {
    let metrics = Metrics::default();
    let served = |model: &str, ms: f64| {
        let row = RequestEntry { done: gorgo_core::Time::from_ms(ms), ..row("r", 25.0) };
        metrics.ended(&row, true, Some(model), "gorgo");
    };
    served("used", 1.0);
    for n in 0..1_000 {
        let row = RequestEntry { end: gorgo_core::router::EndReason::ClientError, status_code: 404, ..row("r", 25.0) };
        metrics.ended(&row, true, Some(&format!("made-up-{n}")), "gorgo");
    }
    let failed = RequestEntry { end: gorgo_core::router::EndReason::ClientError, status_code: 500, ..row("r", 25.0) };
    metrics.ended(&failed, true, Some("used"), "gorgo");
    let text = metrics.text(&Levels::default());
    assert!(text.contains("model=\"used\"") && !text.contains("made-up"), "{text}");
    assert!(text.lines().any(|line| line.contains("code=\"500\"") && line.contains("model=\"used\"")), "{text}");
    for n in 0..100 {
        served(&format!("served-{n}"), 2.0 + f64::from(n));
        served("used", 2.5 + f64::from(n));
    }
    let text = metrics.text(&Levels::default());
    let models = text.lines().filter(|line| line.starts_with("gorgo_requests_total{status=\"finished\"")).count();
    assert_eq!(models, series::MODELS);
    assert!(text.contains("model=\"used\"") && text.contains("served-99") && !text.contains("served-0\""), "{text}");
    assert!(!text.contains("made-up"));
}
