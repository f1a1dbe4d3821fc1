//! Parser for the server-sent events of a completion, which arrive in arbitrary pieces.

use serde::Deserialize;
use serde_json::Value;

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
    /// An event has told why the answer ended; some servers send no `[DONE]` after it.
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
    meta_info: Option<Meta>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    finish_reason: Option<Value>,
}

/// What a model may generate; engines differ in the name of what it thinks.
#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<Value>,
    #[serde(default)]
    reasoning: Option<Value>,
    #[serde(default)]
    reasoning_content: Option<Value>,
    #[serde(default)]
    refusal: Option<Value>,
    #[serde(default)]
    tool_calls: Option<Value>,
    #[serde(default)]
    function_call: Option<Value>,
    #[serde(default)]
    audio: Option<Value>,
}

impl Delta {
    /// Whether it carries anything that was generated.
    fn is_generated(&self) -> bool {
        let parts = [
            &self.content,
            &self.reasoning,
            &self.reasoning_content,
            &self.refusal,
            &self.tool_calls,
            &self.function_call,
            &self.audio,
        ];
        parts.into_iter().flatten().any(|part| match part {
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            _ => false,
        })
    }
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
    #[serde(default)]
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Meta {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
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
        let event: Event = serde_json::from_slice(data).map_err(|error| {
            let start = String::from_utf8_lossy(&data[..data.len().min(80)]).into_owned();
            StreamError::NotJson { error, start }
        })?;
        if let Some(error) = event.error {
            // SGLang sends the HTTP status as `code`, others a word; some send only a text.
            let status = error.get("code").and_then(|code| u16::try_from(code.as_u64()?).ok());
            let message = error.as_str().or_else(|| error.get("message")?.as_str());
            let message = message.unwrap_or("an error without a message").to_owned();
            return Ok(Some(StreamEvent::Error { message, status }));
        }
        if let Some(usage) = event.usage {
            self.counts = TokenCounts {
                prompt: usage.prompt_tokens,
                output: usage.completion_tokens,
                cached: usage.prompt_tokens_details.and_then(|d| d.cached_tokens),
            };
        }
        if let Some(meta) = event.meta_info {
            self.finished |= meta.finish_reason.is_some();
            self.counts =
                TokenCounts { prompt: meta.prompt_tokens, output: meta.completion_tokens, cached: meta.cached_tokens };
        }
        let choices = event.choices.unwrap_or_default();
        self.finished |= choices.iter().any(|choice| choice.finish_reason.is_some());
        let filled = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
        let choice = |c: &Choice| filled(&c.text) || c.delta.as_ref().is_some_and(Delta::is_generated);
        let longer = event.text.as_ref().is_some_and(|t| t.len() > self.text);
        self.text = event.text.map_or(self.text, |t| t.len());
        let content = longer || choices.iter().any(choice);
        Ok(Some(if content { StreamEvent::Content } else { StreamEvent::Other }))
    }
}

/// The value of a line `data` or `data:VALUE`; a byte order mark may stand before the first.
fn strip_field(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
    match line.strip_prefix(b"data") {
        Some([]) => Some(&[]),
        Some([b':', rest @ ..]) => Some(rest),
        _ => None,
    }
}

/// End of the first event that ends at or after `from`, and start of the next event.
fn end_of_event(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    let rest = bytes.get(from..)?;
    rest.windows(2).position(|pair| pair == b"\n\n").map(|at| (from + at, from + at + 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = concat!(
        ": a comment\n\n",
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"caf\\u00e9 \u{20ac}\"}}]}\r\n\r\n",
        "data: {\"choices\":[{\"text\":\"x\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n",
        "data: [DONE]\n\n",
    );

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(mut cuts in prop::collection::vec(0usize..STREAM.len(), 0..12)) {
            cuts.sort_unstable();
            cuts.push(STREAM.len());
            let (mut parser, mut events, mut start) = (EventParser::default(), Vec::new(), 0);
            for cut in cuts {
                parser.feed(&STREAM.as_bytes()[start..cut], |event| events.push(event)).unwrap();
                start = cut;
            }
            prop_assert_eq!(events, [StreamEvent::Other, StreamEvent::Content, StreamEvent::Content, StreamEvent::Other, StreamEvent::Done]);
            prop_assert_eq!(parser.counts, TokenCounts { prompt: Some(9), output: Some(2), cached: Some(4) });
        }

        #[test]
        fn arbitrary_bytes_give_the_same_result_in_one_piece_and_byte_by_byte(
            lines in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 0..20),
                "data: ?(\\[DONE\\]|\\{\"text\":\"[ab]{0,3}\"\\}|\\{\\}|x)\r?\n\r?\n".prop_map(String::into_bytes),
            ], 0..20)
        ) {
            let bytes = lines.concat();
            let parse = |piece_bytes: usize| {
                let (mut parser, mut events) = (EventParser::default(), Vec::new());
                let mut pieces = bytes.chunks(piece_bytes);
                let read = pieces.try_for_each(|piece| parser.feed(piece, |event| events.push(event)));
                let result = read.map_err(|error| error.to_string());
                (events, result, parser.counts)
            };
            prop_assert_eq!(parse(bytes.len().max(1)), parse(1));
        }
    }

    #[test]
    fn cumulative_text_counts_when_it_grows_and_errors_are_errors() {
        let stream = "data: {\"text\":\"a\",\"meta_info\":{\"prompt_tokens\":3,\"completion_tokens\":1,\"cached_tokens\":0}}\n\ndata: {\"text\":\"a\",\"meta_info\":{}}\n\ndata: {\"error\":{\"message\":\"full\",\"code\":503}}\n\ndata: {\"error\":{\"code\":\"queue_full\"}}\n\n";
        let mut events = Vec::new();
        EventParser::default().feed(stream.as_bytes(), |event| events.push(event)).unwrap();
        let full = StreamEvent::Error { message: "full".to_owned(), status: Some(503) };
        let worded = StreamEvent::Error { message: "an error without a message".to_owned(), status: None };
        assert_eq!(events, [StreamEvent::Content, StreamEvent::Other, full, worded]);
        assert!(
            EventParser::default().feed(b"data: nonsense\n\n", |_| {}).unwrap_err().to_string().contains("nonsense")
        );
    }

    /// Events and whether the answer is complete.
    fn read(stream: &str) -> (Vec<StreamEvent>, bool) {
        let (mut parser, mut events) = (EventParser::default(), Vec::new());
        parser.feed(stream.as_bytes(), |event| events.push(event)).unwrap();
        parser.end(|event| events.push(event)).unwrap();
        (events, parser.finished)
    }

    #[test]
    fn whatever_a_model_generates_is_content_and_a_role_is_not() {
        for delta in [
            r#"{"content":"a"}"#,
            r#"{"reasoning":"a"}"#,
            r#"{"reasoning_content":"a","content":null}"#,
            r#"{"refusal":"no"}"#,
            r#"{"tool_calls":[{"index":0,"function":{"name":"f"}}]}"#,
            r#"{"content":[{"type":"text","text":"a"}]}"#,
        ] {
            let (events, _) = read(&format!("data: {{\"choices\":[{{\"delta\":{delta}}}]}}\n\n"));
            assert_eq!(events, [StreamEvent::Content], "{delta}");
        }
        for delta in [r#"{"role":"assistant","content":""}"#, r#"{"tool_calls":[],"refusal":null}"#, "null"] {
            let (events, _) = read(&format!("data: {{\"choices\":[{{\"delta\":{delta}}}]}}\n\n"));
            assert_eq!(events, [StreamEvent::Other], "{delta}");
        }
    }

    #[test]
    fn every_valid_event_stream_is_read() {
        let token = r#"{"choices":[{"delta":{"content":"a"}}]}"#;
        for (stream, contents) in [
            (format!("data:\n\ndata: {token}\n\n"), 1),
            (format!("data\n\nretry: 1000\nid: 1\n\ndata:{token}\n\n"), 1),
            ("event: x\ndata: {\"choices\":\ndata: [{\"text\":\"a\"}]}\n\n".to_owned(), 1),
            (format!("\u{feff}data: {token}\r\rdata: {token}\r\n\r\n"), 2),
            (format!(": ping\n\ndata: {token}\n\ndata: {token}"), 2),
        ] {
            let (events, _) = read(&stream);
            assert_eq!(events, vec![StreamEvent::Content; contents], "{stream:?}");
        }
        let (events, _) = read("data: {\"error\":\"overloaded\"}\n\n");
        assert_eq!(events, [StreamEvent::Error { message: "overloaded".to_owned(), status: None }]);
    }

    #[test]
    fn a_finish_reason_ends_an_answer_as_done_does() {
        assert!(!read("data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}\n\n").1);
        assert!(read("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n").1);
        assert!(read("data: {\"text\":\"a\",\"meta_info\":{\"finish_reason\":{\"type\":\"length\"}}}\n\n").1);
    }
}
