//! One run on machines: the arm's settings on every router, empty caches, one load generator in each region, all on
//! one clock, and what they measured.

use super::super::{Session, cluster};
use super::entry::Entry;
use super::faults::Faults;
use super::node::{BENCH, Clock, RECORDS, TRACE, begin, clock, emptied, ended, verdict};
use crate::cli::process::since_1970;
use anyhow::{Context, bail};
use futures_util::future::{join_all, try_join_all};
use gorgo_cloud::Node;
use gorgo_cloud::cluster::{self as operations, Router};
use gorgo_cloud::setup::{Engine, Member, Plan, run as set_up, service};
use gorgo_cloud::shell::Shell;
use gorgo_core::request::TraceRequest;
use gorgo_experiments::build::Built;
use gorgo_experiments::live::LiveError;
use gorgo_experiments::results::ArmRun;
use gorgo_experiments::results::measured::{Part, Placed, join};
use gorgo_experiments::spec::PlannedArm;
use gorgo_sim::world::Client;
use gorgo_traces::workload::native;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Between the last preparation and the start of the schedule: load generators read the trace and connect.
const LEAD: Duration = Duration::from_secs(4);

/// The machines of a run, ready to carry arms.
pub(super) struct Carrier {
    session: Arc<Session>,
    nodes: Vec<Node>,
    plan: Mutex<Plan>,
    runtime: Arc<tokio::runtime::Runtime>,
    folder: Mutex<PathBuf>,
    stop: watch::Sender<bool>,
    /// Names of the machines whose edges know each other.
    peers: tokio::sync::Mutex<BTreeSet<String>>,
    // Runs would disturb each other.
    carrying: Mutex<()>,
}

impl Carrier {
    pub(super) fn new(
        session: Arc<Session>,
        nodes: Vec<Node>,
        plan: Plan,
        runtime: Arc<tokio::runtime::Runtime>,
    ) -> Self {
        let (plan, folder) = (Mutex::new(plan), Mutex::new(PathBuf::from("machines")));
        let peers = nodes.iter().map(|node| node.name.clone()).collect::<BTreeSet<_>>().into();
        let (stop, carrying) = (watch::channel(false).0, Mutex::default());
        Self { session, nodes, plan, runtime, folder, stop, peers, carrying }
    }

    pub(super) fn collect_in(&self, folder: &Path) {
        folder.clone_into(&mut self.folder.lock());
    }

    /// Ends the run that is carried, and refuses further ones.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    fn plan(&self) -> Plan {
        self.plan.lock().clone()
    }

    fn folder(&self) -> PathBuf {
        self.folder.lock().clone()
    }

    /// From bare machines to verified routers.
    pub(super) async fn set_up(&self) -> anyhow::Result<()> {
        let (plan, members) = (self.plan(), self.session.members(self.nodes.clone()).await);
        self.session.keep(&plan)?;
        let reports = set_up(self.session.provider.as_ref(), &members, &plan, &cluster::show).await;
        verdict(&reports)
    }

    /// Carries one arm with one seed; called from a thread outside the runtime.
    pub(super) fn carry(
        &self,
        arm: &PlannedArm,
        seed: u64,
        requests: &[TraceRequest],
        built: Built,
    ) -> Result<ArmRun, LiveError> {
        let _one = self.carrying.lock();
        let mut stopped = self.stop.subscribe();
        let done = self.runtime.block_on(self.one(arm, seed, requests, built, &mut stopped));
        if done.is_err() {
            self.runtime.block_on(self.end_load());
        }
        done.map_err(|error| LiveError::Machines(format!("{error:#}")))
    }

    async fn one(
        &self,
        arm: &PlannedArm,
        seed: u64,
        requests: &[TraceRequest],
        built: Built,
        stopped: &mut watch::Receiver<bool>,
    ) -> anyhow::Result<ArmRun> {
        let of_arm = arm.spec.fleet.replicas.iter();
        let nodes = of_arm.filter_map(|replica| self.nodes.iter().find(|node| node.name == replica.name).cloned());
        let members = self.session.members(nodes.collect()).await;
        let done = self.run(arm, seed, requests, built, &members, stopped).await;
        let closed = Entry::close(arm, &members).await;
        let run = done?;
        closed?;
        Ok(run)
    }

    async fn run(
        &self,
        arm: &PlannedArm,
        seed: u64,
        requests: &[TraceRequest],
        built: Built,
        members: &[Member],
        stopped: &mut watch::Receiver<bool>,
    ) -> anyhow::Result<ArmRun> {
        let shells: Vec<&dyn Shell> = members.iter().map(Member::shell).collect::<gorgo_cloud::Result<_>>()?;
        let mut plan = self.plan();
        let mut peers = self.peers.lock().await;
        let entry = Entry::open(&self.session, arm, &built, members, &mut plan, &mut peers);
        let entry = unless(stopped, entry).await?;
        *self.plan.lock() = plan.clone();
        let prepared = async {
            let faults = Faults::of(&self.session, &built.world.faults, members, &plan, &entry).await?;
            if arm.spec.live.flush {
                try_join_all(members.iter().map(|member| emptied(member, &plan))).await?;
                if let Some(at) = entry.proxy {
                    Router::Central.clear(&members[at], &plan).await?;
                }
            }
            let mut trace = Vec::new();
            native::write(TRACE, &mut trace, requests)?;
            try_join_all(shells.iter().map(|shell| shell.put(TRACE, 0o600, &trace))).await?;
            entry.start_traces(members, &plan).await?;
            anyhow::Ok((faults, try_join_all(shells.iter().map(|shell| clock(*shell))).await?))
        };
        let (faults, clocks) = unless(stopped, prepared).await?;
        let start = since_1970() + LEAD;
        let start_ns = i64::try_from(start.as_nanos())?;
        // The load generator is the program that the routers run, which reads its key from their file.
        let here = self.session.provider.capabilities().loopback.then_some(plan.binary.as_path());
        let starts = shells.iter().zip(&clocks).enumerate().map(|(i, (shell, clock))| {
            let at_ms = (start_ns + clock.ahead_ns) / 1_000_000;
            begin(*shell, here, self.words(arm, seed, &built, (i, &entry.urls[i]), at_ms))
        });
        // A load generator that is being started is started, so that it can be found and ended.
        join_all(starts).await.into_iter().collect::<anyhow::Result<()>>()?;
        let mut load = std::pin::pin!(try_join_all(members.iter().zip(&shells).map(|(m, shell)| ended(*shell, m))));
        let over = watch::channel(false).0;
        let loaded = async {
            let mut injected = std::pin::pin!(faults.inject(start, &over));
            tokio::select! {
                parts = &mut load => {
                    over.send_replace(true);
                    let (done, parts) = (injected.await, parts?);
                    done.map(|()| parts)
                }
                done = &mut injected => {
                    done?;
                    load.await
                }
            }
        };
        let loaded = unless(stopped, loaded).await;
        // Timelines are collected before routers are restarted.
        let kept = match &loaded {
            Ok(parts) => self.keep(arm, seed, members, (&plan, &entry, &faults), &clocks, parts).await,
            Err(_) => Ok(()),
        };
        let restored = faults.restore(loaded.is_ok()).await;
        if let (Err(_), Err(why)) = (&loaded, &restored) {
            tracing::warn!("{why:#}");
        }
        let parts = loaded?;
        kept.and(restored)?;
        let placed = parts.into_iter().zip(&clocks).enumerate().map(|(i, (part, clock))| {
            let epoch_ns = i64::try_from(part.epoch_ns)?;
            let behind_ns = epoch_ns - clock.ahead_ns - start_ns;
            Ok(Placed { part, router: u16::try_from(entry.router(i))?, behind_ns })
        });
        let placed: Vec<Placed> = placed.collect::<anyhow::Result<_>>()?;
        let run =
            join(ArmRun::empty(arm, seed, built.names), placed, |name| name.trim_end_matches("-engine").to_owned());
        if run.records.len() != requests.len() {
            bail!("{} of {} requests were sent", run.records.len(), requests.len());
        }
        Ok(run)
    }

    /// The words of the load generator on node `i`, which calls `url`.
    fn words(&self, arm: &PlannedArm, seed: u64, built: &Built, (i, url): (usize, &str), at_ms: i64) -> Vec<String> {
        // A real engine is asked for the recorded length; the emulated one knows it.
        let emulated = matches!(self.plan().engine, Engine::Emulated { .. });
        let mut words: Vec<String> =
            ["bench", "--data", TRACE, "--user-rtt", "--records", RECORDS, "--entry"].map(str::to_owned).to_vec();
        words.push(i.to_string());
        for replica in &arm.spec.fleet.replicas {
            // Only its own is called; the others say which users are nearest to this machine.
            words.extend(["--target".to_owned(), format!("{url}@{}", replica.region)]);
        }
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        option("--at", at_ms.to_string());
        option("--salt", (seed & (u64::MAX >> 16)).to_string());
        option("--seed", seed.to_string());
        option("--output-length", if emulated { "recorded" } else { "exact" }.to_owned());
        option("--timeout", format!("{}", built.world.patience_ms.map_or(3_600.0, |ms| ms / 1e3)));
        option("--drain", format!("{}", built.world.drain_limit_s));
        option("--max-in-flight", "100000".to_owned());
        match built.world.client {
            Client::Open => option("--profile", "trace".to_owned()),
            Client::Bounded { workers } => {
                option("--profile", "concurrent".to_owned());
                option("--concurrency", workers.div_ceil(arm.spec.fleet.replicas.len()).to_string());
            }
        }
        words
    }

    /// Keeps timelines, and the clocks they are aligned by.
    async fn keep(
        &self,
        arm: &PlannedArm,
        seed: u64,
        members: &[Member],
        (plan, entry, faults): (&Plan, &Entry, &Faults<'_>),
        clocks: &[Clock],
        parts: &[Part],
    ) -> anyhow::Result<()> {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.=".contains(c) { c } else { '_' };
        let folder = self.folder().join(format!("{}-{seed}", arm.label.chars().map(plain).collect::<String>()));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        let traces = entry.stop_traces(members, plan, &folder).await?;
        crate::cli::trace::merge_into(&traces, &folder.join("timeline.json.gz"))?;
        let row = |((member, clock), part): ((&Member, &Clock), &Part)| {
            json!({
                "name": member.node.name, "id": member.node.id, "region": member.node.region,
                "clock_ahead_ms": clock.ahead_ns as f64 / 1e6, "clock_error_ms": clock.error_ns as f64 / 1e6,
                "requests": part.records.len(), "sent_late_ms": part.lateness_ms,
            })
        };
        let rows: Vec<_> = members.iter().zip(clocks).zip(parts).map(row).collect();
        let write = |name: &str, rows: &[serde_json::Value]| {
            let (path, text) = (folder.join(name), serde_json::to_string_pretty(rows)?);
            std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))
        };
        write("machines.json", &rows)?;
        if arm.spec.faults.is_empty() {
            return Ok(());
        }
        write("faults.json", &faults.rows())
    }

    /// Keeps the end of each engine's and router's log.
    pub(super) async fn logs(&self) -> anyhow::Result<()> {
        let (plan, members, folder) = (self.plan(), self.session.members(self.nodes.clone()).await, self.folder());
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        for member in &members {
            for of in ["engine", "router", "proxy"] {
                let Ok(text) = operations::log(member, &plan, of, 10_000).await else { continue };
                if text.is_empty() {
                    continue;
                }
                let path = folder.join(format!("{}-{of}.log", member.node.name));
                std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
            }
        }
        Ok(())
    }

    /// Ends load generators that still run.
    async fn end_load(&self) {
        let members = self.session.members(self.nodes.clone()).await;
        join_all(members.iter().filter_map(|member| member.shell.as_ref().ok()).map(async |shell| {
            if let Err(error) = service::stop(shell.as_ref(), BENCH).await {
                tracing::warn!("{error}");
            }
        }))
        .await;
    }
}

/// Does `work`, unless the run is stopped before its end.
async fn unless<T>(
    stopped: &mut watch::Receiver<bool>,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        _ = stopped.wait_for(|stopped| *stopped) => bail!("interrupted"),
    }
}
