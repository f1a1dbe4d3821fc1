//! Progress of a bench on standard error, and stopping it.

use crate::cli::process::StopSignal;
use anyhow::bail;
use gorgo_benchmark::load::run::Run;
use gorgo_benchmark::load::{Bench, Progress};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Stops sending at the first signal and fails at the second; never returns otherwise.
pub(super) async fn stop(signal: &mut StopSignal, progress: &Progress) -> anyhow::Result<std::convert::Infallible> {
    signal.recv().await;
    eprintln!("stopping; press Ctrl-C again to stop at once");
    progress.stop();
    signal.recv().await;
    bail!("stopped; no results were written");
}

/// Runs the bench and prints one line a second on a terminal, else one every 10 s.
pub(super) async fn run(bench: &Bench, progress: &Arc<Progress>) -> anyhow::Result<Vec<Run>> {
    let start = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut tick = tokio::time::interval(Duration::from_secs(if terminal { 1 } else { 10 }));
    tick.tick().await;
    let running = bench.run(progress);
    tokio::pin!(running);
    loop {
        tokio::select! {
            runs = &mut running => {
                if terminal {
                    eprint!("\r\x1b[K");
                }
                return Ok(runs?);
            }
            _ = tick.tick() => {
                let now = progress.figures();
                let ms = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.0}"));
                let line = format!(
                    "{:>4.0} s  {} sent, {} running, {} done, {} failed, {} tokens, TTFT p50 {} p99 {} ms",
                    start.elapsed().as_secs_f64(), now.sent, now.sent.saturating_sub(now.finished + now.failed),
                    now.finished, now.failed, now.tokens, ms(now.ttft_p50_ms), ms(now.ttft_p99_ms),
                );
                if terminal { eprint!("\r\x1b[K{line}") } else { eprintln!("{line}") }
            }
        }
    }
}
