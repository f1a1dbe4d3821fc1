//! Exchange of prefix digests between edges: each requests its peers' digests, and serves its own.
//!
//! The rules are those of [`gorgo_core::digest`], as in the simulator. Keys mean the same only to routers whose prompts
//! are hashed with one seed, so without `sharing.hash_seed` an edge neither asks nor answers, and a peer with another
//! seed refuses. Both are logged once, and `GET /lb/status` shows them.

use crate::config::Role;
use crate::observe::metrics::DigestLevel;
use crate::sharing::HashSeed;
use crate::signals::pages::{Turns, fetch_up_to};
use crate::state::AppState;
use crate::upstream::replica::Upstream;
use crate::wire::prompt_blocks::BLOCK;
use counts::PeerDigest;
use gorgo_core::Time;
use gorgo_core::digest::{Digest, Edition, KEY_BYTES, ReceivedDigest, Update};
use gorgo_core::fleet::Kind;
use gorgo_core::router::ReplicaEvent;
use http::uri::PathAndQuery;
use message::DigestMessage;
use serde_json::{Value, json};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

pub(crate) mod counts;
pub(crate) mod message;

/// Where peers ask.
pub(crate) const PATH: &str = "/lb/digest";
/// Longest answer of a peer, bytes: a whole digest has 700 kB at most.
const ANSWER: usize = 1 << 20;
/// Least time between two questions to a peer that refuses them, ms.
const REFUSED_MS: u64 = 10_000;

const NO_SEED: &str =
    "this router has no hash seed; set sharing.hash_seed_file to one secret at all edges, or probes.digest_ms to 0";

/// Why a question has no answer.
enum Failed {
    /// Whether the peer will answer is not known.
    Silent(String),
    /// It will not.
    Refused(String),
    /// Its answer cannot be used.
    Damaged(String),
}

/// The edition that the router has of a peer's digest.
fn edition_of(state: &AppState, peer: &Upstream) -> Option<Edition> {
    let slot = peer.id.index();
    state.driver.read(|router, _, _| router.replicas().get(slot)?.digest()?.edition())
}

/// Switches the own digest on where peers may ask for it.
pub(crate) fn start(state: &AppState) {
    let config = state.config();
    if config.role == Role::Edge && config.probes.digest_ms > 0 && state.sharing_seed().is_some() {
        // Random per process: after a restart peers must ask for all.
        let author = std::hash::RandomState::new().hash_one("digest");
        state.driver.tell_digest(author, KEY_BYTES / BLOCK);
    }
}

/// Asks a peer for its digest again and again.
pub(crate) async fn questions(state: Arc<AppState>, peer: Arc<Upstream>) {
    let mut turns = Turns::new(&state, &peer, "digest-clock");
    loop {
        let began = Instant::now();
        let mut period = state.config().probes.digest_ms;
        if period > 0 {
            let Some(seed) = state.sharing_seed() else {
                if !state.digests.told_off.swap(true, Ordering::Relaxed) {
                    tracing::info!("edges do not tell each other which prefixes they hold: {NO_SEED}");
                }
                return;
            };
            let answer = ask(&state, &peer, seed).await;
            if matches!(answer, Err(Failed::Refused(_))) {
                period = period.max(REFUSED_MS);
            }
            note(&peer, answer);
        }
        turns.next(began, period).await;
    }
}

/// Asks once, and passes the answer to the core; the answer's bytes.
async fn ask(state: &AppState, peer: &Arc<Upstream>, seed: &HashSeed) -> Result<u64, Failed> {
    let mut path = format!("{PATH}?key_id={}", seed.key_id);
    if let Some(Edition { author, number }) = edition_of(state, peer) {
        path.push_str(&format!("&author={author}&number={number}"));
    }
    let path = PathAndQuery::try_from(path).map_err(|error| Failed::Silent(error.to_string()))?;
    let (status, body) = fetch_up_to(ANSWER, state, peer, path).await.map_err(|error| Failed::Silent(error.why))?;
    if !status.is_success() {
        let text: Value = serde_json::from_slice(&body).unwrap_or_default();
        let why = text["error"]["message"].as_str().map_or_else(|| format!("answered {status}"), str::to_owned);
        return Err(if status.is_client_error() { Failed::Refused(why) } else { Failed::Silent(why) });
    }
    let update = DigestMessage::read(&body, &seed.key_id).map_err(Failed::Damaged)?;
    let edition = update.edition;
    state.driver.handle_for(peer, ReplicaEvent::DigestReceived { replica: peer.id, update: Arc::new(update) });
    if edition_of(state, peer) == Some(edition) {
        Ok(body.len() as u64)
    } else {
        Err(Failed::Damaged("its answer has too many keys, or does not follow its previous answer".to_owned()))
    }
}

/// Records the result of a request for a digest. A peer that does not answer is not logged here: its failed load
/// reports are.
fn note(peer: &Upstream, answer: Result<u64, Failed>) {
    let mut known = peer.digest.lock();
    let before = known.state;
    (known.state, known.why) = match answer {
        Ok(bytes) => {
            known.answers += 1;
            known.bytes += bytes;
            ("up", None)
        }
        Err(Failed::Silent(why)) => ("down", Some(why)),
        Err(Failed::Refused(why)) => ("refused", Some(why)),
        Err(Failed::Damaged(why)) => ("damaged", Some(why)),
    };
    let PeerDigest { state, why, .. } = known.clone();
    drop(known);
    match (why, state) {
        (Some(why), "refused" | "damaged") if before != state => {
            tracing::warn!(peer = peer.name, "a peer does not tell which prefixes it holds: {why}");
        }
        (None, _) if matches!(before, "refused" | "damaged") => {
            tracing::info!(peer = peer.name, "a peer sends its prefix digest again");
        }
        _ => {}
    }
}

/// The answer to a peer whose seed is `key_id` and that has the edition `known`; an `Err` is a refusal with its reason.
pub(crate) fn answer(state: &AppState, key_id: Option<&str>, known: Option<Edition>) -> Result<DigestMessage, String> {
    let Some(seed) = state.sharing_seed() else { return Err(NO_SEED.to_owned()) };
    if key_id != Some(seed.key_id.as_str()) {
        let (its, own) = (key_id.unwrap_or_default(), &seed.key_id);
        return Err(format!("hash seed {its} is not this router's {own}; give all edges one sharing.hash_seed_file"));
    }
    let update: Update = state.driver.digest_since(known).ok_or("this router tells no digest (probes.digest_ms)")?;
    Ok(DigestMessage::new(&update, &seed.key_id))
}

/// Counts an answer.
pub(crate) fn sent(state: &AppState, bytes: usize) {
    state.digests.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// What metrics show of a peer's digest; `None` before its first answer.
pub(crate) fn level(peer: &Upstream, digest: Option<&ReceivedDigest>, now: Time) -> Option<DigestLevel> {
    let digest = digest.filter(|digest| digest.edition().is_some())?;
    let received_bytes = peer.digest.lock().bytes;
    Some(DigestLevel { keys: digest.keys(), age_s: digest.age(now).ms() / 1e3, received_bytes })
}

/// The state as `status` shows it.
pub(crate) fn json(state: &AppState) -> Value {
    let Some(seed) = state.sharing_seed() else { return json!({"off": NO_SEED}) };
    if state.config().probes.digest_ms == 0 {
        return json!({"off": "probes.digest_ms is 0"});
    }
    state.driver.read(|router, upstreams, now| {
        let here = router.replicas().iter().zip(upstreams).filter(|(r, u)| !r.removed && u.kind == Kind::Peer);
        let peers = here.map(|(r, u)| {
            let mut row = serde_json::to_value(&*u.digest.lock()).unwrap_or_default();
            row["id"] = json!(u.name);
            row["keys"] = json!(r.digest().map_or(0, ReceivedDigest::keys));
            row["age_ms"] = json!(r.digest().filter(|d| d.edition().is_some()).map(|digest| digest.age(now).ms()));
            row
        });
        let own = router.digest();
        json!({
            "key_id": seed.key_id, "keys": own.map(Digest::keys), "left_out": own.map(Digest::left_out),
            "bytes_sent": state.digests.bytes_sent.load(Ordering::Relaxed), "peers": peers.collect::<Vec<_>>(),
        })
    })
}
