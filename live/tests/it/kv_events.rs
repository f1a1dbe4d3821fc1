//! Which requests carry a tag for the engine's KV events.

use crate::fixture::{World, chat, ms, post, whole};
use gorgo_live::config::KvEventsOf;
use gorgo_live::testkit::Script;
use std::collections::BTreeSet;

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
