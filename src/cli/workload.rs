//! `gorgo workload`: request traces.

use super::output::{columns, print_line, print_named, print_note};
use anyhow::bail;
use clap::{Args as ClapArgs, Subcommand};
use gorgo_core::request::TraceRequest;
use gorgo_traces::workload::arrange::below_rate;
use gorgo_traces::workload::generate::{Generate, wildchat_like};
use gorgo_traces::workload::prepare::{Prepare, prepare};
use gorgo_traces::workload::stats::Stats;
use gorgo_traces::workload::{Format, Options, Per, Prompts, TimeUnit, Workload, open, save};
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub(crate) enum WorkloadCommand {
    /// Describe a trace: rate, lengths, turns, users, places, prefix reuse
    #[command(
        after_help = "Examples:\n  gorgo workload stats wildchat-located\n  gorgo workload stats my-trace.jsonl.gz --skip-bad --json\n  gorgo workload stats my-table.csv --columns timestamp=Time,input_tokens=Prompt,output_tokens=Answer --time-unit s"
    )]
    Stats {
        #[command(flatten)]
        read: ReadArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Convert any trace to the native format
    #[command(after_help = "Example:\n  gorgo workload convert wildchat.jsonl --to trace.jsonl.gz --per turn")]
    Convert {
        #[command(flatten)]
        read: ReadArgs,
        /// File to write; .gz compresses, - is standard output
        #[arg(long, value_parser = trace_file)]
        to: PathBuf,
    },
    /// Generate a trace with WildChat's published marginals
    #[command(
        after_help = "Example:\n  gorgo workload generate wildchat-like --requests 8893 --rate 5 --seed 1 --to trace.jsonl.gz"
    )]
    Generate {
        /// Kind of trace
        #[arg(value_parser = ["wildchat-like"])]
        kind: String,
        /// Requests
        #[arg(long, default_value_t = Generate::default().requests)]
        requests: usize,
        /// Mean requests a second while conversations start; the last turns of long ones come later
        #[arg(long, default_value_t = Generate::default().rate)]
        rate: f64,
        /// Seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// File to write; .gz compresses, - is standard output; without it only the marginals are printed
        #[arg(long, value_parser = trace_file)]
        to: Option<PathBuf>,
    },
    /// Write gotoni's benchmark pair from a published data set
    #[command(
        after_help = "Example:\n  gorgo workload prepare wildchat WildChat-1M.jsonl --output-dir benchmark --num-samples 10000"
    )]
    Prepare {
        /// The data set
        #[arg(value_parser = ["wildchat"])]
        kind: String,
        /// Its rows: JSON lines (.gz too), or - for standard input
        file: String,
        /// Folder to write into
        #[arg(long, default_value = ".")]
        output_dir: PathBuf,
        /// Rows to read
        #[arg(long, default_value_t = 10_000)]
        num_samples: u64,
        /// Leave shorter prompts out (characters)
        #[arg(long, default_value_t = 10)]
        min_prompt_length: usize,
        /// One line a user message, with the history before it
        #[arg(long)]
        multi_turn: bool,
        /// Leave conversations with fewer user messages out
        #[arg(long, default_value_t = 1)]
        min_turns: usize,
        /// Leave conversations with more out
        #[arg(long)]
        max_turns: Option<usize>,
        /// Count bad rows and go on
        #[arg(long)]
        skip_bad: bool,
    },
}

/// How a trace is read.
#[derive(Debug, ClapArgs)]
pub(crate) struct ReadArgs {
    /// File, the name of a built-in trace, or - for standard input
    file: String,
    /// Format; recognised from the content when absent
    #[arg(long)]
    format: Option<String>,
    /// Count bad rows and go on, instead of stopping at the first
    #[arg(long)]
    skip_bad: bool,
    /// Read only this many rows
    #[arg(long)]
    first: Option<u64>,
    /// Which parts of a conversation become requests
    #[arg(long, value_parser = ["turn", "conversation", "first-prompt"], default_value = "turn")]
    per: String,
    /// What lengths, ids and messages of a row are: the whole prompt, or what a turn adds to its session
    #[arg(long, value_parser = ["whole", "added"], default_value = "whole")]
    prompts: String,
    /// Leave out requests whose last user message is shorter (characters)
    #[arg(long, default_value_t = 0)]
    min_chars: usize,
    /// Leave out requests with longer prompts (tokens)
    #[arg(long)]
    max_input_tokens: Option<u32>,
    /// Factor on all times: larger is slower
    #[arg(long, default_value_t = 1.0)]
    time_scale: f64,
    /// Tokens per block of the file's block ids
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    block_tokens: Option<u32>,
    /// Columns under other names: timestamp=Time,input_length=Prompt,output_length=Answer
    #[arg(long, value_name = "NAME=COLUMN", value_delimiter = ',', value_parser = column)]
    columns: Vec<(String, String)>,
    /// Unit of the file's times; the format's own when absent
    #[arg(long, value_enum)]
    time_unit: Option<Unit>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Unit {
    S,
    Ms,
    Us,
    Ns,
}

/// A pair of a native column and the file's.
fn column(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        // The names that the tables of other tools use are understood, too.
        Some((name, theirs)) if !name.is_empty() && !theirs.is_empty() => {
            let name = match name.trim() {
                "input_tokens" | "prompt_tokens" => "input_length",
                "output_tokens" | "answer_tokens" => "output_length",
                "session" => "session_id",
                name => name,
            };
            Ok((name.to_owned(), theirs.trim().to_owned()))
        }
        _ => Err("write NAME=COLUMN, for example timestamp=Time".to_owned()),
    }
}

impl ReadArgs {
    /// The options of the reader.
    fn options(&self) -> anyhow::Result<Options> {
        for (i, (name, theirs)) in self.columns.iter().enumerate() {
            if let Some((_, before)) = self.columns[..i].iter().find(|(other, _)| other == name) {
                bail!("--columns reads `{name}` from `{before}` and from `{theirs}`; keep one");
            }
        }
        Ok(Options {
            format: self.format.as_deref().map(str::parse::<Format>).transpose()?,
            skip_bad: self.skip_bad,
            first: self.first,
            per: match self.per.as_str() {
                "conversation" => Per::Conversation,
                "first-prompt" => Per::FirstPrompt,
                _ => Per::Turn,
            },
            prompts: if self.prompts == "added" { Prompts::Added } else { Prompts::Whole },
            min_chars: self.min_chars,
            max_input_tokens: self.max_input_tokens,
            time_scale: self.time_scale,
            block_tokens: self.block_tokens,
            columns: self.columns.iter().cloned().collect(),
            time_unit: self.time_unit.map(|unit| match unit {
                Unit::S => TimeUnit::S,
                Unit::Ms => TimeUnit::Ms,
                Unit::Us => TimeUnit::Us,
                Unit::Ns => TimeUnit::Ns,
            }),
            ..Options::default()
        })
    }

    fn open(&self) -> anyhow::Result<Workload> {
        let workload = open(&self.file, &self.options()?)?;
        for note in &workload.notes {
            print_note(note);
        }
        Ok(workload)
    }
}

pub(super) fn run(command: WorkloadCommand) -> anyhow::Result<()> {
    match command {
        WorkloadCommand::Stats { read, json } => stats(&read, json),
        WorkloadCommand::Convert { read, to } => {
            let workload = read.open()?;
            save(&to, &workload.requests)?;
            told(&to, workload.requests.len())
        }
        WorkloadCommand::Generate { requests, rate, seed, to, .. } => {
            let made = wildchat_like(&Generate { requests, rate, seed, ..Generate::default() })?;
            // Before anything is printed: `| head` ends this process at its next line.
            to.iter().try_for_each(|to| save(to, &made.requests))?;
            if let Some(had) = low_rate(&made.requests, rate) {
                print_note(format_args!(
                    "the trace has {had:.2} of the {rate} requests/s asked for on average, since the last turns of long \
                     conversations come after all others; `generate` with duration_s in an experiment has an even rate"
                ));
            }
            if to.as_deref() != Some(Path::new("-")) {
                print_line(made.marginals.table(columns().unwrap_or(usize::MAX)))?;
            }
            to.map_or(Ok(()), |to| told(&to, made.requests.len()))
        }
        WorkloadCommand::Prepare {
            file,
            output_dir,
            num_samples,
            min_prompt_length,
            multi_turn,
            min_turns,
            max_turns,
            skip_bad,
            ..
        } => {
            if max_turns.is_some_and(|most| most < min_turns) {
                bail!("--max-turns is below --min-turns {min_turns}, so nothing would be left; raise it");
            }
            let options = Prepare { num_samples, min_prompt_length, multi_turn, min_turns, max_turns, skip_bad };
            print_line(prepare(&file, &output_dir, &options)?)?;
            Ok(())
        }
    }
}

/// A file for a trace. What is written are JSON lines, so names of other formats are refused.
fn trace_file(text: &str) -> Result<PathBuf, String> {
    const OTHERS: [&str; 10] = ["csv", "tsv", "parquet", "arrow", "zst", "zstd", "xz", "bz2", "zip", "sqlite"];
    let path = PathBuf::from(text);
    let ending = path.extension().map(|end| end.to_string_lossy().to_lowercase()).unwrap_or_default();
    match OTHERS.contains(&ending.as_str()) {
        true => Err(format!("`{text}` would hold JSON lines, not .{ending}; write .jsonl or .jsonl.gz")),
        false => Ok(path),
    }
}

fn stats(read: &ReadArgs, json: bool) -> anyhow::Result<()> {
    let workload = read.open()?;
    let stats = Stats::of(&workload.requests);
    if json {
        let mut all = serde_json::to_value(&stats)?;
        all["stamps"] = serde_json::to_value(workload.stamps)?;
        print_line(serde_json::to_string_pretty(&all)?)?;
        return Ok(());
    }
    print_line(format_args!("{} ({})", workload.name, workload.format.as_str()))?;
    let mut rows = stats.rows();
    rows.push(("stamps in the file".to_owned(), workload.stamps.to_string()));
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in rows {
        print_named(&format!("  {name}"), width + 2, &value)?;
    }
    Ok(())
}

/// The requests a second of a trace that has far fewer than asked for.
fn low_rate(requests: &[TraceRequest], rate: f64) -> Option<f64> {
    below_rate(requests.len(), requests.last()?.at.secs(), rate)
}

/// Says what was written, unless it went to standard output.
fn told(to: &Path, requests: usize) -> anyhow::Result<()> {
    if to != Path::new("-") {
        print_line(format_args!("{requests} requests written to {}", to.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn a_generated_trace_tells_a_rate_that_its_last_turns_lower() {
        let made = |requests| wildchat_like(&Generate { requests, rate: 5.0, ..Generate::default() }).unwrap().requests;
        assert!(low_rate(&made(2_000), 5.0).is_some_and(|had| (0.1..4.0).contains(&had)));
        assert_eq!(low_rate(&made(1), 5.0), None, "one request has no rate");
    }

    #[test]
    fn a_field_is_read_from_one_column() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            read: ReadArgs,
        }
        let read = |columns: &str| Cli::parse_from(["gorgo", "t.csv", "--columns", columns]).read.options();
        assert_eq!(read("timestamp=a,input_tokens=b").unwrap().columns.len(), 2);
        for twice in ["timestamp=a,timestamp=b", "input_length=a,input_tokens=b"] {
            let message = read(twice).unwrap_err().to_string();
            assert!(message.ends_with("from `a` and from `b`; keep one"), "{message}");
        }
    }

    #[test]
    fn a_trace_is_not_written_under_the_ending_of_another_format() {
        for wrong in ["y.csv", "a/y.Parquet", "y.jsonl.zst"] {
            assert!(trace_file(wrong).unwrap_err().contains("write .jsonl or .jsonl.gz"), "{wrong}");
        }
        for right in ["-", "y.jsonl", "y.jsonl.gz", "y"] {
            assert_eq!(trace_file(right), Ok(PathBuf::from(right)));
        }
    }
}
