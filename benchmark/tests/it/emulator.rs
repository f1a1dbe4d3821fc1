//! The HTTP surface of the emulated server.

use crate::http::{get, post, send};
use gorgo_benchmark::emulator::{Emulator, EmulatorConfig};
use gorgo_sim::engine::{EngineConfig, Health};
use hyper::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn server(config: EmulatorConfig) -> Emulator {
    Emulator::start(config, "127.0.0.1:0".parse().unwrap()).await.unwrap()
}

/// Fast enough that short answers take no time.
fn fast() -> EmulatorConfig {
    EmulatorConfig { speed: 50.0, ..slow() }
}

/// An engine in real time, on which 4,000 tokens take 43 s: longer than any test looks at them.
fn slow() -> EmulatorConfig {
    EmulatorConfig {
        speed: 1.0,
        health_ms: 0.0,
        abort_stream_ms: 20.0,
        abort_unary_ms: 20.0,
        ..EmulatorConfig::default()
    }
}

/// The text of a stream, however many tokens each event has.
fn joined(events: &[Value], pick: impl Fn(&Value) -> Option<&str>) -> String {
    events.iter().filter_map(pick).collect()
}

fn chat(text: &str, more: Value) -> Value {
    let mut body =
        json!({"model": "any", "messages": [{"role": "user", "content": text}], "max_tokens": 12, "ignore_eos": true});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_stream_has_the_bytes_of_sglang() {
    let server = server(fast()).await;
    let url = server.url() + "/v1/chat/completions";
    let ask = chat(
        "Tell me a story about the sea.",
        json!({"max_tokens": 1, "rid": "abc", "stream": true, "stream_options": {"include_usage": true}}),
    );
    let answer = post(&url, &ask).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream; charset=utf-8");
    let created = answer.events()[0]["created"].to_string();
    insta::assert_snapshot!(answer.body.replace(&created, "CREATED"), @r#"
    data: {"id":"abc","object":"chat.completion.chunk","created":CREATED,"model":"any","choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":null}

    data: {"id":"abc","object":"chat.completion.chunk","created":CREATED,"model":"any","choices":[{"index":0,"delta":{"role":null,"content":" few","reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":null}

    data: {"id":"abc","object":"chat.completion.chunk","created":CREATED,"model":"any","choices":[{"index":0,"delta":{"role":null,"content":null,"reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":"length","matched_stop":null}],"usage":null}

    data: {"id":"abc","object":"chat.completion.chunk","created":CREATED,"model":"any","choices":[],"usage":{"prompt_tokens":8,"total_tokens":9,"completion_tokens":1,"prompt_tokens_details":null,"reasoning_tokens":0}}

    data: [DONE]
    "#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_whole_answers_say_the_same_on_all_paths() {
    let server = server(fast()).await;
    let text = "What is the capital of France, and why?";
    let url = server.url() + "/v1/chat/completions";
    let whole = post(&url, &chat(text, json!({}))).await.json();
    let said = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert_eq!((said.len(), whole["usage"]["completion_tokens"].as_u64()), (48, Some(12)));
    let events = post(&url, &chat(text, json!({"stream": true}))).await.events();
    assert_eq!(joined(&events, |e| e["choices"][0]["delta"]["content"].as_str()), said);
    assert_eq!(events.last(), Some(&Value::Null));
    let url = server.url() + "/v1/completions";
    let body = json!({"prompt": text, "max_tokens": 12, "ignore_eos": true, "stream": true});
    let events = post(&url, &body).await.events();
    assert_eq!(joined(&events, |e| e["choices"][0]["text"].as_str()), said);
    let body = json!({"text": text, "sampling_params": {"max_new_tokens": 12, "ignore_eos": true}, "stream": true});
    let events = post(&(server.url() + "/generate"), &body).await.events();
    let last = &events[events.len() - 2];
    assert_eq!(last["text"], said.as_str(), "the text is cumulative");
    assert_eq!(last["meta_info"]["finish_reason"], json!({"type": "length", "length": 12}));
    assert!(last["meta_info"]["e2e_latency"].as_f64().unwrap() > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_turn_finds_prompt_and_answer_in_the_cache_until_it_is_flushed() {
    let server = server(fast()).await;
    let url = server.url() + "/v1/chat/completions";
    let text = "word ".repeat(200);
    let first = post(&url, &chat(&text, json!({"max_tokens": 64}))).await.json();
    assert_eq!(first["usage"]["prompt_tokens_details"], Value::Null);
    let said = first["choices"][0]["message"]["content"].clone();
    let next = json!({"max_tokens": 4, "messages": [
        {"role": "user", "content": text}, {"role": "assistant", "content": said}, {"role": "user", "content": "Go on."}
    ]});
    let second = post(&url, &next).await.json();
    // 250 + 64 tokens less the last one, which is never cached.
    assert_eq!(second["usage"]["prompt_tokens_details"]["cached_tokens"], 304);
    // The engine still computes the step that it chose before the answer ended.
    while get(&(server.url() + "/flush_cache")).await.status != 200 {}
    let third = post(&url, &next).await.json();
    assert_eq!(third["usage"]["prompt_tokens_details"], Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_get_flat_errors() {
    let engine = EngineConfig { context_len: 100, ..EngineConfig::default() };
    let server = server(EmulatorConfig { engine, ..fast() }).await;
    let url = server.url() + "/v1/chat/completions";
    let message = |answer: &crate::http::Answer| {
        let v = answer.json();
        assert_eq!(
            (v["object"].as_str(), v["code"].as_u64()),
            (Some("error"), Some(u64::from(answer.status.as_u16())))
        );
        format!("{} {}", answer.status.as_u16(), v["message"].as_str().unwrap())
    };
    let broken = send(Method::POST, &url, "{\"messages\": [").await;
    assert!(message(&broken).starts_with("400 the body cannot be read: EOF"), "{}", broken.body);
    let empty = post(&url, &json!({"messages": []})).await;
    assert_eq!(message(&empty), "400 messages is empty: give at least one");
    for path in ["/v1/chat/completions", "/generate"] {
        let body = json!({"messages": [{"role": "user", "content": "x"}], "text": "x", "temperature": -1.0,
            "sampling_params": {"temperature": -1.0}});
        let refused = post(&(server.url() + path), &body).await;
        assert_eq!(
            (refused.status.as_u16(), refused.body.contains("temperature must be non-negative, got -1.0.")),
            (400, true)
        );
    }
    for stream in [false, true] {
        let long = post(&url, &chat(&"x".repeat(500), json!({"stream": stream}))).await;
        assert_eq!(
            message(&long),
            "400 The input (125 tokens) is longer than the model's context length (100 tokens)."
        );
    }
    let many = post(&(server.url() + "/v1/completions"), &json!({"prompt": ["a", "b"]})).await;
    assert!(message(&many).starts_with("400 a batch of 2 prompts"), "{}", many.body);
    let neither = post(&(server.url() + "/generate"), &json!({})).await;
    assert_eq!(neither.status, 400);
    assert!(neither.json()["error"]["message"].as_str().unwrap().starts_with("Either text or input_ids"));
    assert_eq!(get(&(server.url() + "/nothing")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_503_whole_and_an_event_in_a_stream() {
    let server = server(EmulatorConfig { max_in_flight: 1, ..slow() }).await;
    let url = server.url() + "/v1/chat/completions";
    let long = chat("long", json!({"max_tokens": 4000, "stream": true}));
    let holder = tokio::spawn({
        let url = url.clone();
        async move { post(&url, &long).await }
    });
    while server.engine().read().await.unwrap().loads.running == 0 {
        tokio::task::yield_now().await;
    }
    let whole = post(&url, &chat("x", json!({}))).await;
    assert_eq!((whole.status.as_u16(), whole.json()["message"].as_str()), (503, Some("The request queue is full.")));
    let events = post(&url, &chat("x", json!({"stream": true}))).await;
    assert_eq!(events.status, 200);
    assert_eq!(events.events()[0]["error"]["type"], "SERVICE_UNAVAILABLE");
    let aborted = post(&(server.url() + "/abort_request"), &json!({"abort_all": true})).await;
    assert_eq!(aborted.status, 200);
    let events = holder.await.unwrap().events();
    assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], "abort");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_requests_in_flight_cannot_share_an_id() {
    let server = server(slow()).await;
    let url = server.url() + "/v1/chat/completions";
    let ask = chat("x", json!({"rid": "same", "max_tokens": 4000, "stream": true}));
    let first = tokio::spawn({
        let (url, ask) = (url.clone(), ask.clone());
        async move { post(&url, &ask).await }
    });
    while server.in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    let second = post(&url, &ask).await;
    assert_eq!(second.json()["message"], "Duplicate request ID detected: same");
    // Any prefix of the id aborts the request.
    post(&(server.url() + "/abort_request"), &json!({"rid": "sa"})).await;
    let events = first.await.unwrap().events();
    assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], "abort");
    assert_eq!(server.in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_dropped_cuts_its_connections() {
    let server = server(fast()).await;
    let mut socket = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
    socket.write_all(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut some = [0; 16];
    assert!(socket.read(&mut some).await.unwrap() > 0);
    drop(server);
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest).await; // returns, by an end or a reset
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_request_of_a_client_that_disconnects_is_cancelled() {
    let server = server(slow()).await;
    let mut socket = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
    let body = chat("long", json!({"max_tokens": 30_000, "stream": true})).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all((head + &body).as_bytes()).await.unwrap();
    let mut some = [0; 64];
    assert!(socket.read(&mut some).await.unwrap() > 0);
    drop(socket);
    let ended = loop {
        let state = server.engine().read().await.unwrap();
        if state.loads.running + state.loads.waiting + state.loads.prefilling == 0 {
            break state;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(ended.counters.aborted, 1, "cancelled, not answered in full: {ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_cuts_streams_closes_the_port_and_comes_back_cold() {
    // 30,000 tokens take a minute.
    let server = server(EmulatorConfig { speed: 5.0, ..slow() }).await;
    let url = server.url() + "/v1/chat/completions";
    let stream = tokio::spawn({
        let url = url.clone();
        async move { post(&url, &chat("long", json!({"max_tokens": 30_000, "stream": true}))).await }
    });
    while server.engine().read().await.unwrap().loads.running == 0 {
        tokio::task::yield_now().await;
    }
    let crashed = post(&(server.url() + "/gorgo/crash"), &json!({"seconds": 0.3, "cold_start_s": 1})).await;
    assert_eq!(crashed.status, 200);
    let cut = stream.await.unwrap();
    assert!(!cut.whole && !cut.body.contains("[DONE]"));
    // The engine restarts after the old listener was closed and before the new one listens.
    while server.engine().read().await.unwrap().health == Health::Down {
        tokio::task::yield_now().await;
    }
    while tokio::net::TcpStream::connect(server.addr()).await.is_err() {
        tokio::task::yield_now().await;
    }
    let again = post(&url, &chat("hello again", json!({}))).await;
    assert_eq!(again.status, 200);
    let bad = post(&(server.url() + "/gorgo/crash"), &json!({"seconds": -1})).await;
    assert_eq!(bad.json()["message"], "seconds is -1: give 0 to 3600");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_the_scheduler() {
    let patient = server(EmulatorConfig { health_ms: 1.0, ..fast() }).await;
    assert_eq!(get(&(patient.url() + "/health")).await.status, 200);
    let server = server(EmulatorConfig { health_ms: 1.0, health_timeout_ms: 50.0, ..fast() }).await;
    let health = server.url() + "/health";
    post(&(server.url() + "/gorgo/hang"), &json!({"seconds": 3600})).await;
    assert_eq!(get(&health).await.status, 503);
    assert_eq!(get(&(server.url() + "/metrics")).await.status, 200, "the metrics keep their last values");
    post(&(server.url() + "/gorgo/slow-start"), &json!({"cold_start_s": 3600})).await;
    assert_eq!(get(&health).await.status, 503);
    server.drain(Duration::from_secs(1)).await;
    assert_eq!(get(&health).await.status, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_have_sglangs_names_and_are_stale() {
    // Without the report of an idle engine, which depends on when it is scraped.
    let engine = EngineConfig { idle_publish_s: 1e6, ..EngineConfig::default() };
    let server = server(EmulatorConfig { engine, ..fast() }).await;
    let before = get(&(server.url() + "/metrics")).await.body;
    assert!(before.contains("sglang:max_total_num_tokens{") && !before.contains("num_running_reqs"), "{before}");
    post(&(server.url() + "/v1/chat/completions"), &chat(&"word ".repeat(100), json!({"stream": true}))).await;
    let text = get(&(server.url() + "/metrics")).await.body;
    let model = "model_name=\"mistralai/Mistral-7B-Instruct-v0.3\"";
    let labels = format!("{{engine_type=\"unified\",{model},moe_ep_rank=\"0\",pp_rank=\"0\",tp_rank=\"0\"}}");
    assert!(text.contains(&format!("sglang:num_running_reqs{labels} 0.0\n")), "{text}");
    assert!(text.contains(&format!("sglang:prompt_tokens_total{{{model}}} 125.0\n")));
    assert!(text.contains(&format!("sglang:realtime_tokens_total{{mode=\"decode\",{model}}} 12.0\n")));
    assert!(text.contains(&format!("sglang:time_to_first_token_seconds_count{{{model}}} 1.0\n")));
    assert!(!text.contains("cached_tokens_total"), "no hit yet");
    let loads = get(&(server.url() + "/v1/loads?include=core")).await.json();
    assert_eq!(loads["loads"][0]["num_running_reqs"], 0);
    let lines = get(&(server.url() + "/v1/loads?format=prometheus")).await.body;
    assert!(lines.contains("sglang:num_waiting_reqs{dp_rank=\"0\"} 0\n"), "{lines}");
    let info = get(&(server.url() + "/get_server_info")).await.json();
    assert_eq!(info["max_total_num_tokens"], 428_000);
    assert_eq!(get(&(server.url() + "/get_load")).await.json()[0]["num_waiting_reqs"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_round_trip_and_a_key_is_required() {
    let server = server(EmulatorConfig { api_key: Some("k".to_owned()), ..fast() }).await;
    assert_eq!(get(&(server.url() + "/v1/models")).await.status, 401);
    assert_eq!(get(&(server.url() + "/health")).await.status, 200);
    let server = self::server(fast()).await;
    let tokens = post(&(server.url() + "/tokenize"), &json!({"prompt": "Hello, you"})).await.json();
    assert_eq!(tokens["count"], 3);
    let text = post(&(server.url() + "/detokenize"), &json!({"tokens": tokens["tokens"]})).await.json();
    assert_eq!(text["text"], "Hello, you");
    assert_eq!(get(&(server.url() + "/v1/models")).await.json()["data"][0]["owned_by"], "sglang");
}
