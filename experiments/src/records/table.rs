//! Tables: CSV with a header becomes cells by column name, and cells become rows. `json` does the same with JSON.

use super::columns::{Column, Field, PRESETS, Preset, preset_named, preset_of};
use super::{LATEST_MS, LONGEST_MS, LONGEST_YEARS, MAX_ROWS, ReadOptions, RecordError, Row};
use gorgo_core::suggest::did_you_mean;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, Read};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// How far rounding may put an instant before an earlier one, ms: tables write some times in whole milliseconds.
const ROUNDING_MS: f64 = 1.0;

/// One line's cells by column; `None` when the column is absent there or empty.
type Cell<'a> = &'a dyn Fn(&str) -> Option<Cow<'a, str>>;

/// The cell of the column `name`, or of the first of several joined by `|` that holds a value, with that column's name.
fn first<'a, 'n>(cell: Cell<'a>, name: &'n str) -> Option<(&'n str, Cow<'a, str>)> {
    let found = |name: &'n str| Some((name, cell(name)?));
    found(name).or_else(|| name.split('|').find_map(found))
}

/// What to give in place of a load generator's summary, which holds no requests.
pub(super) fn summary_of(has: impl Fn(&str) -> bool) -> Option<&'static str> {
    let signs: [(&[&str], &str); 4] = [
        (&["Metric", "avg", "p50"], "is AIPerf's summary; give its profile_export.jsonl, which holds the requests"),
        (&["aiperf_version"], "is AIPerf's summary; give its profile_export.jsonl, which holds the requests"),
        (&["Run Info", "Benchmark"], "is GuideLLM's summary; give its JSON output, which holds the requests"),
        (&["benchmarks:"], "is GuideLLM's YAML; give its JSON output"),
    ];
    signs.into_iter().find(|(sign, _)| sign.iter().all(|name| has(name))).map(|(_, why)| why)
}

/// Turns cells into rows.
pub(super) struct Reader<'a> {
    path: &'a Path,
    columns: BTreeMap<Field, Column>,
    stages: Vec<(Arc<str>, &'static str, &'static str, f64)>,
    answered: Vec<String>,
    left_out: Option<(&'static str, &'static str)>,
    arm: Arc<str>,
    names: BTreeSet<Arc<str>>,
    /// The first instant of each arm, and its line.
    starts: BTreeMap<Arc<str>, (f64, u64)>,
    pub(super) rows: Vec<Row>,
}

impl<'a> Reader<'a> {
    /// The reader of a table with these columns. Columns that the user named must be there.
    pub(super) fn new(
        path: &'a Path,
        options: &ReadOptions,
        arm: &str,
        header: &[String],
    ) -> Result<Self, RecordError> {
        let map = &options.columns;
        let has = |name: &str| header.iter().any(|column| column == name);
        let preset: Option<&Preset> = match &map.preset {
            Some(name) => preset_named(name),
            None => preset_of(has),
        };
        let file = |why: String| RecordError::File { path: path.to_owned(), why };
        let mut columns = preset.map(Preset::columns).unwrap_or_default();
        for (field, column) in &map.columns {
            if let Some(missing) = column.name.split('+').find(|name| !has(name)) {
                let hint = did_you_mean(missing, header.iter().map(String::as_str));
                return Err(file(format!("has no column `{missing}`; {hint}")));
            }
            columns.insert(*field, column.clone());
        }
        if let Some(why) = columns.is_empty().then(|| summary_of(has)).flatten() {
            return Err(file(why.to_owned()));
        }
        if columns.is_empty() {
            let kinds: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
            let shown: Vec<&str> = header.iter().take(8).map(String::as_str).collect();
            return Err(file(format!(
                "is none of the known tables ({}); its columns are {}...; name them with --columns ttft_ms=...,e2e_ms=...,id=...",
                kinds.join(", "),
                shown.join(", ")
            )));
        }
        let stages = preset.into_iter().flat_map(|preset| preset.stages);
        let stages = stages.map(|&(name, from, to, scale)| (Arc::from(name), from, to, scale)).collect();
        let answered = match &map.answered {
            Some(statuses) => statuses.clone(),
            None => preset.map(|p| p.answered.iter().map(|&s| s.to_owned()).collect()).unwrap_or_default(),
        };
        let left_out = preset.and_then(|preset| preset.left_out);
        let (arm, names, starts, rows) = (arm.into(), BTreeSet::new(), BTreeMap::new(), Vec::new());
        Ok(Self { path, columns, stages, answered, left_out, arm, names, starts, rows })
    }

    /// Whether a column of this name is read.
    fn reads(&self, name: &str) -> bool {
        self.columns
            .values()
            .any(|column| column.name == name || column.name.split(['+', '|']).any(|part| part == name))
            || self.stages.iter().any(|(_, from, to, _)| *from == name || *to == name)
            || self.left_out.is_some_and(|(column, _)| column == name)
    }

    /// The name of the column that holds a field.
    fn column(&self, field: Field) -> &str {
        self.columns.get(&field).map_or("", |column| &column.name)
    }

    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.names.get(text) {
            return Arc::clone(known);
        }
        let name: Arc<str> = text.into();
        self.names.insert(Arc::clone(&name));
        name
    }

    fn value(&self, line: u64, column: &str, value: &str, wanted: &'static str) -> RecordError {
        let value = value.chars().take(60).collect();
        RecordError::Value { path: self.path.to_owned(), line, column: column.to_owned(), value, wanted }
    }

    fn number(&self, cell: Cell<'_>, line: u64, name: &str, scale: f64) -> Result<Option<f64>, RecordError> {
        let Some((name, text)) = first(cell, name) else { return Ok(None) };
        let number = text.trim().parse().ok().filter(|value: &f64| value.is_finite());
        let number = number.ok_or_else(|| self.value(line, name, &text, "a number"))?;
        Ok(Some(number * scale))
    }

    fn field(&self, cell: Cell<'_>, line: u64, field: Field) -> Result<Option<f64>, RecordError> {
        match self.columns.get(&field) {
            Some(column) => self.number(cell, line, &column.name, column.scale),
            None => Ok(None),
        }
    }

    /// A number that cannot be negative.
    fn amount(&self, cell: Cell<'_>, line: u64, field: Field) -> Result<Option<f64>, RecordError> {
        let amount = self.field(cell, line, field)?;
        match (amount, self.columns.get(&field)) {
            (Some(value), Some(column)) if value < 0.0 => {
                Err(self.value(line, &column.name, &value.to_string(), "a number from 0 on"))
            }
            _ => Ok(amount),
        }
    }

    /// A moment on the clock of the source.
    fn instant(&self, cell: Cell<'_>, line: u64, field: Field) -> Result<Option<f64>, RecordError> {
        const WANTED: &str =
            "an instant within 1e15 ms of its zero; name the column with its unit, for example at_ns=...";
        let instant = self.field(cell, line, field)?;
        if instant.is_none_or(|at| at.abs() <= LATEST_MS) {
            return Ok(instant);
        }
        let name = self.column(field);
        let (name, text) = first(cell, name).unwrap_or((name, Cow::Borrowed("")));
        Err(self.value(line, name, &text, WANTED))
    }

    /// The time from `at` to the instant of a field, which cannot come before it.
    fn since(&self, cell: Cell<'_>, line: u64, field: Field, at: Option<f64>) -> Result<Option<f64>, RecordError> {
        let Some((end, at)) = self.instant(cell, line, field)?.zip(at) else { return Ok(None) };
        if end < at - ROUNDING_MS {
            let (later, earlier) = (self.column(field), self.column(Field::At));
            let why = format!(
                "column `{later}` is {end} ms, before column `{earlier}` at {at} ms; name both on one clock and in their units, and leave the cell empty where nothing came"
            );
            return Err(RecordError::Line { path: self.path.to_owned(), line, why });
        }
        Ok(Some((end - at).max(0.0)))
    }

    /// Time to first token and end-to-end latency, given as such or as instants.
    fn latencies(
        &self,
        cell: Cell<'_>,
        line: u64,
        at: Option<f64>,
        ok: bool,
    ) -> Result<(Option<f64>, Option<f64>), RecordError> {
        let (first, done) = (self.since(cell, line, Field::First, at)?, self.since(cell, line, Field::Done, at)?);
        let (given, whole) = (self.amount(cell, line, Field::Ttft)?, self.amount(cell, line, Field::E2e)?);
        let (ttft, e2e) = (given.or(first), whole.or(done));
        match ttft.zip(e2e) {
            Some((to_first, to_end)) if ok && to_first > to_end + ROUNDING_MS => {
                let a = self.column(if given.is_some() { Field::Ttft } else { Field::First });
                let b = self.column(if whole.is_some() { Field::E2e } else { Field::Done });
                let why = format!(
                    "the time to first token of column `{a}` is {to_first} ms, more than the whole latency of column `{b}`, {to_end} ms; the columns may be swapped, or their units differ: correct --columns"
                );
                Err(RecordError::Line { path: self.path.to_owned(), line, why })
            }
            _ => Ok((ttft, e2e)),
        }
    }

    /// Refuses a request that lies further from the first one of its arm than any recording is long.
    fn on_one_clock(&mut self, line: u64, arm: &Arc<str>, at: f64) -> Result<(), RecordError> {
        let (start, of) = *self.starts.entry(Arc::clone(arm)).or_insert((at, line));
        if (at - start).abs() <= LONGEST_MS {
            return Ok(());
        }
        let column = self.column(Field::At);
        let why = format!(
            "column `{column}` is {at} ms, more than {LONGEST_YEARS} years from line {of} with {start} ms; give all times on one clock and in one unit"
        );
        Err(RecordError::Line { path: self.path.to_owned(), line, why })
    }

    pub(super) fn add(&mut self, line: u64, cell: Cell<'_>) -> Result<(), RecordError> {
        if self.rows.len() >= MAX_ROWS {
            let why = format!("has more than {MAX_ROWS} rows; cut it");
            return Err(RecordError::File { path: self.path.to_owned(), why });
        }
        if self.left_out.is_some_and(|(column, value)| cell(column).is_some_and(|found| found == value)) {
            return Ok(());
        }
        let text = |field: Field| self.columns.get(&field).and_then(|column| cell(&column.name));
        let id = match self.columns.get(&Field::Id) {
            Some(column) => {
                let parts: Vec<_> = column.name.split('+').filter_map(cell).collect();
                if parts.is_empty() {
                    return Err(self.value(line, &column.name, "", "the id of a request"));
                }
                parts.join("+")
            }
            None => self.rows.len().to_string(),
        };
        let ok = match (self.columns.get(&Field::Status), self.answered.is_empty()) {
            (Some(column), false) => {
                let status = cell(&column.name).unwrap_or_default();
                self.answered.iter().any(|known| *known == status)
            }
            _ => true,
        };
        let (arm, run, replica) = (text(Field::Arm), text(Field::Run), text(Field::Replica));
        let arm = match arm {
            Some(arm) => self.name(&arm),
            None => Arc::clone(&self.arm),
        };
        let run = self.name(&run.unwrap_or_default());
        let replica = replica.map(|replica| self.name(&replica));
        let at = self.instant(cell, line, Field::At)?;
        if let Some(at) = at {
            self.on_one_clock(line, &arm, at)?;
        }
        let (ttft, e2e) = self.latencies(cell, line, at, ok)?;
        let mut stages = Vec::new();
        for (name, from, to, scale) in &self.stages {
            let ends = self.number(cell, line, from, *scale)?.zip(self.number(cell, line, to, *scale)?);
            stages.extend(ends.map(|(from, to)| (Arc::clone(name), to - from)));
        }
        let row = Row {
            arm,
            run,
            id: id.into(),
            at,
            scheduled: self.instant(cell, line, Field::Scheduled)?,
            replica,
            prompt_tokens: self.amount(cell, line, Field::PromptTokens)?,
            router_tokens: self.amount(cell, line, Field::RouterTokens)?,
            cached_tokens: self.amount(cell, line, Field::CachedTokens)?,
            believed_tokens: self.amount(cell, line, Field::BelievedTokens)?,
            output_tokens: self.amount(cell, line, Field::OutputTokens)?,
            ttft,
            e2e,
            ok,
            stages,
        };
        self.rows.push(row);
        Ok(())
    }
}

/// Where the lines of a file end, as far as it was read.
type Ends = Rc<RefCell<VecDeque<u64>>>;

/// An input that keeps where its lines end: the parser counts none within quotes, nor some others.
struct Watched<R> {
    input: R,
    read: u64,
    ends: Ends,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.input.read(out)?;
        let ends = out[..n].iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| self.read + at as u64);
        self.ends.borrow_mut().extend(ends);
        self.read += n as u64;
        Ok(n)
    }
}

/// Numbers of lines by the bytes before them.
struct LineOf {
    ends: Ends,
    passed: u64,
}

impl LineOf {
    /// The first line of a record of these cells that ends before the byte `end`.
    fn of(&mut self, end: u64, cells: &str) -> u64 {
        let mut ends = self.ends.borrow_mut();
        // The record's own end of line may have been read or not.
        while ends.front().is_some_and(|&at| at + 1 < end) {
            ends.pop_front();
            self.passed += 1;
        }
        1 + self.passed - cells.bytes().filter(|&byte| byte == b'\n').count() as u64
    }
}

/// Reads CSV whose first line names the columns.
pub(super) fn csv(path: &Path, input: impl BufRead, options: &ReadOptions, arm: &str) -> Result<Vec<Row>, RecordError> {
    let bad = |line: u64, why: String| RecordError::Line { path: path.to_owned(), line, why };
    let ends = Rc::default();
    let mut lines = LineOf { ends: Rc::clone(&ends), passed: 0 };
    let mut csv = csv::ReaderBuilder::new().flexible(true).from_reader(Watched { input, read: 0, ends });
    let header: Vec<String> = csv
        .headers()
        .map_err(|e| bad(1, format!("is not CSV: {e}")))?
        .iter()
        .map(|name| name.trim().to_owned())
        .collect();
    if let Some(separator) = other_separator(&header) {
        return Err(bad(1, format!("separates its columns by {separator}; separate them by commas")));
    }
    let mut reader = Reader::new(path, options, arm, &header)?;
    let twice = |name: &&String| header.iter().filter(|other| other == name).count() > 1;
    if let Some(name) = header.iter().find(|name| reader.reads(name) && twice(name)) {
        return Err(bad(1, format!("has the column `{name}` twice; rename or remove one of them")));
    }
    let places: BTreeMap<&str, usize> = header.iter().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
    let mut record = csv::StringRecord::new();
    loop {
        match csv.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok(reader.rows),
            Err(e) => return Err(bad(e.position().map_or(0, csv::Position::line), format!("is not CSV: {e}"))),
        }
        let line = lines.of(csv.position().byte(), record.as_slice());
        if record.iter().eq(header.iter().map(String::as_str)) {
            continue; // joined files
        }
        if record.len() != header.len() {
            return Err(bad(line, format!("has {} fields; the header has {}", record.len(), header.len())));
        }
        let cell = |name: &str| {
            let text = gorgo_core::csv::text_of_cell(record.get(*places.get(name)?)?);
            (!text.is_empty()).then_some(Cow::Borrowed(text))
        };
        reader.add(line, &cell)?;
    }
}

/// What separates the columns of a table whose header has no comma.
fn other_separator(header: &[String]) -> Option<&'static str> {
    let [only] = header else { return None };
    [(';', "semicolons"), ('\t', "tabs")].into_iter().find(|(sign, _)| only.contains(*sign)).map(|(_, name)| name)
}
