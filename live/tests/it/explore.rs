//! Routers that explore, learned rates as they are shown, and policies that only simulations have.

use crate::fixture::{World, chat, ms, whole};
use gorgo_core::off_policy::Log;
use gorgo_core::off_policy::predictions::{Calibration, Predictions};
use gorgo_core::policy::PolicyConfig;
use gorgo_core::rng;
use gorgo_live::config::LogFile;
use gorgo_live::testkit::Script;
use http::Method;
use serde_json::{Map, json};

#[tokio::test(start_paused = true)]
async fn the_log_of_an_exploring_router_judges_another_policy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("decisions.jsonl");
    let log = LogFile { path: path.clone(), max_bytes: 1 << 22, keep: 1 };
    let world = World::new(2, Script::default(), |config| {
        config.explain.log = Some(log);
        config.router.explore = 0.5;
    })
    .await;
    for n in 0..60 {
        whole(world.send(chat(&format!("prompt {n}"), true)).await).await;
    }
    ms(10).await;
    let mut policy = PolicyConfig::parse("least-request", Map::new()).unwrap().build();
    let mut log = Log::new(&mut *policy, rng::stream(1, "policy", 0));
    let text = std::fs::read_to_string(&path).unwrap();
    text.lines().for_each(|line| log.line(line).unwrap());
    assert_eq!((log.with_odds, log.ttft.len(), log.e2e.len(), log.retried()), (60, 60, 60, 0));
    // Two replicas: the policy's own choice has odds of 0.75, the other 0.25.
    assert!(log.ttft.iter().all(|one| one.odds == 0.75 || one.odds == 0.25), "{:?}", log.ttft);
    let other = log.ttft.iter().filter(|one| one.odds == 0.25).count();
    assert!((5..30).contains(&other), "{other} of 60");
    assert!(log.ttft.iter().zip(&log.e2e).all(|(first, last)| (20.0..=last.outcome_ms).contains(&first.outcome_ms)));
}

#[tokio::test(start_paused = true)]
async fn the_log_of_any_router_tells_how_good_its_predictions_were() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("decisions.jsonl");
    let log = LogFile { path: path.clone(), max_bytes: 1 << 22, keep: 1 };
    let world = World::new(2, Script::default(), |config| {
        config.explain.log = Some(log);
        config.explain.outcomes = true;
        config.policy = PolicyConfig::parse("predictive", Map::new()).unwrap();
    })
    .await;
    for n in 0..60 {
        whole(world.send(chat(&format!("prompt {n}"), true)).await).await;
    }
    ms(10).await;
    let mut log = Predictions::default();
    std::fs::read_to_string(&path).unwrap().lines().for_each(|line| log.line(line).unwrap());
    assert_eq!((log.rows.len(), log.decisions, log.retried()), (60, 60, 0));
    let deciles = Calibration::deciles(&log.rows);
    assert_eq!(deciles.iter().map(|decile| decile.requests).sum::<usize>(), 60);
    let last = Calibration::of(log.rows[40..].iter()).unwrap();
    assert!(last.actual_ms >= 20.0 && last.bias.abs() < 0.5, "learned by then: {last:?}");
}

#[tokio::test(start_paused = true)]
async fn learned_rates_are_shown_and_frozen() {
    let world = World::new(1, Script::default(), |_| {}).await;
    let shown = async || world.get("/proxy/servers").await.1[0]["learned"].clone();
    let before = shown().await;
    for n in 0..20 {
        whole(world.send(chat(&format!("prompt {n}"), true)).await).await;
    }
    let after = shown().await;
    assert_ne!(before["rates"], after["rates"]);
    assert_eq!(after["frozen"], false);
    let sd = |shown: &serde_json::Value| shown["offset_ms_sd"].as_f64().unwrap();
    assert!(sd(&after) < sd(&before), "{before} {after}");
    let metrics = world.get("/metrics").await.1.to_string();
    assert!(metrics.contains("gorgo_replica_learned_offset_sd_seconds{replica="), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn an_oracle_is_refused_with_a_sentence() {
    let world = World::new(1, Script::default(), |_| {}).await;
    let (status, told) = world.call(Method::POST, "/proxy/policy", &json!({"policy": "oracle-sum"})).await;
    assert_eq!(status, 400);
    assert!(told.to_string().contains("knows the future of the engines"), "{told}");
    let (_, told) = world.get("/proxy/policy").await;
    assert!(!told["available"].to_string().contains("oracle"), "{told}");
}
