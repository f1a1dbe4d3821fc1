//! The interface between the reader and the parsers of formats.

use crate::error::{Bad, TraceError, excerpt};
use gorgo_core::request::TraceRequest;
use std::collections::{BTreeMap, VecDeque};

/// Counts and remarks collected while reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Rows read, good and bad.
    pub rows: u64,
    /// Bad rows that were skipped.
    pub skipped: u64,
    /// The first few of them, as sentences.
    pub first_bad: Vec<String>,
    /// Requests left out by an option or for a reason of the format, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Rows per field name that no reader knows.
    pub unknown_fields: BTreeMap<String, u64>,
    /// Rows that name a country which is in no table.
    pub unknown_countries: Option<UnknownNames>,
    /// Conversations with a message of a role that no reader knows.
    pub unknown_roles: Option<UnknownNames>,
    /// Whether any prompt was counted from its text.
    pub(crate) texts: bool,
    /// Block sizes (tokens) with the line of the first request in each.
    pub block_sizes: BTreeMap<u32, u64>,
    /// Further remarks, one sentence each.
    pub remarks: Vec<String>,
}

/// Rows with a name that is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownNames {
    /// How many rows.
    pub rows: u64,
    /// The first such name.
    pub name: String,
    /// Its line.
    pub line: u64,
}

/// Names of unknown fields that are kept.
const KEPT_NAMES: usize = 32;

impl Seen {
    /// Counts a request that is left out.
    pub(crate) fn drop_one(&mut self, reason: &str) {
        *self.dropped.entry(reason.to_owned()).or_default() += 1;
    }

    /// Adds a remark once.
    pub(crate) fn remark(&mut self, text: &str) {
        if !self.remarks.iter().any(|known| known == text) {
            self.remarks.push(text.to_owned());
        }
    }

    /// Requests that were left out, with the reasons; empty when there are none.
    pub(crate) fn left_out(&self) -> String {
        let reasons: Vec<String> = self.dropped.iter().map(|(reason, n)| format!("{n} left out: {reason}")).collect();
        reasons.join(", ")
    }

    /// Counts a field that no reader knows. Only the first names are kept, so that a hostile file cannot fill the memory.
    pub(crate) fn unknown(&mut self, field: &str) {
        if let Some(count) = self.unknown_fields.get_mut(field) {
            *count += 1;
        } else if self.unknown_fields.len() < KEPT_NAMES {
            self.unknown_fields.insert(excerpt(field), 1);
        }
    }

    /// Counts a conversation with a message of a role that no reader knows.
    pub(crate) fn unknown_role(&mut self, name: &str, line: u64) {
        let first = || UnknownNames { rows: 0, name: excerpt(name), line };
        self.unknown_roles.get_or_insert_with(first).rows += 1;
    }

    /// Counts a row whose country is in no table.
    pub(crate) fn unknown_country(&mut self, name: &str, line: u64) {
        let first = || UnknownNames { rows: 0, name: excerpt(name), line };
        self.unknown_countries.get_or_insert_with(first).rows += 1;
    }

    /// Remarks for the user, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.remarks.clone();
        if self.skipped > 0 {
            notes.push(format!(
                "{} of {} rows were bad and skipped; the first: {}",
                self.skipped, self.rows, self.first_bad[0]
            ));
        }
        notes.extend(self.dropped.iter().map(|(reason, n)| format!("{n} left out: {reason}")));
        if let Some(UnknownNames { rows, name, line }) = &self.unknown_countries {
            notes.push(format!(
                "{rows} rows name a country that is in no table and count as without one, the first is {name:?} in line {line}; give ISO codes or English names"
            ));
        }
        if let Some(UnknownNames { rows, name, line }) = &self.unknown_roles {
            notes.push(format!(
                "{rows} conversations have a message of a role that is not known, the first is {name:?} in line {line}; such \
                 messages are neither requests nor answers: rename their role to `user` or `assistant` if they are"
            ));
        }
        if !self.unknown_fields.is_empty() {
            let names: Vec<_> = self.unknown_fields.iter().map(|(name, n)| format!("{name} ({n} rows)")).collect();
            notes.push(format!("unknown fields ignored: {}", names.join(", ")));
        }
        notes
    }
}

/// Output of a parser.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    pub(crate) ready: VecDeque<TraceRequest>,
    /// The last line was a header, not a row.
    pub(crate) header: bool,
    /// Line of the row that is parsed.
    pub(crate) line: u64,
    pub(crate) seen: Seen,
}

/// The parser of one format.
pub(crate) trait Parser {
    /// Parses a row; `row` counts from 0.
    fn row(&mut self, row: u64, text: &str, sink: &mut Sink) -> Result<(), Bad>;
    /// Called once after the last row.
    fn finish(&mut self, _sink: &mut Sink) {}
}

/// Rows of a file as text, with their numbers.
pub(crate) type Rows = Box<dyn Iterator<Item = Result<(u64, String), TraceError>>>;

/// How many whole blocks prompt and answer together add after the prompt's whole blocks.
pub(crate) fn answer_len(request: &TraceRequest) -> usize {
    let (input, block) = (u64::from(request.input_tokens), u64::from(request.block_tokens));
    ((input + u64::from(request.output_tokens)) / block - input / block) as usize
}
