//! Exchanges learned prefixes and loads with other routers of the same replicas, over HTTP.
//!
//! One task per peer sends a [`message`] each period if there is something to send, by the rules of
//! [`gorgo_core::sharing`], as in the simulator. A message without an answer is sent again, so a peer that was
//! unreachable for a moment misses nothing; the queue for it is bounded, and paths dropped from it are counted. A
//! router with nothing to send sends a heartbeat every 5 s. A peer with another hash seed or message version refuses
//! every message, and both sides log that once. Paths of replicas that are not in this fleet are counted, and the name
//! of such a replica is logged if it stays unknown.

use crate::driver::Driver;
use crate::state::AppState;
use crate::supervise;
use crate::upstream::connection;
use crate::upstream::replica::Upstream;
use bytes::Bytes;
use gorgo_core::fleet::{Load, Replica};
use gorgo_core::router::ReplicaEvent;
use gorgo_core::sharing::{Limits, MAX_BATCH, MAX_PEERS, Missing, Path, SentLoads, must_send};
use gorgo_core::{ReplicaId, Time};
use http::header::{CONTENT_TYPE, HeaderMap};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use message::{Answer, Message, VERSION};
use parking_lot::Mutex;
use senders::{Senders, Shared};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

mod hash_seed;
pub(crate) mod message;
mod senders;

pub(crate) use hash_seed::HashSeed;

/// Longest answer of a peer, bytes.
const ANSWER: usize = 1 << 20;
/// Longest pause between two messages to a peer that does not answer, and to one that refuses them.
const PAUSE: Duration = Duration::from_secs(2);
const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// Period of heartbeats: an empty message is sent after this time without another one.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What is known of the connection to a peer.
#[derive(Debug, Clone, Default, Serialize)]
struct PeerState {
    /// `new`, `up`, `down`, `refused` or `self`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// The peer's id, by its last answer.
    #[serde(skip)]
    router: Option<String>,
    /// When it answered last.
    #[serde(skip)]
    answered: Option<Instant>,
    messages: u64,
    bytes: u64,
    failed: u64,
}

#[derive(Debug)]
struct Peer {
    url: String,
    upstream: Arc<Upstream>,
    state: Mutex<PeerState>,
}

/// The sharing of one router.
#[derive(Debug)]
pub(crate) struct Sharing {
    core: Mutex<gorgo_core::sharing::Sharing>,
    peers: Vec<Peer>,
    senders: Senders,
    key_id: String,
}

impl Sharing {
    /// Sharing with these peers: address and connection of each.
    pub(crate) fn new(peers: Vec<(String, Arc<Upstream>)>, key_id: String) -> Self {
        let core = Mutex::new(gorgo_core::sharing::Sharing::new(peers.len(), Limits::default()));
        let state = || Mutex::new(PeerState { state: "new", ..PeerState::default() });
        let peers = peers.into_iter().map(|(url, upstream)| Peer { url, upstream, state: state() }).collect();
        Self { core, peers, senders: Senders::default(), key_id }
    }

    /// Drops the queued paths of the replica that had this slot before.
    pub(crate) fn forget(&self, driver: &Driver, slot: ReplicaId) {
        let mut core = self.core.lock();
        driver.take_learned().into_iter().for_each(|path| core.learned(path));
        core.forget(slot);
    }

    /// The peers: address and connection of each.
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = (&str, &Arc<Upstream>)> {
        self.peers.iter().map(|peer| (peer.url.as_str(), &peer.upstream))
    }

    /// The state as `status` shows it.
    pub(crate) fn json(&self) -> Value {
        let now = Instant::now();
        let peers = self.peers.iter().map(|peer| {
            let state = peer.state.lock();
            let mut row = serde_json::to_value(&*state).unwrap_or_default();
            row["url"] = json!(peer.url);
            row["age_ms"] = json!(state.answered.map(|at| (now - at).as_millis() as u64));
            row["replicas"] = json!(state.router.as_deref().and_then(|router| self.senders.shared_with(router)));
            row
        });
        let peers: Vec<Value> = peers.collect();
        let core = self.core.lock();
        json!({"key_id": self.key_id, "peers": peers, "senders": self.senders.json(now), "waiting": core.waiting(),
            "paths": core.stats(), "paths_of_unknown_replicas": self.senders.unknown()})
    }

    /// Paths of replicas that this fleet lacks, since the start.
    pub(crate) fn unknown(&self) -> u64 {
        self.senders.unknown()
    }

    /// Replicas that routers name now and this fleet lacks.
    pub(crate) fn lacking(&self) -> u64 {
        self.senders.lacking()
    }

    /// Counts since the start: of paths, and messages and bytes sent.
    pub(crate) fn counts(&self) -> (gorgo_core::sharing::SharingStats, u64, u64) {
        let sums = self.peers.iter().fold((0, 0), |(messages, bytes), peer| {
            let state = peer.state.lock();
            (messages + state.messages, bytes + state.bytes)
        });
        (self.core.lock().stats(), sums.0, sums.1)
    }
}

/// Starts one task a peer.
pub(crate) fn start(state: &Arc<AppState>) {
    for peer in 0..state.sharing.as_ref().map_or(0, |sharing| sharing.peers.len()) {
        tokio::spawn(supervise::logged("sharing with a peer", tell(Arc::downgrade(state), peer)));
    }
}

/// The time, this router's own requests at each replica, and the replicas' names by slot, empty for a replica that is
/// gone: what a message begins with.
pub(crate) fn own_loads(state: &AppState) -> (Time, Vec<(ReplicaId, Load)>, Vec<String>) {
    state.driver.read(|router, upstreams, now| {
        let name = |(upstream, replica): (&Arc<Upstream>, &Replica)| match replica.removed {
            true => String::new(),
            false => upstream.name.clone(),
        };
        (now, router.own_loads(), upstreams.iter().zip(router.replicas()).map(name).collect())
    })
}

/// The slots here of replicas by name; `None` for one that is not in this fleet.
pub(crate) fn slots(state: &AppState, names: &[String]) -> Vec<Option<ReplicaId>> {
    state.driver.read(|router, upstreams, _| {
        let slot = |name: &String| {
            let mut here = upstreams.iter().zip(router.replicas()).filter(|(_, r)| !r.removed);
            here.find(|(upstream, _)| upstream.name == *name).map(|(upstream, _)| upstream.id)
        };
        names.iter().take(gorgo_core::MAX_REPLICAS).map(slot).collect()
    })
}

/// Why a message is not read.
fn other_version(version: u32, name: &str) -> String {
    format!(
        "`{name}` sends messages of version {version}, and this router reads version {VERSION}; run one version of gorgo on \
         all routers"
    )
}

/// The message in the body of a request.
///
/// # Errors
/// A refusal with its reason: a message of another version may have another form.
pub(crate) fn read(body: &[u8]) -> Result<Message, String> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
        #[serde(default)]
        name: String,
    }
    serde_json::from_slice(body).map_err(|wrong| match serde_json::from_slice(body) {
        Ok(Head { version, name }) if version != VERSION => other_version(version, &name),
        _ => format!("the message cannot be read ({wrong}); run one version of gorgo on all routers"),
    })
}

/// Handles a message of another router. An `Err` is a refusal with its reason.
pub(crate) fn receive(state: &AppState, message: &Message) -> Result<Answer, String> {
    let own = state.router_id.to_str().unwrap_or_default().to_owned();
    let Some(sharing) = &state.sharing else {
        return Err("this router shares nothing; list its peers in sharing.peers".to_owned());
    };
    if message.router == own {
        return Ok(Answer { router: own, ..Answer::default() });
    }
    let Some((sender, told)) = sharing.senders.enter(&message.router, &message.name) else {
        return Err(format!("more than {MAX_PEERS} routers tell this one what they learn; list fewer as peers"));
    };
    let wrong = if message.version != VERSION {
        Some(other_version(message.version, &message.name))
    } else if message.key_id != sharing.key_id {
        Some(format!(
            "hash seed {} of `{}` is not this router's {}; give all routers one sharing.hash_seed_file",
            message.key_id, message.name, sharing.key_id
        ))
    } else {
        None
    };
    if let Some(why) = wrong {
        if !told {
            tracing::warn!(peer = message.name, "refused a message of another router: {why}");
            sharing.senders.refuse(sender);
        }
        return Err(why);
    }
    let slots = slots(state, &message.replicas);
    let (news, left_out) = message.news(&slots);
    let (Shared { named, known }, lacking) = sharing.senders.note_lacking(sender, message, &slots, left_out);
    if !lacking.is_empty() {
        tracing::warn!(
            peer = message.name,
            "{known} of the {named} replicas of a router are known here by name, so what it tells of the others ({}) is of no \
             use; give replicas the same names on all routers",
            lacking.join(", ")
        );
    }
    let peer = sharing.peers.iter().position(|peer| peer.state.lock().router.as_ref() == Some(&message.router));
    let mut missing = Vec::new();
    let paths = sharing.core.lock().receive(peer, news, &mut missing);
    for Path { replica, symbols, tokens } in paths {
        state.driver.handle(ReplicaEvent::PathLearned { replica, symbols, tokens });
    }
    let slot = |&(at, load): &(u16, Load)| Some(((*slots.get(usize::from(at))?)?, load));
    let loads = message.loads.iter().filter_map(slot).collect();
    state.driver.handle(ReplicaEvent::PeerLoads { peer: sender, loads });
    Ok(Answer { router: own, missing: Answer::rows(&missing, &slots) })
}

/// A message on its way: its text, and the replicas that its rows name.
struct Sent {
    body: Bytes,
    slots: Vec<Option<ReplicaId>>,
}

/// The next message to a peer; `None` when there is nothing to send, unless a heartbeat `is_due`.
fn compose(state: &AppState, sharing: &Sharing, peer: usize, told: &mut SentLoads, is_due: bool) -> Option<Sent> {
    let (now, loads, names) = own_loads(state);
    let news = {
        let mut core = sharing.core.lock();
        state.driver.take_learned().into_iter().for_each(|path| core.learned(path));
        core.batch(peer)
    };
    if news.is_empty() && !must_send(now, told, &loads) && !is_due {
        return None;
    }
    let message = Message {
        version: VERSION,
        key_id: sharing.key_id.clone(),
        router: state.router_id.to_str().unwrap_or_default().to_owned(),
        name: state.config().shown_name(),
        paths: Message::path_rows(&news),
        loads: loads.iter().map(|&(replica, load)| (replica.0, load)).collect(),
        replicas: names,
    };
    let slots = (0..message.replicas.len()).map(|slot| Some(ReplicaId(slot as u16))).collect();
    *told = (now, loads);
    Some(Sent { body: serde_json::to_vec(&message).unwrap_or_default().into(), slots })
}

/// Sends what this router learns to one peer, until the router is dropped or the peer turns out to be this router
/// itself.
async fn tell(state: Weak<AppState>, peer: usize) {
    let (mut pending, mut told, mut failed): (Option<Sent>, SentLoads, u32) = (None, (Time::ZERO, Vec::new()), 0);
    let (mut wait, mut sent_at) = (Duration::ZERO, Instant::now());
    loop {
        tokio::time::sleep(wait).await;
        let Some(state) = state.upgrade() else { return };
        let Some(sharing) = &state.sharing else { return };
        let (config, to) = (state.config(), &sharing.peers[peer]);
        let period = Duration::from_millis(config.sharing.share_ms);
        wait = period;
        let is_due = sent_at.elapsed() >= HEARTBEAT;
        let next = pending.take().or_else(|| compose(&state, sharing, peer, &mut told, is_due));
        let Some(sent) = next else { continue };
        sent_at = Instant::now();
        let limit = Duration::from_millis(config.sharing.timeout_ms);
        let answer = tokio::time::timeout(limit, post(&state, &to.upstream, &sent.body)).await;
        let answer =
            answer.unwrap_or_else(|_| Err(Failed::Silent(format!("no answer within {} ms", limit.as_millis()))));
        let mut known = to.state.lock();
        let before = known.state;
        match answer {
            Ok(answer) => {
                (known.state, known.why, known.answered, failed) = ("up", None, Some(Instant::now()), 0);
                known.messages += 1;
                known.bytes += sent.body.len() as u64;
                if state.router_id.to_str().is_ok_and(|own| own == answer.router) {
                    known.state = "self";
                    return;
                }
                known.router = Some(answer.router);
                let slot = |at: u16| sent.slots.get(usize::from(at)).copied().flatten();
                let rows = answer.missing.iter().take(MAX_BATCH);
                let missing: Vec<Missing> =
                    rows.filter_map(|&(at, end, tokens)| Some(Missing { replica: slot(at)?, end, tokens })).collect();
                drop(known);
                if before == "down" {
                    tracing::info!(peer = to.url, "a peer takes learned prefixes again");
                }
                sharing.core.lock().asked(peer, &missing);
            }
            Err(Failed::Refused(why)) => {
                (known.state, known.why, wait) = ("refused", Some(why.clone()), REFUSED_PAUSE);
                known.failed += 1;
                drop(known);
                if before != "refused" {
                    tracing::warn!(peer = to.url, "a peer refuses learned prefixes: {why}");
                }
            }
            Err(Failed::Silent(why)) => {
                failed = failed.saturating_add(1);
                (known.state, known.why) = ("down", Some(why.clone()));
                known.failed += 1;
                drop(known);
                wait = period.saturating_mul(1 << failed.min(8)).min(PAUSE);
                pending = Some(sent);
                if before != "down" {
                    tracing::warn!(peer = to.url, "learned prefixes cannot be sent to a peer: {why}");
                }
            }
        }
    }
}

/// Why a message was not taken.
enum Failed {
    /// Whether it arrived is not known; it is sent again.
    Silent(String),
    /// The peer will not take it.
    Refused(String),
}

async fn post(state: &AppState, to: &Arc<Upstream>, body: &Bytes) -> Result<Answer, Failed> {
    let path = PathAndQuery::from_static("/proxy/share");
    let request = || {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        to.request(Method::POST, &path, headers, Full::new(body.clone()))
    };
    let keep_alive = Duration::from_millis(state.config().timeouts.keep_alive_ms);
    let silent = |why: String| Failed::Silent(why);
    let response = connection::send(&state.connector, to, keep_alive, request).await;
    let response = response.map_err(|error| silent(error.to_string()))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER).collect().await.map_err(|error| silent(error.to_string()))?;
    let body = body.to_bytes();
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|_| Failed::Refused("its answer cannot be read".to_owned()));
    }
    let text: Value = serde_json::from_slice(&body).unwrap_or_default();
    let why = text["error"]["message"].as_str().map_or_else(|| format!("answered {status}"), str::to_owned);
    match status {
        StatusCode::CONFLICT | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
            Err(Failed::Refused(why))
        }
        _ => Err(silent(why)),
    }
}
