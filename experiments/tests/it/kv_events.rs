//! A router that follows the KV events of an emulated vLLM server: what the engine evicts, clears or loses, the index
//! forgets.

use gorgo_benchmark::emulator::{Emulator, EmulatorConfig, KvEventsConfig};
use gorgo_core::ReplicaId;
use gorgo_live::config::Tls;
use gorgo_live::{AdminClient, AppState};
use gorgo_sim::engine::EngineConfig;
use http::Method;
use rand::RngExt;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// An emulated engine with room for so many tokens.
async fn engine(kv_tokens: u32) -> Emulator {
    let preset = EngineConfig::preset("vllm-llama-3.1-8b-rtxpro6000").unwrap();
    let engine = EngineConfig { kv_tokens, context_len: kv_tokens, ..preset };
    let kv_events = Some(KvEventsConfig { listen: ANY, replay: Some(ANY) });
    let config =
        EmulatorConfig { model: "llama".to_owned(), speed: 20.0, kv_events, ..EmulatorConfig::of_engine(engine) };
    Emulator::start(config, ANY).await.unwrap()
}

/// A router in front of it, and a client of each of the two.
async fn router(engine: &Emulator) -> (Arc<AppState>, AdminClient, AdminClient) {
    let listener = tokio::net::TcpListener::bind(ANY).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let at = engine.kv_events().unwrap();
    // One look at the metrics tells that it is vLLM; restarts are to be seen in the stream.
    let text = format!(
        "role = \"proxy\"\npolicy = \"gorgo\"\nreplicas = [{{ url = \"{}\", name = \"one\" }}]\n\
         probes = {{ scrape_ms = 3600000, period_ms = 0 }}\n\
         kv_events = {{ enabled = true, port = {}, replay_port = {} }}",
        engine.url(),
        at.listen.port(),
        at.replay.unwrap().port()
    );
    let node = gorgo_live::start(toml::from_str(&text).unwrap(), None, gorgo_live::tcp()).unwrap();
    tokio::spawn(gorgo_live::serve(Arc::clone(&node), listener, std::future::pending()));
    let client = |url: &str| AdminClient::new(url, None, &Tls::default()).unwrap();
    (node, client(&url), client(&engine.url()))
}

/// Waits until `done`, at most 30 s.
async fn wait(what: &str, done: impl AsyncFn() -> bool) {
    for _ in 0..1_500 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not seen in 30 s: {what}");
}

/// A prompt of 1,000 tokens, different for each number from the first one on.
fn prompt(n: usize) -> Value {
    let text: String = (0..1_000).map(|word| format!("{:03}.", (n * 131 + word) % 1_000)).collect();
    json!({"model": "llama", "max_tokens": 2, "ignore_eos": true, "messages": [{"role": "user", "content": text}]})
}

async fn ask(client: &AdminClient, n: usize) -> u64 {
    let answer = client.call(Method::POST, "/v1/chat/completions", Some(&prompt(n))).await.unwrap();
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0)
}

/// Tokens that the index holds for the engine.
fn held(node: &AppState) -> u64 {
    node.driver.read(|router, _, _| router.index().tokens(ReplicaId(0)))
}

async fn stream(client: &AdminClient) -> Value {
    client.call(Method::GET, "/proxy/servers", None).await.unwrap()[0]["kv_events"][0].clone()
}

#[test]
fn the_index_forgets_what_an_engine_evicts_clears_and_loses() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = engine(4_096).await;
        let (node, client, direct) = router(&engine).await;
        wait("the stream", async || stream(&client).await["state"] == "up").await;
        let is_vllm =
            async || client.call(Method::GET, "/proxy/servers", None).await.unwrap()[0]["running_reqs"].is_u64();
        wait("the metrics", is_vllm).await;

        for n in 0..3 {
            assert_eq!(ask(&client, n).await, 0);
        }
        wait("3 prompts are resident", async || stream(&client).await["resident_tokens"].as_u64() >= Some(2_900)).await;
        assert!(held(&node) > 2_900, "{}", held(&node));
        let shown = stream(&client).await;
        assert!(shown["tagged_blocks"].as_u64() >= Some(180) && shown["measured_tokens"].is_null(), "{shown}");

        // The first prompt again: predicted, held by the events, and delivered agree.
        let cached = ask(&client, 0).await;
        assert!(cached > 900, "{cached}");
        let row = node.request_log.entries().last().cloned().unwrap();
        assert_eq!(row.cached_tokens, Some(cached as u32));
        assert!(row.predicted_cached_tokens.abs_diff(cached as u32) <= 32, "{row:?}");

        // Traffic that passes the router by takes the room of prompts 1 and 2: the router learns it from the events.
        for n in 10..13 {
            ask(&direct, n).await;
        }
        wait("prompts 1 and 2 are forgotten", async || held(&node) < 1_100).await;
        let shown = stream(&client).await;
        assert!(shown["cuts"].as_u64() >= Some(2) && shown["residence_ms"].as_f64() > Some(0.0), "{shown}");
        assert!((3_500..=4_096).contains(&shown["measured_tokens"].as_u64().unwrap()), "{shown}");
        let predicted = async |n: usize| {
            let cached = ask(&client, n).await;
            let row = node.request_log.entries().last().cloned().unwrap();
            (u64::from(row.predicted_cached_tokens), cached, row.held_tokens)
        };
        let (expected, delivered, by_events) = predicted(1).await;
        assert_eq!((expected, delivered), (0, 0));
        assert!(by_events.is_none_or(|held| held == 0), "{by_events:?}"); // none if the events came after the answer
        let (expected, delivered, _) = predicted(1).await;
        assert!(delivered > 900 && expected.abs_diff(delivered) <= 32, "{expected} {delivered}");

        direct.call(Method::POST, "/reset_prefix_cache", None).await.unwrap();
        wait("the reset", async || held(&node) == 0).await;
        assert_eq!(stream(&client).await["resident_blocks"], 0);

        ask(&client, 5).await;
        assert!(held(&node) > 900);
        engine.crash(Duration::from_millis(600), Some(0.0));
        wait("a dead stream", async || stream(&client).await["state"] == "down").await;
        let shown = stream(&client).await;
        assert!(shown["error"].is_string(), "{shown}");
        let measured = node.driver.read(|router, _, _| router.replicas()[0].measured_tokens);
        assert_eq!((measured, held(&node) > 900), (None, true), "without events the cache is predicted");
        wait("the restart", async || stream(&client).await["state"] == "up" && held(&node) == 0).await;
        assert_eq!(stream(&client).await["new_processes"], 1);
        assert_eq!(ask(&client, 5).await, 0);
        wait("batches of the new process", async || stream(&client).await["resident_tokens"].as_u64() >= Some(900))
            .await;
        let metrics = client.call(Method::GET, "/metrics", None).await.unwrap();
        let metrics = metrics.as_str().unwrap();
        for line in
            ["gorgo_replica_kv_events_up{replica=\"one\"} 1", "gorgo_replica_kv_event_cuts_total{replica=\"one\"}"]
        {
            assert!(metrics.contains(line), "{line}");
        }
    });
}

/// What a load of conversations met.
#[derive(Debug, Default, Clone, Copy)]
struct Outcome {
    prompt: u64,
    predicted: u64,
    delivered: u64,
    /// Sum of the differences of the two, each as a size.
    error: u64,
    requests: u64,
}

/// 48 conversations of up to 3,000 tokens, 4 at a time, over two engines with room for 20,000 tokens each. `foreign` of
/// the requests pass the router by.
async fn under_pressure(seed: u64, events: bool, foreign: f64) -> Outcome {
    const WORKERS: u64 = 4;
    let mut engines = Vec::new();
    for _ in 0..2 {
        engines.push(engine(20_000).await);
    }
    let listener = tokio::net::TcpListener::bind(ANY).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let replica = |i: usize| format!("{{ url = \"{}\", name = \"e{i}\" }}", engines[i].url());
    let mut text = format!(
        "role = \"proxy\"\npolicy = \"gorgo\"\nseed = {seed}\nreplicas = [{}, {}]\n\
         probes = {{ scrape_ms = 200, period_ms = 100 }}\n[kv_events]\nenabled = {events}\n",
        replica(0),
        replica(1)
    );
    for (i, engine) in engines.iter().enumerate() {
        let at = engine.kv_events().unwrap();
        let (port, replay) = (at.listen.port(), at.replay.unwrap().port());
        text += &format!("[kv_events.replicas.e{i}]\nport = {port}\nreplay_port = {replay}\n");
    }
    let node = gorgo_live::start(toml::from_str(&text).unwrap(), None, gorgo_live::tcp()).unwrap();
    tokio::spawn(gorgo_live::serve(Arc::clone(&node), listener, std::future::pending()));
    let known = async || node.driver.read(|router, _, _| router.replicas().iter().all(|r| r.engine.is_some()));
    wait("both engines", known).await;
    let urls: Arc<Vec<String>> = Arc::new(engines.iter().map(Emulator::url).collect());
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let (url, urls) = (url.clone(), Arc::clone(&urls));
        workers.spawn(async move {
            let mut rng = gorgo_core::rng::stream(seed, "kv events under pressure", worker);
            let mut conversations: Vec<Vec<Value>> = vec![Vec::new(); 12];
            for _ in 0..150 {
                let words: String = (0..200).map(|_| format!("{:03}.", rng.random_range(0..1_000u32))).collect();
                if rng.random_bool(foreign) {
                    let body = json!({"model": "llama", "max_tokens": 8, "ignore_eos": true,
                        "messages": [{"role": "user", "content": words.repeat(6)}]});
                    let direct = &urls[rng.random_range(0..urls.len())];
                    let client = AdminClient::new(direct, None, &Tls::default()).unwrap();
                    client.call(Method::POST, "/v1/chat/completions", Some(&body)).await.unwrap();
                    continue;
                }
                let conversation = &mut conversations[rng.random_range(0..12usize)];
                if conversation.len() >= 26 {
                    conversation.clear();
                }
                conversation.push(json!({"role": "user", "content": words}));
                let body =
                    json!({"model": "llama", "max_tokens": 32, "ignore_eos": true, "messages": conversation.clone()});
                let client = AdminClient::new(&url, None, &Tls::default()).unwrap();
                let answer = client.call(Method::POST, "/v1/chat/completions", Some(&body)).await.unwrap();
                conversation.push(answer["choices"][0]["message"].clone());
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done.unwrap();
    }
    node.request_log.entries().iter().fold(Outcome::default(), |sum, row| {
        let (predicted, delivered) =
            (u64::from(row.predicted_cached_tokens), u64::from(row.cached_tokens.unwrap_or(0)));
        Outcome {
            prompt: sum.prompt + u64::from(row.counted_tokens.unwrap_or(row.prompt_tokens)),
            predicted: sum.predicted + predicted,
            delivered: sum.delivered + delivered,
            error: sum.error + predicted.abs_diff(delivered),
            requests: sum.requests + 1,
        }
    })
}

/// Writes the table of `docs/results.md`, "KV events". Minutes of CPU, so only when asked for.
#[test]
#[ignore = "a measurement: cargo test -p gorgo-experiments --test it -- --ignored kv_events_measured"]
fn kv_events_measured() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut table =
        String::from("| traffic past the router | events | seed | requests | hit rate | predicted | error |\n");
    table += "|---|---|---|---|---|---|---|\n";
    for foreign in [0.0, 0.3] {
        for seed in 1..=3 {
            for events in [false, true] {
                let seen = runtime.block_on(under_pressure(seed, events, foreign));
                let share = |tokens: u64| 100.0 * tokens as f64 / seen.prompt as f64;
                table += &format!(
                    "| {:.0} % | {} | {seed} | {} | {:.1} % | {:.1} % | {:.1} % |\n",
                    100.0 * foreign,
                    if events { "on" } else { "off" },
                    seen.requests,
                    share(seen.delivered),
                    share(seen.predicted),
                    share(seen.error)
                );
            }
        }
    }
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("kv-events.md");
    std::fs::write(&path, table).unwrap();
}
