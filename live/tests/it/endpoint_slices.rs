//! Discovery from the EndpointSlices of a Service, at an API server that fails in every way.

mod api;

use crate::fixture::{World, ms};
use api::{Api, Fault};
use gorgo_live::config::{Config, Discovery, KubernetesService};
use gorgo_live::discovery::ask_all;
use gorgo_live::testkit::{Engine, Net, Script};
use serde_json::{Value, json};
use std::path::Path;

fn discovery(dir: &Path) -> Discovery {
    let service = KubernetesService {
        service: "sglang".to_owned(),
        kubeconfig: Some(dir.join("kubeconfig")),
        regions: [("us-east-1a".to_owned(), "us-east-1".to_owned())].into(),
        ..KubernetesService::default()
    };
    Discovery { kubernetes: vec![service], poll_ms: 100, ..Discovery::default() }
}

async fn world(addresses: &[&str], discovery: Discovery) -> World {
    let net = Net::default();
    let engines = addresses.iter().map(|name| Engine::start(&net, name, Script::default())).collect();
    World::with(net, engines, Config { discovery, ..Config::default() }, "router").await
}

fn ready() -> Value {
    json!({"ready": true, "serving": true, "terminating": false})
}

fn terminating() -> Value {
    json!({"ready": false, "serving": true, "terminating": true})
}

/// Waits until the fleet (name, URL, draining) and whether the source is stale are as expected; the state of the source.
async fn expect(world: &World, wanted: &[(&str, &str, bool)], stale: bool) -> Value {
    let wanted: Vec<Value> = wanted.iter().map(|(name, url, drains)| json!([name, url, drains])).collect();
    let mut seen = (Vec::new(), Value::Null);
    for _ in 0..800 {
        let status = world.get("/proxy/status").await.1;
        let shown = |server: &Value| json!([server["id"], server["url"], server["draining"]]);
        let mut fleet: Vec<Value> = status["servers"].as_array().unwrap().iter().map(shown).collect();
        fleet.sort_by_key(ToString::to_string);
        seen = (fleet, status["discovery"][0].clone());
        if seen.0 == wanted && seen.1["stale"] == json!(stale) {
            return seen.1;
        }
        ms(25).await;
    }
    panic!("expected {wanted:?}, stale {stale}; the fleet is {seen:?}");
}

const A: (&str, &str, bool) = ("pod-a", "http://10.0.0.1:8080", false);
const B: (&str, &str, bool) = ("pod-b", "http://10.0.0.2:8080", false);
const C: (&str, &str, bool) = ("pod-c", "http://10.0.0.3:8080", false);

/// Three slices on two pages with pods `a` and `b`, and one that is not ready.
fn begin(api: &Api) {
    let starting = json!({"ready": false, "serving": false, "terminating": false});
    api.put("s1", &[("pod-a", "1", "10.0.0.1", ready())]);
    api.put("s2", &[("pod-b", "2", "10.0.0.2", ready())]);
    api.put("s3", &[("pod-c", "3", "10.0.0.3", starting)]);
}

#[tokio::test]
async fn pods_join_drain_and_leave_as_the_slices_say() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(dir.path()).await;
    begin(&api);
    let world = world(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], discovery(dir.path())).await;
    let source = expect(&world, &[A, B], false).await;
    assert_eq!(source["source"], "kubernetes:sglang");
    let status = world.get("/proxy/status").await.1;
    assert_eq!(status["servers"][0]["region"], "us-east-1", "by the zone: {status}");
    // `c` becomes ready, `b` terminates.
    api.put("s3", &[("pod-c", "3", "10.0.0.3", ready())]);
    expect(&world, &[A, B, C], false).await;
    api.put("s2", &[("pod-b", "2", "10.0.0.2", terminating())]);
    expect(&world, &[A, (B.0, B.1, true), C], false).await;
    api.delete("s2");
    expect(&world, &[A, C], false).await;
    // A pod is in two slices while the controller moves it, and the same event comes twice.
    api.put("s4", &[("pod-c", "3", "10.0.0.3", ready()), ("pod-b", "4", "10.0.0.2", ready())]);
    api.put("s4", &[("pod-c", "3", "10.0.0.3", ready()), ("pod-b", "4", "10.0.0.2", ready())]);
    expect(&world, &[A, B, C], false).await;
    api.delete("s3");
    // A pod takes over the name and the address of the one before it: another engine. A third takes its address alone.
    api.put("s1", &[("pod-a", "5", "10.0.0.1", ready())]);
    expect(&world, &[A, B, C], false).await;
    api.put("s1", &[("pod-d", "6", "10.0.0.1", ready())]);
    expect(&world, &[B, C, ("pod-d", A.1, false)], false).await;
    // Nothing is left: the last set stays, and the source is stale.
    api.delete("s1");
    expect(&world, &[B, C], false).await;
    api.put("s4", &[]);
    let told = expect(&world, &[B, C], true).await;
    assert_eq!(told["error"], "it lists no endpoint");
    api.put("s4", &[("pod-c", "3", "10.0.0.3", ready())]);
    expect(&world, &[C], false).await;
    // One list and one watch have told all of it.
    assert_eq!(api.asked(), (1, 1));
    assert_eq!(api.wrong(), [""; 0]);
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_where_it_was_and_a_version_that_is_gone_is_listed_anew() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(dir.path()).await;
    begin(&api);
    let world = world(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], discovery(dir.path())).await;
    expect(&world, &[A, B], false).await;
    // What happens while no watch is open is not lost.
    for (reset, uid) in [(false, "10"), (true, "11"), (false, "12")] {
        let (_, watches) = api.asked();
        api.cut(reset);
        api.put("s3", &[("pod-c", uid, "10.0.0.3", ready())]);
        expect(&world, &[A, B, C], false).await;
        api.put("s3", &[]);
        expect(&world, &[A, B], false).await;
        let (lists, more) = api.asked();
        assert!(lists == 1 && more > watches, "{lists} lists, {more} watches after {watches}");
    }
    // A bookmark moves the version on: the events before it are not needed.
    api.bookmark();
    api.put("s3", &[("pod-c", "13", "10.0.0.3", ready())]);
    expect(&world, &[A, B, C], false).await;
    api.cut(false);
    while api.open() == 0 {
        ms(5).await;
    }
    assert_eq!(api.asked().0, 1);
    // The version is gone: listed anew, with what was changed in the meantime.
    let (_, watches) = api.asked();
    api.fails(Fault::RefusesWatch(410));
    api.cut(false);
    api.put("s3", &[]);
    expect(&world, &[A, B], false).await;
    api.fails(Fault::GoneInEvent);
    api.put("s1", &[("pod-a", "1", "10.0.0.1", terminating())]);
    expect(&world, &[(A.0, A.1, true), B], false).await;
    api.fails(Fault::None);
    while api.open() == 0 {
        ms(5).await;
    }
    api.compact();
    api.cut(true);
    api.put("s1", &[("pod-a", "1", "10.0.0.1", ready()), ("pod-c", "3", "10.0.0.3", ready())]);
    expect(&world, &[A, B, C], false).await;
    let (lists, more) = api.asked();
    assert!(lists >= 4 && more > watches, "{lists} lists, {more} watches");
    assert_eq!(api.wrong(), [""; 0]);
}

#[tokio::test]
async fn whatever_the_api_server_does_wrong_the_last_set_stays_and_is_called_stale() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(dir.path()).await;
    begin(&api);
    let world = world(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], discovery(dir.path())).await;
    expect(&world, &[A, B], false).await;
    let faults = [
        (Fault::Refuses(401), "401: no, not this one; its token is not accepted"),
        (Fault::Refuses(403), "allow get, list and watch on endpointslices"),
        (Fault::RefusesWatch(403), "403: no watch; allow get, list and watch"),
        (Fault::Refuses(500), "the API server answers 500"),
        (Fault::Refuses(429), "the API server answers 429"),
        (Fault::Lists("{\"items\": [{\"metadata\": 1}]}"), "its answer is not understood"),
        (Fault::Lists("<html>"), "its answer is not understood"),
        (Fault::Lists("{\"metadata\": {}, \"items\": []}"), "its list has no version"),
    ];
    let mut set = vec![A, B];
    for (fault, problem) in faults {
        api.fails(fault.clone());
        // A line that is no event: what it said is unknown, so all is listed anew.
        api.write("{\"type\": \"MODIFIED\", \"object\": 7}\n");
        let mut told = expect(&world, &set, true).await;
        while !told["error"].as_str().unwrap().contains(problem) {
            ms(10).await;
            told = expect(&world, &set, true).await;
            assert!(told["error"].as_str().unwrap().lines().count() == 1, "{told}");
        }
        // What changes during the outage is seen after it.
        set = if set.len() == 2 { vec![A, B, C] } else { vec![A, B] };
        let c = [("pod-c", "3", "10.0.0.3", ready())];
        api.put("s3", if set.len() == 3 { &c } else { &[] });
        api.fails(Fault::None);
        expect(&world, &set, false).await;
    }
    // A token that was rotated is read again.
    api.rotates("second");
    api.write("nonsense\n");
    expect(&world, &set, true).await;
    std::fs::write(dir.path().join("token"), "second").unwrap();
    expect(&world, &set, false).await;
    assert_eq!(api.wrong(), [""; 0]);
}

#[tokio::test]
async fn a_silent_api_server_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(dir.path()).await;
    begin(&api);
    let world = world(&["10.0.0.1", "10.0.0.2"], discovery(dir.path())).await;
    expect(&world, &[A, B], false).await;
    api.fails(Fault::Silent);
    // The watch stays open and says nothing: minutes pass while all wait.
    tokio::time::pause();
    let mut told = Vec::new();
    for _ in 0..4_000 {
        ms(100).await;
        let source = world.get("/proxy/status").await.1["discovery"][0].clone();
        assert_eq!(source["endpoints"], 2, "{source}");
        if source["stale"] == true && told.last() != Some(&source["error"]) {
            told.push(source["error"].clone());
        }
        if told.len() == 2 {
            break;
        }
    }
    let limits = ["no word from the API server for 70 s", "no whole answer of the API server within 10 s"];
    assert_eq!(told, limits);
    tokio::time::resume();
    api.fails(Fault::None);
    assert_eq!(api.wrong(), [""; 0]);
}

#[tokio::test]
async fn a_check_asks_once_and_tells_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let config = discovery(dir.path());
    let asked = |config: Discovery| async move { ask_all(&config).await.unwrap().remove(0) };
    let missing = asked(config.clone()).await.listed.unwrap_err().to_string();
    assert!(missing.contains("kubeconfig") && !missing.contains('\n'), "{missing}");
    let mut nowhere = config.clone();
    nowhere.kubernetes[0].kubeconfig = None;
    let no_pod = asked(nowhere).await.listed.unwrap_err().to_string();
    assert!(no_pod.starts_with("this is no pod with a service account"), "{no_pod}");
    let api = Api::start(dir.path()).await;
    let empty = asked(config.clone()).await.listed.unwrap_err().to_string();
    assert_eq!(empty, "it lists no endpoint");
    begin(&api);
    let found = asked(config.clone()).await;
    assert_eq!(found.source, "kubernetes:sglang");
    let found = found.listed.unwrap().endpoints;
    assert_eq!(found.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["pod-a", "pod-b"]);
    assert_eq!(found[0].uid.as_deref(), Some("1"));
    // Rights to list alone are found out before the router runs.
    api.fails(Fault::RefusesWatch(403));
    let refused = asked(config.clone()).await.listed.unwrap_err().to_string();
    assert!(refused.contains("403") && refused.contains("list and watch"), "{refused}");
    // Nothing listens.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = free.local_addr().unwrap();
    drop(free);
    let text = std::fs::read_to_string(dir.path().join("kubeconfig")).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    file["clusters"][0]["cluster"]["server"] = json!(format!("http://{at}"));
    std::fs::write(dir.path().join("kubeconfig"), file.to_string()).unwrap();
    let refused = asked(config).await.listed.unwrap_err().to_string();
    assert!(refused.starts_with("no answer of the API server: "), "{refused}");
    assert_eq!(api.wrong(), [""; 0]);
}
