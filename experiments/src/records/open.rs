//! Opens recorded requests: detects whether a path is a result folder, a folder of tables, a table or a timeline.

use super::{LONGEST_MS, LONGEST_YEARS, ReadOptions, RecordError, Records, Row, json, spans, table};
use flate2::read::MultiGzDecoder;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// What AIPerf calls its requests within its folder.
const AIPERF: &str = "profile_export.jsonl";

/// What some editors write before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The most bytes a file of one JSON value may unpack to.
const MAX_JSON: u64 = 1 << 30;

/// Reads the requests of `path`: the `requests.csv` of a result folder, every table or timeline of another folder, or one
/// file, packed (`.gz`) or plain.
///
/// # Errors
/// The first file, line and column that cannot be read.
pub fn open(path: &Path, options: &ReadOptions) -> Result<Records, RecordError> {
    let (mut rows, mut notices) = (Vec::new(), Vec::new());
    for file in files(path)? {
        rows.extend(one(&file, options, &mut notices)?);
    }
    if rows.is_empty() {
        let why = "holds no requests; give a result folder, a table or a timeline with some".to_owned();
        return Err(RecordError::File { path: path.to_owned(), why });
    }
    lengths_are_plausible(path, &rows)?;
    Ok(Records { source: path.display().to_string(), rows, notices })
}

/// Refuses an arm whose requests lie further apart than any recording. Tables name the line (`table`); this finds it
/// between files and in timelines.
fn lengths_are_plausible(path: &Path, rows: &[Row]) -> Result<(), RecordError> {
    let mut ends: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for row in rows {
        let Some(at) = row.at else { continue };
        let (first, last) = ends.entry(&row.arm).or_insert((at, at));
        (*first, *last) = (first.min(at), last.max(at));
        if *last - *first > LONGEST_MS {
            let why = format!(
                "has requests of arm `{}` at {first} ms and at {last} ms, more than {LONGEST_YEARS} years apart; give all times on one clock and in one unit",
                row.arm
            );
            return Err(RecordError::File { path: path.to_owned(), why });
        }
    }
    Ok(())
}

fn files(path: &Path) -> Result<Vec<PathBuf>, RecordError> {
    let io = |source| RecordError::Io { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(io)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    if path.join("experiment.toml").exists() {
        let rows = path.join("requests.csv");
        if rows.exists() {
            return Ok(vec![rows]);
        }
        let why = "keeps no requests, because a sweep made it; run the experiment with `gorgo run`".to_owned();
        return Err(RecordError::File { path: path.to_owned(), why });
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let file = entry.map_err(io)?.path();
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        let table = (plain.starts_with("requests") && [".csv", ".jsonl"].iter().any(|end| plain.ends_with(end)))
            || plain.ends_with(".requests.jsonl")
            || plain == AIPERF;
        if table || plain.ends_with("_trace.json") || plain == "timeline.json" {
            found.push(file);
        }
    }
    found.sort();
    if found.is_empty() {
        let why = format!("holds no requests*.csv, requests*.jsonl, {AIPERF} or *_trace.json; name the file");
        return Err(RecordError::File { path: path.to_owned(), why });
    }
    Ok(found)
}

/// The arm of a file without a column for it: its name without `requests_` and endings.
fn arm_of(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut name = name.as_str();
    for end in [".gz", ".csv", ".jsonl", ".json", ".requests", "_trace"] {
        name = name.strip_suffix(end).unwrap_or(name);
    }
    name.strip_prefix("requests").unwrap_or(name).trim_start_matches(['_', '-', '.']).to_owned()
}

/// Reads the events of a Chrome trace; other arrays hold rows. `events` tells whether the begin of the file shows an event.
fn array(path: &Path, input: impl Read, arm: &str, events: bool) -> Result<Vec<Row>, RecordError> {
    let found = spans::read(path, input, arm);
    if events || found.as_ref().is_ok_and(|rows| !rows.is_empty()) {
        return found;
    }
    let why = "is one JSON array and no Chrome trace; write one object a line (.jsonl)".to_owned();
    Err(RecordError::File { path: path.to_owned(), why })
}

/// Opens a file that may be packed with gzip, as its first bytes tell.
///
/// # Errors
/// When it cannot be opened or read.
pub fn unpacked(path: &Path) -> std::io::Result<BufReader<Box<dyn Read>>> {
    let mut file = BufReader::new(File::open(path)?);
    let packed = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    let input: Box<dyn Read> = if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    Ok(BufReader::with_capacity(1 << 16, input))
}

fn one(path: &Path, options: &ReadOptions, notices: &mut Vec<String>) -> Result<Vec<Row>, RecordError> {
    let io = |source| RecordError::Io { path: path.to_owned(), source };
    let mut input = unpacked(path).map_err(io)?;
    let arm = options.arm.clone().unwrap_or_else(|| arm_of(path));
    if input.fill_buf().map_err(io)?.starts_with(BYTE_ORDER_MARK) {
        input.consume(BYTE_ORDER_MARK.len());
    }
    let start = input.fill_buf().map_err(io)?;
    let text = String::from_utf8_lossy(&start[..start.len().min(4096)]).trim_start().to_owned();
    if start.trim_ascii().is_empty() && start.len() < 4096 {
        let why = "is empty; give a result folder, a table or a timeline with requests".to_owned();
        return Err(RecordError::File { path: path.to_owned(), why });
    }
    if text.starts_with('[') {
        return array(path, input, &arm, text.contains("\"ph\""));
    }
    if text.starts_with('{') && text.contains("\"traceEvents\"") {
        return spans::read(path, input, &arm);
    }
    if !text.starts_with('{') {
        return table::csv(path, input, options, &arm);
    }
    let plain = path.to_string_lossy();
    if plain.trim_end_matches(".gz").ends_with(".json") {
        let mut whole = Vec::new();
        input.take(MAX_JSON + 1).read_to_end(&mut whole).map_err(io)?;
        if whole.len() as u64 > MAX_JSON {
            let why = format!("unpacks to more than {MAX_JSON} bytes; write its requests as CSV or JSON lines");
            return Err(RecordError::File { path: path.to_owned(), why });
        }
        return json::guidellm(path, &whole, options, &arm);
    }
    let (rows, notice) = json::json_lines(path, input, options, &arm)?;
    notices.extend(notice.map(|notice| format!("`{}`: {notice}", path.display())));
    Ok(rows)
}
