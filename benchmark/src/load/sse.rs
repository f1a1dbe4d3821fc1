//! Parser for the server-sent events of a completion, which arrive in arbitrary pieces.

use serde::Deserialize;
use std::borrow::Cow;

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
    /// Length of the cumulative text so far.
    text: usize,
    /// The latest token counts.
    pub counts: TokenCounts,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<ErrorObject>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(default)]
    meta_info: Option<Meta>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning_content: Option<Cow<'a, str>>,
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
struct ErrorObject {
    #[serde(default)]
    message: Option<String>,
    /// SGLang sends the HTTP status, others a word.
    #[serde(default)]
    code: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Meta {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
    cached_tokens: Option<u32>,
}

impl EventParser {
    /// Parses the next bytes and calls `on_event` for each event that they complete.
    ///
    /// # Errors
    /// An event is not JSON or longer than 16 MiB.
    pub fn feed(&mut self, bytes: &[u8], mut on_event: impl FnMut(StreamEvent)) -> Result<(), String> {
        self.buffer.extend_from_slice(bytes);
        let mut start = 0;
        // The end of an event may be split over two pieces: search the last three bytes again.
        let mut from = self.searched.saturating_sub(3);
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
            return Err(format!("an event is longer than {MOST_BYTES} bytes"));
        }
        Ok(())
    }

    fn parse_event(&mut self, event: &[u8]) -> Result<Option<StreamEvent>, String> {
        // Comments and fields other than `data` are ignored.
        let mut lines = event.split(|&b| b == b'\n').filter_map(|line| line.strip_prefix(b"data:"));
        let Some(data) = lines.next() else { return Ok(None) };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            return Ok(Some(StreamEvent::Done));
        }
        let event: Event<'_> = serde_json::from_slice(data).map_err(|e| {
            format!("an event is not JSON ({e}): {}", String::from_utf8_lossy(&data[..data.len().min(80)]))
        })?;
        if let Some(error) = event.error {
            let status = error.code.and_then(|code| u16::try_from(code.as_u64()?).ok());
            let message = error.message.unwrap_or_else(|| "an error without a message".to_owned());
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
            self.counts =
                TokenCounts { prompt: meta.prompt_tokens, output: meta.completion_tokens, cached: meta.cached_tokens };
        }
        let filled = |text: &Option<Cow<'_, str>>| text.as_ref().is_some_and(|t| !t.is_empty());
        let choice = |c: &Choice<'_>| {
            filled(&c.text) || c.delta.as_ref().is_some_and(|d| filled(&d.content) || filled(&d.reasoning_content))
        };
        let longer = event.text.as_ref().is_some_and(|t| t.len() > self.text);
        self.text = event.text.map_or(self.text, |t| t.len());
        let content = longer || event.choices.is_some_and(|all| all.iter().any(choice));
        Ok(Some(if content { StreamEvent::Content } else { StreamEvent::Other }))
    }
}

/// End of the first event that ends at or after `from`, and start of the next event.
fn end_of_event(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    (from..bytes.len()).filter(|&i| bytes[i] == b'\n').find_map(|i| match &bytes[i + 1..] {
        [b'\n', ..] => Some((i, i + 2)),
        [b'\r', b'\n', ..] => Some((i, i + 3)),
        _ => None,
    })
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
                let result = pieces.try_for_each(|piece| parser.feed(piece, |event| events.push(event)));
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
        assert!(EventParser::default().feed(b"data: nonsense\n\n", |_| {}).unwrap_err().contains("nonsense"));
    }
}
