//! `gorgo available`, `list`, `price`, `kill` and `watch`.

use super::CloudArgs;
use super::table::columns;
use crate::cli::output::print_line;
use crate::cli::process::StopSignal;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_cloud::fleet::Row;
use gorgo_cloud::ledger::{Entry, State};
use gorgo_cloud::money::dollars;
use gorgo_cloud::time::utc;
use gorgo_cloud::{Node, Time};
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Debug, ClapArgs)]
pub(crate) struct AvailableArgs {
    #[command(flatten)]
    common: CloudArgs,
    /// Only types free in this region
    #[arg(long)]
    region: Option<String>,
    /// Types without a free machine too
    #[arg(long)]
    all: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    common: CloudArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PriceArgs {
    #[command(flatten)]
    common: CloudArgs,
    /// What runs, in place of types
    #[arg(long)]
    running: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct KillArgs {
    #[command(flatten)]
    common: CloudArgs,
    /// Names or ids
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// All that the ledger names
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    common: CloudArgs,
    /// Look once and end
    #[arg(long)]
    once: bool,
}

pub(super) async fn available(args: &AvailableArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let mut offers = session.provider.offers().await?;
    if let Some(region) = &args.region {
        offers.iter_mut().for_each(|offer| offer.regions.retain(|free| free.name == *region));
    }
    offers.retain(|offer| args.all || !offer.regions.is_empty());
    if args.common.json {
        return Ok(print_line(serde_json::to_string_pretty(&offers)?)?);
    }
    let rows: Vec<Vec<String>> = offers
        .iter()
        .map(|offer| {
            let regions: Vec<&str> = offer.regions.iter().map(|region| region.name.as_str()).collect();
            let shown = match regions.len() {
                0 => "none free".to_owned(),
                1..=6 => regions.join(", "),
                more => format!("{}, and {} more (--json lists all)", regions[..4].join(", "), more - 4),
            };
            let price = dollars(offer.cents_per_hour);
            vec![offer.name.clone(), offer.gpus.to_string(), price, offer.description.clone(), shown]
        })
        .collect();
    Ok(print_line(columns(&["TYPE", "GPUS", "$/H", "DESCRIPTION", "FREE IN"], &rows))?)
}

pub(super) fn node_table(nodes: &[Node]) -> String {
    let row = |node: &Node| {
        let address = node.address.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            node.name.clone(),
            node.id.clone(),
            node.status.to_string(),
            node.region.clone(),
            node.machine.clone(),
            address,
        ]
    };
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    columns(&["NAME", "ID", "STATUS", "REGION", "TYPE", "ADDRESS"], &rows)
}

fn shown(row: &Row, now_ms: u64) -> Value {
    let intent = row.entry.as_ref().map(|entry| &entry.intent);
    let node = row.node.as_ref();
    let text = |of_node: fn(&Node) -> &str, of_intent: Option<&String>| {
        node.map(of_node).or(of_intent.map(String::as_str)).unwrap_or("-").to_owned()
    };
    let state = match row.entry.as_ref().map(|entry| &entry.state) {
        None => "not in the ledger",
        Some(State::Unanswered) => "launch not answered",
        Some(State::Ending) => "should have ended",
        Some(State::Running) => "in the ledger",
        Some(State::Refused(_) | State::Gone | State::Absent) => "runs although closed in the ledger",
    };
    let cents = row.entry.as_ref().map(|entry| entry.cents(now_ms));
    json!({
        "name": text(|node| &node.name, intent.map(|intent| &intent.name)),
        "id": text(|node| &node.id, row.entry.as_ref().and_then(|entry| entry.id.as_ref())),
        "status": node.map_or_else(|| "not listed".to_owned(), |node| node.status.to_string()),
        "region": text(|node| &node.region, intent.map(|intent| &intent.region)),
        "type": text(|node| &node.machine, intent.map(|intent| &intent.machine)),
        "address": node.and_then(|node| node.address.clone()),
        "cents_per_hour": node.map(|node| node.cents_per_hour).or(intent.map(|intent| intent.cents_per_hour)),
        "cents_so_far": cents,
        "lease_ends": intent.map(|intent| utc(intent.expires_ms)),
        "ledger": state,
    })
}

pub(super) async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let rows = session.fleet().rows().await?;
    let now_ms = Time::real().now_ms();
    let values: Vec<Value> = rows.iter().map(|row| shown(row, now_ms)).collect();
    if args.common.json {
        print_line(serde_json::to_string_pretty(&values)?)?;
    } else if values.is_empty() {
        print_line("no machines")?;
    } else {
        let cell = |value: &Value| value.as_str().map_or_else(|| "-".to_owned(), str::to_owned);
        let money = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), dollars);
        let line = |v: &Value| {
            let mut cells: Vec<String> =
                ["name", "id", "status", "region", "type", "address"].map(|key| cell(&v[key])).to_vec();
            cells.extend([
                money(&v["cents_per_hour"]),
                money(&v["cents_so_far"]),
                cell(&v["lease_ends"]),
                cell(&v["ledger"]),
            ]);
            cells
        };
        let head = ["NAME", "ID", "STATUS", "REGION", "TYPE", "ADDRESS", "$/H", "SO FAR", "LEASE ENDS (UTC)", "LEDGER"];
        print_line(columns(&head, &values.iter().map(line).collect::<Vec<_>>()))?;
    }
    let wrong = |row: &&Row| row.entry.as_ref().is_some_and(|e| !matches!(e.state, State::Running | State::Unanswered));
    let wrong = rows.iter().filter(wrong).count();
    if wrong > 0 {
        bail!("{wrong} machine(s) that should have ended may still cost money; run `gorgo kill --all` again");
    }
    Ok(())
}

pub(super) async fn price(args: &PriceArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let priced: Vec<(String, u64)> = if args.running {
        session.nodes().await?.into_iter().map(|node| (node.name, node.cents_per_hour)).collect()
    } else {
        session.provider.offers().await?.into_iter().map(|offer| (offer.name, offer.cents_per_hour)).collect()
    };
    let total: u64 = priced.iter().map(|(_, cents)| cents).sum();
    if args.common.json {
        let rows: Vec<Value> =
            priced.iter().map(|(name, cents)| json!({"name": name, "cents_per_hour": cents})).collect();
        return Ok(print_line(serde_json::to_string_pretty(&rows)?)?);
    }
    let mut rows: Vec<Vec<String>> = priced.iter().map(|(name, cents)| vec![name.clone(), dollars(*cents)]).collect();
    if args.running {
        rows.push(vec!["total".to_owned(), dollars(total)]);
    }
    Ok(print_line(columns(&["NAME", "$/H"], &rows))?)
}

pub(super) async fn kill(args: &KillArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let fleet = session.fleet();
    fleet.adopt().await?;
    let open = fleet.open()?;
    let (mut entries, mut unlisted) = (Vec::new(), Vec::new());
    for name in &args.names {
        let named = |entry: &&Entry| entry.intent.name == *name || entry.id.as_ref() == Some(name);
        let found: Vec<Entry> = open.iter().filter(named).cloned().collect();
        if found.is_empty() {
            // A machine outside the ledger is ended only by its id: names may be others'.
            let listed = session.provider.list().await?.into_iter().any(|node| node.id == *name);
            if !listed {
                let known: Vec<&str> = open.iter().map(|entry| entry.intent.name.as_str()).collect();
                bail!("no machine `{name}` in the ledger and none with this id; the ledger has: {}", known.join(", "));
            }
            unlisted.push(name.clone());
        }
        entries.extend(found);
    }
    if args.all {
        entries = open;
    }
    if entries.is_empty() && unlisted.is_empty() {
        return Ok(print_line("no machines")?);
    }
    let names: Vec<&str> =
        entries.iter().map(|entry| entry.intent.name.as_str()).chain(unlisted.iter().map(String::as_str)).collect();
    eprintln!("ending {}", names.join(", "));
    let mut failures = fleet.kill_all(&entries).await.err().unwrap_or_default();
    for id in &unlisted {
        failures.extend(fleet.kill_unlisted(id).await.err());
    }
    if !failures.is_empty() {
        let text: Vec<String> = failures.iter().map(ToString::to_string).collect();
        bail!("{}", text.join("\n"));
    }
    Ok(print_line(format_args!("gone: {}", names.join(", ")))?)
}

/// Between two looks at the clock; a suspended machine looks at once when it wakes.
const LOOK: Duration = Duration::from_secs(20);

pub(super) async fn watch(args: &WatchArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let fleet = session.fleet();
    let path = session.folder.join(format!(
        "watch-{}-{}.lock",
        session.provider.name(),
        gorgo_cloud::digest::of(session.provider.account().as_bytes()).get(..12).unwrap_or_default()
    ));
    let lock = std::fs::File::create(&path).with_context(|| format!("cannot write `{}`", path.display()))?;
    if lock.try_lock().is_err() {
        return Ok(print_line("another process watches this account already")?);
    }
    let mut interrupts = StopSignal::install()?;
    let mut began = false;
    loop {
        match fleet.watch_once().await {
            Ok(0) if began || args.once => return Ok(print_line("nothing runs any more")?),
            // A launch starts its watch before it writes its intents.
            Ok(0) => began = true,
            Ok(left) => {
                began = true;
                if args.once {
                    return Ok(print_line(format_args!("{left} machine(s) run within their lease"))?);
                }
            }
            Err(error) if args.once => return Err(error.into()),
            Err(error) => eprintln!("{}: {error}", utc(Time::real().now_ms())),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = interrupts.recv() => bail!("no longer watched: machines run beyond their lease unless `gorgo watch` is started again"),
        }
    }
}
