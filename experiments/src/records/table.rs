//! Tables: CSV with a header, JSON lines, and GuideLLM's JSON become cells by column name, and cells become rows.

use super::columns::{Column, Field, PRESETS, Preset, preset_named, preset_of};
use super::{MAX_ROWS, ReadOptions, RecordError, Row};
use gorgo_core::suggest::did_you_mean;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

/// The longest line of a table, bytes: a decision of a large fleet.
const MAX_LINE: usize = 16 << 20;

/// One line's cells by column; `None` when the column is absent there or empty.
type Cell<'a> = &'a dyn Fn(&str) -> Option<Cow<'a, str>>;

/// The cell of the column `name`, or of the first of several joined by `|` that holds a value, with that column's name.
fn first<'a, 'n>(cell: Cell<'a>, name: &'n str) -> Option<(&'n str, Cow<'a, str>)> {
    let found = |name: &'n str| Some((name, cell(name)?));
    found(name).or_else(|| name.split('|').find_map(found))
}

/// What to give in place of a load generator's summary, which holds no requests.
fn summary_of(has: impl Fn(&str) -> bool) -> Option<&'static str> {
    let signs: [(&[&str], &str); 4] = [
        (&["Metric", "avg", "p50"], "is AIPerf's summary; give its profile_export.jsonl, which holds the requests"),
        (&["aiperf_version"], "is AIPerf's summary; give its profile_export.jsonl, which holds the requests"),
        (&["Run Info", "Benchmark"], "is GuideLLM's summary; give its JSON output, which holds the requests"),
        (&["benchmarks:"], "is GuideLLM's YAML; give its JSON output"),
    ];
    signs.into_iter().find(|(sign, _)| sign.iter().all(|name| has(name))).map(|(_, why)| why)
}

/// Turns cells into rows.
struct Reader<'a> {
    path: &'a Path,
    columns: BTreeMap<Field, Column>,
    stages: Vec<(Arc<str>, &'static str, &'static str, f64)>,
    answered: Vec<String>,
    left_out: Option<(&'static str, &'static str)>,
    arm: Arc<str>,
    names: BTreeSet<Arc<str>>,
    rows: Vec<Row>,
}

impl<'a> Reader<'a> {
    /// The reader of a table with these columns. Columns that the user named must be there.
    fn new(path: &'a Path, options: &ReadOptions, arm: &str, header: &[String]) -> Result<Self, RecordError> {
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
        let (arm, names, rows) = (arm.into(), BTreeSet::new(), Vec::new());
        Ok(Self { path, columns, stages, answered, left_out, arm, names, rows })
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

    fn add(&mut self, line: u64, cell: Cell<'_>) -> Result<(), RecordError> {
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
        let at = self.field(cell, line, Field::At)?;
        let since = |field: Field| -> Result<Option<f64>, RecordError> {
            Ok(self.field(cell, line, field)?.zip(at).map(|(end, at)| end - at))
        };
        let (ttft, e2e) = (self.amount(cell, line, Field::Ttft)?, self.amount(cell, line, Field::E2e)?);
        let (ttft, e2e) = (ttft.or(since(Field::First)?), e2e.or(since(Field::Done)?));
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
            scheduled: self.field(cell, line, Field::Scheduled)?,
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

/// Reads CSV whose first line names the columns.
pub(super) fn csv(path: &Path, input: impl BufRead, options: &ReadOptions, arm: &str) -> Result<Vec<Row>, RecordError> {
    let bad = |line: u64, why: String| RecordError::Line { path: path.to_owned(), line, why };
    let mut csv = csv::ReaderBuilder::new().flexible(true).from_reader(input);
    let header: Vec<String> = csv
        .headers()
        .map_err(|e| bad(1, format!("is not CSV: {e}")))?
        .iter()
        .map(|name| name.trim().to_owned())
        .collect();
    let mut reader = Reader::new(path, options, arm, &header)?;
    let places: BTreeMap<&str, usize> = header.iter().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
    let mut record = csv::StringRecord::new();
    loop {
        match csv.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok(reader.rows),
            Err(e) => return Err(bad(e.position().map_or(0, csv::Position::line), format!("is not CSV: {e}"))),
        }
        let line = record.position().map_or(0, csv::Position::line);
        if record.iter().eq(header.iter().map(String::as_str)) {
            continue; // joined files
        }
        if record.len() < header.len() {
            return Err(bad(line, format!("has {} fields; the header has {}", record.len(), header.len())));
        }
        let cell = |name: &str| {
            let text = gorgo_core::csv::text_of_cell(record.get(*places.get(name)?)?);
            (!text.is_empty()).then_some(Cow::Borrowed(text))
        };
        reader.add(line, &cell)?;
    }
}

/// Reads one JSON object a line.
pub(super) fn json_lines(
    path: &Path,
    mut input: impl BufRead,
    options: &ReadOptions,
    arm: &str,
) -> Result<Vec<Row>, RecordError> {
    let mut reader: Option<Reader<'_>> = None;
    let (mut text, mut line) = (String::new(), 0);
    loop {
        text.clear();
        let read = std::io::Read::take(&mut input, MAX_LINE as u64).read_line(&mut text);
        if read.map_err(|source| RecordError::Io { path: path.to_owned(), source })? == 0 {
            break;
        }
        line += 1;
        if text.trim().is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(&text).map_err(|e| RecordError::Line {
            path: path.to_owned(),
            line,
            why: format!("is not a JSON object ({e})"),
        })?;
        object(&mut reader, path, options, arm, line, &value)?;
    }
    Ok(reader.map(|reader| reader.rows).unwrap_or_default())
}

/// Reads GuideLLM's results: requests of each benchmark by outcome.
pub(super) fn guidellm(path: &Path, text: &[u8], options: &ReadOptions, arm: &str) -> Result<Vec<Row>, RecordError> {
    let file = |why: String| RecordError::File { path: path.to_owned(), why };
    let mut whole: Value = serde_json::from_slice(text).map_err(|e| file(format!("is not JSON ({e})")))?;
    let Some(Value::Array(benchmarks)) = whole.get_mut("benchmarks").map(Value::take) else {
        let has = |name: &str| whole.get(name).is_some();
        let other = "has no list `benchmarks`; give GuideLLM's JSON output, or a table";
        return Err(file(summary_of(has).unwrap_or(other).to_owned()));
    };
    let several = benchmarks.len() > 1;
    let mut options = options.clone();
    options.columns.preset.get_or_insert_with(|| "guidellm".to_owned());
    let mut reader: Option<Reader<'_>> = None;
    let mut number = 0;
    for (i, mut benchmark) in benchmarks.into_iter().enumerate() {
        let name = if several { format!("{arm}#{i}") } else { arm.to_owned() };
        let Some(Value::Object(groups)) = benchmark.get_mut("requests").map(Value::take) else {
            return Err(file(format!("has no `requests` in benchmark {i}; write it with the requests kept")));
        };
        // A request that succeeded names all columns, so these come first.
        let (whole, rest): (Vec<_>, Vec<_>) = groups.into_iter().partition(|(group, _)| group == "successful");
        for (group, requests) in whole.into_iter().chain(rest) {
            let Value::Array(requests) = requests else { continue };
            for mut request in requests {
                number += 1;
                if let Value::Object(fields) = &mut request {
                    fields.insert("group".to_owned(), group.clone().into());
                    fields.insert("arm".to_owned(), name.clone().into());
                }
                object(&mut reader, path, &options, arm, number, &request)?;
            }
        }
    }
    Ok(reader.map(|reader| reader.rows).unwrap_or_default())
}

/// Adds one object. The first one determines the columns.
fn object<'a>(
    reader: &mut Option<Reader<'a>>,
    path: &'a Path,
    options: &ReadOptions,
    arm: &str,
    line: u64,
    value: &Value,
) -> Result<(), RecordError> {
    if !value.is_object() {
        return Err(RecordError::Line { path: path.to_owned(), line, why: "is not a JSON object".to_owned() });
    }
    let known = match reader {
        Some(known) => known,
        None => {
            let mut header = Vec::new();
            paths(value, &mut String::new(), &mut header);
            reader.insert(Reader::new(path, options, arm, &header)?)
        }
    };
    known.add(line, &|name: &str| {
        let found = name.split('.').try_fold(value, |value, key| value.get(key))?;
        match found {
            Value::Null => None,
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => Some(Cow::Borrowed(text.as_str())),
            other => Some(Cow::Owned(other.to_string())),
        }
    })
}

/// All paths to the values of an object, and those of its objects.
fn paths(value: &Value, prefix: &mut String, found: &mut Vec<String>) {
    let Value::Object(fields) = value else { return };
    for (key, value) in fields {
        let length = prefix.len();
        prefix.push_str(key);
        found.push(prefix.clone());
        // Two levels hold everything that a preset names; deeper ones may be large.
        if prefix.matches('.').count() < 3 {
            prefix.push('.');
            paths(value, prefix, found);
        }
        prefix.truncate(length);
    }
}
