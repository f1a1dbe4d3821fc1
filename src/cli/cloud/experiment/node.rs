//! What a run does on one machine: its clock, its cache, its load generator and what that measured.

use crate::cli::process::since_1970;
use anyhow::{Context, bail};
use gorgo_cloud::cluster as operations;
use gorgo_cloud::setup::service::{self, Service};
use gorgo_cloud::setup::{Member, Plan};
use gorgo_cloud::shell::{Command, Shell};
use gorgo_experiments::results::measured::Part;
use std::path::Path;
use std::time::Duration;

/// Probes of a clock; the one with the shortest round trip counts.
const PROBES: usize = 9;
pub(super) const BENCH: &str = "bench";
pub(super) const TRACE: &str = ".gorgo/trace.jsonl";
pub(super) const RECORDS: &str = ".gorgo/records.json";
/// Engines have this long to finish before their caches are emptied.
const IDLE: Duration = Duration::from_secs(60);

/// A clock beside ours, ns: how far it is ahead, and by how much that may be wrong.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) ahead_ns: i64,
    pub(super) error_ns: i64,
}

/// Whether set-up went well on all machines.
pub(super) fn verdict(reports: &[gorgo_cloud::setup::Report]) -> anyhow::Result<()> {
    let failed: Vec<String> =
        reports.iter().filter_map(|report| Some(format!("{}: {}", report.node, report.failure.as_ref()?))).collect();
    if failed.is_empty() {
        return Ok(());
    }
    bail!("{}", failed.join("\n"))
}

/// Empties a node's engine and index, once the engine is idle.
pub(super) async fn emptied(member: &Member, plan: &Plan) -> anyhow::Result<()> {
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
pub(super) async fn clock(shell: &dyn Shell) -> anyhow::Result<Clock> {
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
pub(super) async fn begin(shell: &dyn Shell, program: Option<&Path>, words: Vec<String>) -> anyhow::Result<()> {
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
pub(super) async fn ended(shell: &dyn Shell, member: &Member) -> anyhow::Result<Part> {
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
