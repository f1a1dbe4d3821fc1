//! Discovery from a file and from a name server, both broken in every way.

use crate::fixture::{World, ms, replica};
use gorgo_live::config::{Config, Discovery, Role};
use gorgo_live::testkit::{Engine, Net, Script};
use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use http::Method;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::net::UdpSocket;

/// A router without replicas of its own that discovers.
async fn world(names: &[&str], discovery: Discovery) -> World {
    let net = Net::default();
    let engines = names.iter().map(|name| Engine::start(&net, name, Script::default())).collect();
    let config = Config { discovery, ..Config::default() };
    World::with(net, engines, config, "router").await
}

/// Names of the fleet, and the state of the only source.
async fn fleet(world: &World) -> (Vec<String>, Value) {
    let status = world.get("/proxy/status").await.1;
    let name = |server: &Value| server["id"].as_str().unwrap().to_owned();
    let mut names: Vec<String> = status["servers"].as_array().unwrap().iter().map(name).collect();
    names.sort();
    (names, status["discovery"][0].clone())
}

/// Waits until the fleet and whether the source is stale are as expected.
async fn expect(world: &World, names: &[&str], stale: bool) -> Value {
    let mut seen = (Vec::new(), Value::Null);
    for _ in 0..400 {
        seen = fleet(world).await;
        if seen.0 == names && seen.1["stale"] == json!(stale) {
            return seen.1;
        }
        ms(50).await;
    }
    panic!("expected {names:?}, stale {stale}; the fleet is {seen:?}");
}

fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

fn listed(names: &[&str]) -> String {
    let entries = names.iter().map(|name| format!("- {{name: {name}, address: {name}, port: 8080}}\n"));
    format!("endpoints:\n{}", entries.collect::<String>())
}

/// Waits until a pipe in the place of the file, which nobody writes to, is refused and not waited for.
async fn expect_refused_pipe(world: &World) {
    for _ in 0..100 {
        ms(100).await;
        let told = expect(world, &["a", "b"], true).await;
        if told["error"].as_str().unwrap().contains("no regular file") {
            return;
        }
    }
    panic!("the pipe is not refused");
}

#[tokio::test(start_paused = true)]
async fn a_file_adds_drains_and_removes_engines_and_a_broken_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints.yaml");
    let discovery = Discovery { file: Some(path.clone()), poll_ms: 200, ..Discovery::default() };
    let world = world(&["a", "b", "c"], discovery).await;
    let told = expect(&world, &[], true).await;
    assert!(told["error"].as_str().unwrap().contains("cannot be read"), "{told}");
    write(&path, &listed(&["a", "b"]));
    expect(&world, &["a", "b"], false).await;
    let broken = [
        "",
        "endpoints: []",
        "endpoints: [{name: a}]",
        "endpoints: [",
        "\u{0}",
        "endpoints: [{name: c, address: c, port: 0x}]",
    ];
    for broken in broken {
        write(&path, broken);
        let told = expect(&world, &["a", "b"], true).await;
        assert_eq!(told["endpoints"], 2, "{broken}: {told}");
        write(&path, &listed(&["a", "b"]));
        expect(&world, &["a", "b"], false).await;
    }
    std::fs::remove_file(&path).unwrap();
    expect(&world, &["a", "b"], true).await;
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    expect_refused_pipe(&world).await;
    std::fs::remove_file(&path).unwrap();
    // `b` terminates, `c` is new.
    write(&path, &listed(&["a", "b", "c"]).replace("{name: b,", "{name: b, state: terminating,"));
    expect(&world, &["a", "b", "c"], false).await;
    let status = world.get("/proxy/status").await.1;
    let draining = |name: &str| {
        let servers = status["servers"].as_array().unwrap();
        servers.iter().find(|server| server["id"] == name).unwrap()["draining"].clone()
    };
    assert_eq!((draining("a"), draining("b")), (json!(false), json!(true)));
    write(&path, &listed(&["c"]));
    expect(&world, &["c"], false).await;
    let metrics = world.get("/metrics").await.1;
    assert!(metrics.to_string().contains("gorgo_discovery_endpoints{source="), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn replicas_of_the_configuration_and_of_the_admin_api_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints.json");
    let entry = |name: &str, host: &str| json!({"name": name, "address": host, "port": 8080});
    // The first has the name of a configured replica, the second its address.
    let all = json!({"endpoints": [entry("a", "z"), entry("other", "a"), entry("c", "c")]});
    std::fs::write(&path, all.to_string()).unwrap();
    let state = dir.path().join("state.toml");
    let net = Net::default();
    let engines = ["a", "b", "c"].iter().map(|name| Engine::start(&net, name, Script::default())).collect();
    let discovery = Discovery { file: Some(path.clone()), poll_ms: 200, ..Discovery::default() };
    let config = Config { replicas: vec![replica("a")], state: Some(state.clone()), discovery, ..Config::default() };
    let world = World::with(net, engines, config, "router").await;
    expect(&world, &["a", "c"], false).await;
    let added = world.call(Method::POST, "/proxy/servers", &json!({"url": "http://b:8080", "name": "b"})).await;
    assert_eq!(added.0, 201);
    write(&path, &json!({"endpoints": [entry("d", "d")]}).to_string());
    expect(&world, &["a", "b", "d"], false).await;
    let kept = std::fs::read_to_string(&state).unwrap();
    assert!(kept.contains("http://b:8080") && !kept.contains("http://c:8080"), "what was found is not saved: {kept}");
}

#[tokio::test(start_paused = true)]
async fn an_edge_discovers_peers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peers.toml");
    std::fs::write(&path, "endpoints = [{name = \"p\", url = \"http://p:8000\"}]").unwrap();
    let net = Net::default();
    let engines = vec![Engine::start(&net, "e", Script::default())];
    let discovery = Discovery { file: Some(path), poll_ms: 200, ..Discovery::default() };
    let config = Config { role: Role::Edge, replicas: vec![replica("e")], discovery, ..Config::default() };
    let world = World::with(net, engines, config, "router").await;
    ms(1_000).await;
    let peers = world.get("/lb/peers").await.1;
    assert_eq!((&peers["count"], &peers["peers"][0]["id"]), (&json!(1), &json!("p")));
}

/// What the name server answers.
#[derive(Clone, Debug)]
enum Zone {
    Addresses(Vec<[u8; 4]>),
    Services(Vec<(&'static str, u16)>),
    /// Addresses, and no answer to questions for the other family.
    OneFamily(Vec<[u8; 4]>),
    NoRecords,
    Code(ResponseCode),
    /// Bytes that are no message.
    Noise,
    /// The answer to another question.
    WrongId,
    Silent,
}

struct NameServer {
    at: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

impl NameServer {
    async fn start(zone: Zone) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (at, zone) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(zone)));
        let shown = Arc::clone(&zone);
        tokio::spawn(async move {
            let mut buffer = [0; 1_024];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let zone = shown.lock().unwrap().clone();
                if let Some(answer) = answer(&zone, &Message::from_vec(&buffer[..length]).unwrap()) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Self { at, zone }
    }

    fn says(&self, zone: Zone) {
        *self.zone.lock().unwrap() = zone;
    }
}

fn answer(zone: &Zone, query: &Message) -> Option<Vec<u8>> {
    let mut message = query.clone();
    message.metadata.message_type = MessageType::Response;
    message.metadata.authoritative = true;
    let asked = query.queries[0].clone();
    let record = |data| Record::from_rdata(asked.name().clone(), 5, data);
    match zone {
        Zone::Silent => return None,
        Zone::Noise => return Some(b"\xff\xff no message".to_vec()),
        Zone::WrongId => message.metadata.id = message.metadata.id.wrapping_add(1),
        Zone::Code(code) => message.metadata.response_code = *code,
        Zone::NoRecords => {}
        Zone::OneFamily(_) if asked.query_type() != RecordType::A => return None,
        // Targets of services: the number of the first letter.
        Zone::Services(_) if asked.query_type() == RecordType::A => {
            let first = asked.name().to_string().to_ascii_lowercase().bytes().next().unwrap_or(0) - b'a' + 1;
            message.answers.push(record(RData::A(A(Ipv4Addr::new(127, 0, 0, first)))));
        }
        Zone::OneFamily(all) | Zone::Addresses(all) if asked.query_type() == RecordType::A => {
            let records = all.iter().map(|ip| record(RData::A(A(Ipv4Addr::from(*ip)))));
            message.answers.extend(records);
        }
        Zone::Services(all) if asked.query_type() == RecordType::SRV => {
            let target = |host: &str| Name::from_ascii(host).unwrap();
            message
                .answers
                .extend(all.iter().map(|(host, port)| record(RData::SRV(SRV::new(1, 1, *port, target(host))))));
        }
        Zone::Addresses(_) | Zone::OneFamily(_) | Zone::Services(_) => {}
    }
    Some(message.to_vec().unwrap())
}

#[tokio::test]
async fn addresses_behind_a_name_follow_the_name_server_and_survive_all_its_faults() {
    let server = NameServer::start(Zone::Addresses(vec![[127, 0, 0, 1], [127, 0, 0, 2]])).await;
    let dns = vec!["engines.example.:8080".to_owned()];
    let discovery = Discovery { dns, name_server: Some(server.at), poll_ms: 100, ..Discovery::default() };
    let world = world(&["127.0.0.1", "127.0.0.2", "127.0.0.3"], discovery).await;
    expect(&world, &["127.0.0.1:8080", "127.0.0.2:8080"], false).await;
    let faults = [
        Zone::NoRecords,
        Zone::Code(ResponseCode::NXDomain),
        Zone::Code(ResponseCode::ServFail),
        Zone::Noise,
        Zone::WrongId,
    ];
    for fault in faults.into_iter().chain([Zone::Code(ResponseCode::Refused), Zone::Silent]) {
        server.says(fault.clone());
        let told = expect(&world, &["127.0.0.1:8080", "127.0.0.2:8080"], true).await;
        assert!(told["error"].is_string(), "{fault:?}: {told}");
        server.says(Zone::Addresses(vec![[127, 0, 0, 1], [127, 0, 0, 2]]));
        expect(&world, &["127.0.0.1:8080", "127.0.0.2:8080"], false).await;
    }
    server.says(Zone::Addresses(vec![[127, 0, 0, 3], [127, 0, 0, 1], [127, 0, 0, 3]]));
    expect(&world, &["127.0.0.1:8080", "127.0.0.3:8080"], false).await;
}

#[tokio::test]
async fn addresses_are_used_though_questions_for_the_other_family_get_no_answer() {
    let server = NameServer::start(Zone::OneFamily(vec![[127, 0, 0, 1]])).await;
    let dns = vec!["engines.example.:8080".to_owned()];
    let discovery = Discovery { dns, name_server: Some(server.at), poll_ms: 100, ..Discovery::default() };
    let world = world(&["127.0.0.1", "127.0.0.2"], discovery).await;
    expect(&world, &["127.0.0.1:8080"], false).await;
    server.says(Zone::OneFamily(vec![[127, 0, 0, 2]]));
    expect(&world, &["127.0.0.2:8080"], false).await;
    server.says(Zone::Code(ResponseCode::NXDomain));
    let told = expect(&world, &["127.0.0.2:8080"], true).await;
    assert_eq!(told["error"], "the name server knows no such name (NXDOMAIN)");
}

#[tokio::test]
async fn targets_of_services_are_looked_up_at_the_name_server_that_named_them() {
    let all = vec![("a.example.", 8_080), ("B.example.", 8_080), ("b.EXAMPLE.", 8_080)];
    let server = NameServer::start(Zone::Services(all)).await;
    let dns = vec!["_sglang._tcp.example.".to_owned()];
    let discovery = Discovery { dns, name_server: Some(server.at), poll_ms: 100, ..Discovery::default() };
    // Engines that are known by their addresses only.
    let world = world(&["127.0.0.1", "127.0.0.2"], discovery).await;
    expect(&world, &["a.example:8080", "b.example:8080"], false).await;
    for _ in 0..100 {
        ms(50).await;
        let servers = world.get("/proxy/servers").await.1;
        if servers.as_array().unwrap().iter().all(|server| server["health"] == "up") {
            return;
        }
    }
    panic!("an engine behind a target is not reached");
}

#[tokio::test]
async fn services_have_ports_of_their_own() {
    let server = NameServer::start(Zone::Services(vec![("a.example.", 8_080), ("b.example.", 8_080)])).await;
    let dns = vec!["_sglang._tcp.example.".to_owned()];
    let discovery = Discovery { dns, name_server: Some(server.at), poll_ms: 100, ..Discovery::default() };
    let world = world(&["a.example", "b.example"], discovery).await;
    expect(&world, &["a.example:8080", "b.example:8080"], false).await;
    // "Not available at this domain" by RFC 2782 is no reason to drop the fleet.
    server.says(Zone::Services(vec![(".", 0)]));
    expect(&world, &["a.example:8080", "b.example:8080"], true).await;
    server.says(Zone::Services(vec![("b.example.", 8_080), ("c.example.", 9_000)]));
    expect(&world, &["b.example:8080", "c.example:9000"], false).await;
}
