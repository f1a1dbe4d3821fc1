//! Several models, and what engines keep by an id.

use crate::fixture::{World, ms, post, whole};
use gorgo_live::testkit::{Engine, Script};
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::time::Duration;

/// Two engines that serve `a` and `b`, and both `both`.
async fn two_models() -> World {
    let world = World::new(2, Script::default(), |config| config.replicas[1].models = vec!["nick".to_owned()]).await;
    for (engine, name) in world.engines.iter().zip(["a", "b"]) {
        engine.script(|s| s.models = vec![name.to_owned(), "both".to_owned()]);
    }
    ms(2_500).await; // their lists are read each second
    world
}

async fn ask(world: &World, path: &str, body: Value) -> Response<Incoming> {
    world.send(post(path, &body.to_string())).await
}

fn replica(response: &Response<Incoming>) -> String {
    response.headers()["x-gorgo-replica"].to_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_model_whose_only_replica_is_down_is_named() {
    let mut world = two_models().await;
    drop(world.engines.remove(0));
    ms(10_000).await;
    let response = ask(&world, "/v1/completions", json!({"model": "a", "prompt": "x"})).await;
    assert_eq!(response.status(), 503);
    let said = String::from_utf8(whole(response).await.to_vec()).unwrap();
    assert!(said.contains("no replica that serves `a` is in service"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn the_head_of_the_list_of_models_comes_from_the_router_as_the_list_does() {
    let world = two_models().await;
    let asked = || world.engines.iter().map(|engine| engine.seen().len()).sum::<usize>();
    let before = asked();
    let mut lengths = Vec::new();
    for method in [Method::GET, Method::HEAD] {
        let mut request = post("/v1/models", "");
        *request.method_mut() = method;
        let response = world.send(request).await;
        assert_eq!(response.status(), 200);
        lengths.push(response.headers()["content-length"].clone());
    }
    assert!(lengths[0] == lengths[1] && asked() == before, "{lengths:?}");
}

#[tokio::test(start_paused = true)]
async fn clients_of_anthropics_api_get_refusals_in_its_shape() {
    let world = two_models().await;
    for (path, shape) in [("/v1/messages", "error"), ("/v1/%6dessages", "error"), ("/v1/chat/completions", "")] {
        let body = json!({"model": "c", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]});
        let response = ask(&world, path, body).await;
        assert_eq!(response.status(), 404);
        let told: Value = serde_json::from_slice(&whole(response).await).unwrap();
        assert_eq!(told["type"].as_str().unwrap_or_default(), shape, "{told}");
        assert!(shape.is_empty() || told["error"]["type"] == "not_found_error", "{told}");
        assert!(told["error"]["message"].as_str().unwrap().contains("`c`"), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_goes_where_it_is_served_and_one_that_no_replica_serves_is_a_404() {
    let world = two_models().await;
    for n in 0..6 {
        for (model, expected) in [("a", "e0"), ("b", "e1"), ("nick", "e1"), ("a:adapter", "e0")] {
            let response =
                ask(&world, "/v1/completions", json!({"model": model, "prompt": format!("{model} {n}")})).await;
            assert_eq!((response.status().as_u16(), replica(&response)), (200, expected.to_owned()), "{model}");
        }
    }
    // SGLang's names of an adapter: those that list it have it.
    for n in 0..6 {
        for (path, body) in [
            ("/v1/completions", json!({"model": "both:b", "prompt": format!("adapter {n}")})),
            ("/v1/completions", json!({"model": "both", "lora_path": "b", "prompt": format!("path {n}")})),
            ("/generate", json!({"text": format!("generate {n}"), "lora_path": ["b"]})),
        ] {
            let response = ask(&world, path, body.clone()).await;
            assert_eq!((response.status().as_u16(), replica(&response)), (200, "e1".to_owned()), "{body}");
        }
    }
    let before: usize = world.engines.iter().map(|engine| engine.seen().len()).sum();
    let response = ask(&world, "/v1/completions", json!({"model": "c", "prompt": "x"})).await;
    assert_eq!(response.status(), 404);
    let error: Value = serde_json::from_slice(&whole(response).await).unwrap();
    assert_eq!(
        (&error["error"]["code"], &error["error"]["type"]),
        (&json!("model_not_found"), &json!("invalid_request_error"))
    );
    assert_eq!(world.engines.iter().map(|engine| engine.seen().len()).sum::<usize>(), before);
    assert_eq!(ask(&world, "/v1/completions", json!({"prompt": "no model"})).await.status(), 200);
    let (_, list) = world.get("/v1/models").await;
    let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|entry| entry["id"].clone()).collect();
    assert_eq!(names, ["a", "b", "both", "nick"]);
    assert_eq!((world.get("/v1/models/b").await.1["id"].clone(), world.get("/v1/models/c").await.0), (json!("b"), 404));
}

#[tokio::test(start_paused = true)]
async fn names_with_slashes_have_a_page_however_a_client_encodes_them() {
    let script = Script { models: vec!["org/name".to_owned()], ..Script::default() };
    let world = World::new(1, script, |_| {}).await;
    for path in ["/v1/models/org/name", "/v1/models/org%2Fname", "/v1/models/org%2fn%61me"] {
        let (status, page) = world.get(path).await;
        assert_eq!((status, &page["id"]), (200, &json!("org/name")), "{path}");
    }
    assert_eq!(world.get("/v1/models/org%2Fother").await.0, 404);
    assert_eq!(world.get("/v1/models/..%2F..%2Fflush_cache").await.0, 400);
}

#[tokio::test(start_paused = true)]
async fn a_replica_is_up_only_when_its_list_of_models_was_asked_for() {
    let slow = Script { models: vec!["a".to_owned()], models_after: Duration::from_millis(300), ..Script::default() };
    let world = World::new(1, slow, |_| {}).await;
    let other = Script { models: vec!["b".to_owned()], ..Script::default() };
    let late = Engine::start(&world.net, "late", Script { models_after: Duration::from_millis(300), ..other });
    world.call(Method::POST, "/proxy/servers", &json!({"url": "http://late:8080"})).await;
    while world.state.usable().0 < 2 {
        ms(1).await;
    }
    for n in 0..6 {
        for model in ["a", "b"] {
            let response =
                ask(&world, "/v1/completions", json!({"model": model, "prompt": format!("{model} {n}")})).await;
            let expected = if model == "a" { "e0" } else { "late:8080" };
            assert_eq!((response.status().as_u16(), replica(&response)), (200, expected.to_owned()));
        }
    }
    drop(late);
    let silent = Script { models_after: Duration::from_secs(1_000), ..Script::default() };
    let world = World::new(1, silent, |_| {}).await;
    ms(5_000).await;
    assert_eq!(world.state.usable().0, 1, "an engine that never tells its models is used after the probe's limit");
}

#[tokio::test(start_paused = true)]
async fn a_model_whose_replica_is_down_waits_and_holds_up_no_other() {
    let mut world = two_models().await;
    drop(world.engines.remove(0));
    ms(3_000).await; // its probes have failed
    let waiting = tokio::spawn(world.client.request(post("/v1/completions", r#"{"model":"a","prompt":"x"}"#)));
    ms(10).await;
    for n in 0..5 {
        let response = ask(&world, "/v1/completions", json!({"model": "b", "prompt": format!("{n}")})).await;
        assert_eq!(response.status(), 200);
    }
    assert!(!waiting.is_finished());
    let _back = gorgo_live::testkit::Engine::start(&world.net, "e0", Script::default());
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_names_an_id_goes_to_the_engine_that_made_it() {
    let world = World::new(3, Script::default(), |_| {}).await;
    for path in ["/v1/responses", "/v1/files", "/v1/batches", "/v1/conversations"] {
        let mut makers = std::collections::BTreeSet::new();
        let bodies = (0..6).map(|n| json!({"model": "m", "input": format!("{n} {}", "words ".repeat(40))}));
        let made = futures_util::future::join_all(bodies.map(|body| ask(&world, path, body))).await;
        for response in made {
            let maker = replica(&response);
            let id =
                serde_json::from_slice::<Value>(&whole(response).await).unwrap()["id"].as_str().unwrap().to_owned();
            assert!(id.starts_with(&format!("made-by-{maker}-")), "{id}");
            let encoded = id.replacen('-', "%2D", 1);
            let asked = if makers.is_empty() { id.clone() } else { encoded };
            let (status, _) = world.get(&format!("{path}/{asked}")).await;
            let engine = world
                .engines
                .iter()
                .find(|engine| engine.seen().iter().any(|seen| seen.path == format!("{path}/{id}")));
            assert_eq!((status, engine.is_some()), (200, true));
            let asked_here = world.engines[maker[1..].parse::<usize>().unwrap()].seen();
            assert!(asked_here.iter().any(|seen| seen.path == format!("{path}/{id}")), "{path}/{asked} at {maker}");
            for body in [
                json!({"model": "m", "input": "and?", "previous_response_id": id}),
                json!({"model": "m", "input": "and?", "conversation": {"id": id}}),
            ] {
                assert_eq!(replica(&ask(&world, "/v1/responses", body).await), maker);
            }
            let batch = ask(&world, "/v1/batches", json!({"input_file_id": id, "endpoint": "/v1/completions"})).await;
            assert_eq!(replica(&batch), maker);
            makers.insert(maker);
        }
        assert!(makers.len() > 1, "{path}: all were made at one engine");
    }
    // A stream tells its response's id, too; an id that is not known goes anywhere.
    assert_eq!(world.get("/v1/responses/unknown").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn an_engine_is_asked_for_what_it_has_and_by_the_names_that_it_takes() {
    let world = World::new(2, Script::default(), |_| {}).await;
    world.engines[0].script(|s| (s.vllm, s.models) = (true, vec!["a".to_owned()]));
    world.engines[1].script(|s| s.models = vec!["b".to_owned()]);
    ms(2_500).await; // lists and metrics are read each second
    for n in 0..6 {
        let response = ask(&world, "/generate", json!({"text": format!("only SGLang has it {n}")})).await;
        assert_eq!(replica(&response), "e1");
        let response = ask(&world, "/v1/completions", json!({"model": "default", "prompt": format!("{n}")})).await;
        assert_eq!((response.status().as_u16(), replica(&response)), (200, "e1".to_owned()));
        let response = ask(&world, "/v1/completions", json!({"model": "", "prompt": format!("{n}")})).await;
        assert_eq!(response.status(), 200);
    }
    let mut request = post("/v1/completions", r#"{"prompt": "x"}"#);
    request.headers_mut().insert("x-request-timeout-ms", "soon".parse().unwrap());
    let response = world.send(request).await;
    assert_eq!(response.status(), 400);
    let text = String::from_utf8_lossy(&whole(response).await).into_owned();
    assert!(text.contains("`x-request-timeout-ms` is \\\"soon\\\"; give milliseconds"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_some_engines_lack_is_asked_of_the_others() {
    let lacking = Script { lacks: vec!["/v1/score".to_owned(), "/v1/other".to_owned()], ..Script::default() };
    let mut world = World::new(3, lacking, |_| {}).await;
    world.engines[2].script(|script| script.lacks.clear());
    let score = |n: usize| json!({"model": "mock", "text_1": format!("{n}"), "text_2": "x"});
    for n in 0..12 {
        let response = ask(&world, "/v1/score", score(n)).await;
        assert_eq!((response.status().as_u16(), replica(&response)), (200, "e2".to_owned()));
    }
    let asked = |world: &World, path: &str| {
        let one = |engine: &gorgo_live::testkit::Engine| engine.seen().iter().filter(|seen| seen.path == path).count();
        [0, 1, 2].map(|n| one(&world.engines[n]))
    };
    let [first, second, third] = asked(&world, "/v1/score");
    assert!(first <= 1 && second <= 1 && third == 12, "{first} {second} {third}");
    let tripped = || world.state.driver.read(|router, _, _| router.replicas().iter().any(|r| r.breaker.is_tripped()));
    assert!(!tripped());
    // What no engine has costs one question, and the engine's own answer passes. A path that nobody knows is never
    // asked of several.
    world.engines[2].script(|script| script.lacks = vec!["/v1/score".to_owned(), "/v1/other".to_owned()]);
    for path in ["/v1/score", "/v1/other"] {
        for n in 0..5 {
            let before: usize = asked(&world, path).iter().sum();
            let response = ask(&world, path, score(n)).await;
            assert_eq!(
                (response.status(), &whole(response).await[..]),
                (StatusCode::NOT_FOUND, &b"{\"detail\":\"Not Found\"}"[..])
            );
            assert_eq!(asked(&world, path).iter().sum::<usize>(), before + 1, "{path}");
        }
    }
    // Another version of the engine may have it.
    drop(world.engines.remove(0));
    ms(3_000).await;
    world.engines.insert(0, gorgo_live::testkit::Engine::start(&world.net, "e0", Script::default()));
    ms(3_000).await;
    let response = ask(&world, "/v1/score", score(99)).await;
    assert_eq!((response.status().as_u16(), replica(&response)), (200, "e0".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_replica_gets_nothing_before_it_is_known_to_be_there_and_what_it_serves() {
    let world = World::new(1, Script { models: vec!["a".to_owned()], ..Script::default() }, |_| {}).await;
    ms(2_500).await;
    // Nothing listens at `gone`; `slow` tells late that it serves another model.
    let slow = Script { models: vec!["b".to_owned()], models_after: Duration::from_millis(800), ..Script::default() };
    let _slow = Engine::start(&world.net, "slow", slow);
    for url in ["http://gone-0:8080", "http://gone-1:8080", "http://gone-2:8080", "http://slow:8080"] {
        world.call(Method::POST, "/proxy/servers", &json!({"url": url})).await;
    }
    for n in 0..40 {
        let response = ask(&world, "/v1/completions", json!({"model": "a", "prompt": format!("{n}")})).await;
        assert_eq!((response.status().as_u16(), replica(&response)), (200, "e0".to_owned()), "{n}");
        ms(50).await;
    }
    let response = ask(&world, "/v1/completions", json!({"model": "b", "prompt": "x"})).await;
    assert_eq!(replica(&response), "slow:8080");
    let servers = world.get("/proxy/servers").await.1;
    let dispatched: Vec<u64> =
        servers.as_array().unwrap().iter().map(|server| server["dispatched"].as_u64().unwrap()).collect();
    assert_eq!(dispatched, [40, 0, 0, 0, 1]);
}
