//! One run on machines: the arm's settings on every router, empty caches, one load generator in each region, all on
//! one clock, and what they measured.

use super::super::{Session, cluster};
use crate::cli::process::since_1970;
use anyhow::{Context, bail};
use futures_util::future::{join_all, try_join_all};
use gorgo_cloud::Node;
use gorgo_cloud::cluster as operations;
use gorgo_cloud::setup::service::{self, Service};
use gorgo_cloud::setup::{Engine, Member, Plan, routers, run as set_up};
use gorgo_cloud::shell::{Command, Shell};
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
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use toml::{Table, Value};

/// Between the last preparation and the start of the schedule: load generators read the trace and connect.
const LEAD: Duration = Duration::from_secs(4);
/// Probes of a clock; the one with the shortest round trip counts.
const PROBES: usize = 9;
const BENCH: &str = "bench";
const TRACE: &str = ".gorgo/trace.jsonl";
const RECORDS: &str = ".gorgo/records.json";
/// Engines have this long to finish before their caches are emptied.
const IDLE: Duration = Duration::from_secs(60);

/// The routers' settings of an arm.
pub(super) fn router_table(arm: &PlannedArm) -> anyhow::Result<Table> {
    let mut table = Table::new();
    table.insert("policy".to_owned(), Value::try_from(&arm.spec.policy)?);
    table.insert("router".to_owned(), Value::try_from(&arm.spec.router)?);
    let signals = &arm.spec.signals;
    let period = |ms: f64| Value::Integer(ms as i64);
    let periods = [
        ("period_ms", period(signals.probe_ms)),
        ("scrape_ms", period(signals.scrape_ms)),
        ("peer_ms", period(signals.peer_ms)),
    ];
    table.insert(
        "probes".to_owned(),
        Value::Table(periods.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()),
    );
    Ok(table)
}

/// The machines of a run, ready to carry arms.
pub(super) struct Carrier {
    session: Arc<Session>,
    nodes: Vec<Node>,
    plan: Mutex<Plan>,
    runtime: Arc<tokio::runtime::Runtime>,
    folder: Mutex<PathBuf>,
    stop: watch::Sender<bool>,
    // Runs would disturb each other.
    carrying: Mutex<()>,
}

/// A clock beside ours, ns: how far it is ahead, and by how much that may be wrong.
#[derive(Debug, Clone, Copy)]
struct Clock {
    ahead_ns: i64,
    error_ns: i64,
}

impl Carrier {
    pub(super) fn new(
        session: Arc<Session>,
        nodes: Vec<Node>,
        plan: Plan,
        runtime: Arc<tokio::runtime::Runtime>,
    ) -> Self {
        let (plan, folder) = (Mutex::new(plan), Mutex::new(PathBuf::from("machines")));
        Self { session, nodes, plan, runtime, folder, stop: watch::channel(false).0, carrying: Mutex::default() }
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
        let members = self.session.members(self.nodes.clone()).await;
        let shells = members.iter().map(|member| Ok(member.shell.as_ref().map_err(Clone::clone)?.as_ref()));
        let shells: Vec<&dyn Shell> = shells.collect::<gorgo_cloud::Result<_>>()?;
        let mut plan = self.plan();
        let prepared = async {
            let wanted = router_table(arm)?;
            if plan.router != wanted {
                plan.router = wanted;
                self.session.keep(&plan)?;
                *self.plan.lock() = plan.clone();
                verdict(&routers(self.session.provider.as_ref(), &members, &plan, &|_| ()).await)?;
            }
            if arm.spec.live.flush {
                try_join_all(members.iter().map(|member| emptied(member, &plan))).await?;
            }
            let mut trace = Vec::new();
            native::write(TRACE, &mut trace, requests)?;
            try_join_all(shells.iter().map(|shell| shell.put(TRACE, 0o600, &trace))).await?;
            try_join_all(members.iter().map(|member| operations::start_trace(member, &plan))).await?;
            try_join_all(shells.iter().map(|shell| clock(*shell))).await
        };
        let clocks = unless(stopped, prepared).await?;
        let start_ns = i64::try_from((since_1970() + LEAD).as_nanos())?;
        // The load generator is the program that the routers run, which reads its key from their file.
        let here = self.session.provider.capabilities().loopback.then_some(plan.binary.as_path());
        let starts = shells.iter().zip(&clocks).enumerate().map(|(i, (shell, clock))| {
            begin(*shell, here, self.words(arm, seed, &built, i, (start_ns + clock.ahead_ns) / 1_000_000))
        });
        // A load generator that is being started is started, so that it can be found and ended.
        join_all(starts).await.into_iter().collect::<anyhow::Result<()>>()?;
        let ends = try_join_all(members.iter().zip(&shells).map(|(member, shell)| ended(*shell, member)));
        let parts = unless(stopped, ends).await?;
        self.keep(arm, seed, &members, &plan, &clocks, &parts).await?;
        let placed = parts.into_iter().zip(&clocks).enumerate().map(|(i, (part, clock))| {
            let epoch_ns = i64::try_from(part.epoch_ns)?;
            let behind_ns = epoch_ns - clock.ahead_ns - start_ns;
            Ok(Placed { part, router: u16::try_from(i)?, behind_ns })
        });
        let placed: Vec<Placed> = placed.collect::<anyhow::Result<_>>()?;
        let run =
            join(ArmRun::empty(arm, seed, built.names), placed, |name| name.trim_end_matches("-engine").to_owned());
        if run.records.len() != requests.len() {
            bail!("{} of {} requests were sent", run.records.len(), requests.len());
        }
        Ok(run)
    }

    /// The words of the load generator on node `i`.
    fn words(&self, arm: &PlannedArm, seed: u64, built: &Built, i: usize, at_ms: i64) -> Vec<String> {
        // A real engine is asked for the recorded length; the emulated one knows it.
        let emulated = matches!(self.plan().engine, Engine::Emulated { .. });
        let mut words: Vec<String> =
            ["bench", "--data", TRACE, "--user-rtt", "--records", RECORDS, "--entry"].map(str::to_owned).to_vec();
        words.push(i.to_string());
        for (replica, node) in arm.spec.fleet.replicas.iter().zip(&self.nodes) {
            // Only its own is called; the others say where users enter.
            words.extend(["--target".to_owned(), format!("http://127.0.0.1:{}@{}", node.ports.router, replica.region)]);
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
                option("--concurrency", workers.div_ceil(self.nodes.len()).to_string());
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
        plan: &Plan,
        clocks: &[Clock],
        parts: &[Part],
    ) -> anyhow::Result<()> {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.=".contains(c) { c } else { '_' };
        let folder = self.folder().join(format!("{}-{seed}", arm.label.chars().map(plain).collect::<String>()));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        let traces = try_join_all(members.iter().map(|member| operations::stop_trace(member, plan, &folder))).await?;
        crate::cli::trace::merge_into(&traces, &folder.join("timeline.json.gz"))?;
        let row = |((member, clock), part): ((&Member, &Clock), &Part)| {
            json!({
                "name": member.node.name, "id": member.node.id, "region": member.node.region,
                "clock_ahead_ms": clock.ahead_ns as f64 / 1e6, "clock_error_ms": clock.error_ns as f64 / 1e6,
                "requests": part.records.len(), "sent_late_ms": part.lateness_ms,
            })
        };
        let rows: Vec<_> = members.iter().zip(clocks).zip(parts).map(row).collect();
        let path = folder.join("machines.json");
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))
    }

    /// Keeps the end of each engine's and router's log.
    pub(super) async fn logs(&self) -> anyhow::Result<()> {
        let (plan, members, folder) = (self.plan(), self.session.members(self.nodes.clone()).await, self.folder());
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        for member in &members {
            for of in ["engine", "router"] {
                let Ok(text) = operations::log(member, &plan, of, 10_000).await else { continue };
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

fn verdict(reports: &[gorgo_cloud::setup::Report]) -> anyhow::Result<()> {
    let failed: Vec<String> =
        reports.iter().filter_map(|report| Some(format!("{}: {}", report.node, report.failure.as_ref()?))).collect();
    if failed.is_empty() {
        return Ok(());
    }
    bail!("{}", failed.join("\n"))
}

/// Empties a node's engine and index, once the engine is idle.
async fn emptied(member: &Member, plan: &Plan) -> anyhow::Result<()> {
    let until = since_1970() + IDLE;
    while operations::flush(member, plan).await? == operations::Flushed::Busy {
        if since_1970() > until {
            bail!("{}: the engine still runs requests after {} s", member.node.name, IDLE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// How far a node's clock is ahead of this one's, by the probe that took the least time.
async fn clock(shell: &dyn Shell) -> anyhow::Result<Clock> {
    let mut best: Option<Clock> = None;
    for _ in 0..PROBES {
        let sent = i64::try_from(since_1970().as_nanos())?;
        let text = shell.must(&Command::new(&["date", "+%s%N"])).await?.text();
        let got = i64::try_from(since_1970().as_nanos())?;
        let there: i64 = text.parse().with_context(|| format!("`date +%s%N` printed `{text}`"))?;
        let error_ns = (got - sent) / 2;
        if best.is_none_or(|best| error_ns < best.error_ns) {
            best = Some(Clock { ahead_ns: there - (sent + error_ns), error_ns });
        }
    }
    best.context("no probe")
}

/// Starts the load generator of a node.
async fn begin(shell: &dyn Shell, program: Option<&Path>, words: Vec<String>) -> anyhow::Result<()> {
    shell.must(&Command::new(&["rm", "-f", "--", RECORDS])).await?;
    let program = match program {
        Some(path) => path.display().to_string(),
        None => {
            let newest = r#"f=$(ls -t .gorgo/bin/gorgo-* | head -n 1); [ -n "$f" ] && echo "$(pwd)/$f""#;
            shell.must(&Command::script(newest, &[""])).await?.text()
        }
    };
    let argv = [vec![program], words].concat();
    let service = Service {
        name: BENCH,
        argv,
        environment: Some(".gorgo/router.env".to_owned()),
        inputs: gorgo_cloud::provider::nonce(),
    };
    service::ensure(shell, &service, false).await?;
    Ok(())
}

/// Waits for the end of a node's load generator and fetches what it measured.
async fn ended(shell: &dyn Shell, member: &Member) -> anyhow::Result<Part> {
    while service::runs(shell, BENCH).await? {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let bytes = match shell.get(RECORDS).await {
        Ok(bytes) => bytes,
        Err(_) => {
            let log = service::log(shell, BENCH, 5).await?;
            bail!("{}: the load generator left no records: {log}", member.node.name);
        }
    };
    let part = serde_json::from_slice(&bytes);
    part.with_context(|| format!("{}: the records cannot be read", member.node.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_cloud::shell::local::LocalShell;

    #[tokio::test]
    async fn the_clock_of_this_machine_is_this_machines_clock() {
        let folder = tempfile::tempdir().unwrap();
        let shell: Box<dyn Shell> = Box::new(LocalShell::new(folder.path().to_owned()).unwrap());
        let found = clock(shell.as_ref()).await.unwrap();
        assert!(found.ahead_ns.abs() <= found.error_ns, "{found:?}");
    }
}
