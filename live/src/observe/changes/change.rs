//! A change of state, and its line of log.

use gorgo_core::MAX_REPLICAS;
use std::fmt;

/// A change of the router's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A replica joined the fleet.
    Added { replica: String, url: String },
    /// A source of discovery gives no endpoints: its last set stays.
    SourceStale { source: String, why: String, kept: usize },
    /// It gives endpoints again.
    SourceFresh { source: String, endpoints: usize },
    /// It lists more endpoints than a fleet holds.
    LeftOut { source: String, used: usize, left_out: usize },
    /// An endpoint that it lists is this router.
    Itself { source: String, endpoint: String },
    /// A discovered endpoint cannot be used.
    EndpointRefused { source: String, endpoint: String, why: String },
    /// The other settings that a source gives to an engine of the fleet cannot be put in force.
    EndpointKept { source: String, endpoint: String, why: String },
    /// Other settings of a replica, which stays the same engine.
    Described { replica: String },
    /// A replica left the fleet.
    Removed { replica: String },
    /// A replica answers, for the first time or again.
    Up { replica: String },
    /// A replica does not answer.
    Down { replica: String, why: String },
    /// A replica's circuit breaker opened.
    BreakerOpened { replica: String, why: String },
    /// It closed.
    BreakerClosed { replica: String },
    /// A replica gets no new requests, or gets them again.
    Draining { replica: String, on: bool },
    /// The engine was restarted, so the index forgets what it held.
    Restarted { replica: String },
    /// Several engines answer under one name.
    SeveralEngines { replica: String },
    /// A replica's KV events are read, for the first time or again.
    KvEventsUp { replica: String },
    /// They are not read any more.
    KvEventsDown { replica: String, why: String },
    /// Some of them are lost for good.
    KvEventsLost { replica: String, has_replay: bool },
    /// A replica never reports cached tokens.
    NoCacheReport { replica: String },
    /// A replica refuses this router's key.
    KeyRefused { replica: String, why: String },
    /// Another policy, or other settings of it.
    Policy { old: String, new: String },
    /// A trial of the tuner's ended.
    Tuned { weights: String, taken: bool, guarded: bool, loss: String },
    /// Other settings of the router.
    Settings { what: String },
    /// An operator changed what is recorded.
    Operated { what: &'static str },
    /// An operator emptied the index.
    IndexCleared { nodes: usize },
    /// Requests are refused because the queue is full.
    QueueFull,
    /// The metrics of a replica cannot be read, why; or they are read again.
    Metrics { replica: String, unread: Option<String> },
    /// Requests are refused because the fleet has no replica inside their residency that serves them.
    NoneInside,
    /// Requests are refused because the replicas inside their residency are down or draining.
    InsideDown,
    /// Requests are refused because no replica is predicted to meet their deadline.
    NotAdmitted { retry_after_s: u32 },
    /// A client's key is wrong.
    ClientRefused { from: String },
    /// The admin API refuses a request.
    AdminRefused { from: String, path: String, why: &'static str },
    /// A request ended in an error of the router's.
    RequestFailed { reason: &'static str, replica: String, why: String },
}

/// The text with its control characters escaped, so that a value cannot look like a line of its own.
fn one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
        line
    })
}

impl Change {
    /// What the line is about; lines about one thing are limited together.
    pub(super) fn key(&self) -> (u8, &str) {
        match self {
            Self::Added { replica, .. } | Self::Removed { replica } => (0, replica),
            Self::Up { replica } | Self::Down { replica, .. } => (1, replica),
            Self::BreakerOpened { replica, .. } | Self::BreakerClosed { replica } => (2, replica),
            Self::Draining { replica, .. } => (3, replica),
            Self::Restarted { replica } => (4, replica),
            Self::SeveralEngines { replica } => (5, replica),
            Self::KeyRefused { replica, .. } => (6, replica),
            Self::Policy { .. } => (7, ""),
            Self::Settings { .. } => (8, ""),
            Self::IndexCleared { .. } => (9, ""),
            Self::QueueFull => (10, ""),
            Self::ClientRefused { .. } => (11, ""),
            Self::RequestFailed { reason, .. } => (12, reason),
            Self::SourceStale { source, .. } | Self::SourceFresh { source, .. } => (13, source),
            Self::EndpointRefused { endpoint, .. } | Self::EndpointKept { endpoint, .. } => (14, endpoint),
            Self::NoneInside => (15, ""),
            Self::NotAdmitted { .. } => (16, ""),
            Self::KvEventsUp { replica } | Self::KvEventsDown { replica, .. } => (17, replica),
            Self::KvEventsLost { replica, .. } => (24, replica),
            Self::Tuned { .. } => (18, ""),
            Self::NoCacheReport { replica } => (19, replica),
            // Not by path, which the refused client chooses.
            Self::AdminRefused { .. } => (20, ""),
            Self::LeftOut { source, .. } => (21, source),
            Self::Itself { endpoint, .. } => (22, endpoint),
            Self::Described { replica } => (23, replica),
            Self::Metrics { replica, .. } => (25, replica),
            Self::InsideDown => (26, ""),
            Self::Operated { what } => (27, what),
        }
    }

    /// Whether it is trouble.
    pub(super) fn warns(&self) -> bool {
        matches!(
            self,
            Self::Down { .. }
                | Self::BreakerOpened { .. }
                | Self::SeveralEngines { .. }
                | Self::Metrics { unread: Some(_), .. }
                | Self::SourceStale { .. }
                | Self::EndpointRefused { .. }
                | Self::EndpointKept { .. }
                | Self::LeftOut { .. }
                | Self::KeyRefused { .. }
                | Self::KvEventsDown { .. }
                | Self::KvEventsLost { .. }
                | Self::NoCacheReport { .. }
                | Self::QueueFull
                | Self::NoneInside
                | Self::InsideDown
                | Self::NotAdmitted { .. }
                | Self::ClientRefused { .. }
                | Self::AdminRefused { .. }
                | Self::RequestFailed { .. }
        )
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { replica, url } => write!(f, "replica {replica} added ({url})"),
            Self::Removed { replica } => write!(f, "replica {replica} removed"),
            Self::Up { replica } => write!(f, "replica {replica} is up"),
            Self::Down { replica, why } => write!(f, "replica {replica} is down: {why}"),
            Self::BreakerOpened { replica, why } => write!(f, "breaker of replica {replica} opened: {why}"),
            Self::BreakerClosed { replica } => write!(f, "breaker of replica {replica} closed"),
            Self::Draining { replica, on: true } => write!(f, "replica {replica} is draining: no new requests"),
            Self::Draining { replica, on: false } => write!(f, "replica {replica} takes requests again"),
            Self::Restarted { replica } => {
                write!(f, "replica {replica} was restarted: its part of the prefix index is emptied")
            }
            Self::SeveralEngines { replica } => write!(
                f,
                "several engines answer as replica {replica}: name each engine by its own address; restarts are no longer \
                 told apart"
            ),
            Self::Metrics { replica, unread: None } => write!(f, "metrics of replica {replica} are read again"),
            Self::Metrics { replica, unread: Some(why) } => write!(
                f,
                "metrics of replica {replica} are not read, so its queue, KV cache and restarts are not known: {why} (SGLang \
                 needs --enable-metrics)"
            ),
            Self::KvEventsUp { replica } => write!(f, "KV events of replica {replica} are read"),
            Self::KvEventsDown { replica, why } => {
                write!(f, "KV events of replica {replica} cannot be read, so its cache is predicted: {why}")
            }
            Self::KvEventsLost { replica, has_replay } => {
                let advice =
                    if *has_replay { "" } else { "; a replay port (kv_events.replay_port) would fill such gaps" };
                write!(f, "KV events of replica {replica} are lost: its part of the prefix index is emptied{advice}")
            }
            Self::NoCacheReport { replica } => write!(
                f,
                "replica {replica} reports no cached tokens, so the prefix index is never corrected: start SGLang with \
                 --enable-cache-report, vLLM with --enable-prompt-tokens-details"
            ),
            Self::KeyRefused { replica, why } => {
                write!(f, "replica {replica} refuses this router's key ({why}): set its api_key")
            }
            Self::SourceStale { source, why, kept } => {
                write!(f, "discovery from {source} is stale: {why}; its last {kept} endpoints stay")
            }
            Self::SourceFresh { source, endpoints } => {
                write!(f, "discovery from {source} is fresh again: {endpoints} endpoints")
            }
            Self::LeftOut { source, used, left_out } => write!(
                f,
                "discovery from {source} lists more endpoints than the {MAX_REPLICAS} replicas of a fleet: the first {used} by \
                 name are used, {left_out} are not; divide them among several routers"
            ),
            Self::Itself { source, endpoint } => {
                write!(f, "discovery from {source}: endpoint {endpoint} is this router itself, and is left out")
            }
            Self::Described { replica } => {
                write!(f, "settings of replica {replica} changed; its learned state is kept")
            }
            Self::EndpointRefused { source, endpoint, why } => {
                write!(f, "discovery from {source}: endpoint {endpoint} is not used: {why}")
            }
            Self::EndpointKept { source, endpoint, why } => {
                write!(f, "discovery from {source}: endpoint {endpoint} keeps its former settings: {why}")
            }
            Self::Policy { old, new } => write!(f, "policy changed from {old} to {new}"),
            Self::Tuned { weights, taken, guarded, loss } => {
                let outcome = match (taken, guarded) {
                    (true, _) => "taken",
                    (false, true) => "taken back early",
                    (false, false) => "not taken",
                };
                write!(f, "weights {weights} tried and {outcome}: loss {loss}")
            }
            Self::Settings { what } => write!(f, "settings changed: {}", one_line(what)),
            Self::Operated { what } => write!(f, "by the admin API: {what}"),
            Self::IndexCleared { nodes } => write!(f, "prefix index emptied ({nodes} nodes)"),
            Self::QueueFull => write!(f, "the queue is full (router.queue_limit): requests are refused"),
            Self::ClientRefused { from } => write!(f, "a request from {from} is refused: its key is wrong or missing"),
            Self::AdminRefused { from, path, why } => {
                write!(f, "an administrator's request from {from} for `{path}` is refused: {why}")
            }
            Self::RequestFailed { reason, replica, why } if replica.is_empty() => {
                write!(f, "a request failed ({reason}): {why}")
            }
            Self::NoneInside => f.write_str(
                "requests are refused: no replica inside their residency can answer them; see `[residency]`",
            ),
            Self::InsideDown => f.write_str(
                "requests are refused: the replicas inside their residency are down or draining; see `gorgo proxy status`",
            ),
            Self::NotAdmitted { retry_after_s } => write!(
                f,
                "requests are refused: no replica is predicted to meet their deadline within {retry_after_s} s \
                 (router.admission)"
            ),
            Self::RequestFailed { reason, replica, why } => {
                write!(f, "a request at replica {replica} failed ({reason}): {why}")
            }
        }
    }
}
