//! Self-test: the most streams per second that this client completes on this machine, measured with a closed loop
//! against a server that answers immediately. A benchmark with a rate near this figure measures the client.

use super::bench::{Bench, BenchError};
use super::profile::{Limits, Profile};
use super::progress::Progress;
use super::run::Run;
use super::source::SourceOptions;
use super::target::Target;
use axum::Router;
use axum::body::Body;
use axum::http::header;
use axum::response::Response;
use axum::routing::post;
use gorgo_core::Time;
use gorgo_core::request::TraceRequest;
use gorgo_sim::network::NetworkConfig;
use std::sync::Arc;

const ANSWER: &str = concat!(
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" the\"}}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":16,\"completion_tokens\":1}}\n\n",
    "data: [DONE]\n\n"
);

async fn answer_immediately() -> Response<Body> {
    let mut answer = Response::new(Body::from(ANSWER));
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    answer
}

/// Completed streams per second, 64 at a time, until one of the `limits`.
///
/// # Errors
/// The system has no socket or thread left, or a limit is out of range.
pub async fn streams_per_second(limits: Limits) -> Result<f64, BenchError> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let target = Target { url: format!("http://{}", listener.local_addr()?), name: "self".to_owned(), place: None };
    let app = Router::new().route("/v1/chat/completions", post(answer_immediately));
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    let row = TraceRequest::lone(0, Time::ZERO, 16, 1, 16, [1].into());
    let bench = Bench {
        rows: [row].into(),
        targets: [target].into(),
        profile: Profile::Concurrent(64),
        limits,
        source: SourceOptions::default(),
        seed: 0,
        warmup_s: 0.0,
        timeout_s: 30.0,
        drain_s: 5.0,
        max_in_flight: 64,
        user_rtt: false,
        network: NetworkConfig::default(),
        key: None,
        tls: None,
    };
    let runs = bench.run(&Arc::new(Progress::default())).await;
    serving.abort();
    Ok(runs?.first().map_or(0.0, Run::per_second))
}
