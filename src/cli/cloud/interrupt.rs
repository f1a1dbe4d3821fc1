//! Ctrl-C ends the machines of this command; a second one exits at once and names them.

use crate::cli::process::StopSignal;
use gorgo_cloud::{Error, Fleet, Kind};

/// Does `work`; at an interrupt drops it and ends the machines of `run`.
pub(super) async fn guarded<T>(
    fleet: &Fleet<'_>,
    run: &str,
    interrupts: &mut StopSignal,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        done = work => return done,
        () = interrupts.recv() => {}
    }
    let mine = |entry: &gorgo_cloud::ledger::Entry| entry.intent.run == run;
    let entries: Vec<_> = fleet.open()?.into_iter().filter(mine).collect();
    eprintln!("interrupted: ending {} machine(s) of this command; interrupt again to leave them", entries.len());
    tokio::select! {
        ended = fleet.kill_all(&entries) => {
            let sign = match ended {
                Ok(()) => "interrupted".to_owned(),
                Err(failures) => failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
            };
            let remedy = "look at `gorgo list`";
            Err(Error::new(Kind::Interrupted, sign, "the machines of this command were ended", remedy).into())
        }
        () = interrupts.recv() => {
            let names: Vec<String> = entries.iter().map(|entry| {
                format!("{} ({})", entry.intent.name, entry.id.as_deref().unwrap_or("id not known yet"))
            }).collect();
            let meaning = "these machines may still cost money";
            Err(Error::new(Kind::Interrupted, names.join(", "), meaning, "end them with `gorgo kill --all`").into())
        }
    }
}
