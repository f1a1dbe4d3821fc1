//! The fleet state of one decision as a line of JSON, parsed strictly.

use crate::ReplicaId;
use crate::digest::DigestView;
use crate::fleet::{Learned, Load};
use crate::ids::MAX_REPLICAS;
use crate::network::Path;
use crate::policy::settings::{MOST, strict};
use crate::policy::{Candidate, EngineView, Exclusion, RequestInfo, is_free};
use crate::residency::Fence;
use crate::settings::{NumberOrText, number_or_text};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

/// Errors in a recorded state. The caller adds the line number.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecideError {
    /// The line is not one JSON object.
    #[error("not a JSON object: {0}")]
    Json(String),
    /// A field is missing, unknown, of the wrong type or out of range.
    #[error("`{field}`: {message}")]
    Field {
        /// Its path, for example `replicas[1].rtt_ms`.
        field: String,
        /// The value and the accepted values.
        message: String,
    },
}

/// A session or prompt key: text is hashed with xxh3, a number is used unchanged, 0 means none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Key {
    /// A hash.
    Hash(u64),
    /// A name; empty means none.
    Text(String),
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(match number_or_text(from, "text or a whole number of 0 or more")? {
            NumberOrText::Number(hash) => Self::Hash(hash),
            NumberOrText::Text(name) => Self::Text(name),
        })
    }
}

impl Key {
    /// The hash that policies see.
    pub fn hash(&self) -> u64 {
        match self {
            Self::Hash(hash) => *hash,
            Self::Text(text) if text.is_empty() => 0,
            Self::Text(text) => xxh3_64(text.as_bytes()).max(1),
        }
    }
}

/// One replica of a state. Absent numbers are 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplicaState {
    /// Its name, unique in the state.
    pub id: String,
    /// False excludes it as [`Exclusion::Unhealthy`].
    pub healthy: bool,
    /// Any other reason why it may not be chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excluded: Option<Exclusion>,
    /// Smoothed round trip router → replica, ms.
    pub rtt_ms: f64,
    /// Round trips until the answer's first byte, by the request's size; 1 when absent.
    pub rounds: f64,
    /// Round trips to open a connection; 0 when one is kept.
    pub opening: f64,
    /// Bytes sent of the request, where it is packed; the request's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packed_bytes: Option<u64>,
    /// Prompt tokens of this request predicted cached at the replica.
    pub cached_tokens: u32,
    /// Requests at the replica without a first token.
    pub waiting_requests: u32,
    /// Their prompt tokens.
    pub waiting_tokens: u64,
    /// Those of the waiting tokens not cached at dispatch.
    pub waiting_uncached_tokens: u64,
    /// Requests at the replica past their first token.
    pub running_requests: u32,
    /// Their prompt tokens.
    pub running_tokens: u64,
    /// The engine's last report; absent if never scraped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineView>,
    /// Prefill rate of the replica, ms per token; overrides the policy's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms_per_token: Option<f64>,
    /// Price of the data that the request and its answer send between regions, ms.
    #[serde(skip_serializing_if = "is_free")]
    pub egress_ms: f64,
    /// The peer's digest of its prefixes, if `cached_tokens` is from it and not from the router's own index. No policy reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<DigestView>,
    /// What the router had learned of it; the priors when absent.
    #[serde(skip_serializing_if = "is_prior")]
    pub learned: Learned,
}

impl Default for ReplicaState {
    fn default() -> Self {
        Self {
            id: String::new(),
            healthy: true,
            excluded: None,
            rtt_ms: 0.0,
            rounds: 1.0,
            opening: 0.0,
            packed_bytes: None,
            cached_tokens: 0,
            waiting_requests: 0,
            waiting_tokens: 0,
            waiting_uncached_tokens: 0,
            running_requests: 0,
            running_tokens: 0,
            engine: None,
            ms_per_token: None,
            egress_ms: 0.0,
            digest: None,
            learned: Learned::default(),
        }
    }
}

impl ReplicaState {
    /// The candidate that policies see, in slot `slot`.
    pub fn candidate(&self, slot: ReplicaId) -> Candidate {
        Candidate {
            id: slot,
            excluded: if self.healthy { self.excluded } else { Some(Exclusion::Unhealthy) },
            rtt_ms: self.rtt_ms,
            path: Path { rounds: self.rounds, opening: self.opening },
            packed_bytes: self.packed_bytes,
            cached_tokens: self.cached_tokens,
            load: Load {
                waiting_requests: self.waiting_requests,
                waiting_tokens: self.waiting_tokens,
                waiting_uncached_tokens: self.waiting_uncached_tokens,
                running_requests: self.running_requests,
                running_tokens: self.running_tokens,
            },
            engine: self.engine,
            ms_per_token: self.ms_per_token,
            egress_ms: self.egress_ms,
            learned: self.learned,
            digest: self.digest,
            truth: None,
        }
    }

    /// The state of a candidate with this name.
    pub fn of(id: String, candidate: &Candidate) -> Self {
        let Candidate {
            id: _,
            excluded,
            rtt_ms,
            path,
            packed_bytes,
            cached_tokens,
            load,
            engine,
            ms_per_token,
            egress_ms,
            learned,
            digest,
            truth: _,
        } = *candidate;
        Self {
            id,
            healthy: true,
            excluded,
            rtt_ms,
            rounds: path.rounds,
            opening: path.opening,
            packed_bytes,
            cached_tokens,
            waiting_requests: load.waiting_requests,
            waiting_tokens: load.waiting_tokens,
            waiting_uncached_tokens: load.waiting_uncached_tokens,
            running_requests: load.running_requests,
            running_tokens: load.running_tokens,
            engine,
            ms_per_token,
            egress_ms,
            digest,
            learned,
        }
    }
}

/// The inputs of one decision.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct State {
    /// The request's name, copied to the decision.
    pub id: String,
    /// Its prompt length.
    pub prompt_tokens: u32,
    /// Its bytes on the wire; 0 when unknown.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// The caller's key, user or conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Key>,
    /// The first 256 tokens of the prompt, or a hash of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<Key>,
    /// Where the request may go; absent for everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residency: Option<Fence>,
    /// The fleet, at most [`MAX_REPLICAS`] of it.
    pub replicas: Vec<ReplicaState>,
}

/// The fields of a state that are not the fleet.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Request {
    id: Option<String>,
    prompt_tokens: u32,
    bytes: u64,
    session: Option<Key>,
    head: Option<Key>,
    residency: Option<Fence>,
    // Parsed separately; declared here so that the list of known fields is complete.
    #[serde(rename = "replicas")]
    _replicas: Option<Value>,
    // The decision in a router's log; a replay ignores it.
    #[serde(rename = "decision")]
    _decision: Option<Value>,
}

impl State {
    /// Reads one line.
    ///
    /// # Errors
    /// The field and the value that cannot be used. Unknown fields are errors.
    pub fn parse(line: &str) -> Result<Self, DecideError> {
        let mut map: Map<String, Value> = serde_json::from_str(line).map_err(|error| {
            let text = error.to_string();
            let what = text.split(" at line ").next().unwrap_or(&text);
            DecideError::Json(format!("{what} (column {})", error.column()))
        })?;
        let replicas = map.remove("replicas");
        let request: Request = read("", map)?;
        let id = request.id.ok_or_else(|| fault("id", "is missing; name the request"))?;
        let Some(Value::Array(values)) = replicas else {
            return Err(fault("replicas", "is missing or not a list; give a list of replicas"));
        };
        if values.len() > MAX_REPLICAS {
            return Err(fault("replicas", format!("has {} entries; at most {MAX_REPLICAS} fit", values.len())));
        }
        let mut replicas: Vec<ReplicaState> = Vec::with_capacity(values.len());
        for (i, value) in values.into_iter().enumerate() {
            let replica = parse_replica(&format!("replicas[{i}]"), value)?;
            if let Some(j) = replicas.iter().position(|other| other.id == replica.id) {
                let message = format!("\"{}\" is also the id of replicas[{j}]; ids must differ", replica.id);
                return Err(fault(format!("replicas[{i}].id"), message));
            }
            replicas.push(replica);
        }
        let Request { prompt_tokens, bytes, session, head, residency, .. } = request;
        Ok(Self { id, prompt_tokens, bytes, session, head, residency, replicas })
    }

    /// The request as policies see it.
    pub fn info(&self) -> RequestInfo {
        let hash = |key: &Option<Key>| key.as_ref().map_or(0, Key::hash);
        RequestInfo {
            prompt_tokens: self.prompt_tokens,
            bytes: self.bytes,
            session: hash(&self.session),
            head: hash(&self.head),
            counted: false,
        }
    }
}

fn parse_replica(path: &str, value: Value) -> Result<ReplicaState, DecideError> {
    let Value::Object(mut map) = value else {
        return Err(fault(path, format!("is {value}; give an object with an `id`")));
    };
    let engine = map.remove("engine");
    let mut replica: ReplicaState = read(path, map)?;
    replica.engine = match engine {
        None | Some(Value::Null) => None,
        Some(Value::Object(map)) => Some(read(&format!("{path}.engine"), map)?),
        Some(other) => {
            return Err(fault(format!("{path}.engine"), format!("is {other}; give an object or leave it out")));
        }
    };
    if replica.id.is_empty() {
        return Err(fault(format!("{path}.id"), "is missing or empty; name the replica"));
    }
    let age = replica.engine.map(|engine| engine.age_ms);
    for (key, number) in [
        ("rtt_ms", Some(replica.rtt_ms)),
        ("rounds", Some(replica.rounds)),
        ("opening", Some(replica.opening)),
        ("ms_per_token", replica.ms_per_token),
        ("egress_ms", Some(replica.egress_ms)),
        ("engine.age_ms", age),
    ] {
        if let Some(number) = number.filter(|number| !(0.0..=MOST).contains(number)) {
            return Err(fault(format!("{path}.{key}"), format!("is {number}; it must lie between 0 and {MOST}")));
        }
    }
    check_learned(&replica.learned).map_err(|(key, told)| fault(format!("{path}.learned.{key}"), told))?;
    Ok(replica)
}

/// The first learned rate out of bounds, and what is wrong.
fn check_learned(learned: &Learned) -> Result<(), (&'static str, String)> {
    let from_0 = [
        ("ms_per_token", learned.ms_per_token),
        ("ms_per_waiting_token", learned.ms_per_waiting_token),
        ("ms_per_running", learned.ms_per_running),
        ("ms_per_waiting", learned.ms_per_waiting),
        ("step_ms", learned.step_ms),
        ("step_ms_per_running", learned.step_ms_per_running),
        ("output_tokens", learned.output_tokens),
        ("kappa", learned.kappa),
    ];
    let quantiles = learned.quantiles.map(|factor| ("quantiles", factor));
    let bounded = from_0.into_iter().chain(quantiles).map(|(key, number)| (key, number, 0.0));
    for (key, number, least) in bounded.chain([("offset_ms", learned.offset_ms, -MOST)]) {
        if !(least..=MOST).contains(&number) {
            return Err((key, format!("is {number:?}; it must lie between {least} and {MOST}")));
        }
    }
    Ok(())
}

/// Reads an object at `path` strictly.
fn read<T: serde::de::DeserializeOwned>(path: &str, map: Map<String, Value>) -> Result<T, DecideError> {
    strict(map).map_err(|error| {
        let parts = [Some(path.to_owned()).filter(|path| !path.is_empty()), error.key];
        let field = parts.into_iter().flatten().collect::<Vec<_>>().join(".");
        fault(if field.is_empty() { "line".to_owned() } else { field }, error.message)
    })
}

fn is_prior(learned: &Learned) -> bool {
    *learned == Learned::default()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn fault(field: impl Into<String>, message: impl Into<String>) -> DecideError {
    DecideError::Field { field: field.into(), message: message.into() }
}
