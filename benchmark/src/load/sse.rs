//! Server-sent events of a completion, found in whatever pieces the network delivers.

use serde::Deserialize;
use std::borrow::Cow;

/// The longest event that is kept; cumulative streams repeat a whole answer in each.
const MOST_BYTES: usize = 16 << 20;

/// What one event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// New text; with cumulative streams, more text than before.
    Content,
    /// Something without text: a role, a finish.
    Other,
    /// The end mark.
    Done,
    /// An error in place of an answer.
    Error {
        /// The server's message.
        message: String,
        /// HTTP status in the error's `code`; `None` when `code` is missing or no number.
        status: Option<u16>,
    },
}

/// Token counts that the server told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Of the prompt.
    pub prompt: Option<u32>,
    /// Of the answer.
    pub output: Option<u32>,
    /// Of the prompt, found in a cache.
    pub cached: Option<u32>,
}

/// Collects bytes and hands out events.
#[derive(Debug, Default)]
pub struct Events {
    buffer: Vec<u8>,
    /// Bytes of `buffer` known to hold no end of an event.
    searched: usize,
    /// Characters of the cumulative text so far.
    text: usize,
    /// The newest counts.
    pub counts: Counts,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Problem>,
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
struct Problem {
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

impl Events {
    /// Takes the next bytes and tells every event that they complete.
    ///
    /// # Errors
    /// An event is not JSON or longer than 16 MiB.
    pub fn feed(&mut self, bytes: &[u8], mut tell: impl FnMut(Said)) -> Result<(), String> {
        self.buffer.extend_from_slice(bytes);
        let mut start = 0;
        // An end may lie across two pieces: look again at the last three bytes.
        let mut from = self.searched.saturating_sub(3);
        while let Some((end, next)) = end_of_event(&self.buffer, from) {
            let event = std::mem::take(&mut self.buffer);
            let said = self.event(&event[start..end]);
            self.buffer = event;
            if let Some(said) = said? {
                tell(said);
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

    fn event(&mut self, event: &[u8]) -> Result<Option<Said>, String> {
        // Comments and other fields than `data` say nothing here.
        let mut lines = event.split(|&b| b == b'\n').filter_map(|line| line.strip_prefix(b"data:"));
        let Some(data) = lines.next() else { return Ok(None) };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            return Ok(Some(Said::Done));
        }
        let event: Event<'_> = serde_json::from_slice(data).map_err(|e| {
            format!("an event is not JSON ({e}): {}", String::from_utf8_lossy(&data[..data.len().min(80)]))
        })?;
        if let Some(problem) = event.error {
            let status = problem.code.and_then(|code| u16::try_from(code.as_u64()?).ok());
            let message = problem.message.unwrap_or_else(|| "an error without a message".to_owned());
            return Ok(Some(Said::Error { message, status }));
        }
        if let Some(usage) = event.usage {
            self.counts = Counts {
                prompt: usage.prompt_tokens,
                output: usage.completion_tokens,
                cached: usage.prompt_tokens_details.and_then(|d| d.cached_tokens),
            };
        }
        if let Some(meta) = event.meta_info {
            self.counts =
                Counts { prompt: meta.prompt_tokens, output: meta.completion_tokens, cached: meta.cached_tokens };
        }
        let filled = |text: &Option<Cow<'_, str>>| text.as_ref().is_some_and(|t| !t.is_empty());
        let choice = |c: &Choice<'_>| {
            filled(&c.text) || c.delta.as_ref().is_some_and(|d| filled(&d.content) || filled(&d.reasoning_content))
        };
        let longer = event.text.as_ref().is_some_and(|t| t.len() > self.text);
        self.text = event.text.map_or(self.text, |t| t.len());
        let content = longer || event.choices.is_some_and(|all| all.iter().any(choice));
        Ok(Some(if content { Said::Content } else { Said::Other }))
    }
}

/// Where the first event at or after `from` ends, and where the next begins.
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
            let (mut events, mut said, mut start) = (Events::default(), Vec::new(), 0);
            for cut in cuts {
                events.feed(&STREAM.as_bytes()[start..cut], |s| said.push(s)).unwrap();
                start = cut;
            }
            prop_assert_eq!(said, [Said::Other, Said::Content, Said::Content, Said::Other, Said::Done]);
            prop_assert_eq!(events.counts, Counts { prompt: Some(9), output: Some(2), cached: Some(4) });
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut events = Events::default();
            let _ = events.feed(&bytes, |_| {});
            let _ = events.feed(b"\n\ndata: {\n\n", |_| {});
        }
    }

    #[test]
    fn cumulative_text_counts_when_it_grows_and_errors_are_errors() {
        let stream = "data: {\"text\":\"a\",\"meta_info\":{\"prompt_tokens\":3,\"completion_tokens\":1,\"cached_tokens\":0}}\n\ndata: {\"text\":\"a\",\"meta_info\":{}}\n\ndata: {\"error\":{\"message\":\"full\",\"code\":503}}\n\ndata: {\"error\":{\"code\":\"queue_full\"}}\n\n";
        let mut said = Vec::new();
        Events::default().feed(stream.as_bytes(), |s| said.push(s)).unwrap();
        let full = Said::Error { message: "full".to_owned(), status: Some(503) };
        let worded = Said::Error { message: "an error without a message".to_owned(), status: None };
        assert_eq!(said, [Said::Content, Said::Other, full, worded]);
        assert!(Events::default().feed(b"data: nonsense\n\n", |_| {}).unwrap_err().contains("nonsense"));
    }
}
