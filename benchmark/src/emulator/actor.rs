//! The thread that owns the engine.
//!
//! It sleeps until the engine's next event is due, and reports each event to the handler of its request at the time
//! when the event leaves the server.

use super::config::EmulatorConfig;
use super::histograms::Histograms;
use super::kv_events::Feed;
use super::messages::{Command, Completed, RequestProgress, Snapshot};
use crate::clock::Clock;
use gorgo_core::{RequestId, Span, Time, TimeQueue};
use gorgo_sim::engine::{ConfigError, Engine, EngineConfig, EngineEvent, EngineKind, Health};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// SGLang's API process first looks at an answer in one piece at its 50th token.
const UNARY_REPORT_TOKENS: u32 = 50;

/// A request in flight.
struct Flight {
    progress: watch::Sender<RequestProgress>,
    /// Its TTFT is observed with its first token.
    ttft_at_once: bool,
    input_tokens: u32,
    session: Option<String>,
    max_new_tokens: Option<u32>,
    last_token: Time,
}

/// State of the engine's thread.
pub(super) struct Actor {
    engine: Engine,
    seed: u64,
    clock: Clock,
    /// Time spent in hangs: the engine's clock is this much behind `clock`.
    lost: Span,
    flights: BTreeMap<RequestId, Flight>,
    /// Events that have not left the server yet.
    outbox: TimeQueue<EngineEvent>,
    histograms: Arc<Mutex<Histograms>>,
    in_flight: Arc<AtomicUsize>,
    /// Takes what the cache does, if that is published.
    feed: Option<Feed>,
}

impl Actor {
    /// Creates the engine. `in_flight` is decreased with every request that ends.
    pub(super) fn new(
        config: &EmulatorConfig,
        histograms: Arc<Mutex<Histograms>>,
        in_flight: Arc<AtomicUsize>,
        feed: Option<Feed>,
    ) -> Result<Self, ConfigError> {
        let engine_config = EngineConfig { stream_tokens: true, ..config.engine.clone() };
        let mut engine = Engine::new(engine_config, config.seed)?;
        if config.cold {
            engine.crash(Time::ZERO, &mut Vec::new());
            engine.restart(Time::ZERO);
        }
        if feed.is_some() {
            engine.log_cache();
        }
        Ok(Self {
            engine,
            seed: config.seed,
            clock: Clock::start(config.speed),
            lost: Span::ZERO,
            flights: BTreeMap::new(),
            outbox: TimeQueue::default(),
            histograms,
            in_flight,
            feed,
        })
    }

    /// Time of the engine's clock.
    fn now(&self) -> Time {
        Time(self.clock.now().0.saturating_sub(self.lost.0))
    }

    /// Serves commands and reports events until all handles are dropped.
    pub(super) fn run(&mut self, inbox: &mpsc::Receiver<Command>) {
        let mut events = Vec::new();
        let mut held = VecDeque::new();
        loop {
            let now = self.now();
            self.engine.advance(now, &mut events);
            self.queue_events(&mut events);
            self.publish();
            self.report_due_events(now);
            let command = match held.pop_front() {
                Some(command) => command,
                None => {
                    let due = [self.engine.next_event(), self.outbox.next_time()];
                    let received = match due.into_iter().flatten().min() {
                        None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                        Some(at) => {
                            let instant = self.clock.instant(at + self.lost);
                            inbox.recv_timeout(instant.saturating_duration_since(Instant::now()))
                        }
                    };
                    match received {
                        Ok(command) => command,
                        Err(RecvTimeoutError::Timeout) => continue,
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            };
            if let Command::Hang(time) = command {
                if !self.hang(time, inbox, &mut held) {
                    return;
                }
            } else {
                self.handle_command(command, &mut events);
            }
        }
    }

    /// Holds all commands back in `held` until `time` is over or a crash ends the hang. False when all handles are
    /// dropped.
    fn hang(&mut self, time: Duration, inbox: &mpsc::Receiver<Command>, held: &mut VecDeque<Command>) -> bool {
        let (before, engine_time) = (self.clock.now(), self.now());
        let until = Instant::now() + time;
        loop {
            let received = inbox.recv_timeout(until.saturating_duration_since(Instant::now()));
            match received {
                Ok(Command::Crash) => {
                    held.push_front(Command::Crash);
                    break;
                }
                Ok(Command::ReadMetrics(reply)) => {
                    let _ = reply.send(self.snapshot(engine_time));
                }
                // A second hang would hold back the first one's end.
                Ok(Command::Hang(_)) => {}
                Ok(command) => held.push_back(command),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        self.lost = self.lost + (self.clock.now() - before);
        true
    }

    fn handle_command(&mut self, command: Command, events: &mut Vec<EngineEvent>) {
        let now = self.now();
        self.engine.advance(now, events);
        match command {
            Command::Submit { request, stream, session, progress, accepted } => {
                let (id, input_tokens, max_new_tokens) = (request.id, request.input_tokens, request.max_new_tokens);
                let ttft_at_once = stream || self.engine.config().kind == EngineKind::Vllm;
                let result = self.engine.submit(now, request);
                if result.is_ok() {
                    progress.send_modify(|p| p.accepted = now);
                    self.flights.insert(
                        id,
                        Flight { progress, ttft_at_once, input_tokens, session, max_new_tokens, last_token: now },
                    );
                } else {
                    self.in_flight.fetch_sub(1, Ordering::AcqRel);
                }
                let _ = accepted.send(result); // the handler cancels if its client disconnected
            }
            Command::Cancel(id) => {
                self.engine.cancel(now, id, events);
            }
            Command::Read(reply) | Command::ReadMetrics(reply) => {
                let _ = reply.send(self.snapshot(now));
            }
            Command::Flush(reply) => {
                let _ = reply.send(self.engine.flush(now));
            }
            Command::Crash => {
                self.engine.crash(now, events);
                // What the cache did until then goes down with the process.
                self.engine.take_cache_log();
                self.feed.iter_mut().for_each(Feed::crashed);
                *self.histograms.lock() = Histograms::of(self.engine.config().kind);
            }
            Command::Restart { cold_start_s } => {
                if let Some(s) = cold_start_s
                    && self.engine.health(now) == Health::Down
                {
                    let config =
                        EngineConfig { cold_start_s: s, cold_start_sigma: 0.0, ..self.engine.config().clone() };
                    // A crashed engine has no state, so a new one can replace it.
                    if let Ok(mut engine) = Engine::new(config, self.seed) {
                        engine.crash(now, events);
                        self.engine = engine;
                    }
                }
                self.engine.restart(now);
                if let Some(feed) = &mut self.feed {
                    self.engine.log_cache();
                    feed.restarted();
                }
            }
            Command::Hang(_) => {}
        }
        self.queue_events(events);
        self.publish();
    }

    /// Publishes what the cache did.
    fn publish(&mut self) {
        if let Some(feed) = &mut self.feed {
            let flights = &self.flights;
            feed.publish(self.engine.take_cache_log(), |id| flights.get(&id)?.session.as_deref());
        }
    }

    fn snapshot(&mut self, now: Time) -> Snapshot {
        Snapshot {
            gauges: self.engine.metrics(now),
            counters: self.engine.counters(now),
            loads: self.engine.loads(now),
            health: self.engine.health(now),
            now,
        }
    }

    fn queue_events(&mut self, events: &mut Vec<EngineEvent>) {
        for event in events.drain(..) {
            self.outbox.push(event.at(), event);
        }
    }

    fn report_due_events(&mut self, now: Time) {
        while let Some(entry) = self.outbox.pop_due(now) {
            self.report(entry.item);
        }
    }

    /// Counts an event and updates the progress of its request.
    fn report(&mut self, event: EngineEvent) {
        let (id, at) = (event.id(), event.at());
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let mut histograms = self.histograms.lock();
        let over = matches!(event, EngineEvent::Finished { .. } | EngineEvent::Aborted { .. });
        if over {
            // Before the handler is notified, so that a request sent after this one's end is accepted.
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
        }
        let (at_once, input, last) = (flight.ttft_at_once, flight.input_tokens, flight.last_token);
        let max = flight.max_new_tokens;
        flight.progress.send_modify(|p| {
            match event {
                EngineEvent::PrefillStarted { cached_tokens, .. } => {
                    (p.prefill, p.cached_tokens) = (Some(at), cached_tokens);
                    histograms.queue.observe((at - p.accepted).ms() / 1e3);
                }
                EngineEvent::FirstToken { cached_tokens, .. } => {
                    (p.first, p.generated, p.cached_tokens) = (Some(at), 1, cached_tokens);
                    // The TTFT of an answer in one piece is observed at its 50th token or its end.
                    if at_once {
                        histograms.ttft.observe((at - p.accepted).ms() / 1e3);
                    }
                }
                EngineEvent::Token { generated, .. } => {
                    p.generated = generated;
                    histograms.itl.observe((at - last).ms() / 1e3);
                    if !at_once && generated == UNARY_REPORT_TOKENS {
                        histograms.ttft.observe((at - p.accepted).ms() / 1e3);
                    }
                }
                EngineEvent::Finished { output_tokens, retractions, cached_tokens, .. } => {
                    (p.generated, p.cached_tokens) = (output_tokens, cached_tokens);
                    p.end = Some((at, Ok(Completed { output_tokens, retractions })));
                    let e2e = (at - p.accepted).ms() / 1e3;
                    if !at_once && output_tokens < UNARY_REPORT_TOKENS {
                        histograms.ttft.observe(e2e);
                    }
                    histograms.finished(e2e, input, output_tokens, retractions);
                    histograms.by_length += u64::from(max.is_some_and(|max| output_tokens >= max));
                }
                EngineEvent::Aborted { error, .. } => {
                    p.end = Some((at, Err(error)));
                    histograms.aborted += 1;
                }
            }
        });
        flight.last_token = at;
        if over {
            self.flights.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests;
