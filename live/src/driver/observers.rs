//! Observers of decisions: explanations, the decision log, shadow policies.
//!
//! They are off the hot path: the driver passes them a shared record or a copy of an event and goes on. Channels are
//! bounded; what does not fit is dropped and counted.

use crate::observe::access_log::AccessEntry;
use crate::observe::changes::{Change, Changes};
use crate::observe::explain::{self, Explanations};
use crate::observe::request_log::RequestEntry;
use crate::observe::shadow::ShadowEvent;
use gorgo_core::router::{DecisionRecord, Event};
use gorgo_core::{RequestId, Time};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::mpsc;

/// A line of the decision log.
#[derive(Debug)]
pub enum DecisionLine {
    /// A decision, and whether its outcome follows.
    Decision(Arc<DecisionRecord>, bool),
    /// The end of a request whose decision was made by an exploring router.
    Outcome(Arc<DecisionRecord>, Arc<RequestEntry>),
}

impl DecisionLine {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Decision(record, is_judged) => explain::state(record, *is_judged).to_string(),
            Self::Outcome(record, row) => explain::outcome(record, row).line(),
        }
    }
}

/// The observers of one router's decisions.
#[derive(Debug)]
pub struct Observers {
    /// The latest decisions, for `/explain`.
    pub explanations: Explanations,
    log: Option<mpsc::Sender<DecisionLine>>,
    /// Whether the log holds outcomes, too.
    pub(crate) outcomes: bool,
    shadow: Option<mpsc::Sender<ShadowEvent>>,
    /// Receives changes of state, for the log.
    pub(crate) changes: Option<Changes>,
    /// Where requests that ended are written.
    pub(crate) access: Option<mpsc::Sender<AccessEntry>>,
    /// Set when the files of the logs were moved away; one flag a file.
    pub(crate) reopen: Vec<Arc<AtomicBool>>,
    /// Decisions and events that did not fit into a channel.
    pub dropped: AtomicU64,
}

impl Observers {
    /// Observers that keep `decisions` explanations and send to these channels.
    pub fn new(
        decisions: usize,
        log: Option<mpsc::Sender<DecisionLine>>,
        shadow: Option<mpsc::Sender<ShadowEvent>>,
    ) -> Self {
        Self {
            explanations: Explanations::new(decisions),
            log,
            outcomes: false,
            shadow,
            changes: None,
            access: None,
            reopen: Vec::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Reopens the log files, since they were moved away.
    pub(crate) fn reopen_logs(&self) {
        self.reopen.iter().for_each(|reopen| reopen.store(true, Ordering::Relaxed));
    }

    /// Logs a change of state.
    pub(crate) fn tell(&self, change: Change) {
        if let Some(changes) = &self.changes {
            changes.tell(change);
        }
    }

    /// Logs a request that ended. `entry` is made only if there is a log.
    pub(crate) fn ended(&self, entry: impl FnOnce() -> AccessEntry) {
        if let Some(access) = &self.access {
            let sent = access.try_send(entry());
            self.dropped.fetch_add(u64::from(sent.is_err()), Ordering::Relaxed);
        }
    }

    pub(crate) fn event(&self, now: Time, event: &Event) {
        if let Some(shadow) = &self.shadow {
            let sent = shadow.try_send(ShadowEvent::Event(now, event.clone()));
            self.dropped.fetch_add(u64::from(sent.is_err()), Ordering::Relaxed);
        }
    }

    pub(crate) fn decided(&self, record: &Arc<DecisionRecord>) {
        if let Some(log) = &self.log {
            let sent = log.try_send(DecisionLine::Decision(Arc::clone(record), self.outcomes));
            self.dropped.fetch_add(u64::from(sent.is_err()), Ordering::Relaxed);
        }
    }

    /// Logs how a request ended.
    pub(crate) fn outcome(&self, record: &Arc<DecisionRecord>, row: &Arc<RequestEntry>) {
        if let Some(log) = self.log.as_ref().filter(|_| self.outcomes) {
            let sent = log.try_send(DecisionLine::Outcome(Arc::clone(record), Arc::clone(row)));
            self.dropped.fetch_add(u64::from(sent.is_err()), Ordering::Relaxed);
        }
    }

    pub(crate) fn done(&self, now: Time, id: RequestId) {
        if let Some(shadow) = &self.shadow {
            let sent = shadow.try_send(ShadowEvent::Done(now, id));
            self.dropped.fetch_add(u64::from(sent.is_err()), Ordering::Relaxed);
        }
    }
}
