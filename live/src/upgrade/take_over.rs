//! The new process of an upgrade: receives the listening socket and the learned state, and reports when it serves.

use super::VARIABLE;
use super::frames::{self, Kind};
use super::hand_over::Offer;
use crate::server::activation;
use crate::server::start::{Inherited, StartError};
use crate::sharing::message::Message;
use crate::sharing::slots;
use crate::snapshot::codec;
use crate::state::AppState;
use crate::supervise;
use gorgo_core::fleet::{Health, Load};
use gorgo_core::router::ReplicaEvent;
use gorgo_core::sharing::{MAX_PEERS, Path};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Longest message of the old process, bytes.
const NEWS: usize = 64 << 20;
/// The number of the old process among the routers that report their loads; no peer has it.
const BEFORE: u8 = MAX_PEERS as u8;
/// How long the old process may take to answer.
const STEP: Duration = Duration::from_secs(30);
/// Between two looks at the probes.
const LOOK: Duration = Duration::from_millis(20);

/// Whether this process is to take over from a running one.
pub fn is_successor() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// The socket of the process before: standard input.
fn socket() -> io::Result<std::os::unix::net::UnixStream> {
    Ok(std::os::unix::net::UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Reports to the running process, if this one is to take over from it, why the upgrade fails.
pub fn failed(why: &str) {
    if is_successor()
        && let Ok(mut stream) = socket()
    {
        let _ = stream.set_nonblocking(false);
        let _ = stream.write_all(&frames::head(Kind::Failed, why.len()));
        let _ = stream.write_all(why.as_bytes());
    }
}

/// What the old process gave.
pub(crate) struct Given {
    pub(crate) listener: TcpListener,
    pub(crate) lock: Option<OwnedFd>,
    pub(crate) inherited: Inherited,
    pub(crate) usable: Usable,
}

/// Replicas that the old process could use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usable {
    count: usize,
    /// Empty when the old program is of a version that sends no names.
    names: Vec<String>,
}

/// The way to the old process.
#[derive(Debug)]
pub(crate) struct TakeOver(UnixStream);

fn broke(why: impl std::fmt::Display) -> StartError {
    StartError::Upgrade(format!("the process before cannot be taken over: {why}"))
}

impl TakeOver {
    /// Receives what the old process gives; `None` for a process that takes over from none.
    ///
    /// # Errors
    /// When the old process breaks off, or its socket listens elsewhere than `listen`.
    pub(crate) async fn begin(listen: SocketAddr) -> Result<Option<(Self, Given)>, StartError> {
        if !is_successor() {
            return Ok(None);
        }
        let stream = socket().and_then(|stream| {
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        });
        let mut stream = stream.map_err(broke)?;
        let given = tokio::time::timeout(STEP, receive(&mut stream, listen)).await;
        let given = given.unwrap_or_else(|_| Err(broke("it does not answer")))?;
        Ok(Some((Self(stream), given)))
    }

    /// Waits until requests could come, and for the old process to give up its files.
    ///
    /// # Errors
    /// When replicas cannot be used that the old process uses, or it breaks off.
    pub(crate) async fn ready(&mut self, state: &Arc<AppState>, before: &Usable) -> Result<(), StartError> {
        probed(state, before).await?;
        frames::write(&mut self.0, Kind::Ready, &[]).await.map_err(broke)?;
        let go = tokio::time::timeout(STEP, frames::read(&mut self.0, NEWS)).await;
        match go.map_err(|_| broke("it does not answer"))?.map_err(broke)? {
            (Kind::Go, _) => Ok(()),
            _ => Err(broke("it sends what does not belong here")),
        }
    }

    /// Reports to the old process that this one accepts connections. The returned task applies what the old process
    /// still learns, until it ends.
    ///
    /// # Errors
    /// When the old process has gone on without this one.
    pub(crate) async fn serving(mut self, state: &Arc<AppState>) -> Result<JoinHandle<()>, StartError> {
        frames::write(&mut self.0, Kind::Serving, &[]).await.map_err(broke)?;
        Ok(tokio::spawn(supervise::logged("news of the process before", hear(Arc::downgrade(state), self.0))))
    }
}

async fn receive(stream: &mut UnixStream, listen: SocketAddr) -> Result<Given, StartError> {
    frames::write(stream, Kind::Hello, &[frames::PROTOCOL]).await.map_err(broke)?;
    let mut descriptors = frames::receive_descriptors(stream).await.map_err(broke)?.into_iter();
    let (Kind::Offer, offer) = frames::read(stream, 8 << 20).await.map_err(broke)? else {
        return Err(broke("it sends what does not belong here"));
    };
    let offer: Offer = serde_json::from_slice(&offer).map_err(broke)?;
    let (Kind::Snapshot, snapshot) = frames::read(stream, codec::LONGEST).await.map_err(broke)? else {
        return Err(broke("it sends what does not belong here"));
    };
    let listener = TcpListener::from(descriptors.next().ok_or_else(|| broke("it gives no socket"))?);
    activation::check(&listener, listen, "the process before passes")?;
    Ok(Given {
        listener,
        lock: descriptors.next().filter(|_| offer.has_lock),
        inherited: Inherited {
            saved: offer.saved,
            kept: codec::decode(&snapshot).map_err(|why| why.to_string()),
            discovered: offer.discovered,
        },
        usable: Usable { count: offer.usable, names: offer.usable_names },
    })
}

/// Waits for the first probe of every replica, and for those that the old process could use, so that an upgrade never
/// takes replicas from the fleet. Those that are not in this fleet are no longer configured.
async fn probed(state: &Arc<AppState>, before: &Usable) -> Result<(), StartError> {
    let probes = &state.config().probes;
    let limit = Duration::from_millis(probes.timeout_ms) + Duration::from_secs(1);
    let until = Instant::now() + limit;
    let unknown = || {
        let waits = |r: &&gorgo_core::fleet::Replica| !r.removed && r.health == Health::Unknown;
        state.driver.read(|router, _, _| router.replicas().iter().filter(waits).count())
    };
    while probes.period_ms > 0 && unknown() > 0 && Instant::now() < until {
        tokio::time::sleep(LOOK).await;
    }
    let until = Instant::now() + limit;
    loop {
        // A replica of which nothing is known yet, or that has failed once, counts as usable elsewhere.
        let answers = |r: &gorgo_core::fleet::Replica| probes.period_ms == 0 || r.health == Health::Up;
        let here: Vec<(String, bool)> = state.driver.read(|router, _, _| {
            let here = router.replicas().iter().filter(|r| !r.removed);
            here.map(|r| (r.spec.name.clone(), answers(r))).collect()
        });
        let usable = state.usable().0;
        let is_lacking = |(name, answers): &&(String, bool)| !answers && before.names.contains(name);
        let lacking: Vec<&str> = here.iter().filter(is_lacking).map(|(name, _)| name.as_str()).collect();
        if lacking.is_empty() && (usable > 0 || before.count == 0) {
            let gone = before.names.iter().filter(|name| !here.iter().any(|(here, _)| here == *name)).count();
            if gone > 0 {
                tracing::warn!("{gone} replicas of the previous process are not in this configuration");
            }
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(StartError::Upgrade(refusal(state, before.count, usable, &lacking)));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Why this process does not take over.
fn refusal(state: &AppState, before: usize, usable: usize, lacking: &[&str]) -> String {
    const SHOWN: usize = 4;
    let mut why = format!("the new process would use {usable} replicas, and the old one uses {before}");
    for name in lacking.iter().take(SHOWN) {
        let error = state.find(name).and_then(|upstream| upstream.last_error());
        let error = error.map_or_else(|| "no answer to its probe yet".to_owned(), |error| error.why);
        why.push_str(&format!("; {name}: {error}"));
    }
    if lacking.len() > SHOWN {
        why.push_str(&format!("; and {} more", lacking.len() - SHOWN));
    }
    why
}

/// Applies what the old process sends, until it ends.
async fn hear(state: Weak<AppState>, mut stream: UnixStream) {
    while let Ok((Kind::News, bytes)) = frames::read(&mut stream, NEWS).await {
        let (Some(state), Ok(message)) = (state.upgrade(), serde_json::from_slice::<Message>(&bytes)) else { return };
        let slots = slots(&state, &message.replicas);
        let (news, _) = message.news(&slots);
        for news in news {
            let path = Path { replica: news.replica, symbols: news.tail.into(), tokens: news.tokens };
            state.driver.pass_to_heir(&path);
            let Path { replica, symbols, tokens } = path;
            state.driver.handle(ReplicaEvent::PathLearned { replica, symbols, tokens });
        }
        let slot = |&(at, load): &(u16, Load)| Some(((*slots.get(usize::from(at))?)?, load));
        let loads = message.loads.iter().filter_map(slot).collect();
        state.driver.handle(ReplicaEvent::PeerLoads { peer: BEFORE, loads });
    }
    if let Some(state) = state.upgrade() {
        state.driver.handle(ReplicaEvent::PeerLoads { peer: BEFORE, loads: Vec::new() });
        tracing::info!("the process before has ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// The reason why a router with these replicas does not take over from one that used `names`.
    async fn refused(replicas: &str, names: &[&str]) -> Option<String> {
        let mut config = Config::parse(&format!("replicas = [{replicas}]")).unwrap();
        config.probes.period_ms = 500;
        let state = crate::start(config, None, crate::testkit::Net::default().dial()).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let before = Usable { count: names.len(), names };
        probed(&state, &before).await.err().map(|why| why.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_lacks_a_replica_does_not_take_over() {
        let (here, gone) = ("{url = \"http://here:1\", name = \"here\"}", "{url = \"http://gone:1\", name = \"gone\"}");
        let why = refused(&format!("{here}, {gone}"), &["gone"]).await.unwrap();
        assert!(why.contains("and the old one uses 1; gone: cannot connect"), "{why}");
        assert!(!why.contains("here"), "the old process did not use it either: {why}");
        assert_eq!(refused(gone, &[]).await, None, "none of the two can use it");
    }
}
