//! Fault injection over HTTP, for tests of routers in front of the server. Accepted from loopback only, without the
//! API key.

use super::app::App;
use super::errors::{ApiError, json_response};
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
    /// Duration of the fault (crash: how long connections are refused), s.
    seconds: Option<f64>,
    /// Time from the restart until the engine is ready, s.
    cold_start_s: Option<f64>,
}

fn parse(body: &[u8]) -> Result<Fault, ApiError> {
    let fault: Fault = match body.is_empty() {
        true => Fault::default(),
        false => serde_json::from_slice(body).map_err(|e| {
            ApiError::bad_request(format!(
                "the body cannot be read ({e}); give {{\"seconds\": 5, \"cold_start_s\": 30}} or less"
            ))
        })?,
    };
    for (key, s) in [("seconds", fault.seconds), ("cold_start_s", fault.cold_start_s)] {
        if s.is_some_and(|s| !(0.0..=3600.0).contains(&s)) {
            return Err(ApiError::bad_request(format!("{key} is {}: give 0 to 3600", s.unwrap_or(f64::NAN))));
        }
    }
    Ok(fault)
}

/// `POST /gorgo/crash`: resets all connections and refuses new ones for `seconds` (5), then restarts cold.
pub async fn crash(State(app): State<Arc<App>>, body: Bytes) -> Response<Body> {
    match parse(&body) {
        Ok(fault) => {
            let down = fault.seconds.unwrap_or(5.0);
            let app = Arc::clone(&app);
            tokio::spawn(async move {
                // The response to this request is sent before the crash.
                tokio::time::sleep(Duration::from_millis(20)).await;
                app.crash(Duration::from_secs_f64(down), fault.cold_start_s);
            });
            json_response(200, &json!({"crashed": true, "down_s": down}))
        }
        Err(error) => error.openai(),
    }
}

/// `POST /gorgo/hang`: the scheduler stops for `seconds` (10); HTTP goes on.
pub async fn hang(State(app): State<Arc<App>>, body: Bytes) -> Response<Body> {
    match parse(&body) {
        Ok(fault) => {
            let seconds = fault.seconds.unwrap_or(10.0);
            app.engine.hang(Duration::from_secs_f64(seconds));
            json_response(200, &json!({"hangs": true, "seconds": seconds}))
        }
        Err(error) => error.openai(),
    }
}

/// `POST /gorgo/slow-start`: replaces the process at once by one that needs `cold_start_s` to be ready.
pub async fn slow_start(State(app): State<Arc<App>>, body: Bytes) -> Response<Body> {
    match parse(&body) {
        Ok(fault) => {
            app.engine.crash();
            app.engine.restart(fault.cold_start_s);
            json_response(200, &json!({"starting": true, "cold_start_s": fault.cold_start_s}))
        }
        Err(error) => error.openai(),
    }
}
