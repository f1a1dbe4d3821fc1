//! Standard output.

use std::io::Write;

/// Prints one line. Unlike `println!` it returns an error when the pipe is closed, instead of panicking.
pub(super) fn print_line(text: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{text}")
}
