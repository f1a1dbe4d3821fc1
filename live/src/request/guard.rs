//! Guard of one request, from arrival to the last byte: reports the request's end exactly once, even if its task is
//! dropped.
//!
//! The guard reports to the core (first token, end), to the operators' records (request log, metrics, explanations,
//! captures, traces), and aborts the request at the engine when its answer is no longer wanted. A guard that is dropped
//! before it was closed reports that the client left.

use crate::driver::MAX_OTHER_DECISIONS;
use crate::driver::mailbox::{Command, Mailbox};
use crate::observe::access_log::AccessEntry;
use crate::observe::changes::Change;
use crate::observe::request_log::{DecisionSummary, RequestEntry, RoutedReplica};
use crate::request::context::ConnectionContext;
use crate::request::learning::Learning;
use crate::state::Phase;
use crate::tuner::Tuner;
use crate::upstream::abort;
use crate::upstream::replica::Upstream;
use crate::wire::answer_tap::AnswerTap;
use gorgo_core::fleet::Kind;
use gorgo_core::router::{DecisionRecord, Dispatch, EndReason, Failure, RequestEvent, Usage};
use gorgo_core::{RequestId, Time};
use http::HeaderValue;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// The account of one request.
#[derive(Debug)]
pub(crate) struct RequestGuard {
    pub(super) context: Arc<ConnectionContext>,
    pub(super) request_id: HeaderValue,
    pub(super) row: RequestEntry,
    /// The decision by which the request was dispatched last.
    pub(super) decision: Option<Arc<DecisionRecord>>,
    /// `None` for a request without a prompt.
    pub(super) learning: Option<Learning>,
    /// Whether the answer streams, so that the time of its first token is known.
    pub(super) streamed: bool,
    /// The id by which the engine can abort the request.
    pub(super) engine_id: Option<String>,
    /// The engine's own id of the stream that has begun, at the current replica.
    pub(super) stream_id: Option<String>,
    #[cfg(feature = "otel")]
    pub(super) trace: Option<crate::observe::otel::Context>,
    id: RequestId,
    mailbox: Arc<Mailbox>,
    current: Option<(Arc<Upstream>, Dispatch)>,
    /// A command that was read and not carried out yet.
    pending: Option<Command>,
    other_decisions: Vec<Arc<DecisionRecord>>,
    /// Why the last attempt failed.
    pub(super) why: Option<String>,
    /// Whether a refusal tells the router that sent the request how many dispatches were made.
    pub(super) tells_dispatches: bool,
    /// Dispatches so far, with those of routers in a replica's place.
    pub(super) dispatches: u8,
    /// The tuner's block in which the request was dispatched last.
    tuner_block: u64,
    is_closed: bool,
    permit: Option<OwnedSemaphorePermit>,
}

impl RequestGuard {
    /// A guard for a request that was announced to the core. Boxed, since it is large and moves from task to body.
    pub(super) fn new(
        context: Arc<ConnectionContext>,
        (id, mailbox): (RequestId, Arc<Mailbox>),
        request_id: HeaderValue,
        row: RequestEntry,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Box<Self> {
        Box::new(Self {
            context,
            request_id,
            row,
            decision: None,
            learning: None,
            streamed: false,
            engine_id: None,
            stream_id: None,
            #[cfg(feature = "otel")]
            trace: None,
            id,
            mailbox,
            current: None,
            pending: None,
            other_decisions: Vec::new(),
            why: None,
            tells_dispatches: false,
            dispatches: 0,
            tuner_block: 0,
            is_closed: false,
            permit,
        })
    }

    pub(super) fn now(&self) -> Time {
        self.context.state.clock().now()
    }

    /// Waits for the core's next command.
    pub(super) async fn next_command(&mut self) -> Command {
        let mut command = match self.pending.take() {
            Some(command) => command,
            None => self.mailbox.next().await,
        };
        if let Command::Dispatch { undecided, .. } | Command::Done { undecided, .. } = &mut command {
            let undecided = std::mem::take(undecided);
            self.keep_decisions(undecided);
        }
        command
    }

    fn keep_decisions(&mut self, decisions: impl IntoIterator<Item = Arc<DecisionRecord>>) {
        self.other_decisions.extend(decisions);
        let excess = self.other_decisions.len().saturating_sub(MAX_OTHER_DECISIONS);
        self.other_decisions.drain(..excess);
    }

    /// Records that the core dispatched the request to a replica.
    pub(super) fn record_dispatch(
        &mut self,
        dispatch: Dispatch,
        to: &Arc<Upstream>,
        decision: Option<Arc<DecisionRecord>>,
    ) {
        self.tuner_block = self.context.state.tuner.as_ref().map_or(0, Tuner::block);
        let metrics = &self.context.state.metrics;
        let dispatches = to.dispatches.get_or_init(|| metrics.dispatches(&to.name));
        metrics.dispatched(dispatches, dispatch.attempt, dispatch.reason);
        to.count();
        let row = &mut self.row;
        row.dispatched = Some(self.context.state.clock().now());
        row.attempts = dispatch.attempt;
        row.replica = Some(RoutedReplica { slot: dispatch.replica.0, name: Arc::clone(&to.label) });
        row.predicted_ttft_ms = dispatch.predicted_ttft_ms;
        (row.predicted_cached_tokens, row.cached_tokens) = (dispatch.cached_tokens, None);
        row.held_tokens = None;
        let chosen = decision.as_ref().and_then(|d| d.candidates.get(d.chosen?));
        row.rtt_ms = chosen.map_or(0.0, |one| one.candidate.rtt_ms);
        row.decision = decision.as_deref().map(DecisionSummary::of).unwrap_or_default();
        let former = std::mem::replace(&mut self.decision, decision);
        self.keep_decisions(former);
        self.current = Some((Arc::clone(to), dispatch));
        self.stream_id = None;
    }

    fn attempt(&self) -> u8 {
        self.current.as_ref().map_or(0, |(_, d)| d.attempt)
    }

    /// Reports the first token to the core. False if the core has withdrawn this attempt meanwhile: then the next
    /// command is about the next attempt.
    pub(super) fn report_first_token(&mut self) -> bool {
        let attempt = self.attempt();
        self.context.state.driver.handle(RequestEvent::FirstToken { id: self.id, attempt });
        self.pending = self.mailbox.try_next();
        self.pending.is_none()
    }

    /// Reports to the core that a part of the answer passes before its first token. False as for the first token.
    pub(super) fn commit(&mut self) -> bool {
        let attempt = self.attempt();
        self.context.state.driver.handle(RequestEvent::Committed { id: self.id, attempt });
        self.pending = self.pending.take().or_else(|| self.mailbox.try_next());
        self.pending.is_none()
    }

    /// Keeps a command that was read for the next call of [`Self::next_command`].
    pub(super) fn put_back(&mut self, command: Command) {
        self.pending = Some(command);
    }

    /// The request's place in `limits.requests`, for a body that outlives the request.
    pub(super) fn take_permit(&mut self) -> Option<OwnedSemaphorePermit> {
        self.permit.take()
    }

    /// Reports a complete answer that has been passed on, and closes the request.
    pub(super) fn finish(&mut self, tap: &AnswerTap) {
        let event = self.finished_event(tap);
        self.mailbox.stop_waking(); // the core's command `Done` would wake this task in vain
        self.context.state.driver.handle(event);
        self.close(EndReason::Finished);
    }

    /// Reports a complete answer of which nothing has been passed on: first token and end in one event. False if the core
    /// has withdrawn this attempt meanwhile.
    pub(super) fn finish_at_once(&mut self, tap: &AnswerTap) -> bool {
        let event = self.finished_event(tap);
        self.mailbox.stop_waking();
        let Some(now) = self.context.state.driver.handle_if_quiet(&self.mailbox, event) else {
            (self.row.counted_tokens, self.row.output_tokens, self.row.cached_tokens) = (None, 0, None);
            self.row.held_tokens = None;
            return false;
        };
        self.row.first_token = Some(now);
        self.close_at(now, EndReason::Finished);
        true
    }

    /// The event of a complete answer, with what the router learns from it.
    fn finished_event(&mut self, tap: &AnswerTap) -> RequestEvent {
        let state = &self.context.state;
        if let (Some(id), Some((engine, _))) = (tap.made_id(), &self.current) {
            state.kept_ids.learn(id, engine);
            tap.made_files().iter().for_each(|id| state.kept_ids.learn(id, engine));
        }
        let usage = tap.usage();
        if usage.prompt_tokens.is_some()
            && let Some((engine, _)) = &self.current
            && engine.kind != Kind::Peer
            && engine.cache_report.answered(usage.cached_tokens.is_some(), self.row.predicted_cached_tokens)
        {
            state.driver.observers().tell(Change::NoCacheReport { replica: engine.name.clone() });
        }
        self.row.counted_tokens = usage.prompt_tokens;
        self.row.output_tokens = usage.output_tokens.unwrap_or_else(|| u32::try_from(tap.tokens()).unwrap_or(u32::MAX));
        self.row.cached_tokens = usage.cached_tokens;
        let mut answer = None;
        if let Some(learning) = &self.learning {
            if let Some(counted) = usage.prompt_tokens {
                learning.learn_tokens(&state.bytes_per_token, state.counter.as_ref(), counted);
            }
            let prompt_tokens = usage.prompt_tokens.unwrap_or(self.row.prompt_tokens);
            answer = learning.answer(tap, prompt_tokens, self.row.output_tokens);
        }
        if let (Some(learning), Some((upstream, dispatch))) = (&self.learning, &self.current)
            && let Some(streams) = upstream.kv()
        {
            let tokens = usage.prompt_tokens.unwrap_or(self.row.prompt_tokens);
            let cached = usage.cached_tokens.unwrap_or(dispatch.cached_tokens);
            streams.answered(tokens.saturating_sub(cached));
            let symbols = &learning.prompt.symbols;
            let sent = (self.id, dispatch.attempt);
            self.row.held_tokens = streams.finished(state.seed, sent, symbols, tokens, answer.as_ref());
        }
        // An engine that does not report cached tokens may publish what it stored.
        let cached_tokens = usage.cached_tokens.or(self.row.held_tokens);
        let usage = Usage { cached_tokens, output_tokens: self.row.output_tokens };
        RequestEvent::Finished { id: self.id, attempt: self.attempt(), usage, answer }
    }

    /// Reports that this attempt failed, after so many `dispatches`; the core's next command is another attempt or the end.
    pub(super) fn report_failure(&mut self, failure: Failure, why: &str, upstream: &Upstream, dispatches: u8) {
        let attempt = self.attempt();
        self.dispatches = self.dispatches.saturating_add(dispatches);
        self.note_failure(why);
        if failure == Failure::KeyRefused
            && self.shows_of_key(upstream)
            && !upstream.refuses_key.swap(true, Ordering::Relaxed)
        {
            let change = Change::KeyRefused { replica: upstream.name.clone(), why: "a request was refused".to_owned() };
            self.context.state.driver.observers().tell(change);
        }
        self.context.state.driver.handle(RequestEvent::Failed { id: self.id, attempt, failure, dispatches });
    }

    /// The model that the request names.
    pub(super) fn model(&self) -> Option<&str> {
        self.learning.as_ref()?.model.as_deref()
    }

    /// Whether a refusal by this replica shows that its key is wrong.
    fn shows_of_key(&self, upstream: &Upstream) -> bool {
        self.context.state.driver.read(|router, _, _| {
            let replica = router.replicas().get(upstream.id.index());
            replica.is_none_or(|at| at.is_key_unproven() || at.breaker.cause() == Some(Failure::KeyRefused))
        })
    }

    /// Reports that an answer broke off after its first token, and closes the request: it cannot be retried.
    pub(super) fn fail(&mut self, failure: Failure, why: &str) {
        let attempt = self.attempt();
        self.note_failure(why);
        self.context.state.driver.handle(RequestEvent::Failed { id: self.id, attempt, failure, dispatches: 1 });
        self.close(EndReason::AfterFirstToken);
    }

    /// Keeps why an attempt failed, for the lines of log about the replica and about the request's end.
    fn note_failure(&mut self, why: &str) {
        if let Some((upstream, _)) = &self.current {
            upstream.note_error(self.now(), why);
        }
        self.why = Some(why.to_owned());
    }

    /// Whether the router ends the requests that are open. If not, `waker` is woken when it does. To be asked after the
    /// first token only, when the core has no other commands.
    pub(super) fn is_stopped(&self, waker: &Waker) -> bool {
        !self.mailbox.wake_on_command(waker)
    }

    /// Waits until the router ends open requests.
    pub(super) async fn wait_for_stop(&mut self) {
        while !matches!(self.next_command().await, Command::Stop) {}
    }

    /// Ends the request because the router stops.
    pub(super) fn stop(&mut self) {
        self.cancel(EndReason::RouterStopped);
    }

    /// Ends a request whose answer is not wanted any more.
    fn cancel(&mut self, reason: EndReason) {
        self.context.state.driver.handle(RequestEvent::ClientGone { id: self.id });
        self.abort_upstream();
        self.close(reason);
    }

    /// Aborts the current attempt at the engine by the engine's id for it. Most engines notice that the connection was
    /// closed, which the caller does by dropping it; SGLang notices only seconds later.
    pub(super) fn abort_upstream(&self) {
        let id = self.engine_id.as_ref().or(self.stream_id.as_ref());
        let (Some((upstream, _)), Some(id)) = (&self.current, id) else { return };
        let state = &self.context.state;
        let keep_alive = Duration::from_millis(state.config().timeouts.keep_alive_ms);
        abort::abort(&state.connector, keep_alive, upstream, id);
    }

    /// Closes the request: writes its records, once.
    pub(super) fn close(&mut self, reason: EndReason) {
        let now = self.now();
        self.close_at(now, reason);
    }

    fn close_at(&mut self, now: Time, reason: EndReason) {
        if std::mem::replace(&mut self.is_closed, true) {
            return;
        }
        while let Some(unread) = self.pending.take().or_else(|| self.mailbox.try_next()) {
            match unread {
                Command::Dispatch { decision, undecided, .. } => {
                    self.keep_decisions(undecided.into_iter().chain(decision));
                }
                Command::Done { undecided, .. } => self.keep_decisions(undecided),
                Command::Queued | Command::Cancel | Command::Stop => {}
            }
        }
        self.row.done = now;
        (self.row.end, self.row.streamed) = (reason, self.streamed);
        let row = Arc::new(std::mem::take(&mut self.row));
        let state = &self.context.state;
        #[cfg(feature = "otel")]
        if let Some(trace) = self.trace.take() {
            state.otel.end(trace, &row);
        }
        let model = self.model();
        let policy = self.decision.as_ref().map_or("", |decision| decision.policy);
        state.metrics.ended(&row, self.streamed, model, policy);
        if let (Some(tuner), EndReason::Finished, Some(ttft_ms)) = (&state.tuner, reason, row.ttft_ms()) {
            tuner.finished(&state.driver, self.tuner_block, ttft_ms, (row.done - row.arrived).ms());
        }
        state.driver.observers().ended(|| AccessEntry {
            row: Arc::clone(&row),
            model: model.map(str::to_owned),
            policy,
        });
        if !matches!(
            reason,
            EndReason::Finished | EndReason::ClientGone | EndReason::QueueFull | EndReason::ClientError
        ) {
            let replica = row.replica.as_ref().map_or(String::new(), |replica| replica.name.to_string());
            let why = self.why.take().unwrap_or_else(|| reason.sentence().to_owned());
            state.driver.observers().tell(Change::RequestFailed { reason: reason.as_str(), replica, why });
        }
        state.capture.push(&row);
        if let Some(decision) = &self.decision {
            state.driver.observers().outcome(decision, &row);
        }
        let others = std::mem::take(&mut self.other_decisions);
        state.driver.observers().explanations.push(&row, self.decision.take(), others);
        state.request_log.push(row);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        if self.is_closed {
            return;
        }
        // The task or the body was dropped: the router closed the connection, or the client left.
        let is_ending = self.context.state.phase() == Phase::Ending;
        let reason = if is_ending { EndReason::RouterStopped } else { EndReason::ClientGone };
        self.row.status_code = reason.http_status();
        self.cancel(reason);
    }
}
