//! `gorgo kill`.

use super::{CloudArgs, Session};
use crate::cli::output::print_line;
use anyhow::bail;
use clap::Args as ClapArgs;
use gorgo_cloud::Error;
use gorgo_cloud::fleet::Row;
use serde_json::json;

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
    /// Release hosts of yours without reaching them; what runs there stays
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(args: &KillArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let fleet = session.fleet();
    let rows = match fleet.rows().await {
        Ok(rows) => rows,
        Err(error) => {
            // What the ledger names can be ended without the listing.
            eprintln!("{error}");
            fleet.open()?.into_iter().map(Row::from).collect()
        }
    };
    let chosen = if args.all {
        rows.into_iter().filter(|row| row.entry.is_some()).collect()
    } else {
        choose(rows, &args.names)?
    };
    let names: Vec<String> = chosen.iter().map(name).collect();
    if names.is_empty() {
        // Keys and rulesets of commands that could not remove them.
        finish(&fleet.tidy(&[]).await)?;
        return print(args.common.json, &[], "no machines");
    }
    if args.force {
        for row in &chosen {
            release(&session, row).await?;
        }
    } else {
        eprintln!("ending {}", names.join(", "));
        finish(&fleet.kill_rows(&chosen).await.err().unwrap_or_default())?;
    }
    print(args.common.json, &names, &format!("gone: {}", names.join(", ")))
}

fn name(row: &Row) -> String {
    let name = row.entry.as_ref().map(|entry| &entry.intent.name).or(row.node.as_ref().map(|node| &node.id));
    name.cloned().unwrap_or_default()
}

/// The rows that bear these names or ids. A machine outside the ledger is ended only by its id: names may be others'.
fn choose(rows: Vec<Row>, names: &[String]) -> anyhow::Result<Vec<Row>> {
    let is = |row: &Row, name: &String| {
        let launched = row.entry.as_ref().is_some_and(|e| e.intent.name == *name || e.id.as_ref() == Some(name));
        launched || row.node.as_ref().is_some_and(|node| node.id == *name)
    };
    if let Some(name) = names.iter().find(|name| !rows.iter().any(|row| is(row, name))) {
        let known: Vec<&str> = rows.iter().filter_map(|row| Some(row.entry.as_ref()?.intent.name.as_str())).collect();
        let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
        let alike = rows.iter().filter_map(|row| row.node.as_ref()).find(|node| node.name == *name);
        let alike = alike.map(|node| format!("; another ledger's `{name}` is ended by its id {}", node.id));
        bail!(
            "no machine `{name}` in the ledger and none with this id; the ledger has: {known}{}",
            alike.unwrap_or_default()
        );
    }
    Ok(rows.into_iter().filter(|row| names.iter().any(|name| is(row, name))).collect())
}

/// Lets go of a host as it is.
async fn release(session: &Session, row: &Row) -> anyhow::Result<()> {
    let Some(id) = row.id() else {
        bail!("{}: its launch is not answered yet; run `gorgo kill` without --force", name(row))
    };
    session.provider.forget(id).await?;
    if let Some(entry) = &row.entry {
        session.ledger.gone(session.fleet().time.now_ms(), &entry.intent.key)?;
    }
    eprintln!("{}: released as it is; what runs there stays", name(row));
    Ok(())
}

fn finish(failures: &[Error]) -> anyhow::Result<()> {
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{}", failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn print(as_json: bool, names: &[String], text: &str) -> anyhow::Result<()> {
    match as_json {
        true => print_line(json!({"gone": names}))?,
        false => print_line(text)?,
    }
    Ok(())
}
