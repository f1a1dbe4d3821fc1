//! Any trace to native rows: `cargo run -p gorgo-traces --example convert -- FILE TARGET.jsonl.gz`.
//! `gorgo workload convert` does the same with all options; this one builds without the rest of the workspace.
//! The shipped `wildchat-located.jsonl.gz` was made by it from the located WildChat conversations (see `DATA.md`).
#![allow(clippy::print_stdout)]

use gorgo_traces::workload::{Options, convert, stats::Stats};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(source), Some(target)) = (args.next(), args.next()) else {
        return Err("give a trace and a target: FILE TARGET.jsonl[.gz]".into());
    };
    let workload = convert(&source, target.as_ref(), &Options::default())?;
    for note in &workload.notes {
        println!("note: {note}");
    }
    for (name, value) in Stats::of(&workload.requests).rows() {
        println!("{name:<36}{value}");
    }
    Ok(())
}
