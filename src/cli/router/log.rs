//! The log of a running router.

use crate::cli::stderr::stderr;
use anyhow::anyhow;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Logs to standard error, at the level of `GORGO_LOG` or `info`. The router itself logs when a stream of KV events
/// breaks, so the ZeroMQ library's lines about it are left out. Colours only for a terminal.
///
/// # Errors
/// When `GORGO_LOG` is no filter.
pub(super) fn start(json: bool) -> anyhow::Result<()> {
    let filter = filter(std::env::var("GORGO_LOG").ok().as_deref())?;
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        // The subscriber would report a failed write to the same file, and panic when that fails, too.
        .log_internal_errors(false)
        .with_writer(|| Lossy(stderr()));
    if json {
        log.json().init();
    } else {
        log.init();
    }
    Ok(())
}

/// The filter that `GORGO_LOG` names. A word that is no level would be taken as the name of a crate, and silence all others.
fn filter(told: Option<&str>) -> anyhow::Result<EnvFilter> {
    let Some(text) = told.filter(|text| !text.trim().is_empty()) else { return Ok("info,zeromq=off".into()) };
    let is_known = |word: &str| word.contains('=') || word.parse::<LevelFilter>().is_ok();
    let wrong = || {
        anyhow!(
            "GORGO_LOG is `{text}`; write off, error, warn, info, debug or trace, or TARGET=LEVEL, for example \
             info,gorgo_live=debug"
        )
    };
    if !text.split(',').all(|word| is_known(word.trim())) {
        return Err(wrong());
    }
    EnvFilter::try_new(text).map_err(|_| wrong())
}

/// Lines that could not be written since the last that could.
static LOST: AtomicU64 = AtomicU64::new(0);

/// A writer that drops a log line when the write fails: the disk is full, or nothing reads standard error. The next line
/// that it writes gives the number of dropped lines.
struct Lossy<W>(W);

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let lost = LOST.swap(0, Ordering::Relaxed);
        let told = if lost == 0 { Ok(()) } else { writeln!(self.0, "({lost} lines of log could not be written)") };
        if told.and_then(|()| self.0.write_all(line)).is_err() {
            LOST.fetch_add(lost + 1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is full for its first writes.
    struct Full(u32, Vec<u8>);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 > 0 {
                self.0 -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for text in ["warn", "INFO", "off", "info,gorgo_live=debug", "hyper=trace", ""] {
            assert!(filter(Some(text)).is_ok(), "{text}");
        }
        for text in ["warning", "wrn", "info,gorgo_live", "gorgo_live=loud"] {
            assert!(filter(Some(text)).unwrap_err().to_string().contains(text), "{text}");
        }
    }

    #[test]
    fn a_full_disk_loses_lines_and_the_next_line_tells_how_many() {
        let mut log = Lossy(Full(2, Vec::new()));
        for line in ["a\n", "b\n", "c\n", "d\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(log.0.1, b"(2 lines of log could not be written)\nc\nd\n");
    }
}
