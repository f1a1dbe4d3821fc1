//! Which requests carry a tag for the engine's KV events.

use crate::fixture::{World, chat, ms, post, whole};
use gorgo_live::config::KvEventsOf;
use gorgo_live::testkit::Script;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const SESSION: &str = "x-session-id";

/// What an engine gets of four requests: without a session, twice; with one in the head; with one in the body.
async fn sessions(vllm: bool, enabled: bool, tags: bool) -> Vec<Option<String>> {
    let world = World::new(1, Script { vllm, ..Script::default() }, |config| {
        config.kv_events.enabled = enabled;
        config.kv_events.tag_dispatches = tags;
        // Nothing listens there: tags do not wait for the stream.
        let nowhere = KvEventsOf { host: Some("127.0.0.1".to_owned()), port: Some(1), ..KvEventsOf::default() };
        config.kv_events.replicas.insert("e0".to_owned(), nowhere);
    })
    .await;
    ms(2_500).await; // its metrics tell which engine it is
    let mut with_head = chat("hello", false);
    with_head.headers_mut().insert(SESSION, "mine".parse().unwrap());
    let body =
        "{\"model\": \"m\",  \"messages\": [{\"role\": \"user\", \"content\": \"hi\"}], \"session_id\": \"mine\"}";
    for request in [chat("hello", false), chat("hello", true), with_head, post("/v1/chat/completions", body)] {
        let response = world.send(request).await;
        assert_eq!(response.status(), 200);
        whole(response).await;
    }
    let seen: Vec<_> = world.engines[0].seen().into_iter().filter(|seen| !seen.body.is_empty()).collect();
    assert_eq!(seen[3].body, body, "the body passes byte for byte");
    assert_eq!(world.left(), (0, 0));
    seen.iter().map(|seen| seen.headers.get(SESSION).map(|value| value.to_str().unwrap().to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn only_requests_to_vllm_without_a_session_of_their_own_are_tagged() {
    let tagged = sessions(true, true, true).await;
    let tags: BTreeSet<&String> = tagged[..2].iter().flatten().collect();
    assert_eq!(tags.len(), 2, "each dispatch has a tag of its own: {tagged:?}");
    assert!(tags.iter().all(|tag| tag.len() == 22 && tag.starts_with("gorgo-")), "{tags:?}");
    assert_eq!(tagged[2..], [Some("mine".to_owned()), None]);
    let untagged = [None, None, Some("mine".to_owned()), None];
    for (vllm, enabled, tags) in [(false, true, true), (true, false, true), (true, true, false)] {
        assert_eq!(sessions(vllm, enabled, tags).await, untagged, "vllm {vllm}, enabled {enabled}, tags {tags}");
    }
}

#[tokio::test(start_paused = true)]
async fn replicas_that_join_later_are_followed_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints.json");
    let entry = |name: &str| json!({"name": name, "address": name, "port": 8080});
    std::fs::write(&path, json!({"endpoints": [entry("found"), entry("silent")]}).to_string()).unwrap();
    let world = World::new(1, Script::default(), |config| {
        config.discovery.file = Some(path.clone());
        config.discovery.poll_ms = 100;
        config.kv_events.enabled = true;
        let nowhere = KvEventsOf { host: Some("127.0.0.1".to_owned()), port: Some(1), ..KvEventsOf::default() };
        for name in ["e0", "found", "added"] {
            config.kv_events.replicas.insert(name.to_owned(), nowhere.clone());
        }
        let off = KvEventsOf { enabled: Some(false), ..KvEventsOf::default() };
        config.kv_events.replicas.insert("silent".to_owned(), off);
    })
    .await;
    let added = json!({"url": "http://added:8080", "name": "added"});
    assert_eq!(world.call(http::Method::POST, "/proxy/servers", &added).await.0, 201);
    ms(500).await;
    let rows = world.get("/proxy/servers").await.1;
    let streams =
        |row: &Value| (row["id"].as_str().unwrap().to_owned(), row["kv_events"].as_array().map_or(0, Vec::len));
    let followed: BTreeMap<String, usize> = rows.as_array().unwrap().iter().map(streams).collect();
    let expected = [("added", 1), ("e0", 1), ("found", 1), ("silent", 0)];
    assert_eq!(followed, BTreeMap::from(expected.map(|(name, streams)| (name.to_owned(), streams))));
}
