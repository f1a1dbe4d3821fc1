//! One request from its arrival to its last byte: what is known of it, and the guard that tells the core how it
//! ended, once, whatever happens to the task.

use crate::driver::mailbox::{Command, Mail};
use crate::observe::request_log::{Row, Verdict};
use crate::request::context::ConnectionContext;
use crate::state::Phase;
use crate::upstream::abort;
use crate::upstream::replica::Upstream;
use crate::wire::answer_tap::Tap;
use crate::wire::prompt_blocks::Prompt;
use gorgo_core::router::{Answer, DecisionRecord, Dispatch, EndReason, Failure, RequestEvent, Usage};
use gorgo_core::{RequestId, Time};
use http::HeaderValue;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// See the module page.
#[derive(Debug)]
pub struct Exchange {
    pub(crate) context: Arc<ConnectionContext>,
    pub(crate) id: RequestId,
    pub(crate) mail: Mail,
    pub(crate) request_id: HeaderValue,
    pub(crate) row: Row,
    /// The decision by which it was dispatched last.
    pub(crate) decision: Option<Arc<DecisionRecord>>,
    pub(crate) prompt: Option<Prompt>,
    pub(crate) model: Option<String>,
    /// Tokens of the prompt's text, if they were counted.
    pub(crate) text_tokens: Option<u32>,
    /// Whether answers become messages of the next turn.
    pub(crate) chat: bool,
    /// Whether the first token's time is true: the answer streamed.
    pub(crate) streamed: bool,
    pub(crate) rid: Option<String>,
    #[cfg(feature = "otel")]
    pub(crate) trace: Option<crate::observe::otel::Context>,
    current: Option<(Arc<Upstream>, Dispatch)>,
    /// A command that was read too early.
    pending: Option<Command>,
    over: bool,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Exchange {
    /// Boxed at once: it goes through many hands.
    pub(crate) fn new(
        context: Arc<ConnectionContext>,
        (id, mail): (RequestId, Mail),
        request_id: HeaderValue,
        row: Row,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Box<Self> {
        Box::new(Self {
            context,
            id,
            mail,
            request_id,
            row,
            decision: None,
            prompt: None,
            model: None,
            text_tokens: None,
            chat: false,
            streamed: false,
            rid: None,
            #[cfg(feature = "otel")]
            trace: None,
            current: None,
            pending: None,
            over: false,
            _slot: slot,
        })
    }

    pub(crate) fn now(&self) -> Time {
        self.context.state.clock().now()
    }

    /// The core sent it somewhere.
    pub(crate) fn dispatched(&mut self, dispatch: Dispatch, to: &Arc<Upstream>, decision: Option<Arc<DecisionRecord>>) {
        let metrics = &self.context.state.metrics;
        let dispatches = to.dispatches.get_or_init(|| metrics.dispatches(&to.name));
        metrics.dispatched(dispatches, dispatch.attempt, dispatch.reason);
        to.count();
        let row = &mut self.row;
        row.dispatched = self.context.state.clock().now();
        row.attempts = dispatch.attempt;
        row.replica = Some((dispatch.replica.0, Arc::clone(&to.label)));
        row.predicted_ttft_ms = dispatch.predicted_ttft_ms;
        row.cached = (dispatch.cached_tokens, None);
        let chosen = decision.as_ref().and_then(|d| d.candidates.get(d.chosen?));
        row.rtt_ms = chosen.map_or(0.0, |one| one.candidate.rtt_ms);
        row.verdict = decision.as_deref().map(Verdict::of).unwrap_or_default();
        self.decision = decision;
        self.current = Some((Arc::clone(to), dispatch));
    }

    fn attempt(&self) -> u8 {
        self.current.as_ref().map_or(0, |(_, d)| d.attempt)
    }

    /// Tells the core of the first token. False if the core has meanwhile taken this attempt back.
    pub(crate) fn first_token(&mut self) -> bool {
        let attempt = self.attempt();
        self.context.state.driver.tell(RequestEvent::FirstToken { id: self.id, attempt });
        !self.taken_back()
    }

    /// Whether the core has said something since, which can only be that this attempt is no longer wanted.
    fn taken_back(&mut self) -> bool {
        self.pending = self.mail.try_next();
        self.pending.is_some()
    }

    /// What the core says next.
    pub(crate) async fn next(&mut self) -> Command {
        match self.pending.take() {
            Some(command) => command,
            None => self.mail.next().await,
        }
    }

    /// The answer is complete, and has passed.
    pub(crate) fn finished(&mut self, tap: &Tap) {
        let event = self.learned(tap);
        self.mail.is_quiet(); // the core's last word would have this task polled in vain
        self.context.state.driver.tell(event);
        self.close(EndReason::Finished);
    }

    /// The answer is complete before any of it was passed on: what [`Self::first_token`] and [`Self::finished`] do, in
    /// one step. False if the core has meanwhile taken this attempt back.
    pub(crate) fn came_whole(&mut self, tap: &Tap) -> bool {
        let event = self.learned(tap);
        let Some(now) = self.context.state.driver.tell_if_quiet(&self.mail, event) else {
            (self.row.counted_tokens, self.row.output_tokens, self.row.cached.1) = (None, 0, None);
            return false;
        };
        self.row.first_token = now;
        self.close_at(now, EndReason::Finished);
        true
    }

    /// What the core is to know of a complete answer.
    fn learned(&mut self, tap: &Tap) -> RequestEvent {
        let said = tap.usage();
        let (counted, output) = (said.prompt_tokens, said.output_tokens);
        self.row.counted_tokens = counted;
        self.row.output_tokens = output.unwrap_or_else(|| u32::try_from(tap.events()).unwrap_or(u32::MAX));
        self.row.cached.1 = said.cached_tokens;
        let mut answer = None;
        if let Some(prompt) = &self.prompt {
            if let Some(tokens) = counted.filter(|_| prompt.tokens == 0) {
                let model = self.model.as_deref();
                self.context.state.bytes_per_token.learn(model, prompt.bytes, tokens);
                if let (Some(text), Some(counter)) = (self.text_tokens, &self.context.state.counter) {
                    counter.template_overhead.learn(model, prompt.messages, text, tokens);
                }
            }
            let learn = tap.answer().filter(|_| !prompt.symbols.is_empty());
            answer = learn.map(|text| {
                let tokens = counted.unwrap_or(self.row.prompt_tokens);
                // Usage counts all choices; the text is one of them.
                let output = self.row.output_tokens / tap.choices();
                let blocks = prompt.answer(text, self.chat, tokens, output);
                Answer { keep: blocks.keep, tail: blocks.tail, tokens: blocks.tokens }
            });
        }
        let usage = Usage { cached_tokens: said.cached_tokens, output_tokens: self.row.output_tokens };
        RequestEvent::Finished { id: self.id, attempt: self.attempt(), usage, answer }
    }

    /// This attempt failed; the core says in the mailbox what is next.
    pub(crate) fn failed(&mut self, failure: Failure) {
        let attempt = self.attempt();
        self.context.state.driver.tell(RequestEvent::Failed { id: self.id, attempt, failure });
    }

    /// An answer that was on its way to the client broke: there is no second try.
    pub(crate) fn broke(&mut self, failure: Failure) {
        self.failed(failure);
        self.close(EndReason::AfterFirstToken);
    }

    /// Whether the router ends what is open; if not yet, `waker` is woken when it does.
    pub(crate) fn is_stopped(&self, waker: &Waker) -> bool {
        !self.mail.wait(waker)
    }

    /// The router stops; the engine need not go on.
    pub(crate) fn stopped(&mut self) {
        self.cancel(EndReason::RouterStopped);
    }

    /// Nobody waits for the answer any more.
    fn cancel(&mut self, reason: EndReason) {
        self.context.state.driver.tell(RequestEvent::ClientGone { id: self.id });
        self.abort();
        self.close(reason);
    }

    /// Aborts the flags attempt at the engine by the id it goes by. Closing the connection, which the caller does
    /// by dropping it, is enough for most; SGLang notices that only seconds later.
    pub(crate) fn abort(&self) {
        let (Some((upstream, _)), Some(rid)) = (&self.current, &self.rid) else { return };
        let state = &self.context.state;
        let keep_alive = Duration::from_millis(state.config().timeouts.keep_alive_ms);
        abort::abort(&state.connector, keep_alive, upstream, rid);
    }

    /// The request is over: writes it down, once.
    pub(crate) fn close(&mut self, reason: EndReason) {
        let now = self.now();
        self.close_at(now, reason);
    }

    fn close_at(&mut self, now: Time, reason: EndReason) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.row.done = now;
        self.row.end = reason;
        let others = self.mail.others(self.decision.as_ref());
        let row = Arc::new(std::mem::take(&mut self.row));
        #[cfg(feature = "otel")]
        if let Some(trace) = self.trace.take() {
            self.context.state.otel.end(trace, &row);
        }
        self.context.state.metrics.ended(&row, self.streamed);
        self.context.state.capture.push(&row);
        self.context.state.driver.observers().explanations.push(&row, self.decision.take(), others);
        self.context.state.table.push(row);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if self.context.state.phase() == Phase::Ending {
            // The router's own last word has been said in its place.
            self.row.status_code = EndReason::RouterStopped.http_status();
            return self.stopped();
        }
        // The client left: hyper dropped the task or the body.
        self.row.status_code = EndReason::ClientGone.http_status();
        self.cancel(EndReason::ClientGone);
    }
}
