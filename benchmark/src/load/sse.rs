//! Parser for the server-sent events of a completion, which arrive in arbitrary pieces.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::collections::BTreeMap;

/// Largest event; cumulative streams repeat the whole answer in each event.
const MOST_BYTES: usize = 16 << 20;

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    /// An event with new text; in cumulative streams, with more text than before.
    Content,
    /// An event without text: a role, a finish reason, the usage.
    Other,
    /// `[DONE]`, the end of the stream.
    Done,
    /// An error.
    Error {
        /// The server's message.
        message: String,
        /// HTTP status in the error's `code`; `None` when `code` is missing or no number.
        status: Option<u16>,
    },
}

/// Token counts reported by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenCounts {
    /// Prompt tokens.
    pub prompt: Option<u32>,
    /// Output tokens.
    pub output: Option<u32>,
    /// Cached prompt tokens.
    pub cached: Option<u32>,
}

/// Parses a stream incrementally.
#[derive(Debug, Default)]
pub struct EventParser {
    buffer: Vec<u8>,
    /// Leading bytes of `buffer` that contain no end of an event.
    searched: usize,
    /// The last byte was a carriage return, which ended a line.
    carriage_return: bool,
    /// Length of the cumulative text so far.
    text: usize,
    /// An event with a finish reason has arrived; some servers send no `[DONE]` after it.
    pub finished: bool,
    /// The latest token counts.
    pub counts: TokenCounts,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    output_ids: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    meta_info: Option<Meta>,
    /// What FastAPI calls the text of an error.
    #[serde(default)]
    detail: Option<Value>,
    #[serde(default)]
    object: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    token_ids: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    finish_reason: Option<Value>,
}

impl Choice {
    /// Whether it carries anything that was generated.
    fn is_generated(&self) -> bool {
        let has_text = self.text.as_ref().is_some_and(|text| !text.is_empty());
        let has_ids = self.token_ids.as_ref().is_some_and(|ids| !ids.is_empty());
        has_text || has_ids || self.delta.as_ref().is_some_and(Delta::is_generated)
    }

    /// Its reason to finish; some servers send an empty one with every event.
    fn finish_reason(&self) -> Option<&Value> {
        self.finish_reason.as_ref().filter(|reason| reason.as_str().is_none_or(|word| !matches!(word, "" | "null")))
    }
}

/// What a model may generate, by the engine's names for it: text, what it thinks, tool calls, audio.
#[derive(Deserialize)]
struct Delta(BTreeMap<String, Value>);

impl Delta {
    /// Members that hold no part of the answer: its author, and remarks of the engine.
    const OTHERS: [&str; 4] = ["role", "name", "annotations", "provider_specific_fields"];

    /// Whether it carries anything that was generated.
    fn is_generated(&self) -> bool {
        let parts = self.0.iter().filter(|(name, _)| !Self::OTHERS.contains(&name.as_str()));
        parts.into_iter().any(|(_, part)| match part {
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            _ => false,
        })
    }
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default, deserialize_with = "count")]
    prompt_tokens: Option<u32>,
    #[serde(default, deserialize_with = "count")]
    completion_tokens: Option<u32>,
    #[serde(default)]
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default, deserialize_with = "count")]
    cached_tokens: Option<u32>,
}

/// A count, which some servers write as `20.0`; `None` for what is none.
fn count<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = Value::deserialize(deserializer)?.as_f64().filter(|n| n.fract() == 0.0);
    Ok(number.filter(|n| (0.0..=f64::from(u32::MAX)).contains(n)).map(|n| n as u32))
}

#[derive(Deserialize)]
struct Meta {
    #[serde(default, deserialize_with = "count")]
    prompt_tokens: Option<u32>,
    #[serde(default, deserialize_with = "count")]
    completion_tokens: Option<u32>,
    #[serde(default, deserialize_with = "count")]
    cached_tokens: Option<u32>,
    #[serde(default)]
    finish_reason: Option<Value>,
}

/// Why a stream of events cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// An event is not JSON.
    #[error("an event is not JSON ({error}): {start}")]
    NotJson {
        /// The reason.
        error: serde_json::Error,
        /// The first 80 bytes of the event.
        start: String,
    },
    /// An event has no end within the limit.
    #[error("an event is longer than {MOST_BYTES} bytes")]
    TooLong,
}

impl EventParser {
    /// Parses the next bytes and calls `on_event` for each event that they complete.
    ///
    /// # Errors
    /// An event is not JSON or longer than 16 MiB.
    pub fn feed(&mut self, bytes: &[u8], mut on_event: impl FnMut(StreamEvent)) -> Result<(), StreamError> {
        for &byte in bytes {
            // A line ends with CR, LF or both.
            let after_return = std::mem::replace(&mut self.carriage_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\r' | b'\n' => self.buffer.push(b'\n'),
                other => self.buffer.push(other),
            }
        }
        let mut start = 0;
        // The end of an event may be split over two pieces: search the last byte again.
        let mut from = self.searched.saturating_sub(1);
        while let Some((end, next)) = end_of_event(&self.buffer, from) {
            let event = std::mem::take(&mut self.buffer);
            let parsed = self.parse_event(&event[start..end]);
            self.buffer = event;
            if let Some(event) = parsed? {
                on_event(event);
            }
            (start, from) = (next, next);
        }
        self.buffer.drain(..start);
        self.searched = self.buffer.len();
        if self.buffer.len() > MOST_BYTES {
            return Err(StreamError::TooLong);
        }
        Ok(())
    }

    /// Parses what the stream ended with: an event without an empty line behind it.
    ///
    /// # Errors
    /// The event is not JSON.
    pub fn end(&mut self, mut on_event: impl FnMut(StreamEvent)) -> Result<(), StreamError> {
        let event = std::mem::take(&mut self.buffer);
        self.searched = 0;
        if let Some(event) = self.parse_event(&event)? {
            on_event(event);
        }
        Ok(())
    }

    fn parse_event(&mut self, event: &[u8]) -> Result<Option<StreamEvent>, StreamError> {
        // Comments and fields other than `data` are ignored; data over several lines is one text.
        let value = |line| {
            let rest: &[u8] = strip_field(line)?;
            Some(rest.strip_prefix(b" ").unwrap_or(rest))
        };
        let lines: Vec<&[u8]> = event.split(|&b| b == b'\n').filter_map(value).collect();
        let joined: Vec<u8>;
        let data = match lines[..] {
            [] => return Ok(None),
            [line] => line,
            _ => {
                joined = lines.join(&b'\n');
                &joined
            }
        };
        let data = data.trim_ascii();
        if data.is_empty() {
            return Ok(None); // a heartbeat
        }
        if data == b"[DONE]" {
            return Ok(Some(StreamEvent::Done));
        }
        if event.split(|&b| b == b'\n').any(names_error) {
            return Ok(Some(named_error(data)));
        }
        // An event of another name tells of something else, in any form.
        if data[0] != b'{' && event.split(|&b| b == b'\n').any(|line| line.starts_with(b"event:")) {
            return Ok(Some(StreamEvent::Other));
        }
        let event: Event = serde_json::from_slice(data).map_err(|error| {
            let start = String::from_utf8_lossy(&data[..data.len().min(80)]).into_owned();
            StreamError::NotJson { error, start }
        })?;
        if let Some(error) = event.error {
            return Ok(Some(error_event(&error, || "an error without a message".to_owned())));
        }
        // SGLang's errors are objects of their own, FastAPI's have a detail in place of choices.
        let is_error = event.object.as_ref().is_some_and(|object| object == "error");
        if is_error || (event.detail.is_some() && event.choices.is_none() && event.text.is_none()) {
            return Ok(Some(named_error(data)));
        }
        if let Some(usage) = event.usage {
            self.counts = TokenCounts {
                prompt: usage.prompt_tokens,
                output: usage.completion_tokens,
                cached: usage.prompt_tokens_details.and_then(|d| d.cached_tokens),
            };
        }
        let choices = event.choices.unwrap_or_default();
        let meta_reason = event.meta_info.as_ref().and_then(|meta| meta.finish_reason.as_ref());
        let mut reasons = choices.iter().filter_map(Choice::finish_reason).chain(meta_reason);
        if let Some(ended) = reasons.find_map(given_up) {
            return Ok(Some(ended));
        }
        self.finished |= meta_reason.is_some();
        if let Some(meta) = event.meta_info {
            self.counts =
                TokenCounts { prompt: meta.prompt_tokens, output: meta.completion_tokens, cached: meta.cached_tokens };
        }
        self.finished |= choices.iter().any(|choice| choice.finish_reason().is_some());
        let longer = event.text.as_ref().is_some_and(|t| t.len() > self.text);
        self.text = event.text.map_or(self.text, |t| t.len());
        let has_ids = event.output_ids.is_some_and(|ids| !ids.is_empty());
        let content = longer || has_ids || choices.iter().any(Choice::is_generated);
        Ok(Some(if content { StreamEvent::Content } else { StreamEvent::Other }))
    }
}

/// Whether a line names its event an error, or is one of llama.cpp's fields `error`.
fn names_error(line: &[u8]) -> bool {
    line.starts_with(b"error:") || line.strip_prefix(b"event:").is_some_and(|name| name.trim_ascii() == b"error")
}

/// The error in the data of an event that is named so, whatever its shape.
fn named_error(data: &[u8]) -> StreamEvent {
    let told: Value = serde_json::from_slice(data).unwrap_or(Value::Null);
    let error = told.get("error").filter(|error| !error.is_null()).unwrap_or(&told);
    error_event(error, || String::from_utf8_lossy(data).chars().take(200).collect())
}

/// An error event of a stream; `otherwise` gives the message of one that has none. SGLang sends the HTTP status as
/// `code`, others a word.
fn error_event(error: &Value, otherwise: impl FnOnce() -> String) -> StreamEvent {
    let status = error.get("code").and_then(|code| u16::try_from(code.as_u64()?).ok());
    StreamEvent::Error { message: message_of(error).map_or_else(otherwise, str::to_owned), status }
}

/// The message of an error: an object with one, or only a text.
pub(super) fn message_of(error: &Value) -> Option<&str> {
    error.as_str().or_else(|| error.get("message").or_else(|| error.get("detail"))?.as_str())
}

/// The error behind a finish reason `abort` or `error`: the engine gave the request up. vLLM sends the reason as a
/// string, SGLang's own API as an object.
fn given_up(reason: &Value) -> Option<StreamEvent> {
    let word = reason.as_str().or_else(|| reason.get("type")?.as_str())?;
    if !matches!(word, "abort" | "error") {
        return None;
    }
    let said = reason.get("message").and_then(Value::as_str).filter(|said| !said.is_empty());
    let message =
        said.map_or_else(|| format!("the engine ended the answer with finish reason `{word}`"), str::to_owned);
    let status = reason.get("status_code").and_then(|code| u16::try_from(code.as_u64()?).ok());
    Some(StreamEvent::Error { message, status })
}

/// The value of a line `data` or `data:VALUE`, or of llama.cpp's `error:VALUE`; a byte order mark may stand before the
/// first.
fn strip_field(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
    match line.strip_prefix(b"data") {
        Some([]) => Some(&[]),
        Some([b':', rest @ ..]) => Some(rest),
        _ => line.strip_prefix(b"error:"),
    }
}

/// End of the first event that ends at or after `from`, and start of the next event.
fn end_of_event(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    let rest = bytes.get(from..)?;
    rest.windows(2).position(|pair| pair == b"\n\n").map(|at| (from + at, from + at + 2))
}

#[cfg(test)]
mod tests;
