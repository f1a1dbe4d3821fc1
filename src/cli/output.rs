//! Standard output.

use std::io::{IsTerminal, Write};

/// Prints one line. Unlike `println!` it returns an error when the pipe is closed, instead of panicking.
pub(super) fn print_line(text: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{text}")
}

/// Columns that a table may take: `COLUMNS`, else those of the terminal; `None` when the output is no terminal.
pub(super) fn columns() -> Option<usize> {
    let told = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|&columns| columns > 0);
    let terminal = || {
        let out = std::io::stdout();
        out.is_terminal().then(|| rustix::termios::tcgetwinsize(&out).map_or(0, |size| usize::from(size.ws_col)))
    };
    told.or_else(|| terminal().map(|columns| if columns > 0 { columns } else { 80 }))
}
