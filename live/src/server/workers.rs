//! Threads that drive connections, each with its own events, timers and tasks.
//!
//! A connection stays with the thread it was given to, and so do those to replicas that its requests use: what one
//! request touches stays in one core's caches, and no thread wakes another for it. tokio's shared threads would hand
//! it round. Probes, scrapes and timers of the core stay on the runtime that started the router.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Most threads: decisions are made one at a time, so that more would only wait for each other.
pub const MOST: usize = 8;

thread_local! {
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// The number of this thread: from 1 on for those that drive connections, 0 for all others.
pub(crate) fn here() -> usize {
    HERE.get()
}

/// The threads. They end when this is dropped.
#[derive(Debug)]
pub struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    handle: Handle,
    connections: Arc<AtomicUsize>,
    _until: oneshot::Sender<()>,
}

impl Workers {
    /// None: connections are driven by the runtime that serves.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// `threads` of them, at most [`MOST`]; 0 stands for as many as there are cores.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn start(threads: usize) -> io::Result<Self> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { cores() } else { threads };
        (1..=threads.min(MOST)).map(Worker::start).collect::<io::Result<_>>().map(Self)
    }

    /// A place for one more connection, at the thread that has the fewest.
    pub(crate) fn place(&self) -> Option<Place> {
        let worker = self.0.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed))?;
        worker.connections.fetch_add(1, Ordering::Relaxed);
        Some(Place { handle: worker.handle.clone(), connections: Arc::clone(&worker.connections) })
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (until, ended) = oneshot::channel::<()>();
        let handle = runtime.handle().clone();
        std::thread::Builder::new().name(format!("gorgo-{number}")).spawn(move || {
            HERE.set(number);
            runtime.block_on(async {
                tokio::select! {
                    _ = ended => {}
                    () = ticking() => {}
                }
            });
        })?;
        Ok(Self { handle, connections: Arc::default(), _until: until })
    }
}

/// A timer that is earlier than all others makes tokio wake the thread it is set in, by a system call, though that
/// thread is just setting it. With one always near, those of connections are never the first.
async fn ticking() {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) handle: Handle,
    connections: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[tokio::test]
    async fn connections_go_where_the_fewest_are_and_stay_there() {
        let workers = Workers::start(2).unwrap();
        let mut places: Vec<Place> = (0..4).filter_map(|_| workers.place()).collect();
        let mut seen = Vec::new();
        for place in &places {
            seen.push(place.handle.spawn(async { (here(), std::thread::current().id()) }).await.unwrap());
        }
        assert_eq!(seen.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 1, 2]);
        assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 2, "two threads");
        drop((places.remove(1), places.remove(2)));
        let next: Vec<Place> = (0..2).filter_map(|_| workers.place()).collect();
        for place in next {
            assert_eq!(place.handle.spawn(async { here() }).await.unwrap(), 2);
        }
        assert_eq!(here(), 0);
    }

    #[tokio::test]
    async fn threads_end_with_their_owner_and_without_any_there_is_no_place() {
        assert!(Workers::none().place().is_none());
        let workers = Workers::start(1).unwrap();
        let (alive, ended) = oneshot::channel::<()>();
        let task = workers.place().unwrap().handle.spawn(async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        drop(workers);
        assert!(ended.await.is_err() && task.await.unwrap_err().is_cancelled());
    }
}
