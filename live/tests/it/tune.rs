//! A router that tunes its weights on its own requests.

use crate::fixture::{World, chat, whole};
use gorgo_live::testkit::Script;
use http::Method;
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_router_tunes_tells_and_freezes() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.toml");
    let kept = state.clone();
    let world = World::new(2, Script::default(), |config| {
        config.tune.enabled = true;
        config.tune.block = 8;
        config.tune.guard_after = 4;
        config.state = Some(kept);
    })
    .await;
    let shown = async || world.get("/proxy/tuner").await.1;
    let before = shown().await;
    assert_eq!((&before["stage"], &before["trials"]), (&json!("incumbent"), &json!(0)));
    for n in 0..100 {
        whole(world.send(chat(&format!("prompt {n}"), true)).await).await;
    }
    let after = shown().await;
    assert!(after["trials"].as_u64().unwrap() >= 2, "{after}");
    assert!(after["last_loss_difference"].is_number(), "{after}");
    let metrics = world.get("/metrics").await.1.to_string();
    for name in ["gorgo_tuner_weight{setting=\\\"rtt_weight\\\"}", "gorgo_tuner_trials_total{outcome=\\\"refused\\\"}"]
    {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }

    let (status, frozen) = world.call(Method::POST, "/proxy/tuner", &json!({"frozen": true})).await;
    assert_eq!((status, &frozen["frozen"], &frozen["stage"]), (200, &json!(true), &json!("incumbent")));
    let in_force = world.get("/proxy/policy").await.1["settings"].clone();
    let incumbent = frozen["incumbent"]["rtt_weight"].as_f64().unwrap();
    assert!((in_force["rtt_weight"].as_f64().unwrap() / incumbent - 1.0).abs() < 1e-3, "{in_force} {frozen}");
    assert!(std::fs::read_to_string(&state).unwrap().contains("rtt_weight"), "the weights found survive a restart");
    for n in 0..50 {
        whole(world.send(chat(&format!("later {n}"), true)).await).await;
    }
    assert_eq!(shown().await["trials"], frozen["trials"]);
    let again = World::new(2, Script::default(), |config| {
        config.tune.enabled = true;
        config.state = Some(state);
    });
    assert_eq!(again.await.get("/proxy/tuner").await.1["frozen"], true, "an operator stopped it");
}

#[tokio::test(start_paused = true)]
async fn an_operators_policy_wins_over_a_trial() {
    let world = World::new(2, Script::default(), |config| {
        config.tune.enabled = true;
        config.tune.block = 8;
    })
    .await;
    for n in 0..12 {
        whole(world.send(chat(&format!("prompt {n}"), true)).await).await;
    }
    assert_eq!(world.get("/proxy/tuner").await.1["stage"], "candidate");
    world.call(Method::POST, "/proxy/tune", &json!({"rtt_weight": 0.25})).await;
    let (_, now) = world.get("/proxy/tuner").await;
    assert_eq!((&now["stage"], &now["incumbent"]["rtt_weight"]), (&json!("incumbent"), &json!(0.25)));
    world.call(Method::POST, "/proxy/policy", &json!({"policy": "random"})).await;
    for n in 0..30 {
        whole(world.send(chat(&format!("later {n}"), true)).await).await;
    }
    assert_eq!(world.get("/proxy/policy").await.1["current"], "random");
    assert!(world.get("/proxy/tuner").await.1["why"].as_str().unwrap().contains("tune.keys"));
}

#[tokio::test(start_paused = true)]
async fn without_the_setting_nothing_is_tuned_and_the_answer_says_how() {
    let world = World::new(1, Script::default(), |_| {}).await;
    assert_eq!(world.get("/proxy/tuner").await, (200, json!({"enabled": false})));
    let (status, told) = world.call(Method::POST, "/proxy/tuner", &json!({"frozen": true})).await;
    assert_eq!(status, 400);
    assert!(told.to_string().contains("tune.enabled = true"), "{told}");
}
