//! Compares the marginals of a generated trace with the published ones.

use super::generate::Generate;
use super::stats::{Kept, Lengths, Reuse};
use crate::geo::country_name;
use gorgo_core::request::TraceRequest;
use std::collections::BTreeMap;
use std::fmt;

/// One compared figure.
#[derive(Debug, Clone, PartialEq)]
pub struct MarginalRow {
    /// Its name.
    pub name: String,
    /// As published.
    pub published: f64,
    /// As generated.
    pub generated: f64,
    /// Whether the generated one must be within 10 % of the published one; other rows are for information.
    pub binding: bool,
}

impl MarginalRow {
    /// (generated - published) / published.
    pub fn deviation(&self) -> f64 {
        (self.generated - self.published) / self.published
    }

    /// Whether a binding row holds.
    pub fn holds(&self) -> bool {
        !self.binding || self.deviation().abs() <= TOLERANCE
    }
}

/// How far a binding row may be off.
pub const TOLERANCE: f64 = 0.10;

/// The block size that the published reuse was counted in.
const REUSE_BLOCK: u32 = 256;

/// All compared figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Marginals {
    /// Its rows.
    pub rows: Vec<MarginalRow>,
}

/// Draws of the generator that the requests no longer contain.
#[derive(Debug)]
pub(super) struct Drawn {
    /// Lengths of new openings: near-duplicates and templates left out, as in the published table.
    pub(super) openings: Vec<u32>,
    /// Conversations that begin with a near-duplicate.
    pub(super) repeats: usize,
    /// Lengths of later user messages.
    pub(super) later: Vec<u32>,
    /// Lengths of answers before any cut.
    pub(super) answers: Vec<u32>,
    /// Country of each conversation.
    pub(super) countries: Vec<Option<[u8; 2]>>,
}

impl Marginals {
    pub(super) fn new(requests: &[TraceRequest], options: &Generate, drawn: Drawn) -> Self {
        let countries = drawn.countries;
        let mut rows = Vec::new();
        let mut row = |name: &str, published: f64, generated: f64, binding| {
            rows.push(MarginalRow { name: name.to_owned(), published, generated, binding });
        };
        let mut turns: BTreeMap<u64, u32> = BTreeMap::new();
        requests.iter().for_each(|r| *turns.entry(r.session).or_default() += 1);
        let n = countries.len() as f64;
        let at_least = |least| turns.values().filter(|&&t| t >= least).count() as f64 / n;
        row("turns, mean", 2.35, requests.len() as f64 / n, true);
        row("turns, share with 2 or more", 0.4211, at_least(2), true);
        row("turns, share with 5 or more", 0.1243, at_least(5), true);
        for (name, published, lengths) in [
            ("first user tokens (new openings)", [39.0, 955.0, 251.8], drawn.openings),
            ("later user tokens", [23.0, 935.0, 159.0], drawn.later),
            ("answer tokens (before any cut)", [331.0, 983.0, 401.2], drawn.answers),
        ] {
            let found = Lengths::of(lengths);
            row(&format!("{name}, p50"), published[0], f64::from(found.p50), true);
            row(&format!("{name}, p95"), published[1], f64::from(found.p95), true);
            row(&format!("{name}, mean"), published[2], found.mean, false);
        }
        let mut shares = options.weights.countries();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (code, share) in shares.into_iter().take(5) {
            let found = countries.iter().filter(|c| **c == Some(code)).count() as f64 / n;
            row(&format!("conversations from {}", country_name(code)), share, found, true);
        }
        row(
            "conversations without a place",
            0.00115,
            countries.iter().filter(|c| c.is_none()).count() as f64 / n,
            false,
        );
        let mut users: BTreeMap<u64, BTreeMap<u64, ()>> = BTreeMap::new();
        requests.iter().for_each(|r| {
            users.entry(r.user).or_default().insert(r.session, ());
        });
        row("conversations per user", options.conversations_per_user, n / users.len() as f64, false);
        let busiest = users.values().map(BTreeMap::len).max().unwrap_or(0) as f64 / n;
        row("busiest user's conversations (published: 0.04 to 0.14)", 0.09, busiest, false);
        row("openings that repeat an earlier one of their user", 0.457, drawn.repeats as f64 / n, false);
        let whole = last_of_each(requests);
        let by_token = Reuse::of(&whole, Kept::Prompts);
        row("reuse, one request a conversation, by token, own", 0.053, by_token.own, false);
        row("reuse, one request a conversation, by token, global", 0.3435, by_token.global, false);
        let coarse: Vec<_> = whole.iter().map(coarser).collect();
        let reuse = Reuse::of(&coarse, Kept::Prompts);
        row("reuse, one request a conversation, 256-token blocks, own", 0.047, reuse.own, true);
        row("reuse, one request a conversation, 256-token blocks, global", 0.325, reuse.global, true);
        Self { rows }
    }

    /// Whether every binding row holds.
    pub fn within_tolerance(&self) -> bool {
        self.rows.iter().all(MarginalRow::holds)
    }
}

/// The trace cut as the published reuse was: one request a conversation with its whole history.
fn last_of_each(requests: &[TraceRequest]) -> Vec<TraceRequest> {
    let mut last: BTreeMap<u64, usize> = BTreeMap::new();
    requests.iter().enumerate().for_each(|(i, r)| {
        last.insert(r.session, i);
    });
    let mut kept: Vec<usize> = last.into_values().collect();
    kept.sort_unstable();
    kept.into_iter().map(|i| requests[i].clone()).collect()
}

/// The same prompt in blocks of about 256 tokens: ids are chained, so the last id of each group names the group.
fn coarser(request: &TraceRequest) -> TraceRequest {
    let group = (REUSE_BLOCK / request.block_tokens).max(1);
    let blocks = request.blocks.chunks(group as usize).filter_map(|c| c.last().copied()).collect();
    TraceRequest { block_tokens: request.block_tokens * group, blocks, answer_blocks: [].into(), ..request.clone() }
}

/// Room of the figures and of the longest mark in a line of the table.
const FIGURES: usize = 31 + 19;

/// `text` in lines of at most `room` characters, broken between words.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => *line += &format!(" {word}"),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

impl Marginals {
    /// The table in `width` columns; names that have no room take several lines.
    pub fn table(&self, width: usize) -> String {
        let room = width.saturating_sub(FIGURES).clamp(20, 60);
        let mut lines = vec![format!("{:<room$} {:>10} {:>10} {:>8}", "", "published", "generated", "off")];
        for row in &self.rows {
            let number = |x: f64| if x < 1.0 { format!("{x:.4}") } else { format!("{x:.2}") };
            let mark = match (row.binding, row.holds()) {
                (true, true) => "",
                (true, false) => "  MORE THAN 10 %",
                (false, _) => "  (for information)",
            };
            let off = format!("{:+.1} %", row.deviation() * 100.0);
            let mut name = wrapped(&row.name, room);
            let last = name.pop().unwrap_or_default();
            lines.extend(name);
            let (published, generated) = (number(row.published), number(row.generated));
            lines.push(format!("{last:<room$} {published:>10} {generated:>10} {off:>8}{mark}"));
        }
        lines.join("\n")
    }
}

impl fmt::Display for Marginals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.table(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_row_fails_beyond_ten_percent() {
        let row = |generated, binding| MarginalRow { name: String::new(), published: 100.0, generated, binding };
        assert!(row(110.0, true).holds() && row(90.0, true).holds() && row(500.0, false).holds());
        assert!(!row(111.0, true).holds() && !row(f64::NAN, true).holds());
        let long = MarginalRow { name: "reuse, one request a conversation, by token".into(), ..row(0.5, false) };
        let table = Marginals { rows: vec![long, row(120.0, true)] };
        for width in [80, 100, 120] {
            let shown = table.table(width);
            assert!(shown.lines().all(|line| line.chars().count() <= width), "{shown}");
            assert!(shown.contains("by token"), "{shown}");
        }
        assert!(!table.within_tolerance() && table.to_string().contains("+20.0 %  MORE THAN 10 %"));
    }
}
