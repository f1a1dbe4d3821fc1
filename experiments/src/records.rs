//! Recorded requests of any origin as rows of one type.
//!
//! Reading order: the types here → `columns` (what each column of a table means; presets by name) → `table` (CSV
//! becomes cells), `lines` (JSON lines, of which a killed writer tore some), `json` (these and GuideLLM's JSON become
//! cells) → `spans` (timelines become rows with stages) → [`open()`] (which of these a path is).

mod columns;
mod json;
mod lines;
mod open;
mod spans;
mod table;

pub use columns::{ColumnMap, presets};
pub use lines::{LineError, no_json, read_lines};
pub use open::{open, unpacked};

use std::path::PathBuf;
use std::sync::Arc;

/// The most rows read from one source: about 3 GB of memory.
pub const MAX_ROWS: usize = 10_000_000;

/// The longest recording: beyond it, one of its times has another unit or clock.
const LONGEST_YEARS: f64 = 10.0;
const LONGEST_MS: f64 = LONGEST_YEARS * 365.25 * 86_400e3;

/// The largest instant of a source, ms from its zero: some 30,000 years. Epochs in ns, read as ms or s, lie beyond it.
const LATEST_MS: f64 = 1e15;

/// One recorded request. Fields that a source lacks are `None`; times are ms.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Arm: the column of the table, else the name of the file.
    pub arm: Arc<str>,
    /// Run of the arm, for example its seed; empty with one run.
    pub run: Arc<str>,
    /// Names the request within its run; rows of two sources with equal ids are the same request.
    pub id: Arc<str>,
    /// When it was dispatched or sent, on the clock of its source.
    pub at: Option<f64>,
    /// When the schedule wanted it sent, on the clock of its source.
    pub scheduled: Option<f64>,
    /// The replica that answered or was tried last.
    pub replica: Option<Arc<str>>,
    /// Prompt tokens as the engine counted them.
    pub prompt_tokens: Option<f64>,
    /// Prompt tokens as the router counted them.
    pub router_tokens: Option<f64>,
    /// Prompt tokens that the engine found in its cache.
    pub cached_tokens: Option<f64>,
    /// Prompt tokens that the router believed to be in the cache, in the router's count.
    pub believed_tokens: Option<f64>,
    /// Tokens of the answer.
    pub output_tokens: Option<f64>,
    /// Time to first token.
    pub ttft: Option<f64>,
    /// End-to-end latency.
    pub e2e: Option<f64>,
    /// Whether it was answered in full.
    pub ok: bool,
    /// Lengths of its stages by name, for example `prefill`.
    pub stages: Vec<(Arc<str>, f64)>,
}

impl Row {
    /// The request's length in engine tokens, else in router tokens.
    pub fn tokens(&self) -> Option<f64> {
        self.prompt_tokens.or(self.router_tokens)
    }

    /// Time per output token after the first, ms; `None` for an answer of one token.
    pub fn tpot(&self) -> Option<f64> {
        let steps = self.output_tokens.filter(|&tokens| tokens >= 2.0)? - 1.0;
        Some((self.e2e? - self.ttft?) / steps)
    }
}

/// Rows of one source.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Records {
    /// The path as given.
    pub source: String,
    /// All requests, also those that were not answered.
    pub rows: Vec<Row>,
    /// What was left out of logs whose writer was killed: a sentence a file.
    pub notices: Vec<String>,
}

impl Records {
    /// Names of the arms in order of first appearance.
    pub fn arms(&self) -> Vec<Arc<str>> {
        distinct(self.rows.iter().map(|row| &row.arm))
    }

    /// Names of the replicas in order of first appearance.
    pub fn replicas(&self) -> Vec<Arc<str>> {
        distinct(self.rows.iter().filter_map(|row| row.replica.as_ref()))
    }
}

/// Distinct names in order of first appearance.
fn distinct<'a>(names: impl Iterator<Item = &'a Arc<str>>) -> Vec<Arc<str>> {
    let mut seen = std::collections::BTreeSet::new();
    names.filter(|name| seen.insert(&***name)).cloned().collect()
}

/// How records are read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReadOptions {
    /// Meanings of columns; what it does not name comes from the preset that the columns fit.
    pub columns: ColumnMap,
    /// Name of the arm of tables without such a column.
    pub arm: Option<String>,
}

/// Why records could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file system refused.
    #[error("cannot read `{}`: {source}; check the path and that the file is whole", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A value of a table.
    #[error("{}:{line}: column `{column}` is {value:?}, not {wanted}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// 1-based line; of JSON files the number of the request.
        line: u64,
        /// The column's name in the file.
        column: String,
        /// What stands there.
        value: String,
        /// What should.
        wanted: &'static str,
    },
    /// A line that is not CSV or JSON.
    #[error("{}:{line}: {why}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// The file as a whole.
    #[error("`{}` {why}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// A timeline.
    #[error("`{}`: {source}", path.display())]
    Timeline {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: gorgo_traces::timeline::TimelineError,
    },
    /// A column map that cannot be used.
    #[error("--columns {text}: {why}")]
    Columns {
        /// The part of the map.
        text: String,
        /// What is wrong.
        why: String,
    },
}

#[cfg(test)]
mod tests;
