//! Traces at a collector: an axum server that reads what OTLP says it gets.

use crate::fixture::{World, chat, ms, whole};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use gorgo_live::testkit::Listener;
use gorgo_live::testkit::otel::{Settings, start};
use gorgo_live::testkit::{Net, Script};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Got = Arc<Mutex<Vec<Value>>>;

/// Keeps the spans it is sent, with their resource; answers `refusals` batches with 503 first.
fn collector(net: &Net, refusals: usize) -> Got {
    let got = Got::default();
    let left = Arc::new(Mutex::new(refusals));
    let take = move |State(got): State<Got>, headers: HeaderMap, axum::Json(batch): axum::Json<Value>| async move {
        let mut left = left.lock().unwrap();
        if *left > 0 {
            *left -= 1;
            return Err(axum::http::StatusCode::SERVICE_UNAVAILABLE);
        }
        assert_eq!(headers["api-key"], "k");
        for resource in batch["resourceSpans"].as_array().unwrap() {
            assert_eq!(
                resource["resource"]["attributes"][0],
                json!({"key": "service.name", "value": {"stringValue": "edge"}})
            );
            for scope in resource["scopeSpans"].as_array().unwrap() {
                got.lock().unwrap().extend(scope["spans"].as_array().unwrap().iter().cloned());
            }
        }
        Ok(axum::Json(json!({})))
    };
    let routes = axum::Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&got));
    let mut listener = net.listen("collector", 4318);
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let service = TowerToHyperService::new(routes.clone());
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(io), service).await;
            });
        }
    });
    got
}

async fn traced(engines: usize, script: Script, refusals: usize) -> (World, Got) {
    let world = World::new(engines, script, |_| {}).await;
    let got = collector(&world.net, refusals);
    let pairs = BTreeMap::from([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
        ("OTEL_SERVICE_NAME", "edge"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=k"),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
    ]);
    let settings = Settings::from_environment(|name| pairs.get(name).map(ToString::to_string)).unwrap().unwrap();
    start(&world.state.otel, world.state.clock(), || "edge".to_owned(), settings, world.net.client());
    (world, got)
}

fn ns(span: &Value, key: &str) -> u64 {
    span[key].as_str().unwrap().parse().unwrap()
}

fn about<'a>(span: &'a Value, key: &str) -> &'a Value {
    let all = span["attributes"].as_array().unwrap();
    &all.iter().find(|a| a["key"] == key).unwrap_or_else(|| panic!("no {key} in {span}"))["value"]
}

#[tokio::test(start_paused = true)]
async fn a_request_is_one_trace_from_its_clients_to_the_engines() {
    let (world, got) = traced(2, Script { prefill: Duration::from_millis(70), ..Script::default() }, 0).await;
    let mut request = chat("hello", true);
    let client = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    request.headers_mut().insert("traceparent", client.parse().unwrap());
    request.headers_mut().insert("tracestate", "vendor=1".parse().unwrap());
    whole(world.send(request).await).await;
    let engine = world.engines.iter().flat_map(gorgo_live::testkit::Engine::seen).next().unwrap();
    assert_eq!(engine.headers["tracestate"], "vendor=1");
    let passed = engine.headers["traceparent"].to_str().unwrap().to_owned();
    world.state.otel.flush(Duration::from_secs(5)).await;

    let spans = got.lock().unwrap().clone();
    let names: Vec<&str> = spans.iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names[0], "request");
    assert!(names.ends_with(&["first-token", "stream"]), "{names:?}");
    let request = &spans[0];
    assert_eq!(request["parentSpanId"], "b7ad6b7169203331");
    assert_eq!(request["kind"], 2);
    let id = request["spanId"].as_str().unwrap();
    assert_eq!(passed, format!("00-0af7651916cd43dd8448eb211c80319c-{id}-01"), "engines hang below this span");
    assert!(spans.iter().all(|s| s["traceId"] == "0af7651916cd43dd8448eb211c80319c"));
    assert!(spans[1..].iter().all(|s| s["parentSpanId"] == id && s["spanId"] != id));
    assert_eq!(ns(&spans[1], "startTimeUnixNano"), ns(request, "startTimeUnixNano"));
    assert_eq!(ns(spans.last().unwrap(), "endTimeUnixNano"), ns(request, "endTimeUnixNano"));
    assert!(spans[1..].windows(2).all(|w| ns(&w[0], "endTimeUnixNano") == ns(&w[1], "startTimeUnixNano")));
    let first = spans.iter().find(|s| s["name"] == "first-token").unwrap();
    let waited = ns(first, "endTimeUnixNano") - ns(request, "startTimeUnixNano");
    assert!((70_000_000..90_000_000).contains(&waited), "{waited}");
    assert_eq!(about(request, "http.response.status_code")["intValue"], "200");
    assert_eq!(about(request, "gen_ai.usage.output_tokens")["intValue"], "4");
    assert!(about(request, "gorgo.replica")["stringValue"].as_str().unwrap().starts_with('e'));
    assert_eq!(request["status"], json!({}));
}

#[tokio::test(start_paused = true)]
async fn failures_are_marked_unsampled_requests_left_out_and_busy_collectors_asked_again() {
    let (world, got) = traced(1, Script { status: 500, ..Script::default() }, 2).await;
    assert_eq!(world.send(chat("fails", false)).await.status(), 500);
    let mut quiet = chat("not sampled", false);
    let client = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    quiet.headers_mut().insert("traceparent", client.parse().unwrap());
    world.send(quiet).await;
    assert!(world.engines[0].seen().last().unwrap().headers["traceparent"].to_str().unwrap().ends_with("-00"));
    ms(6_000).await; // two refusals and their pauses
    let spans = got.lock().unwrap().clone();
    let requests: Vec<&Value> = spans.iter().filter(|s| s["name"] == "request").collect();
    assert_eq!(requests.len(), 1, "{spans:?}");
    assert_eq!(requests[0]["status"]["code"], 2);
    assert!(requests[0].get("parentSpanId").is_none());
    assert_eq!(about(requests[0], "http.response.status_code")["intValue"], "500");
    assert_eq!(world.state.otel.dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_collector_nothing_is_added_and_with_a_dead_one_nothing_is_late() {
    let world = World::new(1, Script::default(), |_| {}).await;
    whole(world.send(chat("x", true)).await).await;
    assert!(!world.engines[0].seen()[0].headers.contains_key("traceparent"));
    let nowhere =
        Settings::from_environment(|name| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| "http://nobody:1".into()));
    start(&world.state.otel, world.state.clock(), || "edge".to_owned(), nowhere.unwrap().unwrap(), world.net.client());
    for n in 0..20 {
        let began = tokio::time::Instant::now();
        whole(world.send(chat(&format!("{n}"), true)).await).await;
        assert!(began.elapsed() < Duration::from_millis(200), "a collector never holds up a request");
    }
    assert_eq!(world.left(), (0, 0));
}
