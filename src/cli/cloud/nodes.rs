//! `gorgo run-on` and `gorgo connect`.

use super::CloudArgs;
use crate::cli::output::ExitStatus;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_cloud::shell::{Command, Stream};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::time::Duration;

#[derive(Debug, ClapArgs)]
pub(crate) struct RunOnArgs {
    #[command(flatten)]
    common: CloudArgs,
    /// Names or ids, with commas
    #[arg(value_delimiter = ',', required_unless_present = "all")]
    nodes: Vec<String>,
    /// All machines
    #[arg(long, conflicts_with = "nodes")]
    all: bool,
    /// Give up after this long without output, s
    #[arg(long, default_value_t = 1800)]
    silence_s: u64,
    /// The command; with one machine its output passes as it comes, and its status is that of gorgo
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ConnectArgs {
    #[command(flatten)]
    common: CloudArgs,
    /// Name or id
    node: String,
}

pub(super) async fn run_on(args: &RunOnArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let mut nodes = Vec::new();
    if args.all {
        nodes = session.nodes().await?;
    }
    for name in &args.nodes {
        nodes.push(session.node(name).await?);
    }
    if nodes.is_empty() {
        bail!("no machine runs; launch one with `gorgo launch`");
    }
    let members = session.members(nodes).await;
    let command = Command::new(&args.command).silence(Duration::from_secs(args.silence_s));
    if let [member] = members.as_slice() {
        let output = member.shell()?.run(&command.tap(pass)).await?;
        return match output.code {
            0 => Ok(()),
            code => Err(ExitStatus(u8::try_from(code).unwrap_or(1)).into()),
        };
    }
    let runs = members.iter().map(async |member| member.shell()?.run(&command).await);
    let mut failed = Vec::new();
    for (member, done) in members.iter().zip(futures_util::future::join_all(runs).await) {
        eprintln!("{}:", member.node.name);
        match done {
            Ok(output) => {
                std::io::stdout().write_all(&output.stdout)?;
                std::io::stderr().write_all(&output.stderr)?;
                if output.code != 0 {
                    failed.push(format!("{} (status {})", member.node.name, output.code));
                }
            }
            Err(error) => failed.push(error.to_string()),
        }
    }
    if !failed.is_empty() {
        bail!("the command failed on {}", failed.join(", "));
    }
    Ok(())
}

/// Passes output on as it comes; whoever closed the pipe wants no more of it.
fn pass(stream: Stream, bytes: &[u8]) {
    let _ = match stream {
        Stream::Out => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
        Stream::Err => std::io::stderr().write_all(bytes),
    };
}

pub(super) async fn connect(args: &ConnectArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let node = session.node(&args.node).await?;
    let shell = session.provider.reach(&node).await?;
    let (words, folder) = shell.login();
    // The login has a connection of its own.
    drop(shell);
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]);
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    // The login takes this process's place, and with it the terminal.
    Err(command.exec()).with_context(|| format!("cannot start `{}`", words[0]))
}
