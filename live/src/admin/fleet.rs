//! Replicas and peers: list, add, remove, drain.

use super::levels::replicas;
use super::{Answer, Refusal, Shared, bad, read, tell};
use crate::config::{ReplicaConfig, Role, Secret, is_same_address};
use crate::discovery::watch::admit;
use crate::server::fleet::{drain_again, join, remove_by_operator};
use crate::state::{AddError, AppState};
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use gorgo_core::fleet::Kind;
use gorgo_core::residency::check_labels;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;

/// gotoni's `{id?, ip, port}` or `{url, name?, region?, ...}`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    #[serde(default, alias = "name")]
    id: Option<String>,
    #[serde(default)]
    ip: Option<String>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    ms_per_token: Option<f64>,
    #[serde(default)]
    kv_tokens: Option<u64>,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default)]
    api_key: Option<Secret>,
}

impl Address {
    fn replica(self) -> Result<ReplicaConfig, Refusal> {
        let url = match (self.url, self.ip, self.port) {
            (Some(url), None, None) => url,
            (None, Some(ip), port) if ip.contains(':') && !ip.starts_with('[') => {
                format!("[{ip}]:{}", port.unwrap_or(8080))
            }
            // gotoni's rule for hosted engines.
            (None, Some(ip), port) if port == Some(443) || ip.ends_with(".modal.host") => {
                format!("https://{ip}:{}", port.unwrap_or(443))
            }
            (None, Some(ip), port) => format!("{ip}:{}", port.unwrap_or(8080)),
            _ => return Err(bad("give either `url`, or `ip` and `port`")),
        };
        if let Some(rate) = self.ms_per_token.filter(|rate| !(0.0..=1e6).contains(rate)) {
            return Err(bad(format!("`ms_per_token` is {rate}; it must lie between 0 and 1000000")));
        }
        if self.api_key.as_ref().is_some_and(Secret::is_placeholder) {
            return Err(bad("`api_key` is \"(set)\", which stands for a key that is not shown; give the key itself"));
        }
        if let Err(wrong) = check_labels(&self.labels) {
            return Err(bad(format!("`labels`: {wrong}")));
        }
        Ok(ReplicaConfig {
            url,
            name: self.id,
            region: self.region,
            labels: self.labels,
            ms_per_token: self.ms_per_token,
            kv_tokens: self.kv_tokens,
            models: self.models,
            api_key: self.api_key,
            api_key_file: None,
        })
    }
}

const EXAMPLE: &str = "{\"ip\": \"10.0.0.1\", \"port\": 8080}";

pub(super) async fn servers(State(node): Shared) -> Answer {
    tell(&json!(replicas(&node, |kind| kind != Kind::Peer)))
}

pub(super) async fn add_server(State(node): Shared, body: Bytes) -> Answer {
    if node.role() == Role::Edge {
        return Err(bad("an edge stands beside one engine; add other edges with `gorgo lb peers add URL`"));
    }
    let replica = read::<Address>(&body, EXAMPLE)?.replica()?;
    let name = replica.shown_name();
    if admit(&node, &name, &replica.url) {
        let answer = json!({"status": "added", "id": name, "message": "a source of discovery lists it, and it joins from there"});
        return Ok((StatusCode::CREATED, axum::Json(answer)).into_response());
    }
    match join(&node, &replica, Kind::Remote) {
        Ok(upstream) => {
            let answer = json!({"status": "added", "id": upstream.name});
            Ok((StatusCode::CREATED, axum::Json(answer)).into_response())
        }
        Err(AddError::Exists(id)) => exists(&node, &id, &replica, "server"),
        Err(AddError::Wrong(why)) => Err(bad(why)),
    }
}

/// The answer to one that is in the fleet already: an error if what was asked for differs from what is there.
fn exists(node: &AppState, id: &str, asked: &ReplicaConfig, what: &str) -> Answer {
    let there = node.joined.lock().get(id).map(|(there, _)| there.clone());
    let differs = there.and_then(|there| {
        let region = asked.region.is_some() && asked.region != there.region;
        let labels = !asked.labels.is_empty() && asked.labels != there.labels;
        let models = !asked.models.is_empty() && asked.models != there.models;
        let address = !is_same_address(&there.url, &asked.url);
        [(address, "address"), (region, "region"), (labels, "labels"), (models, "models")]
            .into_iter()
            .find_map(|(differs, what)| differs.then_some(what))
    });
    match differs {
        Some(differs) => Err(Refusal(
            StatusCode::CONFLICT,
            format!(
                "`{id}` is in the fleet with another {differs}; remove that {what} first, or give this one another name"
            ),
        )),
        None => tell(&json!({"status": "exists", "id": id, "message": format!("{id} is in the fleet already")})),
    }
}

pub(super) async fn remove_server(State(node): Shared, Query(query): Query<BTreeMap<String, String>>) -> Answer {
    let Some(id) = query.get("id") else {
        return Err(bad("name the server: `gorgo proxy servers remove NAME`, or ?id=NAME"));
    };
    let Some(upstream) = node.find(id).filter(|u| u.kind == Kind::Remote) else {
        return Err(Refusal(
            StatusCode::NOT_FOUND,
            format!("`{id}` is not in the fleet; `gorgo proxy servers` lists it"),
        ));
    };
    remove_by_operator(&node, &upstream);
    tell(&json!({"status": "removed", "id": upstream.name}))
}

pub(super) async fn drain(State(node): Shared, body: Bytes) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Ask {
        id: String,
        #[serde(default = "yes")]
        draining: bool,
    }
    fn yes() -> bool {
        true
    }
    let ask: Ask = read(&body, "{\"id\": \"10.0.0.1:8080\", \"draining\": true}")?;
    let Some(upstream) = node.find(&ask.id) else {
        return Err(Refusal(
            StatusCode::NOT_FOUND,
            format!("`{}` is not in the fleet; `gorgo proxy servers` lists it", ask.id),
        ));
    };
    node.by_operator.drain(&upstream.name, ask.draining);
    // A replica that terminates, by its source of discovery, stays drained.
    tell(&json!({"id": upstream.name, "draining": drain_again(&node, &upstream)}))
}

pub(super) async fn peers(State(node): Shared) -> Answer {
    let peers = replicas(&node, |kind| kind == Kind::Peer);
    tell(&json!({"count": peers.len(), "peers": peers}))
}

pub(super) async fn add_peer(State(node): Shared, body: Bytes) -> Answer {
    if node.role() != Role::Edge {
        return Err(bad("only an edge has peers; add engines with `gorgo proxy servers add URL`"));
    }
    let mut peer = read::<Address>(&body, EXAMPLE)?;
    if peer.url.is_none() && peer.port.is_none() {
        peer.port = Some(8000);
    }
    let peer = peer.replica()?;
    let name = peer.shown_name();
    if admit(&node, &name, &peer.url) {
        let message = format!("{name} is a peer again, as a source of discovery lists it");
        return tell(&json!({"status": "added", "id": name, "message": message}));
    }
    match join(&node, &peer, Kind::Peer) {
        Ok(upstream) => {
            let message = format!("{} is a peer now", upstream.name);
            tell(&json!({"status": "added", "id": upstream.name, "message": message}))
        }
        Err(AddError::Exists(id)) => exists(&node, &id, &peer, "peer"),
        Err(AddError::Wrong(why)) => Err(bad(why)),
    }
}

pub(super) async fn remove_peer(
    State(node): Shared,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Answer {
    let ask = match query.get("id") {
        Some(id) if body.is_empty() => Address { id: Some(id.clone()), ..Address::default() },
        _ => read(&body, EXAMPLE)?,
    };
    let found = node.driver.read(|router, upstreams, _| {
        let mut here = upstreams.iter().zip(router.replicas()).filter(|(u, r)| !r.removed && u.kind == Kind::Peer);
        here.find(|(u, _)| {
            let named = ask.id.as_ref().is_some_and(|id| *id == u.name);
            let port = ask.port.unwrap_or(0);
            let placed =
                ask.ip.as_ref().is_some_and(|ip| ip == u.endpoint.host() && (port == 0 || port == u.endpoint.port()));
            named || placed || ask.url.as_ref().is_some_and(|url| url.ends_with(&u.endpoint.name()))
        })
        .map(|(u, _)| u.clone())
    });
    match found {
        Some(upstream) => {
            remove_by_operator(&node, &upstream);
            tell(&json!({"status": "removed", "message": format!("{} is no peer any more", upstream.name)}))
        }
        None => {
            let answer =
                json!({"status": "not_found", "message": "there is no such peer; `gorgo lb peers` lists them"});
            Ok((StatusCode::NOT_FOUND, axum::Json(answer)).into_response())
        }
    }
}
