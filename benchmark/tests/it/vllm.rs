//! The HTTP surface of an emulated vLLM server.

use crate::http::{get, post, send};
use gorgo_benchmark::emulator::{Emulator, EmulatorConfig};
use gorgo_sim::engine::EngineConfig;
use hyper::Method;
use serde_json::{Value, json};

async fn server(change: impl FnOnce(&mut EmulatorConfig)) -> Emulator {
    let engine = EngineConfig::preset("vllm-llama-3.1-8b-rtx4090").unwrap();
    let mut config = EmulatorConfig { speed: 50.0, model: "llama".to_owned(), ..EmulatorConfig::of_engine(engine) };
    change(&mut config);
    Emulator::start(config, "127.0.0.1:0".parse().unwrap()).await.unwrap()
}

fn chat(text: &str, max: u32) -> Value {
    json!({"model": "llama", "messages": [{"role": "user", "content": text}], "max_tokens": max, "ignore_eos": true})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_have_the_bytes_of_vllm() {
    let server = server(|_| {}).await;
    let mut ask = chat("Tell me a story about the sea.", 1);
    ask["stream"] = true.into();
    ask["stream_options"] = json!({"include_usage": true});
    let answer = post(&(server.url() + "/v1/chat/completions"), &ask).await;
    let first = &answer.events()[0];
    let id = first["id"].as_str().unwrap();
    assert!(id.starts_with("chatcmpl-"), "{id}");
    let text = answer.body.replace(id, "ID").replace(&first["created"].to_string(), "CREATED");
    insta::assert_snapshot!(text, @r#"
    data: {"id":"ID","object":"chat.completion.chunk","created":CREATED,"model":"llama","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}

    data: {"id":"ID","object":"chat.completion.chunk","created":CREATED,"model":"llama","choices":[{"index":0,"delta":{"content":" few"},"logprobs":null,"finish_reason":null}]}

    data: {"id":"ID","object":"chat.completion.chunk","created":CREATED,"model":"llama","choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"length","stop_reason":null}]}

    data: {"id":"ID","object":"chat.completion.chunk","created":CREATED,"model":"llama","choices":[],"usage":{"prompt_tokens":8,"total_tokens":9,"completion_tokens":1,"prompt_tokens_details":null}}

    data: [DONE]
    "#);

    ask["prompt"] = "Tell me".into();
    let answer = post(&(server.url() + "/v1/completions"), &ask).await;
    let first = &answer.events()[0];
    assert!(first["id"].as_str().unwrap().starts_with("cmpl-"), "{first}");
    let choice = &first["choices"][0];
    assert_eq!(
        choice.as_object().unwrap().keys().count(),
        5,
        "index, text, logprobs, finish_reason, stop_reason: {choice}"
    );
    assert!(choice["text"].as_str().unwrap().len() > 1 && choice["stop_reason"].is_null(), "{choice}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_answer_reports_cached_tokens_until_the_cache_is_reset() {
    let server = server(|_| {}).await;
    let url = server.url() + "/v1/chat/completions";
    let cached = async || {
        let answer = post(&url, &chat(&"sea ".repeat(200), 4)).await.json();
        assert_eq!(
            (answer["usage"]["prompt_tokens"].as_u64(), &answer["choices"][0]["stop_reason"]),
            (Some(200), &Value::Null)
        );
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64()
    };
    // 12 whole blocks of 16; the last token is never cached.
    assert_eq!((cached().await, cached().await), (None, Some(192)));
    // The engine may compute a step yet that it chose before the answer ended.
    let mut after = Some(192);
    for _ in 0..1_000 {
        assert_eq!(send(Method::POST, &(server.url() + "/reset_prefix_cache"), "").await.status, 200);
        after = cached().await;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(after, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_nested_objects_in_vllms_words() {
    let server = server(|config| config.engine.context_len = 100).await;
    let url = server.url() + "/v1/chat/completions";
    let told = async |body: Value| {
        let answer = post(&url, &body).await;
        let error = answer.json()["error"].clone();
        assert_eq!(error["code"], answer.status.as_u16());
        format!("{} {}: {}", error["code"], error["type"].as_str().unwrap(), error["message"].as_str().unwrap())
    };
    assert_eq!(
        told(chat(&"x".repeat(500), 1)).await,
        "400 BadRequestError: This model's maximum context length is 100 tokens. However, your request has 125 input \
         tokens. Please reduce the length of the input messages."
    );
    assert_eq!(
        told(chat(&"x".repeat(200), 60)).await,
        "400 BadRequestError: 'max_tokens' or 'max_completion_tokens' is too large: 60. This model's maximum context \
         length is 100 tokens and your request has 50 input tokens (60 > 100 - 50)."
    );
    let mut other = chat("x", 1);
    other["model"] = "gpt".into();
    assert_eq!(told(other).await, "404 NotFoundError: The model `gpt` does not exist.");
    let mut cold = chat("x", 1);
    cold["temperature"] = (-1.0).into();
    assert_eq!(told(cold).await, "400 BadRequestError: temperature must be non-negative, got -1.0.");
    for path in ["/flush_cache", "/generate", "/abort_request"] {
        assert_eq!(post(&(server.url() + path), &json!({})).await.status, 404, "{path} is SGLang's");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_have_vllms_names_and_follow_each_step() {
    let server = server(|config| config.speed = 1.0).await;
    let page = async || get(&(server.url() + "/metrics")).await.body;
    let value = |page: &str, name: &str| -> f64 {
        let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let idle = page().await;
    assert_eq!(value(&idle, "vllm:num_requests_running"), 0.0, "families are there from the start");
    assert!(idle.contains("num_gpu_blocks=\"2588\""));
    let url = server.url() + "/v1/chat/completions";
    let running = tokio::spawn(async move { post(&url, &chat(&"x".repeat(4 * 16 * 40), 4_000)).await });
    let mut seen = page().await;
    for _ in 0..2_000 {
        if value(&seen, "vllm:num_requests_running") == 1.0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        seen = page().await;
    }
    assert_eq!(value(&seen, "vllm:num_requests_running"), 1.0);
    assert!(value(&seen, "vllm:kv_cache_usage_perc") >= 41.0 / 2_587.0, "40 blocks of prompt and one of the answer");
    assert_eq!(value(&seen, "vllm:prefix_cache_queries_total"), 640.0);
    assert_eq!(value(&seen, "vllm:prefix_cache_hits_total"), 0.0);
    assert_eq!(value(&seen, "vllm:time_to_first_token_seconds_count"), 1.0);
    running.abort();
    // vLLM aborts a request as soon as its client is gone.
    for _ in 0..2_000 {
        seen = page().await;
        if value(&seen, "vllm:num_requests_running") == 0.0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(value(&seen, "vllm:kv_cache_usage_perc"), 0.0);
    assert!(seen.contains("finished_reason=\"abort\"} 1.0"), "{seen}");
}
