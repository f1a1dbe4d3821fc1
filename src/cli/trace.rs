//! `gorgo trace`: timelines of live routers, in the simulator's format.

use super::output::print_line;
use super::router::{RouterAddress, block_on, fields};
use anyhow::{Context, bail};
use clap::{Args as ClapArgs, Subcommand};
use gorgo_core::record::RequestRecord;
use gorgo_experiments::records::unpacked;
use gorgo_live::{Captured, CapturedCandidate, Merged, merge};
use gorgo_traces::timeline::{self, Decision, Run, ShownCandidate};
use http::Method;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

#[derive(Debug, ClapArgs)]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    address: RouterAddress,
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Debug, Subcommand)]
enum TraceCommand {
    /// Start capturing on every router named by --host
    #[command(after_help = "Example:\n  gorgo trace start --host 10.0.0.1,10.1.0.1")]
    Start,
    /// Stop, and write one clock-aligned file for ui.perfetto.dev
    #[command(after_help = "Example:\n  gorgo trace stop --host 10.0.0.1,10.1.0.1 --out timeline.json")]
    Stop {
        /// The file; `.gz` compresses
        #[arg(long, default_value = "timeline.json")]
        out: PathBuf,
        /// Keep each router's part in this folder, for `gorgo trace merge`
        #[arg(long)]
        parts: Option<PathBuf>,
    },
    /// Show whether a capture is running
    Status,
    /// Merge parts written by `trace stop --parts`
    #[command(after_help = "Example:\n  gorgo trace merge parts/*.json --out timeline.json")]
    Merge {
        /// Parts written by `trace stop --parts`, also packed with gzip
        #[arg(required = true)]
        parts: Vec<PathBuf>,
        /// The file; `.gz` compresses
        #[arg(long, default_value = "timeline.json")]
        out: PathBuf,
    },
}

pub(super) fn run(args: TraceArgs) -> anyhow::Result<()> {
    let address = &args.address;
    match args.command {
        TraceCommand::Start => address.call(&Method::POST, "/proxy/trace/start", None, fields),
        TraceCommand::Status => address.call(&Method::GET, "/proxy/trace/status", None, fields),
        TraceCommand::Stop { out, parts } => {
            let clients = address.clients()?;
            let captured = block_on(async {
                let mut all = Vec::new();
                for client in &clients {
                    let bytes = client.bytes(Method::POST, "/proxy/trace/stop", None).await?;
                    let part: Captured = serde_json::from_slice(&bytes)
                        .with_context(|| format!("{} sent a timeline that this version cannot read", client.name()))?;
                    all.push((client.name(), part));
                }
                Ok(all)
            })?;
            if let Some(dir) = parts {
                std::fs::create_dir_all(&dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
                for (name, part) in &captured {
                    let path = dir.join(format!("{}.json", name.replace([':', '/'], "_")));
                    serde_json::to_writer(BufWriter::new(File::create(&path)?), part)?;
                }
            }
            let (requests, routers) = write(captured.into_iter().map(|(_, part)| part).collect(), &out)?;
            say(requests, routers, &out)
        }
        TraceCommand::Merge { parts, out } => {
            let (requests, routers) = merge_into(&parts, &out)?;
            say(requests, routers, &out)
        }
    }
}

/// Joins parts of a timeline, as [`TraceCommand::Merge`] does, and returns the numbers of requests and routers.
pub(super) fn merge_into(parts: &[PathBuf], out: &Path) -> anyhow::Result<(usize, usize)> {
    let read = |path: &PathBuf| -> anyhow::Result<Captured> {
        let file = unpacked(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        serde_json::from_reader(file).with_context(|| format!("`{}` is not a part of a timeline", path.display()))
    };
    write(parts.iter().map(read).collect::<anyhow::Result<_>>()?, out)
}

fn say(requests: usize, routers: usize, out: &Path) -> anyhow::Result<()> {
    let out = out.display();
    Ok(print_line(format_args!("{requests} requests of {routers} routers in {out}; open it in ui.perfetto.dev"))?)
}

fn write(parts: Vec<Captured>, out: &Path) -> anyhow::Result<(usize, usize)> {
    let Merged { routers, replicas, records, candidates, policy, dropped } = merge(parts);
    if records.is_empty() {
        bail!("no request ended while the capture ran; nothing is written");
    }
    let origins = ["clients".to_owned()];
    let decisions: Vec<Decision> = records.iter().zip(candidates).filter_map(|(r, of)| decision(r, of)).collect();
    let run = Run {
        label: "live",
        policy: &policy,
        seed: 0,
        origins: &origins,
        routers: &routers,
        replicas: &replicas,
        records: &records,
        total: records.len() as u64 + dropped,
        decisions: &decisions,
        counters: &[],
    };
    let file = File::create(out).with_context(|| format!("cannot write `{}`", out.display()))?;
    if out.extension().is_some_and(|end| end == "gz") {
        timeline::write(
            flate2::write::GzEncoder::new(BufWriter::new(file), flate2::Compression::default()),
            &[run],
            usize::MAX,
        )?;
    } else {
        timeline::write(BufWriter::new(file), &[run], usize::MAX)?;
    }
    Ok((records.len(), routers.len()))
}

/// What the timeline shows of a request's decision; none before the first.
fn decision(record: &RequestRecord, candidates: Vec<CapturedCandidate>) -> Option<Decision> {
    let candidates: Vec<ShownCandidate> = candidates
        .into_iter()
        .map(|one| ShownCandidate {
            replica: one.replica,
            cached_tokens: one.cached_tokens,
            excluded: one.excluded,
            terms: one.total_ms.map(|total| ("total".to_owned(), total)).into_iter().collect(),
        })
        .collect();
    (!candidates.is_empty()).then_some(Decision { request: record.request, chosen: None, reason: None, candidates })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_packed_part_is_read_as_the_plain_one() {
        let dir = tempfile::tempdir().unwrap();
        let message = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let error = merge_into(&[path], &dir.path().join("out.json")).unwrap_err();
            error.root_cause().to_string()
        };
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(b"{}").unwrap();
        let packed = packed.finish().unwrap();
        // Both lack the same field.
        assert_eq!(message("part.json.gz", &packed), message("part.json", b"{}"));
    }
}
