//! Errors of traces: one sentence each, with file, line, field, value and remedy.

use std::io;

/// Why a trace could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file does not exist or cannot be read.
    #[error("{file} cannot be opened ({source}); give a readable file or one of the built-in traces: {builtin}")]
    Open {
        /// Path as given.
        file: String,
        /// Names of the built-in traces.
        builtin: String,
        /// The system's error.
        source: io::Error,
    },
    /// Reading stopped half-way: a truncated `.gz`, a failing disk.
    #[error("{file}:{line}: reading failed ({source}); check that the file is complete")]
    Read {
        /// Path as given.
        file: String,
        /// Line that was being read, from 1.
        line: u64,
        /// The system's error.
        source: io::Error,
    },
    /// One row cannot be used. Reading can go on after it (`skip_bad`).
    #[error("{file}:{line}: {field} {problem}")]
    Row {
        /// Path as given.
        file: String,
        /// Line of the file (row for Parquet), from 1.
        line: u64,
        /// Name of the field, or `row` when the whole row is at fault.
        field: String,
        /// The value and what it must be.
        problem: String,
    },
    /// The first row fits no known format.
    #[error("{file}: the format is not recognised from {found}; name it with one of: {known}")]
    Format {
        /// Path as given.
        file: String,
        /// Start of the first line.
        found: String,
        /// Names of the formats.
        known: String,
    },
    /// An option cannot be used.
    #[error("option {option} {problem}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// The value and what it must be.
        problem: String,
    },
    /// Nothing was left to replay.
    #[error(
        "{file} holds no usable request ({read} rows read, {skipped} bad and skipped{}{left_out}); check the format and the filters",
        if left_out.is_empty() { "" } else { ", " }
    )]
    Empty {
        /// Path as given.
        file: String,
        /// Rows read.
        read: u64,
        /// Rows skipped as bad.
        skipped: u64,
        /// What was left out, with the reasons.
        left_out: String,
    },
    /// The file is packed, or no trace but something that stands for one.
    #[error("{file} is {what}; {remedy}")]
    Kind {
        /// Path as given.
        file: String,
        /// What it is.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Blocks of sizes that cannot be brought to one.
    #[error(
        "{file}:{line}: blocks of {size} tokens, but others have {other}: one trace needs one block size, or sizes that divide one another"
    )]
    BlockSizes {
        /// Path as given.
        file: String,
        /// First line with that size.
        line: u64,
        /// Its size.
        size: u32,
        /// The size before it.
        other: u32,
    },
    /// A result could not be written.
    #[error("{file} cannot be written ({source})")]
    Write {
        /// Path as given.
        file: String,
        /// The system's error.
        source: io::Error,
    },
}

impl TraceError {
    /// Whether reading may go on at the next row.
    pub fn is_row(&self) -> bool {
        matches!(self, Self::Row { .. })
    }
}

/// Error in a row; the reader adds file and line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) field: String,
    pub(crate) problem: String,
}

impl Bad {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// The start of `text`, short enough for a message and without control characters.
pub(crate) fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}
