//! `gorgo watch`.

use super::CloudArgs;
use crate::cli::output::print_line;
use crate::cli::process::StopSignal;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_cloud::Time;
use gorgo_cloud::fleet::Watch;
use gorgo_cloud::time::utc;
use std::time::Duration;

#[derive(Debug, ClapArgs)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    common: CloudArgs,
    /// Check once: end the machines whose lease is over, wait until they have ended, and exit
    #[arg(long)]
    once: bool,
}

/// Between two looks at the clock; a suspended machine looks at once when it wakes.
const LOOK: Duration = Duration::from_secs(20);

pub(super) async fn run(args: &WatchArgs) -> anyhow::Result<()> {
    let session = args.common.session()?;
    let fleet = session.fleet();
    let path = session.watch_lock();
    let open = || std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let lock = open().with_context(|| format!("cannot write `{}`", path.display()))?;
    if lock.try_lock().is_err() {
        return Ok(print_line("another process watches this account already")?);
    }
    let mut interrupts = StopSignal::install()?;
    let work = async {
        if args.once {
            return match fleet.watch_once().await? {
                0 => Ok(print_line("nothing runs any more")?),
                left => Ok(print_line(format_args!("{left} machine(s) run within their lease"))?),
            };
        }
        let (mut watch, mut began) = (Watch::default(), false);
        loop {
            match watch.look(&fleet).await {
                Ok((left, failures)) => {
                    failures.iter().for_each(|error| eprintln!("{}: {error}", utc(Time::real().now_ms())));
                    // A launch starts its watch before it writes its intents.
                    if left == 0 && began {
                        return Ok(print_line("nothing runs any more")?);
                    }
                    began = true;
                }
                Err(error) => eprintln!("{}: {error}", utc(Time::real().now_ms())),
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        done = work => done,
        () = interrupts.recv() => bail!("no longer watched: machines run beyond their lease unless `gorgo watch` is started again"),
    }
}
