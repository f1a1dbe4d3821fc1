//! Faults on command, for tests of what stands in front of the server. Only from loopback, whatever the API key.

use super::errors::{Refusal, json_response};
use super::server::App;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::Response;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fault {
    /// How long it lasts (crash: how long nothing listens), s.
    seconds: Option<f64>,
    /// Time from the restart to ready, s.
    cold_start_s: Option<f64>,
}

fn parse(body: &[u8]) -> Result<Fault, Refusal> {
    let fault: Fault = match body.is_empty() {
        true => Fault::default(),
        false => serde_json::from_slice(body).map_err(|e| {
            Refusal::bad(format!(
                "the body cannot be read ({e}); give {{\"seconds\": 5, \"cold_start_s\": 30}} or less"
            ))
        })?,
    };
    for (key, s) in [("seconds", fault.seconds), ("cold_start_s", fault.cold_start_s)] {
        if s.is_some_and(|s| !(0.0..=3600.0).contains(&s)) {
            return Err(Refusal::bad(format!("{key} is {}: give 0 to 3600", s.unwrap_or(f64::NAN))));
        }
    }
    Ok(fault)
}

/// `POST /gorgo/crash`: all connections are reset, nothing listens for `seconds` (5), then it starts cold.
pub async fn crash(State(app): State<Arc<App>>, body: Bytes) -> Response<Body> {
    match parse(&body) {
        Ok(fault) => {
            let down = fault.seconds.unwrap_or(5.0);
            let app = Arc::clone(&app);
            tokio::spawn(async move {
                // The answer to this request should still leave.
                tokio::time::sleep(Duration::from_millis(20)).await;
                app.crash(Duration::from_secs_f64(down), fault.cold_start_s);
            });
            json_response(200, &json!({"crashed": true, "down_s": down}))
        }
        Err(refusal) => refusal.openai(),
    }
}

/// `POST /gorgo/hang`: the scheduler stands still for `seconds` (10); HTTP goes on.
pub async fn hang(State(app): State<Arc<App>>, body: Bytes) -> Response<Body> {
    match parse(&body) {
        Ok(fault) => {
            let seconds = fault.seconds.unwrap_or(10.0);
            app.engine.hang(Duration::from_secs_f64(seconds));
            json_response(200, &json!({"hangs": true, "seconds": seconds}))
        }
        Err(refusal) => refusal.openai(),
    }
}

/// `POST /gorgo/slow-start`: the process is replaced at once by one that needs `cold_start_s` to be ready.
pub async fn slow_start(State(app): State<Arc<App>>, body: Bytes) -> Response<Body> {
    match parse(&body) {
        Ok(fault) => {
            app.engine.crash();
            app.engine.restart(fault.cold_start_s);
            json_response(200, &json!({"starting": true, "cold_start_s": fault.cold_start_s}))
        }
        Err(refusal) => refusal.openai(),
    }
}
