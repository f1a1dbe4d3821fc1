//! Refusals that say nothing of the key: a prompt that a filter blocks is answered 403, as a wrong key is.

use crate::fixture::{Log, World, chat};
use gorgo_live::testkit::Script;

#[tokio::test(start_paused = true)]
async fn one_prompt_that_is_forbidden_sets_no_replica_aside() {
    let log = Log::start();
    let world = World::new(2, Script::default(), |config| {
        config.policy = serde_json::from_str(r#"{"name": "round-robin"}"#).unwrap();
    })
    .await;
    for n in 0..4 {
        assert_eq!(world.send(chat(&format!("warm {n}"), false)).await.status(), 200);
    }
    let seen = || world.engines[0].seen().len();
    assert_eq!(seen(), 2);
    world.engines[0].script(|s| s.status = 403);
    for n in 0..2 {
        assert_eq!(world.send(chat(&format!("forbidden {n}"), false)).await.status(), 200);
    }
    let before = seen();
    assert!(before > 2);
    world.engines[0].script(|s| s.status = 200);
    for n in 0..6 {
        assert_eq!(world.send(chat(&format!("more {n}"), false)).await.status(), 200);
    }
    assert!(seen() > before, "{}", seen());
    let servers = world.get("/proxy/servers").await.1;
    assert_eq!(servers[0]["key_refused"], false);
    assert!(log.with("key").is_empty() && log.with("breaker").is_empty());
}
