use crate::fixture::{World, chat, ms, whole};
use gorgo_core::decide::decide_line;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::rng;
use gorgo_live::config::LogFile;
use gorgo_live::testkit::{Engine, Script};
use http::Method;
use serde_json::{Value, json};

async fn traffic(world: &World, requests: usize) {
    for n in 0..requests {
        let prompt = format!("family {} {}", n % 3, "some shared words ".repeat(100));
        whole(world.send(chat(&prompt, true)).await).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_decision_can_be_explained_and_its_log_replays_to_the_same_choices() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("decisions.jsonl");
    let log = LogFile { path: path.clone(), max_bytes: 1 << 20, keep: 1 };
    let world = World::new(3, Script::default(), |config| config.explain.log = Some(log)).await;
    traffic(&world, 12).await;
    let mut request = chat("why here", true);
    request.headers_mut().insert("x-request-id", "why-1".parse().unwrap());
    whole(world.send(request).await).await;
    let (status, told) = world.get("/explain/why-1").await;
    assert_eq!((status, &told["status"]), (200, &json!("finished")));
    let decision = &told["decisions"][0];
    assert_eq!(decision["candidates"].as_array().unwrap().len(), 3);
    for term in ["network_ms", "prefill_ms", "waiting_ms", "running_ms", "total_ms"] {
        assert!(decision["candidates"][0][term].is_number(), "{term}");
    }
    assert!(told["predicted_ttft_ms"].is_number() && told["actual_ttft_ms"].as_f64().unwrap() >= 20.0);
    assert_eq!(world.get("/explain/nobody").await.0, 404);
    ms(10).await;
    let mut policy = PolicyConfig::default().build();
    let mut ties = rng::stream(1, "policy", 0);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 13, "a line for each decision, and no outcomes unasked");
    for line in text.lines() {
        let said: Value = serde_json::from_str(line).unwrap();
        let replayed = decide_line(&mut *policy, &mut ties, line).unwrap();
        assert_eq!(said["decision"]["chosen"], json!(replayed.chosen), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn servers_come_and_go_and_answers_say_the_truth() {
    let world = World::new(1, Script::default(), |_| {}).await;
    let late = Engine::start(&world.net, "late", Script::default());
    let added = world.call(Method::POST, "/proxy/servers", &json!({"ip": "late", "port": 8080})).await;
    assert_eq!(added, (201, json!({"status": "added", "id": "late:8080"})));
    let again = world.call(Method::POST, "/proxy/servers", &json!({"ip": "late", "port": 8080})).await;
    assert_eq!((again.0, &again.1["status"]), (200, &json!("exists")));
    for (asked, differs) in [
        (json!({"url": "http://other:8080", "name": "late:8080"}), "address"),
        (json!({"ip": "late", "port": 8080, "region": "eu"}), "region"),
        (json!({"ip": "late", "port": 8080, "labels": ["tier=1"]}), "labels"),
    ] {
        let (status, told) = world.call(Method::POST, "/proxy/servers", &asked).await;
        assert!(status == 409 && told.to_string().contains(&format!("another {differs}")), "{status} {told}");
    }
    ms(1_100).await;
    let key = json!({"ip": "late", "port": 8081, "api_key": 91_827_364});
    let (status, told) = world.call(Method::POST, "/proxy/servers", &key).await;
    assert!(status == 400 && !told.to_string().contains("91827364"), "{status} {told}");
    let (_, servers) = world.get("/proxy/servers").await;
    assert_eq!(servers.as_array().unwrap().len(), 2);
    assert_eq!((&servers[1]["id"], &servers[1]["healthy"]), (&json!("late:8080"), &json!(true)));
    assert_eq!(servers[1]["metrics"]["max_total_num_tokens"], 400_000);
    let drained = world.call(Method::POST, "/proxy/servers/drain", &json!({"id": "e0"})).await;
    assert_eq!(drained.1, json!({"id": "e0", "draining": true}));
    traffic(&world, 3).await;
    assert_eq!((world.engines[0].seen().len(), late.seen().len()), (0, 3));
    world.call(Method::POST, "/proxy/servers/drain", &json!({"id": "e0", "draining": false})).await;
    assert_eq!(world.call(Method::DELETE, "/proxy/servers?id=late:8080", &Value::Null).await.0, 200);
    assert_eq!(world.call(Method::DELETE, "/proxy/servers?id=late:8080", &Value::Null).await.0, 404);
    assert_eq!(world.call(Method::DELETE, "/proxy/servers", &Value::Null).await.0, 400);
    traffic(&world, 3).await;
    assert_eq!((world.engines[0].seen().len(), late.seen().len()), (3, 3));
    for (body, why) in [
        (json!({"ip": "x"}), "201"),
        (json!({"url": "ftp://x"}), "ftp://x"),
        (json!({"host": "x"}), "unknown field `host`"),
        (json!({}), "either `url`, or `ip`"),
    ] {
        let (status, told) = world.call(Method::POST, "/proxy/servers", &body).await;
        assert!(status == 201 && why == "201" || status == 400 && told.to_string().contains(why), "{status} {told}");
    }
}

#[tokio::test(start_paused = true)]
async fn policies_are_switched_and_tuned_with_checks_and_get_changes_nothing() {
    let world = World::new(2, Script::default(), |_| {}).await;
    assert_eq!(world.get("/proxy/policy").await.1["current"], "gorgo");
    assert_eq!(world.get("/proxy/status").await.1["ms_per_token"], 0.094, "the preset's value is shown");
    assert_eq!(world.get("/proxy/policy?set=random").await.0, 405);
    let switched = world.call(Method::POST, "/proxy/policy", &json!({"policy": "least_loaded"})).await.1;
    assert_eq!((&switched["old_policy"], &switched["new_policy"]), (&json!("gorgo"), &json!("least-load")));
    let (status, told) = world.call(Method::POST, "/proxy/policy", &json!({"policy": "gorg"})).await;
    assert!(status == 400 && told.to_string().contains("did you mean `gorgo`?"), "{told}");
    world.call(Method::PUT, "/lb/policy", &json!({"policy": {"name": "gorgo", "preset": "paper-v3"}})).await;
    let tuned =
        world.call(Method::POST, "/proxy/tune", &json!({"ms_per_token": 0, "running_cost_factor": 0.25})).await.1;
    assert_eq!((&tuned["ms_per_token"], &tuned["running_cost_factor"]), (&json!(0.0), &json!(0.25)));
    let (status, told) =
        world.call(Method::POST, "/proxy/tune", &json!({"ms_per_token": 0.5, "running_cost_factor": -1})).await;
    assert!(status == 400 && told.to_string().contains("`running_cost_factor` is -1"), "{told}");
    let (_, now) = world.get("/proxy/status").await;
    assert_eq!((&now["routing_policy"], &now["ms_per_token"]), (&json!("gorgo"), &json!(0.0)));
    for path in ["/proxy/cache/clear", "/proxy/tune", "/lb/trace/start", "/proxy/metrics/clear", "/lb/cache/clear"] {
        assert_eq!(world.get(path).await.0, 405, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn clearing_the_cache_counts_nodes_and_flushes_engines_when_asked() {
    let world = World::new(2, Script::default(), |_| {}).await;
    traffic(&world, 6).await;
    let (_, stats) = world.get("/proxy/prefix/stats").await;
    assert!(stats["nodes"].as_u64().unwrap() > 3 && stats["unique_server_count"].as_u64().unwrap() >= 1, "{stats}");
    let cleared = world.call(Method::POST, "/lb/cache/clear", &json!({"engines": true})).await.1;
    assert_eq!(cleared["nodes_cleared"].as_u64().unwrap() + 1, stats["nodes"].as_u64().unwrap());
    assert_eq!(cleared["engines"], json!({"e0": "flushed", "e1": "flushed"}));
    assert_eq!((world.engines[0].flushed(), world.get("/proxy/prefix/stats").await.1["nodes"].clone()), (1, json!(1)));
}

#[tokio::test(start_paused = true)]
async fn tables_metrics_shadows_and_captures_tell_of_every_request() {
    let policies = vec![PolicyConfig::parse("round-robin", Default::default()).unwrap(), PolicyConfig::default()];
    let world = World::new(2, Script::default(), |config| config.shadow.policies = policies).await;
    assert_eq!(world.call(Method::POST, "/proxy/trace/start", &Value::Null).await.1["status"], "started");
    traffic(&world, 9).await;
    ms(10).await;
    let (_, summary) = world.get("/proxy/metrics/summary").await;
    assert_eq!((&summary["count"], &summary["success_count"]), (&json!(9), &json!(9)));
    assert!(summary["avg_ttft_ms"].as_f64().unwrap() >= 30.0, "{summary}");
    let (_, csv) = world.get("/proxy/metrics/export").await;
    assert_eq!(csv.as_str().unwrap().lines().count(), 10);
    let (_, shadow) = world.get("/proxy/shadow").await;
    let rows = shadow["shadows"].as_array().unwrap();
    assert_eq!((&rows[0]["decided"], &rows[0]["policy"]), (&json!(9), &json!("round-robin")));
    assert!(rows[1]["hit_rate"].as_f64() > rows[0]["hit_rate"].as_f64(), "{shadow}");
    let (_, text) = world.get("/metrics").await;
    let text = text.as_str().unwrap();
    for line in [
        "gorgo_in_flight_requests 0.0",
        "gorgo_build_info{version=\"0.1.0\"} 1",
        "gorgo_limit_used{limit=\"requests\"} 0.0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    for family in ["gorgo_requests_total{status=\"finished\"", "gorgo_time_to_first_token_seconds_count{"] {
        let of = text.lines().filter(|line| line.starts_with(family));
        let counts = of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        assert_eq!(counts.sum::<f64>(), 9.0, "{family}\n{text}");
    }
    assert!(text.contains("replica=\"e0\",model=\"mock\",policy=\"gorgo\""), "{text}");
    let latest = world.get("/explain").await.1;
    assert_eq!(world.get("/explain?order=latest").await.1, latest);
    assert!(latest["decisions"][0]["chosen"].is_string(), "{latest}");
    assert_eq!(world.get("/explain?order=best").await.0, 400);
    let (_, part) = world.call(Method::POST, "/proxy/trace/stop", &Value::Null).await;
    assert_eq!((part["records"].as_array().unwrap().len(), part["request_ids"].as_array().unwrap().len()), (9, 9));
    let candidates = part["candidates"][0].as_array().unwrap();
    assert_eq!((candidates[0]["replica"].as_str(), candidates.len()), (Some("e0"), 2));
    assert!(candidates.iter().all(|one| one["total_ms"].is_f64()), "{candidates:?}");
    assert_eq!(world.call(Method::POST, "/proxy/trace/stop", &Value::Null).await.0, 400);
    assert_eq!(world.call(Method::POST, "/proxy/metrics/clear", &Value::Null).await.1["cleared"], 9);
}

#[tokio::test(start_paused = true)]
async fn a_configuration_is_taken_over_whole_or_not_at_all() {
    let world = World::new(1, Script::default(), |_| {}).await;
    let _late = Engine::start(&world.net, "late", Script::default());
    let put = |text: String| async {
        let request = http::Request::put("http://router:8000/proxy/config")
            .header("content-type", "application/toml")
            .body(http_body_util::Full::new(text.into()))
            .unwrap();
        let response = world.send(request).await;
        (response.status().as_u16(), String::from_utf8_lossy(&whole(response).await).into_owned())
    };
    let (status, told) = put("policy = \"least-load\"\nreplicas = [{url = \"http://late:8080\", name = \"late\"}]\ntimeouts.first_token_ms = 1000\n".into()).await;
    assert_eq!(status, 200, "{told}");
    for change in ["policy: least-load", "removed e0", "added late", "timeouts.first_token_ms = 1000 (was 600000)"] {
        assert!(told.contains(change), "{told}");
    }
    let (status, told) = put("listen = \"127.0.0.1:9\"\n".into()).await;
    assert!(status == 400 && told.contains("`listen` is different; it cannot change"), "{told}");
    let (status, told) = put("polcy = 1\n".into()).await;
    assert!(status == 400 && told.contains("did you mean `policy`?"), "{told}");
    let (_, toml) = world.get("/proxy/config").await;
    assert!(toml.as_str().unwrap().contains("name = \"least-load\""));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_change_while_running_is_refused_with_a_sentence() {
    let world = World::new(1, Script::default(), |_| {}).await;
    let before = world.state.config();
    for (key, value) in [
        ("limits.bodies_bytes", "bodies_bytes = 1000000000"),
        ("limits.connections", "connections = 5"),
        ("timeouts.keep_alive_ms", "keep_alive_ms = 9000"),
        ("timeouts.connect_ms", "connect_ms = 77"),
        ("seed", "seed = 9"),
    ] {
        let mut text = String::from("[[replicas]]\nurl = \"http://e0:8080\"\nname = \"e0\"\n");
        match key.split_once('.') {
            Some((section, _)) => text.push_str(&format!("[{section}]\n{value}\n")),
            None => text.insert_str(0, &format!("{value}\n")),
        }
        let request = http::Request::put("http://router:8000/proxy/config")
            .header("content-type", "application/toml")
            .body(http_body_util::Full::new(text.into()))
            .unwrap();
        let response = world.send(request).await;
        assert_eq!(response.status(), 400, "{key}");
        let told: serde_json::Value = serde_json::from_slice(&crate::fixture::whole(response).await).unwrap();
        let message = told["error"]["message"].as_str().unwrap();
        assert!(message.contains(key) && message.contains("restart it"), "{message}");
        assert_eq!(*world.state.config(), *before, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn changes_over_the_admin_api_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.toml");
    let net = gorgo_live::testkit::Net::default();
    let engines = || ["e0", "e1", "late"].map(|name| Engine::start(&net, name, Script::default()));
    let config = || {
        let replicas = vec![crate::fixture::replica("e0"), crate::fixture::replica("e1")];
        gorgo_live::config::Config { replicas, state: Some(path.clone()), ..Default::default() }
    };
    let world = World::with(net.clone(), engines().into(), config(), "router").await;
    assert!(!path.exists(), "nothing has changed");
    world.call(Method::POST, "/proxy/policy", &json!({"policy": "least-load"})).await;
    let late = json!({"url": "http://late:8080", "id": "late", "region": "us", "api_key": "engine-key"});
    assert_eq!(world.call(Method::POST, "/proxy/servers", &late).await.0, 201);
    assert_eq!(world.call(Method::DELETE, "/proxy/servers?id=e1", &Value::Null).await.0, 200);
    world.call(Method::POST, "/proxy/servers/drain", &json!({"id": "late"})).await;
    world.call(Method::POST, "/lb/config", &json!({"max_concurrent": 7})).await;
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
    assert_eq!(mode & 0o777, 0o600, "a replica's key stands in it");
    drop(world);
    let world = World::with(net.clone(), engines().into(), config(), "router").await;
    let (_, servers) = world.get("/proxy/servers").await;
    let shown: Vec<_> = servers.as_array().unwrap().iter().map(|s| (&s["id"], &s["draining"], &s["region"])).collect();
    let (us, no) = (json!("us"), json!(null));
    assert_eq!(shown, [(&json!("e0"), &json!(false), &no), (&json!("late"), &json!(true), &us)]);
    assert_eq!(world.get("/proxy/policy").await.1["current"], "least-load");
    assert_eq!(world.get("/lb/config").await.1["max_concurrent"], 7);
    // What is as it was configured needs no file any more.
    world.call(Method::POST, "/proxy/policy", &json!({"policy": "gorgo"})).await;
    assert!(!std::fs::read_to_string(&path).unwrap().contains("least-load"));
    drop(world);
    std::fs::write(&path, "polic = 1").unwrap();
    let error = gorgo_live::start(config(), None, net.dial()).unwrap_err().to_string();
    assert!(error.contains("state.toml") && error.contains("remove the file"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_replica_with_too_many_labels_is_refused() {
    let world = World::new(1, Script::default(), |_| {}).await;
    let labels: Vec<String> = (0..65).map(|n| format!("l{n}")).collect();
    let ask = json!({"url": "http://late:8080", "labels": labels});
    let (status, told) = world.call(Method::POST, "/proxy/servers", &ask).await;
    assert_eq!(status, 400);
    assert!(told.to_string().contains("65 labels are more than the 64 that fit"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_never_reports_cached_tokens_is_shown() {
    for (cached, shown) in [(None, json!(false)), (Some(3), json!(true))] {
        let world = World::new(1, Script { cached, ..Script::default() }, |_| {}).await;
        assert_eq!(world.get("/proxy/servers").await.1[0]["cache_report"], Value::Null, "nothing is known yet");
        traffic(&world, 30).await;
        assert_eq!(world.get("/proxy/servers").await.1[0]["cache_report"], shown);
    }
}
