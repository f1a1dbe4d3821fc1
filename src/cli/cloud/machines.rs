//! `gorgo available`, `list` and `price`.

use super::table::fitted;
use super::{CloudArgs, Session};
use crate::cli::output::print_line;
use anyhow::bail;
use clap::Args as ClapArgs;
use gorgo_cloud::fleet::Row;
use gorgo_cloud::ledger::{Entry, State};
use gorgo_cloud::money;
use gorgo_cloud::time::utc;
use gorgo_cloud::{Node, Time};
use serde_json::{Value, json};

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
            let price = money::price(offer.cents_per_hour);
            vec![offer.name.clone(), offer.gpus.to_string(), price, offer.description.clone(), shown]
        })
        .collect();
    if let (true, Some(region)) = (rows.is_empty(), &args.region) {
        bail!("no type is free in `{region}`; `gorgo available` lists the regions");
    }
    Ok(print_line(fitted(&["TYPE", "GPUS", "$/H", "DESCRIPTION", "FREE IN"], &rows, &["DESCRIPTION"]))?)
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
    fitted(&["NAME", "ID", "STATUS", "REGION", "TYPE", "ADDRESS"], &rows, &["ID", "ADDRESS"])
}

/// Whether the lease is over and the machine not.
fn is_over(entry: &Entry, now_ms: u64) -> bool {
    entry.is_open() && entry.intent.expires_ms <= now_ms
}

fn shown(row: &Row, now_ms: u64, unlisted: &str) -> Value {
    let intent = row.entry.as_ref().map(|entry| &entry.intent);
    let node = row.node.as_ref();
    let text = |of_node: fn(&Node) -> &str, of_intent: Option<&String>| {
        node.map(of_node).or(of_intent.map(String::as_str)).unwrap_or("-").to_owned()
    };
    let state = match row.entry.as_ref().map(|entry| (&entry.state, is_over(entry, now_ms))) {
        None => "not in the ledger",
        Some((State::Ending, _)) => "should have ended",
        Some((_, true)) => "lease is over",
        Some((State::Unanswered, _)) => "launch not answered",
        Some((State::Running, _)) => "in the ledger",
        Some((State::Refused(_) | State::Gone | State::Absent, _)) => "runs although closed in the ledger",
    };
    json!({
        "name": text(|node| &node.name, intent.map(|intent| &intent.name)),
        "id": row.id().unwrap_or("-"),
        "status": node.map_or_else(|| unlisted.to_owned(), |node| node.status.to_string()),
        "region": text(|node| &node.region, intent.map(|intent| &intent.region)),
        "type": text(|node| &node.machine, intent.map(|intent| &intent.machine)),
        "address": node.and_then(|node| node.address.clone()),
        "cents_per_hour": row.price(),
        "cents_so_far": row.entry.as_ref().and_then(|entry| entry.cents(now_ms)),
        "lease_ends": intent.map(|intent| utc(intent.expires_ms)),
        "ledger": state,
    })
}

pub(super) async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let fleet = session.fleet();
    let (rows, unknown) = match fleet.rows().await {
        Ok(rows) => (rows, None),
        // Without an answer the ledger still says what may cost money.
        Err(error) => (fleet.open()?.into_iter().map(Row::from).collect(), Some(error)),
    };
    let now_ms = Time::real().now_ms();
    let unlisted = if unknown.is_some() { "unknown" } else { "not listed" };
    let values: Vec<Value> = rows.iter().map(|row| shown(row, now_ms, unlisted)).collect();
    if args.common.json {
        print_line(serde_json::to_string_pretty(&values)?)?;
    } else if !values.is_empty() {
        print_line(list_table(&values))?;
    } else if unknown.is_none() {
        print_line("no machines")?;
    }
    if let Some(error) = unknown {
        bail!("what runs is not known; the ledger alone was shown: {error}");
    }
    complain(&session, &rows, now_ms)
}

fn list_table(values: &[Value]) -> String {
    let cell = |value: &Value| value.as_str().map_or_else(|| "-".to_owned(), str::to_owned);
    let line = |v: &Value| {
        let mut cells: Vec<String> =
            ["name", "id", "status", "region", "type", "address"].map(|key| cell(&v[key])).to_vec();
        cells.extend([
            money::price(v["cents_per_hour"].as_u64()),
            money::price(v["cents_so_far"].as_u64()),
            cell(&v["lease_ends"]),
            cell(&v["ledger"]),
        ]);
        cells
    };
    let head = ["NAME", "ID", "STATUS", "REGION", "TYPE", "ADDRESS", "$/H", "SO FAR", "LEASE ENDS (UTC)", "LEDGER"];
    let fine = values.iter().all(|value| value["ledger"] == "in the ledger");
    let spare =
        if fine { &["ADDRESS", "LEDGER", "ID", "TYPE"][..] } else { &["ADDRESS", "TYPE", "$/H", "REGION", "ID"] };
    fitted(&head, &values.iter().map(line).collect::<Vec<_>>(), spare)
}

/// Fails while a machine runs that should have ended; says when nothing ends those whose lease will be over.
fn complain(session: &Session, rows: &[Row], now_ms: u64) -> anyhow::Result<()> {
    let paid = session.provider.capabilities().paid;
    let is_wrong = |entry: &Entry| match entry.state {
        State::Running | State::Unanswered => paid && is_over(entry, now_ms),
        _ => true,
    };
    let watch = format!("`gorgo watch --cloud {}`", session.provider.name());
    let unwatched = paid && rows.iter().any(|row| row.entry.is_some()) && !session.is_watched();
    if unwatched {
        eprintln!("no watch runs: nothing ends these machines when their lease is over; start {watch}");
    }
    let wrong = rows.iter().filter(|row| row.entry.as_ref().is_some_and(is_wrong)).count();
    if wrong > 0 {
        bail!(
            "{wrong} machine(s) that should have ended may still cost money; run `gorgo kill --all`, or start {watch}"
        );
    }
    Ok(())
}

pub(super) async fn price(args: &PriceArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let priced: Vec<(String, Option<u64>)> = if args.running {
        let name = |row: &Row| {
            let name = row.node.as_ref().map(|node| &node.name).or(row.entry.as_ref().map(|entry| &entry.intent.name));
            name.cloned().unwrap_or_default()
        };
        session.fleet().rows().await?.iter().map(|row| (name(row), row.price())).collect()
    } else {
        session.provider.offers().await?.into_iter().map(|offer| (offer.name, offer.cents_per_hour)).collect()
    };
    if args.common.json {
        let rows: Vec<Value> =
            priced.iter().map(|(name, cents)| json!({"name": name, "cents_per_hour": cents})).collect();
        return Ok(print_line(serde_json::to_string_pretty(&rows)?)?);
    }
    let mut rows: Vec<Vec<String>> =
        priced.iter().map(|(name, cents)| vec![name.clone(), money::price(*cents)]).collect();
    if args.running {
        rows.push(vec!["total".to_owned(), money::total(priced.iter().map(|(_, cents)| *cents))]);
    }
    Ok(print_line(fitted(&["NAME", "$/H"], &rows, &[]))?)
}
