//! A router whose replicas are routers: their attempts count as the first one's.

use crate::fixture::{World, chat, ms, replica};
use gorgo_core::policy::PolicyConfig;
use gorgo_live::config::{Config, ReplicaConfig};
use gorgo_live::testkit::{Engine, Net, Script};

fn config(replicas: Vec<ReplicaConfig>) -> Config {
    Config { replicas, policy: PolicyConfig::default(), ..Config::default() }
}

/// A router before `inner` others, each before the same three engines.
async fn rows(inner: usize, script: Script) -> (World, Vec<World>, Vec<Engine>) {
    let net = Net::default();
    let names = ["e0", "e1", "e2"];
    let engines = Vec::from(names.map(|name| Engine::start(&net, name, script.clone())));
    let (mut worlds, mut routers) = (Vec::new(), Vec::new());
    for n in 0..inner {
        let (host, engines) = (format!("inner{n}"), names.map(replica).to_vec());
        worlds.push(World::with(net.clone(), Vec::new(), config(engines), &host).await);
        routers.push(ReplicaConfig { url: format!("http://{host}:8000"), ..replica(&host) });
    }
    let outer = World::with(net, Vec::new(), config(routers), "router").await;
    ms(2_000).await;
    (outer, worlds, engines)
}

#[tokio::test(start_paused = true)]
async fn attempts_of_routers_in_a_row_do_not_multiply() {
    for status in [408, 429, 503, 500] {
        for inner in 1..=2 {
            let (outer, _inner, engines) = rows(inner, Script { status, ..Script::default() }).await;
            let response = outer.send(chat("x", false)).await;
            assert!(response.status().as_u16() >= 400, "{status}");
            assert!(!response.headers().contains_key("x-gorgo-attempts"), "a client is not told");
            let dispatches: usize = engines.iter().map(|engine| engine.seen().len()).sum();
            assert!((1..=5).contains(&dispatches), "{status}, {inner} routers: {dispatches} dispatches");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_router_in_between_still_finds_the_one_engine_that_answers() {
    let (outer, _inner, engines) = rows(1, Script { status: 429, ..Script::default() }).await;
    engines[2].script(|script| script.status = 200);
    for n in 0..8 {
        assert_eq!(outer.send(chat(&format!("{n}"), false)).await.status(), 200);
    }
}
