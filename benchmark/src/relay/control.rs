//! Fault injection over HTTP: `GET /links`, `POST /links/NAME/partition|heal|reset`.

use super::link::Link;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;

type Links = Arc<Vec<Arc<Link>>>;

/// The routes of the control API, to be served on loopback only.
pub fn control(links: Vec<Arc<Link>>) -> Router {
    Router::new().route("/links", get(list)).route("/links/{name}/{action}", post(act)).with_state(Arc::new(links))
}

/// Serves [`control`] at `addr` until the runtime ends.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(links: Vec<Arc<Link>>, addr: SocketAddr) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(addr).await?;
    let app = control(links);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(())
}

async fn list(State(links): State<Links>) -> Json<Value> {
    Json(links.iter().map(|l| json!({"link": l.config, "state": l.state()})).collect())
}

async fn act(State(links): State<Links>, Path((name, action)): Path<(String, String)>) -> (StatusCode, Json<Value>) {
    let Some(link) = links.iter().find(|l| l.config.name == name) else {
        let known: Vec<&str> = links.iter().map(|l| l.config.name.as_str()).collect();
        let message = format!("no link `{name}`; known: {}", known.join(", "));
        return (StatusCode::NOT_FOUND, Json(json!({"error": {"message": message}})));
    };
    match action.as_str() {
        "partition" => link.partition(),
        "heal" => link.heal(),
        "reset" => link.reset(),
        _ => {
            let message = format!("no action `{action}`; known: partition, heal, reset");
            return (StatusCode::NOT_FOUND, Json(json!({"error": {"message": message}})));
        }
    }
    (StatusCode::OK, Json(json!({"link": name, "state": link.state()})))
}
