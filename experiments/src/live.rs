//! The same experiment in the real world: emulated replicas, relays that make loopback as far as the regions are, and
//! real routers, all in this process; users are the load generator's.
//!
//! It takes real time: a run of 60 simulated seconds takes 60 s and the start. What differs from the simulation is
//! what is real: sockets, HTTP, the scheduler of this machine, prompts as text. Engines run the same model with the
//! same seeds; links have the same medians and spreads, but their own draws.

use crate::build::Built;
use crate::results::ArmRun;
use crate::spec::PlannedArm;
use gorgo_benchmark::emulator::{Emulator, EmulatorConfig};
use gorgo_benchmark::load::run::Run;
use gorgo_benchmark::load::source::{Output, SourceOptions};
use gorgo_benchmark::load::target::Target;
use gorgo_benchmark::load::{Bench, Limits, Live, Profile};
use gorgo_benchmark::relay::{LinkConfig, Relay, RelayConfig};
use gorgo_core::record::QueueSample;
use gorgo_core::request::TraceRequest;
use gorgo_core::router::Event;
use gorgo_core::{Time, rng};
use gorgo_live::config::{Config, PeerConfig, Probes, ReplicaConfig, Role};
use gorgo_live::node::Node;
use gorgo_live::{server, upstream};
use gorgo_sim::network::Network;
use gorgo_sim::world::{Client, FaultKind, Topology};
use rand::Rng;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Why a live run could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// A part did not start.
    #[error("the {part} did not start: {why}")]
    Start {
        /// Which.
        part: String,
        /// Its words.
        why: String,
    },
    /// The routers saw no healthy replicas in time.
    #[error("after {0} s not every router saw its replicas; is the machine very busy?")]
    NotReady(u64),
    /// The load generator refused.
    #[error("the load generator says: {0}")]
    Load(String),
    /// The runtime.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[from] std::io::Error),
}

fn start(part: impl Into<String>) -> impl FnOnce(&dyn std::fmt::Display) -> LiveError {
    let part = part.into();
    move |why| LiveError::Start { part, why: why.to_string() }
}

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
/// Longest wait for the routers to see their replicas.
const READY_S: u64 = 20;

/// Runs one arm with one seed in real time.
///
/// # Errors
/// When a part does not start.
pub fn run(arm: &PlannedArm, seed: u64, requests: &[TraceRequest], built: Built) -> Result<ArmRun, LiveError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        let town = Town::build(arm, seed, &built).await?;
        town.run(arm, seed, requests, built).await
    });
    // Streams of a run that was cut short must not outlive it.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

/// Everything that runs. Dropping it stops everything.
struct Town {
    engines: Arc<Vec<Emulator>>,
    _relay: Relay,
    nodes: Vec<Arc<Node>>,
    routers: Vec<JoinHandle<()>>,
    targets: Vec<Target>,
}

impl Drop for Town {
    fn drop(&mut self) {
        self.routers.iter().for_each(JoinHandle::abort);
    }
}

impl Town {
    async fn build(arm: &PlannedArm, seed: u64, built: &Built) -> Result<Self, LiveError> {
        let world = &built.world;
        let mut engines = Vec::new();
        for (i, replica) in world.replicas.iter().enumerate() {
            let config = EmulatorConfig {
                engine: replica.engine.clone(),
                seed: rng::stream(seed, "engine", i as u64).next_u64(),
                health_ms: 0.0,
                ..EmulatorConfig::default()
            };
            let emulator = Emulator::start(config, LOOPBACK).await;
            engines.push(emulator.map_err(|e| start(format!("replica {}", replica.name))(&e))?);
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
        let relay = Relay::start(RelayConfig {
            network: world.network.clone(),
            seed,
            links: links(built, &sites, &engines, &doors),
            max_connections: 4_096,
        })
        .await
        .map_err(|e| start("relay")(&e))?;
        // Where a router finds a replica (proxy) or a peer (edge): through its link, or at once on the same site.
        let find = |router: usize, replica: usize| -> String {
            let name = link_name(router, replica);
            let through = relay.links().find(|(link, _)| link.name == name).map(|(_, addr)| addr);
            let direct = if sites.len() > 1 && router != replica { doors[replica] } else { engines[replica].addr() };
            format!("http://{}", through.unwrap_or(direct))
        };
        let mut nodes = Vec::new();
        let mut routers = Vec::new();
        for (i, listener) in listeners.into_iter().enumerate() {
            let config = config(arm, seed, built, i, doors[i], &find);
            let node = server::start(config, None, upstream::tcp()).map_err(|e| start(format!("router {i}"))(&e))?;
            nodes.push(Arc::clone(&node));
            routers.push(tokio::spawn(async move {
                let _ = server::serve(node, listener, std::future::pending()).await;
            }));
        }
        let target = |(site, door): (&usize, &SocketAddr)| Target {
            url: format!("http://{door}"),
            name: world.sites[*site].name.clone(),
            place: Some(world.sites[*site].place),
        };
        let targets = sites.iter().zip(&doors).map(target).collect();
        let town = Self { engines: Arc::new(engines), _relay: relay, nodes, routers, targets };
        town.ready().await?;
        Ok(town)
    }

    /// Waits until every router has measured the round trip to everyone it may send to.
    async fn ready(&self) -> Result<(), LiveError> {
        let seen = || {
            let all = |node: &Arc<Node>| {
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

    async fn run(
        self,
        arm: &PlannedArm,
        seed: u64,
        requests: &[TraceRequest],
        built: Built,
    ) -> Result<ArmRun, LiveError> {
        let world = &built.world;
        let bench = Bench {
            rows: requests.to_vec().into(),
            targets: self.targets.clone().into(),
            profile: match world.client {
                Client::Open => Profile::Trace,
                Client::Bounded { workers } => Profile::Concurrent(workers),
            },
            limits: Limits { duration_s: None, max_requests: Some(requests.len()) },
            source: SourceOptions { output: Output::Recorded, salt: seed, ..SourceOptions::default() },
            seed,
            warmup_s: 0.0,
            timeout_s: world.patience_ms.map_or(3_600.0, |ms| ms / 1e3),
            drain_s: world.drain_limit_s,
            max_in_flight: 100_000,
            user_rtt: true,
            key: None,
        };
        let begun = Instant::now();
        let faults = self.faults(&built, begun);
        let (stop, sampler) = self.sampler(&built, begun);
        let mut runs = bench.run(&Arc::new(Live::default())).await.map_err(|e| LiveError::Load(e.to_string()))?;
        faults.abort();
        drop(stop);
        let samples = sampler.await.unwrap_or_default();
        let run = runs.pop().ok_or_else(|| LiveError::Load("there was no run".to_owned()))?;
        Ok(arm_run(arm, seed, built, run, samples))
    }

    /// Does to the replicas what the experiment says, when it says.
    fn faults(&self, built: &Built, begun: Instant) -> JoinHandle<()> {
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
                        engines[replica].crash(Duration::from_secs_f64(down_ms / 1e3), None);
                    }
                    FaultKind::Drain | FaultKind::Undrain => {
                        let draining = matches!(kind, FaultKind::Drain);
                        for node in &nodes {
                            if let Some(upstream) = node.find(&names[replica]) {
                                node.driver.tell(Event::ReplicaDraining { replica: upstream.id, draining });
                            }
                        }
                    }
                }
            }
        })
    }

    /// Looks at the queues once in a while.
    fn sampler(&self, built: &Built, begun: Instant) -> (oneshot::Sender<()>, JoinHandle<Vec<QueueSample>>) {
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

async fn sample(begun: Instant, engines: &[Emulator], nodes: &[Arc<Node>]) -> Vec<QueueSample> {
    let mut samples = Vec::new();
    for (i, emulator) in engines.iter().enumerate() {
        let Some(snapshot) = emulator.engine().read().await else { continue };
        let (loads, node) = (snapshot.loads, &nodes[i.min(nodes.len() - 1)]);
        samples.push(QueueSample {
            at: Time(begun.elapsed().as_nanos() as u64),
            replica: i as u16,
            waiting: (loads.waiting + loads.arriving) as u32,
            running: (loads.running + loads.prefilling) as u32,
            queued_at_router: node.driver.read(|router, _, _| router.queue_len()) as u32,
        });
    }
    samples
}

fn link_name(router: usize, replica: usize) -> String {
    format!("{router} to {replica}")
}

/// A link for each router and replica (or peer) that are not at one site.
fn links(built: &Built, sites: &[usize], engines: &[Emulator], doors: &[SocketAddr]) -> Vec<LinkConfig> {
    let world = &built.world;
    let places: Vec<_> = world.sites.iter().map(|s| s.place).collect();
    let measured =
        |a: usize, b: usize| world.measured.iter().find(|&&(from, to, _)| (from, to) == (a, b)).map(|&(_, _, ms)| ms);
    let network = Network::new(world.network.clone(), world.seed, &places, measured);
    let mut links = Vec::new();
    for (r, &from) in sites.iter().enumerate() {
        for (u, replica) in world.replicas.iter().enumerate().filter(|(_, replica)| replica.site != from) {
            links.push(LinkConfig {
                name: link_name(r, u),
                listen: LOOPBACK,
                target: if sites.len() > 1 { doors[u] } else { engines[u].addr() },
                from: world.sites[from].name.clone(),
                to: world.sites[replica.site].name.clone(),
                // The relay's network applies the scale itself.
                rtt_ms: Some(network.base_ms(from, replica.site) / world.network.scale),
                mean_lifetime_s: None,
            });
        }
    }
    links
}

/// The file of router `i`, as a user would write it.
fn config(
    arm: &PlannedArm,
    seed: u64,
    built: &Built,
    i: usize,
    listen: SocketAddr,
    find: &dyn Fn(usize, usize) -> String,
) -> Config {
    let (world, names) = (&built.world, &built.names);
    let edge = matches!(world.topology, Topology::Edge);
    let replica = |u: usize| ReplicaConfig {
        url: find(i, u),
        name: Some(names.replicas[u].clone()),
        region: None,
        ms_per_token: world.replicas[u].ms_per_token,
        kv_tokens: Some(u64::from(world.replicas[u].engine.kv_tokens)),
        api_key: None,
    };
    let all = 0..world.replicas.len();
    Config {
        role: if edge { Role::Edge } else { Role::Proxy },
        name: names.routers[i].clone(),
        listen,
        seed: rng::stream(seed, "policy", i as u64).next_u64(),
        policy: arm.spec.policy.clone(),
        router: world.router.clone(),
        replicas: all.clone().filter(|&u| !edge || u == i).map(replica).collect(),
        peers: all
            .filter(|&u| edge && u != i)
            .map(|u| PeerConfig { url: find(i, u), name: Some(names.replicas[u].clone()) })
            .collect(),
        probes: Probes {
            period_ms: world.probe_ms as u64,
            scrape_ms: world.scrape_ms as u64,
            peer_ms: world.peer_ms as u64,
            ..Probes::default()
        },
        ..Config::default()
    }
}

/// The load generator's rows in the form of a simulated run.
fn arm_run(arm: &PlannedArm, seed: u64, built: Built, run: Run, samples: Vec<QueueSample>) -> ArmRun {
    let place = |name: &String| built.names.replicas.iter().position(|r| r == name).map_or(u16::MAX, |i| i as u16);
    let replicas: Vec<u16> = run.replicas.iter().map(place).collect();
    let records = run.rows.into_iter().map(|row| {
        let mut record = row.record;
        record.replica = replicas.get(usize::from(record.replica)).copied().unwrap_or(u16::MAX);
        record
    });
    ArmRun {
        arm: arm.label.clone(),
        baseline: arm.baseline.clone(),
        policy: arm.spec.policy.name().to_owned(),
        topology: arm.spec.topology.as_str().to_owned(),
        settings: arm.settings.iter().cloned().collect(),
        seed,
        itl: run.gaps.buckets().collect(),
        samples,
        event_hash: 0,
        events: 0,
        span: run.span,
        records: records.collect(),
        names: built.names,
    }
}
