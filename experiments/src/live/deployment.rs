//! The deployment of a live run: replicas, the network between them, and routers.

use super::setup::{LOOPBACK, config, link_name, links};
use super::{LiveError, servers, start};
use crate::build::Built;
use crate::spec::PlannedArm;
use gorgo_benchmark::emulator::{Emulator, EmulatorConfig};
use gorgo_benchmark::load::target::Target;
use gorgo_benchmark::relay::{Relay, RelayConfig};
use gorgo_benchmark::text::TOKEN_BYTES;
use gorgo_core::fleet::Kind;
use gorgo_core::record::QueueSample;
use gorgo_core::router::ReplicaEvent;
use gorgo_core::{Time, rng};
use gorgo_live::AppState;
use gorgo_live::config::LogFile;
use gorgo_sim::world::{FaultKind, Topology};
use rand::Rng;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Most bytes of a router's decision log.
const LOG_BYTES: u64 = 1 << 30;

/// The decision log of router `i`, if the experiment asks for one.
fn decision_log(arm: &PlannedArm, seed: u64, i: usize) -> std::io::Result<Option<LogFile>> {
    let Some(folder) = &arm.spec.live.decisions else { return Ok(None) };
    std::fs::create_dir_all(folder)?;
    let plain: String = arm.label.chars().map(|c| if c.is_alphanumeric() || c == '.' { c } else { '-' }).collect();
    Ok(Some(LogFile { path: folder.join(format!("{plain}-{seed}-{i}.jsonl")), max_bytes: LOG_BYTES, keep: 1 }))
}

/// Longest wait until the routers have reached their replicas.
const READY_S: u64 = 20;
/// Everything that runs. Dropping it stops what it started; existing servers stay as they are.
pub(super) struct LiveDeployment {
    /// Emulated replicas; none when the arm names existing engines.
    engines: Arc<Vec<Emulator>>,
    _relay: Option<Relay>,
    nodes: Vec<Arc<AppState>>,
    routers: Vec<JoinHandle<()>>,
    /// Where users enter.
    pub(super) targets: Vec<Target>,
}

impl Drop for LiveDeployment {
    fn drop(&mut self) {
        self.routers.iter().for_each(JoinHandle::abort);
    }
}

impl LiveDeployment {
    pub(super) async fn build(arm: &PlannedArm, seed: u64, built: &Built) -> Result<Self, LiveError> {
        servers::check(arm)?;
        if let Some(targets) = servers::routers(arm, built) {
            for target in &targets {
                servers::prepare(target, arm).await?;
            }
            return Ok(Self { engines: Arc::default(), _relay: None, nodes: vec![], routers: vec![], targets });
        }
        let world = &built.world;
        let real = servers::engines(arm)?;
        let mut engines = Vec::new();
        if real.is_none() {
            for (i, replica) in world.replicas.iter().enumerate() {
                let config = EmulatorConfig {
                    seed: rng::stream(seed, "engine", i as u64).next_u64(),
                    health_ms: 0.0,
                    ..EmulatorConfig::of_engine(replica.engine.clone())
                };
                let emulator = Emulator::start(config, LOOPBACK).await;
                engines.push(emulator.map_err(|e| start(format!("replica {}", replica.name))(&e))?);
            }
        }
        let sites: Vec<usize> = match world.topology {
            Topology::Proxy { site } => vec![site],
            Topology::Edge => world.replicas.iter().map(|r| r.site).collect(),
        };
        let mut listeners = Vec::new();
        for _ in &sites {
            listeners.push(TcpListener::bind(LOOPBACK).await?);
        }
        let doors: Vec<SocketAddr> = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        // Existing servers have their real round trips.
        let relay = match &real {
            Some(_) => None,
            None => Some(
                Relay::start(RelayConfig {
                    network: world.network.clone(),
                    seed,
                    links: links(built, &sites, &engines, &doors),
                    sites: world.sites.iter().map(|s| s.name.clone()).collect(),
                    // Emulated text has as many bytes a token as the load generator writes.
                    byte_scale: world.network.bytes_per_token / TOKEN_BYTES as f64,
                    max_connections: 4_096,
                })
                .await
                .map_err(|e| start("relay")(&e))?,
            ),
        };
        // The URL of a replica (for a proxy) or a peer (for an edge): through its link, or directly at the same site.
        let find = |router: usize, replica: usize| -> String {
            let name = link_name(router, replica);
            let through = relay.iter().flat_map(Relay::links).find(|(link, _)| link.name == name);
            match (through, &real) {
                (Some((_, addr)), _) => format!("http://{addr}"),
                _ if sites.len() > 1 && router != replica => format!("http://{}", doors[replica]),
                (_, Some(urls)) => urls[replica].clone(),
                (_, None) => format!("http://{}", engines[replica].addr()),
            }
        };
        let engine_key = servers::key(arm.spec.live.engine_key_env.as_deref())?;
        let mut nodes = Vec::new();
        let mut routers = Vec::new();
        for (i, listener) in listeners.into_iter().enumerate() {
            let mut config = config(arm, seed, built, i, doors[i], &find);
            config.replicas.iter_mut().for_each(|replica| replica.api_key = engine_key.as_deref().map(Into::into));
            config.explain.log = decision_log(arm, seed, i)?;
            config.explain.outcomes = true;
            let node =
                gorgo_live::start(config, None, gorgo_live::tcp()).map_err(|e| start(format!("router {i}"))(&e))?;
            nodes.push(Arc::clone(&node));
            routers.push(tokio::spawn(async move {
                let _ = gorgo_live::serve(node, listener, std::future::pending()).await;
            }));
        }
        let target = |(site, door): (&usize, &SocketAddr)| Target {
            url: format!("http://{door}"),
            name: world.sites[*site].name.clone(),
            place: Some(world.sites[*site].place),
        };
        let targets = sites.iter().zip(&doors).map(target).collect();
        let deployment = Self { engines: Arc::new(engines), _relay: relay, nodes, routers, targets };
        deployment.ready().await?;
        if real.is_some() {
            for target in &deployment.targets {
                servers::prepare(target, arm).await?;
            }
        }
        Ok(deployment)
    }

    /// Waits until every router has measured the round trip to all its replicas and peers.
    async fn ready(&self) -> Result<(), LiveError> {
        let seen = || {
            let all = |node: &Arc<AppState>| {
                node.driver.read(|router, _, _| router.replicas().iter().all(|r| r.rtt.updated().is_some()))
            };
            self.nodes.iter().all(all)
        };
        for _ in 0..READY_S * 20 {
            if seen() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(LiveError::NotReady(READY_S))
    }

    /// Injects the experiment's faults at their times.
    pub(super) fn faults(&self, built: &Built, begun: Instant) -> JoinHandle<()> {
        let mut plan: Vec<(Time, usize, FaultKind)> = Vec::new();
        for fault in &built.world.faults {
            plan.push((fault.at, usize::from(fault.replica), fault.kind));
        }
        plan.sort_by_key(|&(at, ..)| at);
        let (engines, nodes) = (Arc::clone(&self.engines), self.nodes.clone());
        let names = built.names.replicas.clone();
        tokio::spawn(async move {
            for (at, replica, kind) in plan {
                tokio::time::sleep_until((begun + Duration::from_nanos(at.0)).into()).await;
                match kind {
                    FaultKind::Crash { down_ms } => {
                        if let Some(engine) = engines.get(replica) {
                            engine.crash(Duration::from_secs_f64(down_ms / 1e3), None);
                        }
                    }
                    FaultKind::Drain | FaultKind::Undrain => {
                        let draining = matches!(kind, FaultKind::Drain);
                        for node in &nodes {
                            if let Some(upstream) = node.find(&names[replica]) {
                                node.driver.handle(ReplicaEvent::Draining { replica: upstream.id, draining });
                            }
                        }
                    }
                }
            }
        })
    }

    /// Samples the queues periodically until the sender is dropped.
    pub(super) fn sampler(&self, built: &Built, begun: Instant) -> (oneshot::Sender<()>, JoinHandle<Vec<QueueSample>>) {
        let period = Duration::from_secs_f64(built.world.sample_ms.max(100.0) / 1e3);
        let (engines, nodes) = (Arc::clone(&self.engines), self.nodes.clone());
        let (stop, mut stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let mut samples = Vec::new();
            loop {
                tokio::select! {
                    _ = &mut stopped => return samples,
                    () = tokio::time::sleep(period) => samples.extend(sample(begun, &engines, &nodes).await),
                }
            }
        });
        (stop, task)
    }
}

/// Queues of all replicas now: from an emulated engine itself, else from the last report that a router has of it.
async fn sample(begun: Instant, engines: &[Emulator], nodes: &[Arc<AppState>]) -> Vec<QueueSample> {
    let at = Time(begun.elapsed().as_nanos() as u64);
    let mut samples = Vec::new();
    for (i, emulator) in engines.iter().enumerate() {
        let Some(snapshot) = emulator.engine().read().await else { continue };
        let (loads, node) = (snapshot.loads, &nodes[i.min(nodes.len() - 1)]);
        samples.push(QueueSample {
            at,
            replica: i as u16,
            waiting: (loads.waiting + loads.arriving) as u32,
            running: (loads.running + loads.prefilling) as u32,
            kv_tokens: loads.used_tokens as u32,
            queued_at_router: node.driver.read(|router, _, _| router.queue_len()) as u32,
        });
    }
    if engines.is_empty() {
        for (edge, node) in nodes.iter().enumerate() {
            node.driver.read(|router, _, _| {
                let own = router.replicas().iter().filter(|replica| replica.spec.kind != Kind::Peer);
                for (i, report) in own.enumerate().filter_map(|(i, replica)| Some((i, replica.engine?.report))) {
                    // An edge's only engine is the one beside it.
                    let replica = if nodes.len() > 1 { edge } else { i } as u16;
                    let (waiting, running) = (report.queued, report.running);
                    samples.push(QueueSample {
                        at,
                        replica,
                        waiting,
                        running,
                        kv_tokens: report.used_tokens as u32,
                        queued_at_router: router.queue_len() as u32,
                    });
                }
            });
        }
    }
    samples
}
