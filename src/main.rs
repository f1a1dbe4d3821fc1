//! The `gorgo` command: parse, call, print.
#![allow(clippy::print_stdout, clippy::print_stderr)] // this is the program that talks

mod cli;

use clap::Parser;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = cli::Args::parse();
    match cli::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS, // `gorgo ... | head` is not a failure
        Err(error) if error.is::<cli::ExitStatus>() => {
            ExitCode::from(error.downcast_ref::<cli::ExitStatus>().map_or(1, |status| status.0))
        }
        Err(error) => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let (on, off) = if colour { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
            let _ = writeln!(cli::stderr::stderr(), "{on}error:{off} {}", once(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error with its causes, each said once: many messages hold the text of their cause.
fn once(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut said, cause| {
        let cause = cause.to_string();
        if !said.contains(&cause) {
            let colon = if said.is_empty() { "" } else { ": " };
            said += colon;
            said += &cause;
        }
        said
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|e| e.downcast_ref::<std::io::Error>().map(std::io::Error::kind));
    kinds.into_iter().any(|kind| kind == std::io::ErrorKind::BrokenPipe)
}
