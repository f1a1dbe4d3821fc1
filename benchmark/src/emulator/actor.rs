//! The thread that owns the engine. It sleeps until the engine's next event is due, and hands what happened to whoever
//! waits for it at the instant the engine says it left the server.
//!
//! A request's watcher holds only its newest [`Progress`], so nothing grows when a client reads slowly: it finds
//! several tokens in one message, as behind a lagging SGLang.

use super::config::EmulatorConfig;
use super::metrics::Histograms;
use crate::clock::Clock;
use gorgo_core::{RequestId, Span, Time, TimeQueue};
use gorgo_sim::engine::{
    ConfigError, Counters, Engine, EngineConfig, EngineError, EngineEvent, EngineRequest, Gauges, Health, Loads,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// How far a request is. Instants are of the engine's clock.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// When the engine took it.
    pub accepted: Time,
    /// When its prompt began to be computed.
    pub prefill: Option<Time>,
    /// When its first token left.
    pub first: Option<Time>,
    /// Tokens generated.
    pub generated: u32,
    /// Prompt tokens found in the cache.
    pub cached_tokens: u32,
    /// When and how it ended.
    pub end: Option<(Time, Result<Done, EngineError>)>,
}

/// A finished answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Tokens generated.
    pub output_tokens: u32,
    /// How often its KV was taken away meanwhile.
    pub retractions: u32,
}

/// What the scheduler tells of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Snapshot {
    /// As `/metrics` shows them: maybe old.
    pub gauges: Gauges,
    /// Since the process started.
    pub counters: Counters,
    /// The truth now.
    pub loads: Loads,
    /// Whether it serves.
    pub health: Health,
    /// The engine's clock.
    pub now: Time,
}

enum Command {
    Submit {
        request: EngineRequest,
        stream: bool,
        progress: watch::Sender<Progress>,
        accepted: oneshot::Sender<Result<(), EngineError>>,
    },
    Cancel(RequestId),
    Read(oneshot::Sender<Snapshot>),
    Flush(oneshot::Sender<bool>),
    Crash,
    Restart {
        cold_start_s: Option<f64>,
    },
    Hang(Duration),
}

/// Talks to the engine's thread. The thread ends with the last handle.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    commands: mpsc::Sender<Command>,
    histograms: Arc<Mutex<Histograms>>,
    next_id: Arc<AtomicU64>,
    in_flight: Arc<AtomicUsize>,
    most: usize,
}

/// A request in flight: its number and what is known of it.
#[derive(Debug)]
pub struct Ticket {
    /// Its id.
    pub id: RequestId,
    /// Changes with every token.
    pub progress: watch::Receiver<Progress>,
}

impl EngineHandle {
    /// Starts the thread.
    ///
    /// # Errors
    /// An engine setting is out of range, or the system gives no thread.
    pub fn start(config: &EmulatorConfig) -> Result<Self, super::StartError> {
        let engine_config = EngineConfig { stream_tokens: true, ..config.engine.clone() };
        let (commands, inbox) = mpsc::channel();
        let histograms = Arc::new(Mutex::new(Histograms::default()));
        let in_flight = Arc::new(AtomicUsize::new(0));
        let mut actor = Actor {
            engine: new_engine(engine_config, config.seed, config.cold)?,
            seed: config.seed,
            clock: Clock::start(config.speed),
            lost: Span::ZERO,
            flights: BTreeMap::new(),
            outbox: TimeQueue::default(),
            histograms: Arc::clone(&histograms),
            in_flight: Arc::clone(&in_flight),
        };
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || actor.run(&inbox))?;
        let next_id = Arc::new(AtomicU64::new(1));
        Ok(Self { commands, histograms, next_id, in_flight, most: config.max_in_flight })
    }

    /// Hands a request over; its id is made here.
    ///
    /// # Errors
    /// The engine's refusal; too many requests in flight count as a full queue.
    pub async fn submit(&self, mut request: EngineRequest, stream: bool) -> Result<Ticket, EngineError> {
        if self.in_flight.fetch_add(1, Ordering::AcqRel) >= self.most {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
            return Err(EngineError::QueueFull);
        }
        let id = RequestId(self.next_id.fetch_add(1, Ordering::Relaxed));
        request.id = id;
        let (progress, watcher) = watch::channel(Progress::default());
        let (accepted, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Submit { request, stream, progress, accepted });
        match answer.await {
            Ok(Ok(())) => Ok(Ticket { id, progress: watcher }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(EngineError::Down),
        }
    }

    /// Aborts a request, if it is still in flight.
    pub fn cancel(&self, id: RequestId) {
        let _ = self.commands.send(Command::Cancel(id));
    }

    /// Asks the scheduler, which answers when it comes to it: never while it hangs.
    pub async fn read(&self) -> Option<Snapshot> {
        let (tell, answer) = oneshot::channel();
        self.commands.send(Command::Read(tell)).ok()?;
        answer.await.ok()
    }

    /// Empties the cache if nothing is in flight, and says whether it did.
    pub async fn flush(&self) -> bool {
        let (tell, answer) = oneshot::channel();
        self.commands.send(Command::Flush(tell)).is_ok() && answer.await.unwrap_or(false)
    }

    /// The process dies: all requests are lost, the cache too.
    pub fn crash(&self) {
        let _ = self.commands.send(Command::Crash);
    }

    /// Starts a crashed engine; `cold_start_s` replaces the configured median time to ready.
    pub fn restart(&self, cold_start_s: Option<f64>) {
        let _ = self.commands.send(Command::Restart { cold_start_s });
    }

    /// The scheduler stands still for this long (real time), requests and all.
    pub fn hang(&self, time: Duration) {
        let _ = self.commands.send(Command::Hang(time));
    }

    /// Reads the histograms of requests.
    pub fn with_histograms<T>(&self, read: impl FnOnce(&Histograms) -> T) -> T {
        read(&self.histograms.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn new_engine(config: EngineConfig, seed: u64, cold: bool) -> Result<Engine, ConfigError> {
    let mut engine = Engine::new(config, seed)?;
    if cold {
        engine.crash(Time::ZERO, &mut Vec::new());
        engine.restart(Time::ZERO);
    }
    Ok(engine)
}

struct Flight {
    progress: watch::Sender<Progress>,
    stream: bool,
    input_tokens: u32,
    last_token: Time,
}

struct Actor {
    engine: Engine,
    seed: u64,
    clock: Clock,
    /// Time that hangs took; the engine's clock is the wall's less this.
    lost: Span,
    flights: BTreeMap<RequestId, Flight>,
    /// Events that have not left the server yet.
    outbox: TimeQueue<EngineEvent>,
    histograms: Arc<Mutex<Histograms>>,
    in_flight: Arc<AtomicUsize>,
}

impl Actor {
    fn now(&self) -> Time {
        Time(self.clock.now().0.saturating_sub(self.lost.0))
    }

    fn run(&mut self, inbox: &mpsc::Receiver<Command>) {
        let mut events = Vec::new();
        let mut held = VecDeque::new();
        loop {
            let now = self.now();
            self.engine.advance(now, &mut events);
            self.post(&mut events);
            self.deliver(now);
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
                if !self.stand_still(time, inbox, &mut held) {
                    return;
                }
            } else {
                self.obey(command, &mut events);
            }
        }
    }

    /// Holds everything back until `time` is over; a crash ends a hang too. False when all handles are gone.
    fn stand_still(&mut self, time: Duration, inbox: &mpsc::Receiver<Command>, held: &mut VecDeque<Command>) -> bool {
        let before = self.clock.now();
        let until = Instant::now() + time;
        loop {
            let received = inbox.recv_timeout(until.saturating_duration_since(Instant::now()));
            match received {
                Ok(Command::Crash) => {
                    held.push_front(Command::Crash);
                    break;
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

    fn obey(&mut self, command: Command, events: &mut Vec<EngineEvent>) {
        let now = self.now();
        self.engine.advance(now, events);
        match command {
            Command::Submit { request, stream, progress, accepted } => {
                let (id, input_tokens) = (request.id, request.input_tokens);
                let result = self.engine.submit(now, request);
                if result.is_ok() {
                    progress.send_modify(|p| p.accepted = now);
                    self.flights.insert(id, Flight { progress, stream, input_tokens, last_token: now });
                } else {
                    self.in_flight.fetch_sub(1, Ordering::AcqRel);
                }
                let _ = accepted.send(result); // a client that left is found by its guard
            }
            Command::Cancel(id) => {
                self.engine.cancel(now, id, events);
            }
            Command::Read(tell) => {
                let snapshot = Snapshot {
                    gauges: self.engine.metrics(now),
                    counters: self.engine.counters(now),
                    loads: self.engine.loads(now),
                    health: self.engine.health(now),
                    now,
                };
                let _ = tell.send(snapshot);
            }
            Command::Flush(tell) => {
                let _ = tell.send(self.engine.flush(now));
            }
            Command::Crash => {
                self.engine.crash(now, events);
                *self.histograms.lock().unwrap_or_else(PoisonError::into_inner) = Histograms::default();
            }
            Command::Restart { cold_start_s } => {
                if let Some(s) = cold_start_s
                    && self.engine.health(now) == Health::Down
                {
                    let config =
                        EngineConfig { cold_start_s: s, cold_start_sigma: 0.0, ..self.engine.config().clone() };
                    // A crashed engine has nothing left that a new one would lack.
                    if let Ok(mut engine) = Engine::new(config, self.seed) {
                        engine.crash(now, events);
                        self.engine = engine;
                    }
                }
                self.engine.restart(now);
            }
            Command::Hang(_) => {}
        }
        self.post(events);
    }

    fn post(&mut self, events: &mut Vec<EngineEvent>) {
        for event in events.drain(..) {
            self.outbox.push(event.at(), event);
        }
    }

    fn deliver(&mut self, now: Time) {
        while let Some(entry) = self.outbox.pop_due(now) {
            self.tell(entry.item);
        }
    }

    fn tell(&mut self, event: EngineEvent) {
        let (id, at) = (event.id(), event.at());
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let mut histograms = self.histograms.lock().unwrap_or_else(PoisonError::into_inner);
        let over = matches!(event, EngineEvent::Finished { .. } | EngineEvent::Aborted { .. });
        if over {
            // Before anybody hears of it, so that whoever does finds room.
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
        }
        let (stream, input, last) = (flight.stream, flight.input_tokens, flight.last_token);
        flight.progress.send_modify(|p| {
            match event {
                EngineEvent::PrefillStarted { cached_tokens, .. } => {
                    (p.prefill, p.cached_tokens) = (Some(at), cached_tokens);
                    histograms.queue.observe((at - p.accepted).ms() / 1e3);
                }
                EngineEvent::FirstToken { cached_tokens, .. } => {
                    (p.first, p.generated, p.cached_tokens) = (Some(at), 1, cached_tokens);
                    // Answers in one piece are first seen by the API process at the 50th token or the end.
                    if stream {
                        histograms.ttft.observe((at - p.accepted).ms() / 1e3);
                    }
                }
                EngineEvent::Token { generated, .. } => {
                    p.generated = generated;
                    histograms.itl.observe((at - last).ms() / 1e3);
                    if !stream && generated == 50 {
                        histograms.ttft.observe((at - p.accepted).ms() / 1e3);
                    }
                }
                EngineEvent::Finished { output_tokens, retractions, cached_tokens, .. } => {
                    (p.generated, p.cached_tokens) = (output_tokens, cached_tokens);
                    p.end = Some((at, Ok(Done { output_tokens, retractions })));
                    let e2e = (at - p.accepted).ms() / 1e3;
                    if !stream && output_tokens < 50 {
                        histograms.ttft.observe(e2e);
                    }
                    histograms.finished(e2e, input, output_tokens, retractions);
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
