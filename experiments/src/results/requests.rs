//! `requests.csv`: one row per request, arm and seed; reading it back loses nothing.

use super::{ArmRun, Names};
use gorgo_core::csv::{text_cell, text_of_cell};
use gorgo_core::record::{RequestRecord, Status};
use gorgo_core::{MaybeIndex, MaybeTime, Time};
use std::collections::HashMap;
use std::io::{Read, Write};

/// The columns. Instants are ms since the start of the run, empty when not reached.
const COLUMNS: [&str; 34] = [
    "arm",
    "policy",
    "topology",
    "seed",
    "request",
    "session",
    "turn",
    "origin",
    "router",
    "replica",
    "status",
    "attempts",
    "hops",
    "prompt_tokens",
    "output_tokens",
    "predicted_cached_tokens",
    "cached_tokens",
    "predicted_ttft_ms",
    "scheduled_ms",
    "sent_ms",
    "arrived_ms",
    "dispatched_ms",
    "accepted_ms",
    "prefill_ms",
    "engine_first_ms",
    "router_first_ms",
    "first_token_ms",
    "engine_done_ms",
    "done_ms",
    "ttft_ms",
    "router_ttft_ms",
    "e2e_ms",
    "tpot_ms",
    "reason",
];

/// Rows of one arm and seed, read back.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ArmRows {
    /// Arm.
    pub(super) arm: String,
    /// Policy.
    pub(super) policy: String,
    /// Seed.
    pub(super) seed: u64,
    /// Names, in order of first appearance behind those that were known before.
    pub(super) names: Names,
    /// Requests in the order of the file.
    pub(super) records: Vec<RequestRecord>,
}

/// Writes the rows of `run`, with the header if `header`.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write(out: impl Write, run: &ArmRun, header: bool) -> std::io::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    if header {
        csv.write_record(COLUMNS)?;
    }
    let seed = run.seed.to_string();
    let name =
        |names: &[String], i: Option<u16>| i.and_then(|i| names.get(usize::from(i))).cloned().unwrap_or_default();
    for r in &run.records {
        for text in [&run.arm, &run.policy, &run.topology, &seed] {
            csv.write_field(&*text_cell(text))?;
        }
        for number in [r.request, r.session, u64::from(r.turn)] {
            csv.write_field(number.to_string())?;
        }
        csv.write_field(&*text_cell(&name(&run.names.origins, r.origin.get())))?;
        csv.write_field(&*text_cell(&name(&run.names.routers, Some(r.router))))?;
        csv.write_field(&*text_cell(&name(&run.names.replicas, r.replica.get())))?;
        csv.write_field(if r.done.is_none() { "lost" } else { r.status.as_str() })?;
        let [attempts, hops] = [r.attempts, r.hops].map(u32::from);
        for number in [attempts, hops, r.prompt_tokens, r.output_tokens, r.predicted_cached_tokens, r.cached_tokens] {
            csv.write_field(number.to_string())?;
        }
        csv.write_field(r.predicted_ttft_ms.map_or_else(String::new, |ms| ms.to_string()))?;
        for at in instants(r) {
            csv.write_field(at.get().map_or_else(String::new, |at| ms(at.0)))?;
        }
        for span in [r.ttft(), r.router_ttft(), r.e2e()] {
            csv.write_field(span.map_or_else(String::new, |s| ms(s.0)))?;
        }
        csv.write_field(r.tpot_ms().map_or_else(String::new, |v| format!("{v:.6}")))?;
        let seen = run.failures.get(&r.request).map_or("", String::as_str);
        csv.write_field(&*text_cell(r.reason.map_or(seen, |reason| reason.as_str())))?;
        csv.write_record(None::<&[u8]>)?;
    }
    csv.flush()
}

fn instants(r: &RequestRecord) -> [MaybeTime; 11] {
    [
        r.scheduled.into(),
        r.sent.into(),
        r.arrived,
        r.dispatched,
        r.accepted,
        r.prefill,
        r.engine_first,
        r.router_first,
        r.first_token,
        r.engine_done,
        r.done,
    ]
}

/// Nanoseconds as milliseconds with six decimals, exactly.
fn ms(ns: u64) -> String {
    format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000)
}

/// Reads rows, arms and seeds in order of first appearance, at most `limit` rows of each; `known` names keep their
/// places. The header may come again (joined files) and may lack the last five columns, which are not read.
///
/// # Errors
/// One sentence that names the line, the column and the value; the caller names the file.
pub(super) fn read(input: impl Read, known: &Names, limit: usize) -> Result<Vec<ArmRows>, String> {
    let mut csv = csv::ReaderBuilder::new().flexible(true).from_reader(input);
    let header = csv.headers().map_err(|e| format!("is not CSV: {e}"))?.clone();
    let needed = COLUMNS.len() - 5;
    if header.iter().take(needed).ne(COLUMNS[..needed].iter().copied()) {
        return Err(format!("has other columns than requests.csv (`{}` ...)", COLUMNS[..5].join(",")));
    }
    let mut arms: Vec<ArmRows> = Vec::new();
    let mut places: HashMap<(String, u64), usize> = HashMap::new();
    let mut row = csv::StringRecord::new();
    while csv.read_record(&mut row).map_err(|e| format!("is not CSV: {e}"))? {
        if row.get(0) == Some(COLUMNS[0]) && row.get(3) == Some(COLUMNS[3]) {
            continue;
        }
        let line = row.position().map_or(0, csv::Position::line);
        let cells = Cells { row: &row, line };
        let key = (cells.text(0)?.to_owned(), cells.number(3)?);
        let place = *places.entry(key).or_insert_with_key(|(arm, seed)| {
            let (arm, policy) = (arm.clone(), text_of_cell(row.get(1).unwrap_or("")).to_owned());
            arms.push(ArmRows { arm, policy, seed: *seed, names: known.clone(), records: Vec::new() });
            arms.len() - 1
        });
        let arm = &mut arms[place];
        if arm.records.len() < limit {
            let record = cells.record(&mut arm.names)?;
            arm.records.push(record);
        }
    }
    Ok(arms)
}

struct Cells<'a> {
    row: &'a csv::StringRecord,
    line: u64,
}

impl Cells<'_> {
    fn text(&self, column: usize) -> Result<&str, String> {
        self.row
            .get(column)
            .map(text_of_cell)
            .ok_or_else(|| format!("line {} ends before column `{}`", self.line, COLUMNS[column]))
    }

    fn bad(&self, column: usize, wanted: &str) -> String {
        let value = self.row.get(column).unwrap_or("");
        format!("line {}, column `{}` is `{value}`, not {wanted}", self.line, COLUMNS[column])
    }

    fn number<T: std::str::FromStr>(&self, column: usize) -> Result<T, String> {
        self.text(column)?.parse().map_err(|_| self.bad(column, "a whole number in range"))
    }

    fn time(&self, column: usize) -> Result<Time, String> {
        nanos(self.text(column)?).map(Time).ok_or_else(|| self.bad(column, "milliseconds >= 0"))
    }

    /// The time in a column that is empty for requests that did not get so far.
    fn reached(&self, column: usize) -> Result<MaybeTime, String> {
        if self.text(column)?.is_empty() { Ok(MaybeTime::NONE) } else { self.time(column).map(MaybeTime::from) }
    }

    /// The index of the name in a column that may be empty.
    fn name(&self, column: usize, names: &mut Vec<String>) -> Result<MaybeIndex, String> {
        if self.text(column)?.is_empty() {
            return Ok(MaybeIndex::NONE);
        }
        self.index(column, names).map(MaybeIndex::from)
    }

    /// The index of a name; new names are added.
    fn index(&self, column: usize, names: &mut Vec<String>) -> Result<u16, String> {
        let text = self.text(column)?;
        let place = names.iter().position(|n| n == text).unwrap_or_else(|| {
            names.push(text.to_owned());
            names.len() - 1
        });
        u16::try_from(place).map_err(|_| self.bad(column, "one of at most 65,535 names"))
    }

    fn record(&self, names: &mut Names) -> Result<RequestRecord, String> {
        let status = match self.text(10)? {
            "finished" => Status::Finished,
            "rejected" => Status::Rejected,
            "timed-out" => Status::TimedOut,
            // A lost request is told by its missing end.
            "failed" | "lost" => Status::Failed,
            "cancelled" => Status::Cancelled,
            _ => return Err(self.bad(10, "finished, rejected, timed-out, failed, cancelled or lost")),
        };
        let predicted_ttft_ms = match self.text(17)? {
            "" => None,
            text => Some(text.parse().map_err(|_| self.bad(17, "milliseconds"))?),
        };
        Ok(RequestRecord {
            request: self.number(4)?,
            session: self.number(5)?,
            turn: self.number(6)?,
            origin: self.name(7, &mut names.origins)?,
            router: self.index(8, &mut names.routers)?,
            replica: self.name(9, &mut names.replicas)?,
            status,
            reason: None,
            attempts: self.number(11)?,
            hops: self.number(12)?,
            prompt_tokens: self.number(13)?,
            output_tokens: self.number(14)?,
            predicted_cached_tokens: self.number(15)?,
            cached_tokens: self.number(16)?,
            predicted_ttft_ms,
            scheduled: self.time(18)?,
            sent: self.time(19)?,
            arrived: self.reached(20)?,
            dispatched: self.reached(21)?,
            accepted: self.reached(22)?,
            prefill: self.reached(23)?,
            engine_first: self.reached(24)?,
            router_first: self.reached(25)?,
            first_token: self.reached(26)?,
            engine_done: self.reached(27)?,
            done: self.reached(28)?,
        })
    }
}

/// Decimal milliseconds to nanoseconds without passing through a float; digits after the sixth are dropped.
fn nanos(text: &str) -> Option<u64> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    if !rest.bytes().all(|b| b.is_ascii_digit()) || !whole.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = rest.bytes().chain(std::iter::repeat(b'0')).take(6).fold(0u64, |sum, d| sum * 10 + u64::from(d - b'0'));
    whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(part)
}

#[cfg(test)]
mod tests;
