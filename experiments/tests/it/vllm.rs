//! A router in front of emulated vLLM servers.

use gorgo_benchmark::emulator::{Emulator, EmulatorConfig};
use gorgo_live::AdminClient;
use gorgo_live::config::Tls;
use gorgo_sim::engine::EngineConfig;
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_router_reads_a_vllm_engines_load_routes_to_it_and_flushes_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let any = "127.0.0.1:0".parse().unwrap();
        let engine = EngineConfig::preset("vllm-llama-3.1-8b-rtxpro6000").unwrap();
        let config = EmulatorConfig { model: "llama".to_owned(), ..EmulatorConfig::of_engine(engine) };
        let engine = Emulator::start(config, any).await.unwrap();
        let listener = tokio::net::TcpListener::bind(any).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let text = format!(
            "role = \"proxy\"\npolicy = \"gorgo\"\nreplicas = [{{ url = \"{}\", name = \"one\" }}]\n\
             probes = {{ scrape_ms = 20, period_ms = 20 }}\n",
            engine.url()
        );
        let node = gorgo_live::start(toml::from_str(&text).unwrap(), None, gorgo_live::tcp()).unwrap();
        tokio::spawn(gorgo_live::serve(Arc::clone(&node), listener, std::future::pending()));
        let client = AdminClient::new(&url, None, &Tls::default()).unwrap();
        let report = || node.driver.read(|router, _, _| router.replicas()[0].engine.map(|e| e.report));
        let wait = async |done: &dyn Fn() -> bool| {
            for _ in 0..2_000 {
                if done() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            panic!("not seen in 10 s: {:?}", report());
        };
        wait(&|| report().is_some_and(|r| r.kv_tokens == 530_000)).await;

        let chat = |max: u32| {
            json!({"model": "llama", "max_tokens": max, "ignore_eos": true,
                "messages": [{"role": "user", "content": "sea ".repeat(400)}]})
        };
        let cached = async || {
            let answer = client.call(Method::POST, "/v1/chat/completions", Some(&chat(4))).await.unwrap();
            assert_eq!(answer["usage"]["completion_tokens"], 4, "{answer}");
            answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64()
        };
        assert_eq!((cached().await, cached().await), (None, Some(384)));

        let long = {
            let client = AdminClient::new(&url, None, &Tls::default()).unwrap();
            tokio::spawn(async move { client.call(Method::POST, "/v1/chat/completions", Some(&chat(4_000))).await })
        };
        wait(&|| report().is_some_and(|r| r.running == 1 && r.used_tokens >= 400)).await;
        long.abort();
        wait(&|| report().is_some_and(|r| r.running == 0 && r.used_tokens == 0)).await;

        let told = client.call(Method::POST, "/lb/cache/clear", Some(&json!({"engines": true}))).await.unwrap();
        assert_eq!(told["success"], Value::Bool(true), "{told}");
        assert_eq!(cached().await, None, "the engine's cache is empty");
    });
}
