//! Requests that must stay where their residency says.

use crate::fixture::{World, chat, ms, replica, whole};
use bytes::Bytes;
use gorgo_live::config::{Config, PeerConfig, ReplicaConfig, Residency, ResidencyRule, Role};
use gorgo_live::testkit::{Engine, Net, Script};
use http::{HeaderValue, Request};
use http_body_util::Full;
use serde_json::json;
use std::time::Duration;

fn rules() -> Residency {
    let allow = |labels: &[&str]| labels.iter().map(|&label| label.to_owned()).collect();
    let eu = ResidencyRule { value: Some("eu".into()), allow: allow(&["eu-west", "eu-north"]), ..Default::default() };
    let moon = ResidencyRule { value: Some("moon".into()), allow: allow(&["moon"]), ..ResidencyRule::default() };
    let tenant = ResidencyRule {
        header: Some("x-tenant".into()),
        value: Some("acme".into()),
        allow: allow(&["dedicated"]),
        ..ResidencyRule::default()
    };
    Residency { header: Some("X-Data-Residency".into()), rules: vec![eu, moon, tenant] }
}

fn in_region(name: &str, region: Option<&str>) -> ReplicaConfig {
    ReplicaConfig { region: region.map(str::to_owned), ..replica(name) }
}

fn with(mut request: Request<Full<Bytes>>, pairs: &[(&'static str, &'static str)]) -> Request<Full<Bytes>> {
    for (name, value) in pairs {
        request.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    request
}

fn fenced(prompt: &str) -> Request<Full<Bytes>> {
    with(chat(prompt, true), &[("x-data-residency", "eu")])
}

/// `e0` in the US, `e1` in the EU, `e2` nowhere, `e3` in the EU and dedicated.
async fn world(script: Script) -> World {
    World::new(4, script, |config| {
        config.residency = rules();
        config.replicas = vec![
            in_region("e0", Some("us-east")),
            in_region("e1", Some("eu-west")),
            in_region("e2", None),
            ReplicaConfig { labels: vec!["dedicated".into()], ..in_region("e3", Some("eu-north")) },
        ];
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_residency_is_a_fence_and_an_unknown_one_is_refused() {
    let world = world(Script::default()).await;
    for n in 0..20 {
        let response = world.send(fenced(&format!("{n}"))).await;
        let who = response.headers()["x-gorgo-replica"].to_str().unwrap().to_owned();
        assert!(["e1", "e3"].contains(&&*who), "{who}");
        let line = response.headers()["x-gorgo-decision"].to_str().unwrap().to_owned();
        assert!(line.ends_with(" residency=eu-west,eu-north"), "{line}");
        whole(response).await;
    }
    let both = with(fenced("both"), &[("x-tenant", "acme")]);
    assert_eq!(world.send(both).await.headers()["x-gorgo-replica"], "e3");
    // Inside no replica: an error, never another one.
    let response = world.send(with(chat("m", true), &[("x-data-residency", "moon")])).await;
    assert_eq!(response.status(), 503);
    let text = String::from_utf8(whole(response).await.to_vec()).unwrap();
    assert!(text.contains("no replica inside this request's residency can answer it"), "{text}");
    for value in ["mars", "EU", ""] {
        let response = world.send(with(chat("m", true), &[("x-data-residency", value)])).await;
        assert_eq!(response.status(), 400);
        let text = String::from_utf8(whole(response).await.to_vec()).unwrap();
        assert!(text.contains("which is not known here; send one of eu, moon"), "{text}");
    }
    // What a client writes in the routers' own header narrows its request and reaches no engine.
    assert_eq!(world.send(with(chat("m", true), &[("x-gorgo-fence", "moon")])).await.status(), 503);
    whole(world.send(with(chat("m", true), &[("x-gorgo-fence", "us-east")])).await).await;
    assert!(world.engines.iter().flat_map(Engine::seen).all(|seen| !seen.headers.contains_key("x-gorgo-fence")));
    let (_, explained) = world.get("/explain").await;
    let decision = &explained["decisions"][0];
    assert_eq!(decision["residency"], "us-east");
    let excluded: Vec<_> = decision["candidates"].as_array().unwrap().iter().map(|c| c["excluded"].clone()).collect();
    assert_eq!(excluded, [json!(null), json!("outside"), json!("outside"), json!("outside")]);
    assert_eq!(world.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn however_engines_fail_no_attempt_leaves_the_fence() {
    let mut world = world(Script { prefill: Duration::from_millis(50), ..Script::default() }).await;
    let mut statuses = Vec::new();
    for n in 0..60u64 {
        // Errors of any kind inside; outside all is well.
        world.engines[1].script(|script| script.status = [200, 500, 429, 503][n as usize % 4]);
        world.engines[3].script(|script| script.status = [503, 200, 500, 429][n as usize / 4 % 4]);
        let (client, request) = (world.client.clone(), fenced(&format!("{n}")));
        let asked = tokio::spawn(async move { client.request(request).await.unwrap() });
        ms(n % 7 * 10).await;
        if n == 40 {
            world.engines.truncate(3); // e3 dies
        }
        let response = asked.await.unwrap();
        statuses.push(response.status().as_u16());
        whole(response).await;
        if n == 40 {
            break;
        }
    }
    assert!(statuses.iter().filter(|&&status| status == 200).count() > 10, "{statuses:?}");
    for outside in [0, 2] {
        assert_eq!(world.engines[outside].seen().len(), 0, "e{outside} saw a prompt that must not leave the EU");
    }
    world.engines.remove(1);
    ms(10_000).await;
    // They exist, so it is told apart from a residency that the fleet lacks: an outage, and worth another try.
    let response = world.send(fenced("all inside are dead")).await;
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].as_bytes()), (503, &b"1"[..]));
    assert!(String::from_utf8(whole(response).await.to_vec()).unwrap().contains("residency_unavailable"));
    let response = world.send(with(chat("m", true), &[("x-data-residency", "moon")])).await;
    assert!(String::from_utf8(whole(response).await.to_vec()).unwrap().contains("\"residency\""));
    let metrics = world.get("/metrics").await.1;
    let metrics = metrics.as_str().unwrap();
    for counted in [r#"status="timed-out",reason="inside-down""#, r#"status="rejected",reason="outside""#] {
        assert!(
            metrics.lines().any(|line| line.starts_with("gorgo_requests_total") && line.contains(counted)),
            "{metrics}"
        );
    }
    assert_eq!(world.engines.iter().map(|engine| engine.seen().len()).sum::<usize>(), 0);
    assert_eq!(world.send(chat("others are served", true)).await.status(), 200);
}

/// Two edges; the second's engine has a region of which the first is wrong.
#[tokio::test(start_paused = true)]
async fn a_peer_keeps_the_fence_of_a_forwarded_request() {
    for (region, honest) in [("eu-west", true), ("us-east", false)] {
        let net = Net::default();
        let mut worlds = Vec::new();
        for i in 0..2 {
            let engine = Engine::start(&net, &format!("e{i}"), Script::default());
            let own = if i == 0 { "us-east" } else { region };
            let peer = PeerConfig {
                url: format!("http://edge{}:8000", 1 - i),
                name: Some(format!("edge{}", 1 - i)),
                region: Some("eu-west".to_owned()),
                labels: Vec::new(),
            };
            // Only the first knows the rules.
            let residency = if i == 0 { rules() } else { Residency::default() };
            let config = Config {
                role: Role::Edge,
                replicas: vec![in_region(&format!("e{i}"), Some(own))],
                peers: vec![peer],
                residency,
                ..Config::default()
            };
            worlds.push(World::with(net.clone(), vec![engine], config, &format!("edge{i}")).await);
        }
        ms(1_000).await;
        for n in 0..5 {
            let mut request = fenced(&format!("{n}"));
            *request.uri_mut() = "http://edge0:8000/v1/chat/completions".parse().unwrap();
            let response = worlds[0].client.request(request).await.unwrap();
            assert_eq!(response.status() == 200, honest, "{:?}", response.status());
            whole(response).await;
        }
        let seen: Vec<usize> = worlds.iter().map(|world| world.engines[0].seen().len()).collect();
        assert_eq!(seen, if honest { [0, 5] } else { [0, 0] });
    }
}

#[tokio::test(start_paused = true)]
async fn no_path_and_no_spelling_leads_a_model_past_its_fence_or_to_another_engine() {
    let world = World::new(2, Script::default(), |config| {
        let rule = ResidencyRule { model: Some("medical".into()), allow: vec!["eu".into()], ..Default::default() };
        config.residency.rules = vec![rule];
        config.replicas = vec![in_region("e0", Some("us")), in_region("e1", Some("eu"))];
        config.policy = serde_json::from_str(r#"{"name": "round-robin"}"#).unwrap();
    })
    .await;
    world.engines[0].script(|s| s.models = vec!["open".to_owned(), "medical".to_owned()]);
    world.engines[1].script(|s| s.models = vec!["open".to_owned(), "medical".to_owned(), "voice".to_owned()]);
    ms(2_500).await;
    let send = async |method: &str, path: &str, kind: &str, body: &str| {
        let request = Request::builder().method(method).uri(format!("http://router:8000{path}"));
        let request = request.header("content-type", kind).body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        whole(world.send(request).await).await
    };
    let form = "--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nmedical\r\n--x--\r\n";
    for path in [
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
        "/v1/audio/speech",
        "/v1/images/generations",
        "/v1/moderations",
        "/v1/chat/completions/render",
    ] {
        for body in [
            r#"{"model":"medical"}"#,
            r#"{"m\u006fdel":"medical"}"#,
            r#"{"model":"open","model":"medical"}"#,
            "{}",
            "?",
        ] {
            send("POST", path, "application/json", body).await;
            send("POST", path, "application/json", body).await;
        }
    }
    for _ in 0..2 {
        send("PUT", "/v1/chat/completions", "application/json", r#"{"model":"medical","messages":[]}"#).await;
        send("POST", "/v1/audio/transcriptions", "multipart/form-data; boundary=x", form).await;
        send("POST", "/v1/audio/transcriptions", "multipart/form-data; boundary=x", "--x--").await;
        send("GET", "/v1/realtime?model=medic%61l", "text/plain", "").await;
        send("GET", "/v1/realtime?model=open&model=medical", "text/plain", "").await;
    }
    assert_eq!(world.engines[0].seen().len(), 0, "{:?}", world.engines[0].seen());
    assert!(!world.engines[1].seen().is_empty());
    for _ in 0..2 {
        send("POST", "/v1/audio/speech", "application/json", r#"{"model":"open"}"#).await;
        send("POST", "/v1/audio/speech", "application/json", r#"{"model":"voice"}"#).await;
    }
    let seen = world.engines[0].seen();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.body == r#"{"model":"open"}"#), "{seen:?}");
}
