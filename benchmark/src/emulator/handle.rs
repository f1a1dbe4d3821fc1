//! Handle to the engine's thread: submit and cancel requests, read its state, inject faults.

use super::actor::Actor;
use super::config::EmulatorConfig;
use super::histograms::Histograms;
use super::kv_events::Feed;
use super::messages::{Command, RequestProgress, Snapshot};
use gorgo_core::RequestId;
use gorgo_sim::engine::{ConfigError, EngineError, EngineRequest};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Why the engine's thread did not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineStartError {
    /// A setting of the engine.
    #[error(transparent)]
    Engine(#[from] ConfigError),
    /// No thread.
    #[error("cannot start a thread ({0}); the machine is out of resources")]
    Thread(#[from] std::io::Error),
}

/// Handle to the engine's thread. The thread ends with the last clone of the handle.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    commands: mpsc::Sender<Command>,
    histograms: Arc<Mutex<Histograms>>,
    next_id: Arc<AtomicU64>,
    in_flight: Arc<AtomicUsize>,
    max_in_flight: usize,
}

/// A request in flight.
#[derive(Debug)]
pub struct Ticket {
    /// Id of the request.
    pub id: RequestId,
    /// Its progress, updated with every token.
    pub progress: watch::Receiver<RequestProgress>,
}

impl EngineHandle {
    /// Starts the thread, which passes changes of its cache to `feed`.
    ///
    /// # Errors
    /// An engine setting is out of range, or the system has no thread left.
    pub(super) fn start(config: &EmulatorConfig, feed: Option<Feed>) -> Result<Self, EngineStartError> {
        let (commands, inbox) = mpsc::channel();
        let histograms = Arc::new(Mutex::new(Histograms::of(config.engine.kind)));
        let in_flight = Arc::new(AtomicUsize::new(0));
        let mut actor = Actor::new(config, Arc::clone(&histograms), Arc::clone(&in_flight), feed)?;
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || actor.run(&inbox))?;
        let next_id = Arc::new(AtomicU64::new(1));
        Ok(Self { commands, histograms, next_id, in_flight, max_in_flight: config.max_in_flight })
    }

    /// Submits a request and gives it an id.
    ///
    /// # Errors
    /// The engine's error; too many requests in flight count as a full queue.
    pub async fn submit(&self, request: EngineRequest, stream: bool) -> Result<Ticket, EngineError> {
        self.submit_of(request, stream, None).await
    }

    /// Submits a request of a session, which its KV events name.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub async fn submit_of(
        &self,
        mut request: EngineRequest,
        stream: bool,
        session: Option<String>,
    ) -> Result<Ticket, EngineError> {
        if self.in_flight.fetch_add(1, Ordering::AcqRel) >= self.max_in_flight {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
            return Err(EngineError::QueueFull);
        }
        let id = RequestId(self.next_id.fetch_add(1, Ordering::Relaxed));
        request.id = id;
        let (progress, watcher) = watch::channel(RequestProgress::default());
        let (accepted, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Submit { request, stream, session, progress, accepted });
        match answer.await {
            Ok(Ok(())) => Ok(Ticket { id, progress: watcher }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(EngineError::Down),
        }
    }

    /// Cancels a request, if it is still in flight.
    pub fn cancel(&self, id: RequestId) {
        let _ = self.commands.send(Command::Cancel(id));
    }

    /// Reads the state of the scheduler. While the scheduler hangs, this does not return.
    pub async fn read(&self) -> Option<Snapshot> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Read(reply)).ok()?;
        answer.await.ok()
    }

    /// Reads the metrics, which a scheduler that hangs leaves at their last values.
    pub async fn read_metrics(&self) -> Option<Snapshot> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::ReadMetrics(reply)).ok()?;
        answer.await.ok()
    }

    /// Empties the cache if the engine is idle. Returns whether it was.
    pub async fn flush(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Flush(reply)).is_ok() && answer.await.unwrap_or(false)
    }

    /// Crashes the engine: all requests and the cache are lost.
    pub fn crash(&self) {
        let _ = self.commands.send(Command::Crash);
    }

    /// Restarts a crashed engine; `cold_start_s` replaces the configured median time to ready.
    pub fn restart(&self, cold_start_s: Option<f64>) {
        let _ = self.commands.send(Command::Restart { cold_start_s });
    }

    /// Stops the scheduler for this long (real time).
    pub fn hang(&self, time: Duration) {
        let _ = self.commands.send(Command::Hang(time));
    }

    /// Reads the histograms of requests.
    pub fn with_histograms<T>(&self, read: impl FnOnce(&Histograms) -> T) -> T {
        read(&self.histograms.lock())
    }
}
