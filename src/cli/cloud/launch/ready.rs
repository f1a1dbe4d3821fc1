//! What comes before the first launch: limits and names, the money, the watch, the ledger.

use super::super::Session;
use super::LaunchPlan;
use anyhow::{Context, bail};
use gorgo_cloud::fleet::{Reserved, Row};
use gorgo_cloud::ledger::Entry;
use gorgo_cloud::money::{Caps, Quote};
use gorgo_cloud::provider::Spec;
use gorgo_cloud::{Error, Kind};
use std::io::{BufRead, IsTerminal, Write};
use std::process::Stdio;

/// Checks limits and lease, asks for the money, starts the watch, makes what the launches need and writes them down.
pub(super) async fn ready_to_launch<'a>(session: &'a Session, plan: &LaunchPlan) -> anyhow::Result<Vec<Reserved<'a>>> {
    let LaunchPlan { wanted, lease_ms, caps, yes, watch, .. } = plan;
    let able = session.provider.capabilities();
    if let Some(longest) = able.longest_lease_ms.filter(|longest| lease_ms > longest) {
        let hours = longest / 3_600_000;
        bail!("{} ends machines after {hours} h at the latest; give a --lease within that", session.provider.name());
    }
    if wanted.len() > caps.launches {
        bail!("{} launches are more than --max-launches {}", wanted.len(), caps.launches);
    }
    let cents_per_hour = wanted.iter().map(|(_, cents)| *cents).sum();
    let quote = Quote { nodes: wanted.len(), cents_per_hour, lease_ms: *lease_ms };
    let fleet = session.fleet();
    let rows = fleet.rows().await?;
    let check = |open: &[Entry]| check(wanted, caps, &quote, &rows, open);
    check(&fleet.open()?)?;
    if able.paid {
        confirm(&quote, *yes).await?;
        if *watch {
            start_watch(session)?;
        }
    }
    let specs: Vec<&Spec> = wanted.iter().map(|(spec, _)| spec).collect();
    session.provider.prepare(&specs, &|line| eprintln!("{line}")).await?;
    // Another command may have launched since: the limits are checked again where none can come between.
    Ok(fleet.reserve(wanted, check)?)
}

/// Whether the launches keep limits and names, beside what the provider lists and what the ledger has open.
fn check(
    wanted: &[(Spec, Option<u64>)],
    caps: &Caps,
    quote: &Quote,
    rows: &[Row],
    open: &[Entry],
) -> gorgo_cloud::Result<()> {
    let is_open = |row: &&Row| {
        let key = row.entry.as_ref().map(|entry| &entry.intent.key);
        open.iter().any(|entry| Some(&entry.intent.key) == key)
    };
    // What another ledger launched in this account costs too.
    let others: Vec<&Row> = rows.iter().filter(|row| row.node.is_some() && !is_open(row)).collect();
    let ours = others.iter().filter_map(|row| Some(&row.entry.as_ref()?.intent.name));
    let names: Vec<&String> = open.iter().map(|entry| &entry.intent.name).chain(ours).collect();
    if let Some((spec, _)) = wanted.iter().find(|(spec, _)| names.contains(&&spec.name)) {
        let remedy = format!("choose another --name, or end it with `gorgo kill {}`", spec.name);
        return Err(Error::new(Kind::Guard, format!("`{}`", spec.name), "runs already", remedy));
    }
    let listed = others.iter().map(|row| row.price());
    let prices: Vec<Option<u64>> = open.iter().map(|entry| entry.intent.cents_per_hour).chain(listed).collect();
    caps.check(&prices, quote)
}

/// Asks for the money. The answer is read by a thread of its own, so that an interrupt ends the question.
async fn confirm(quote: &Quote, yes: bool) -> anyhow::Result<()> {
    eprintln!("{quote}");
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("standard input is not a terminal, so the cost cannot be confirmed; repeat with --yes");
    }
    eprint!("launch? [y/N] ");
    std::io::stderr().flush()?;
    let (send, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        let _ = send.send(read.map(|_| answer));
    });
    let answer = answer.await.context("standard input was not read")??;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was launched");
    }
    Ok(())
}

/// Starts `gorgo watch` in a session of its own, so that it outlives this command and its terminal.
fn start_watch(session: &Session) -> anyhow::Result<()> {
    if session.is_watched() {
        eprintln!("a watch of this account runs already; it ends the machines when their lease is over");
        return Ok(());
    }
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let log = session.folder.join("watch.log");
    let file = std::fs::OpenOptions::new().append(true).create(true).open(&log);
    let file = file.with_context(|| format!("cannot write `{}`", log.display()))?;
    let mut command = std::process::Command::new("setsid");
    command.arg(program).args(["watch", "--cloud", session.provider.name(), "--state"]).arg(&session.folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    let child = command.spawn().context("cannot start `gorgo watch`; start it yourself and repeat with --no-watch")?;
    eprintln!("process {} ends the machines when their lease is over; it logs to {}", child.id(), log.display());
    Ok(())
}
