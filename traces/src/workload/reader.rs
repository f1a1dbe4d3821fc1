//! A streaming reader: rows in, requests out, the parser of one format in between.

use super::format::Format;
use super::lines::Lines;
use super::options::Options;
use super::parser::{Parser, Rows, Seen, Sink, answer_len};
use super::table;
use super::{azure, bailian, burstgpt, columns, guidellm_pair, mooncake, native, row, wildchat};
use crate::error::{TraceError, excerpt};
use gorgo_core::request::TraceRequest;
use std::cell::Cell;
use std::rc::Rc;

/// Sentences about skipped rows that are kept.
const KEPT_MESSAGES: usize = 5;

/// Requests of a trace, in the file's order and at the file's times: a calendar format counts from 1970, a format
/// without times gives zero to all.
pub struct Reader {
    file: String,
    format: Format,
    rows: Rows,
    parser: Box<dyn Parser>,
    sink: Sink,
    options: Options,
    over: bool,
    trailing: Rc<Cell<bool>>,
    line: u64,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("file", &self.file).field("format", &self.format).finish_non_exhaustive()
    }
}

impl Reader {
    /// A reader of `lines`; the format is recognised from the first line unless the options name it.
    ///
    /// # Errors
    /// When an option is out of range, or the format is not recognised.
    pub fn new(mut lines: Lines, options: &Options) -> Result<Self, TraceError> {
        options.check()?;
        let file = lines.file().to_owned();
        let mut head = Vec::new();
        let trailing = lines.trailing();
        let format = match options.format {
            Some(format) => format,
            None if !options.columns.is_empty() => Format::Columns,
            None => loop {
                // A bad first line must not hide the format.
                let Some(line) = lines.next() else {
                    let shown = if head.is_empty() { "an empty file".to_owned() } else { shown(&head) };
                    return Err(TraceError::Format { file, found: shown, known: Format::words() });
                };
                let found = line.as_ref().ok().and_then(|(_, text)| detect(text));
                let fatal = line.as_ref().is_err_and(|e| !e.is_row());
                head.push(line);
                match found {
                    Some(format) => break format,
                    None if fatal || !options.skip_bad || head.len() >= 100 => {
                        if let Some(Err(e)) = head.pop_if(|l| l.is_err()) {
                            return Err(e);
                        }
                        if let Some(Ok((line, text))) = head.first()
                            && let Err(bad) = row::JsonRow::parse(text)
                            && text.starts_with('{')
                        {
                            return Err(TraceError::Row { file, line: *line, field: bad.field, problem: bad.problem });
                        }
                        if let Some(Ok((_, text))) = head.first()
                            && let Some((what, remedy)) = other_rows(text)
                        {
                            return Err(TraceError::Kind { file, what, remedy });
                        }
                        return Err(TraceError::Format { file, found: shown(&head), known: Format::words() });
                    }
                    None => {}
                }
            },
        };
        if format.is_table() {
            lines.join_quoted();
        }
        let reader = Self::over_rows(file, format, Box::new(head.into_iter().chain(lines)), options)?;
        Ok(Self { trailing, ..reader })
    }

    /// A reader of rows that are already text.
    pub(crate) fn over_rows(file: String, format: Format, rows: Rows, options: &Options) -> Result<Self, TraceError> {
        super::options::fits(format, options)?;
        let parser: Box<dyn Parser> = match format {
            Format::Native => Box::new(native::Native::new(options)),
            Format::Mooncake => Box::new(mooncake::Mooncake::new(options)),
            Format::Bailian => Box::new(bailian::Bailian::new(options)),
            Format::Azure => Box::new(azure::Azure::new(options)),
            Format::Burstgpt => Box::new(burstgpt::Burstgpt::new(options)),
            Format::Vidur
            | Format::Splitwise
            | Format::Llmservingsim
            | Format::Blis
            | Format::TimedTrace
            | Format::Guidellm
            | Format::Columns => Box::new(columns::Columns::new(format, options)),
            Format::Wildchat | Format::Sharegpt | Format::Parquet => Box::new(wildchat::Wildchat::new(options)),
            Format::GuidellmPair => Box::new(guidellm_pair::GuidellmPair::new(&file, options)?),
        };
        Ok(Self {
            file,
            format,
            rows,
            parser,
            sink: Sink::default(),
            options: options.clone(),
            over: false,
            trailing: Rc::default(),
            line: 0,
        })
    }

    /// The file's name.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The format that is read.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Counts and remarks so far.
    pub fn seen(&self) -> &Seen {
        &self.sink.seen
    }

    /// Applies the options on single requests.
    fn admit(&mut self, mut request: TraceRequest) -> Option<TraceRequest> {
        if self.options.max_input_tokens.is_some_and(|most| request.input_tokens > most) {
            self.sink.seen.drop_one("prompt longer than max_input_tokens");
            return None;
        }
        if let Some(most) = self.options.max_output_tokens.filter(|&most| most < request.output_tokens) {
            request.output_tokens = most;
            let whole = answer_len(&request);
            if request.answer_blocks.len() > whole {
                request.answer_blocks = request.answer_blocks[..whole].into();
            }
        }
        Some(request)
    }
}

fn shown(head: &[Result<(u64, String), TraceError>]) -> String {
    let first = head.iter().find_map(|l| l.as_ref().ok());
    first.map_or_else(
        || "lines that cannot be read".to_owned(),
        |(line, text)| format!("line {line}, {:?}", excerpt(text)),
    )
}

/// What known rows of other tools are, and what to do with them.
fn other_rows(line: &str) -> Option<(&'static str, &'static str)> {
    let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).ok()?;
    let has = |names: &[&str]| names.iter().all(|name| row.contains_key(*name));
    if has(&["custom_id", "body"]) || has(&["custom_id", "response"]) {
        return Some((
            "a file of OpenAI's batch API, whose rows have neither times nor answer lengths",
            "write native rows, for example with `jq -c '{timestamp: 0, output_length: 256, messages: .body.messages}'`, and give a rate",
        ));
    }
    None
}

/// Recognises the format from a first line. The order matters: a native row is a superset of others.
fn detect(line: &str) -> Option<Format> {
    if !line.starts_with('{') {
        let header = table::header(line);
        let has = |columns: &[&str]| columns.iter().all(|c| header.iter().any(|name| name.eq_ignore_ascii_case(c)));
        let tables = [(Format::Azure, &azure::COLUMNS[..]), (Format::Burstgpt, &burstgpt::COLUMNS)];
        let known = tables.into_iter().find(|(_, columns)| has(columns)).map(|(format, _)| format);
        return known.or_else(|| columns::detect(|name| has(&[name])));
    }
    let serde_json::Value::Object(row) = serde_json::from_str(line).ok()? else { return None };
    let has = |names: &[&str]| names.iter().all(|n| row.contains_key(*n));
    let native_only =
        ["session_id", "user_id", "turn", "country", "lat", "block_size", "answer_hash_ids", "delay", "messages"];
    if has(&["chat_id", "parent_chat_id"]) {
        Some(Format::Bailian)
    } else if has(&["prompt", "hash"]) {
        Some(Format::GuidellmPair)
    } else if has(&["conversations"]) {
        Some(Format::Sharegpt)
    } else if has(&["conversation"]) || has(&["conversation_hash", "messages"]) {
        Some(Format::Wildchat)
    } else if has(&["timestamp", "hash_ids"]) && !native_only.iter().any(|n| row.contains_key(*n)) {
        Some(Format::Mooncake)
    } else if (has(&["timestamp"]) || has(&["delay"])) && (has(&["messages"]) || has(&["input_length"])) {
        Some(Format::Native)
    } else {
        columns::detect(|name| row.contains_key(name))
    }
}

impl Iterator for Reader {
    type Item = Result<TraceRequest, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while let Some(request) = self.sink.ready.pop_front() {
                if let Some(request) = self.admit(request) {
                    self.sink.seen.block_sizes.entry(request.block_tokens).or_insert(self.line);
                    return Some(Ok(request));
                }
            }
            if self.over {
                return None;
            }
            let wanted = self.options.first.is_none_or(|first| self.sink.seen.rows < first);
            let Some(row) = wanted.then(|| self.rows.next()).flatten() else {
                self.over = true;
                self.parser.finish(&mut self.sink);
                if self.trailing.get() {
                    self.sink.seen.remark("bytes after the gzip stream were ignored, as gzip itself does");
                }
                continue;
            };
            let result = row.and_then(|(line, text)| {
                (self.line, self.sink.line) = (line, line);
                let parsed = self.parser.row(self.sink.seen.rows, &text, &mut self.sink);
                parsed.map_err(|bad| TraceError::Row {
                    file: self.file.clone(),
                    line,
                    field: bad.field,
                    problem: bad.problem,
                })
            });
            if !std::mem::take(&mut self.sink.header) {
                self.sink.seen.rows += 1;
            }
            match result {
                Ok(()) => {}
                Err(e) if self.options.skip_bad && e.is_row() => {
                    self.sink.seen.skipped += 1;
                    if self.sink.seen.first_bad.len() < KEPT_MESSAGES {
                        self.sink.seen.first_bad.push(e.to_string());
                    }
                }
                Err(e) => {
                    self.over = !e.is_row();
                    return Some(Err(e));
                }
            }
        }
    }
}
