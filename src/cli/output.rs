//! Standard output: lines, and text that fits its columns.

use anyhow::{Context, bail};
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;

/// The status of a command that was run for the user and has said itself what went wrong.
#[derive(Debug)]
pub(crate) struct ExitStatus(pub(crate) u8);

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the command ended with status {}", self.0)
    }
}

impl std::error::Error for ExitStatus {}

/// Prints one line. Unlike `println!` it returns an error when the pipe is closed, instead of panicking.
pub(super) fn print_line(text: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{text}").map_err(|error| unwritten(&error))
}

/// Writes bytes to standard output, all of them now: what is written at the end of the process has no error.
pub(super) fn write_all(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| unwritten(&error))
}

/// An error of standard output, with its name.
fn unwritten(error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("cannot write to standard output: {error}"))
}

/// Checks that a file can be written, before what belongs into it is computed at length.
pub(super) fn check_writable(path: &Path) -> anyhow::Result<()> {
    let there = path.symlink_metadata().is_ok();
    if path.is_dir() {
        bail!("cannot write `{}`, which is a folder; name a file", path.display());
    }
    // Opening a pipe would wait for its reader.
    if there && !path.is_file() {
        return Ok(());
    }
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
    opened.with_context(|| format!("cannot write `{}`", path.display()))?;
    if !there {
        std::fs::remove_file(path).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(())
}

/// Columns that a table may take: `COLUMNS`, else those of the terminal; `None` when the output is no terminal.
pub(super) fn columns() -> Option<usize> {
    told_columns().or_else(|| terminal_columns(&std::io::stdout()))
}

fn told_columns() -> Option<usize> {
    std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|&columns| columns > 0)
}

/// Columns of a terminal, 80 where it does not say; `None` for what is none.
fn terminal_columns(out: &(impl IsTerminal + AsFd)) -> Option<usize> {
    let columns = || rustix::termios::tcgetwinsize(out).map_or(0, |size| usize::from(size.ws_col));
    out.is_terminal().then(columns).map(|columns| if columns > 0 { columns } else { 80 })
}

/// Prints a note to standard error, on a terminal in lines as wide as it is.
pub(super) fn print_note(text: impl std::fmt::Display) {
    let terminal = terminal_columns(&std::io::stderr());
    let width = terminal.map_or(usize::MAX, |columns| told_columns().unwrap_or(columns).max(20));
    for line in format!("note: {text}").lines() {
        gorgo_experiments::table::fold(line, width).iter().for_each(|line| eprintln!("{line}"));
    }
}

/// Prints a sentence in lines as wide as the terminal, all set in as the first one is.
pub(super) fn print_folded(text: &str) -> std::io::Result<()> {
    let lead = text.len() - text.trim_start().len();
    let width = columns().map_or(usize::MAX, |columns| columns.saturating_sub(lead).max(20));
    let lines = gorgo_experiments::table::fold(text.trim_start(), width);
    lines.iter().try_for_each(|line| print_line(format_args!("{:lead$}{line}", "")))
}

/// Prints a name, padded to `room` characters, and what belongs to it; what has no room continues below it.
pub(super) fn print_named(name: &str, room: usize, text: &str) -> std::io::Result<()> {
    let width = columns().map_or(usize::MAX, |columns| columns.saturating_sub(room + 2).max(20));
    for (i, line) in gorgo_experiments::table::fold(text, width).iter().enumerate() {
        print_line(format_args!("{:room$}  {line}", if i == 0 { name } else { "" }))?;
    }
    Ok(())
}

/// `text` in at most `width` characters, its end cut.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_standard_output_keeps_its_kind() {
        let error = unwritten(&std::io::ErrorKind::BrokenPipe.into());
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        assert!(error.to_string().starts_with("cannot write to standard output: "), "{error}");
    }

    #[test]
    fn a_file_is_checked_before_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.json");
        check_writable(&path).unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        check_writable(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        for wrong in [dir.path().join("missing/out.json"), dir.path().to_owned()] {
            let message = check_writable(&wrong).unwrap_err().to_string();
            assert!(message.contains(&wrong.display().to_string()), "{message}");
        }
    }
}
