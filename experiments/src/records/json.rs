//! JSON lines and GuideLLM's JSON become cells by column name, and cells become rows.

use super::lines::{LineError, no_json_number, read_lines};
use super::table::{Reader, summary_of};
use super::{ReadOptions, RecordError, Row};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::Path;

/// Objects whose fields are the columns, and the bytes that they take at most: the first object may lack some.
const HEADER_OBJECTS: usize = 1000;
const HEADER_BYTES: usize = 16 << 20;

/// Why a text is not one JSON object; Python's `NaN` and `Infinity` are named.
fn no_object(text: &str, error: &serde_json::Error) -> String {
    match no_json_number(text) {
        Some(word) => format!("holds {word}, which JSON does not have; write null where there is no value"),
        None => format!("is not a JSON object ({error})"),
    }
}

/// Reads one JSON object a line, and a notice of the lines that were left out.
pub(super) fn json_lines(
    path: &Path,
    input: impl BufRead,
    options: &ReadOptions,
    arm: &str,
) -> Result<(Vec<Row>, Option<String>), RecordError> {
    let mut objects = Objects::new(path, options, arm);
    let bad = |line, why| RecordError::Line { path: path.to_owned(), line, why };
    let notice = read_lines(input, |line, text| {
        let value: Value = serde_json::from_str(text).map_err(|error| bad(line, no_object(text, &error)))?;
        objects.add(line, value, text.len())
    });
    let notice = notice.map_err(|error| match error {
        LineError::Io(_, source) => RecordError::Io { path: path.to_owned(), source },
        LineError::Line(_, error) => error,
        LineError::Broken(line, why) => bad(line, format!("{why}; give JSON lines, or a table")),
    })?;
    Ok((objects.rows()?, notice))
}

/// Why a file is not one JSON value.
fn not_one_value(path: &Path, text: &[u8], error: &serde_json::Error) -> RecordError {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    if values.by_ref().take(2).filter(|value| value.as_ref().is_ok_and(Value::is_object)).count() == 2 {
        let why = "holds several JSON objects; give it a name that ends with .jsonl, and one object a line".to_owned();
        return RecordError::File { path: path.to_owned(), why };
    }
    let line = text.split(|&byte| byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let why = no_object(&String::from_utf8_lossy(line), error);
    RecordError::Line { path: path.to_owned(), line: error.line() as u64, why }
}

/// Reads GuideLLM's results: requests of each benchmark by outcome.
pub(super) fn guidellm(path: &Path, text: &[u8], options: &ReadOptions, arm: &str) -> Result<Vec<Row>, RecordError> {
    let file = |why: String| RecordError::File { path: path.to_owned(), why };
    let mut whole: Value = serde_json::from_slice(text).map_err(|e| not_one_value(path, text, &e))?;
    let Some(Value::Array(benchmarks)) = whole.get_mut("benchmarks").map(Value::take) else {
        let has = |name: &str| whole.get(name).is_some();
        let other = "has no list `benchmarks`; give GuideLLM's JSON output, or a table";
        return Err(file(summary_of(has).unwrap_or(other).to_owned()));
    };
    let several = benchmarks.len() > 1;
    let mut options = options.clone();
    options.columns.preset.get_or_insert_with(|| "guidellm".to_owned());
    let mut objects = Objects::new(path, &options, arm);
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
                objects.add(number, request, 0)?;
            }
        }
    }
    objects.rows()
}

/// JSON objects on their way to rows. The fields of the first ones together are the columns.
struct Objects<'a> {
    path: &'a Path,
    options: &'a ReadOptions,
    arm: &'a str,
    /// Objects that came before the columns were known, with their lines.
    waiting: Vec<(u64, Value)>,
    bytes: usize,
    reader: Option<Reader<'a>>,
}

impl<'a> Objects<'a> {
    fn new(path: &'a Path, options: &'a ReadOptions, arm: &'a str) -> Self {
        Self { path, options, arm, waiting: Vec::new(), bytes: 0, reader: None }
    }

    /// Adds the object of a line of `bytes`.
    fn add(&mut self, line: u64, value: Value, bytes: usize) -> Result<(), RecordError> {
        if !value.is_object() {
            let why = "is not a JSON object".to_owned();
            return Err(RecordError::Line { path: self.path.to_owned(), line, why });
        }
        if let Some(reader) = &mut self.reader {
            return add_object(reader, line, &value);
        }
        self.waiting.push((line, value));
        self.bytes += bytes;
        if self.waiting.len() < HEADER_OBJECTS && self.bytes < HEADER_BYTES { Ok(()) } else { self.begin() }
    }

    /// Takes the columns from the objects that wait, and adds these.
    fn begin(&mut self) -> Result<(), RecordError> {
        let (mut header, mut known) = (Vec::new(), BTreeSet::new());
        for (_, value) in &self.waiting {
            let mut found = Vec::new();
            paths(value, &mut String::new(), &mut found);
            header.extend(found.into_iter().filter(|name| known.insert(name.clone())));
        }
        let mut reader = Reader::new(self.path, self.options, self.arm, &header)?;
        for (line, value) in self.waiting.drain(..) {
            add_object(&mut reader, line, &value)?;
        }
        self.reader = Some(reader);
        Ok(())
    }

    /// The rows of all objects.
    fn rows(mut self) -> Result<Vec<Row>, RecordError> {
        if !self.waiting.is_empty() {
            self.begin()?;
        }
        Ok(self.reader.map(|reader| reader.rows).unwrap_or_default())
    }
}

fn add_object(reader: &mut Reader<'_>, line: u64, value: &Value) -> Result<(), RecordError> {
    reader.add(line, &|name: &str| {
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
