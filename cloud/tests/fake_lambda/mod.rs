//! A server that behaves as Lambda Cloud does, with the faults its users reported. An API key is an account of its own.
#![allow(dead_code)] // two test programs use different parts

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use gorgo_cloud::lambda::{Lambda, LambdaConfig};
use gorgo_cloud::{Ledger, Time};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use world::{Fault, World};

mod contract;
pub(crate) mod world;

type Accounts = Arc<Mutex<BTreeMap<String, Arc<Mutex<World>>>>>;

/// The server.
pub(crate) struct Fake {
    pub(crate) url: String,
    accounts: Accounts,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let accounts = Accounts::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/api/v1", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(answer).with_state(accounts.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, accounts }
    }

    /// A new account whose faults are drawn by `seed`; every launch must stand in `ledger` first.
    pub(crate) fn account(
        &self,
        key: &str,
        seed: u64,
        faults: bool,
        time: &Time,
        ledger: Option<Ledger>,
    ) -> Arc<Mutex<World>> {
        let world = Arc::new(Mutex::new(World::new(seed, faults, time.clone(), ledger)));
        self.accounts.lock().unwrap().insert(key.to_owned(), world.clone());
        world
    }

    /// Another API key of an account.
    pub(crate) fn another_key(&self, key: &str, world: &Arc<Mutex<World>>) {
        self.accounts.lock().unwrap().insert(key.to_owned(), world.clone());
    }

    pub(crate) fn client(&self, key: &str, time: &Time, folder: &Path) -> Lambda {
        Lambda::new(LambdaConfig {
            service: self.url.clone(),
            key: key.to_owned().into(),
            folder: folder.to_owned(),
            ssh_from: "0.0.0.0/0".to_owned(),
            ssh_user: "ubuntu".to_owned(),
            ssh_port: None,
            time: time.clone(),
        })
        .unwrap()
    }
}

async fn answer(State(accounts): State<Accounts>, request: Request) -> Response {
    let key = request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let world = key.strip_prefix("Bearer ").and_then(|key| accounts.lock().unwrap().get(key).cloned());
    let Some(world) = world else {
        return refuse(StatusCode::UNAUTHORIZED, "global/invalid-api-key");
    };
    let (method, path) = (request.method().as_str().to_lowercase(), request.uri().path().to_owned());
    let bytes = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap_or_default();
    let body: Value = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or_default() };
    if let Err(why) = contract::check(&method, &path, &body) {
        world.lock().unwrap().violations.push(format!("{method} {path}: {why}"));
        return refuse(StatusCode::BAD_REQUEST, "global/invalid-parameters");
    }
    let mut world = world.lock().unwrap();
    let fault = world.draw(&path);
    match fault {
        Fault::TooMany { wait } => {
            let mut headers = HeaderMap::new();
            if wait {
                headers.insert("retry-after", "3".parse().unwrap());
            }
            return (StatusCode::TOO_MANY_REQUESTS, headers).into_response();
        }
        Fault::HtmlBefore => return html(),
        Fault::None | Fault::HtmlAfter | Fault::Lost => {}
    }
    let done = world.act(&method, path.trim_start_matches("/api/v1"), &body);
    if done.is_ok() && path.ends_with("/launch") && matches!(fault, Fault::HtmlAfter | Fault::Lost) {
        world.unanswered += 1;
    }
    match fault {
        Fault::HtmlAfter => html(),
        Fault::Lost => lost(),
        _ => match done {
            Ok(data) => axum::Json(json!({"data": data})).into_response(),
            Err((status, code)) => refuse(StatusCode::from_u16(status).unwrap(), code),
        },
    }
}

fn refuse(status: StatusCode, code: &str) -> Response {
    (status, axum::Json(json!({"error": {"code": code, "message": "no", "suggestion": "think"}}))).into_response()
}

fn html() -> Response {
    (StatusCode::BAD_GATEWAY, "<html><body>502 Bad Gateway</body></html>").into_response()
}

/// An answer whose connection breaks.
fn lost() -> Response {
    let broken = futures_util::stream::once(async { Err::<Vec<u8>, _>(std::io::Error::other("broken")) });
    Body::from_stream(broken).into_response()
}
