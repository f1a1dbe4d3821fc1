//! A tap on an answer: sees what passes, alters nothing.
//!
//! It splits a stream into its events, finds the first that bears content, and notes usage, errors and the text.
//! All that is kept is bounded: an event longer than a megabyte is not read, an answer is kept up to 256 kB.

use memchr::{memchr, memmem};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

const MAX_EVENT: usize = 1 << 20;
const MAX_ANSWER: usize = 256 << 10;

/// What an engine said of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt_tokens: Option<u32>,
    /// Tokens generated.
    pub output_tokens: Option<u32>,
    /// Prompt tokens found in its cache; `None` when it does not tell.
    pub cached_tokens: Option<u32>,
}

/// How the body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `text/event-stream`
    Events,
    /// One JSON object at the end.
    Json,
    /// Something else: only bytes are seen.
    Opaque,
}

/// The tap. See the module page.
#[derive(Debug)]
pub struct Tap {
    framing: Framing,
    /// The beginning of a line whose end has not come; for [`Framing::Json`] the body so far.
    pending: Vec<u8>,
    /// Lines of an event whose data spans several.
    joined: Vec<u8>,
    skipping: bool,
    events: u64,
    content: bool,
    done: bool,
    error: Option<u16>,
    usage: Usage,
    answer: String,
    keep_answer: bool,
    id: Option<String>,
}

impl Tap {
    /// A tap on a body of this framing; `keep_answer` collects the text.
    pub fn new(framing: Framing, keep_answer: bool) -> Self {
        Self {
            framing,
            pending: Vec::new(),
            joined: Vec::new(),
            skipping: false,
            events: 0,
            content: false,
            done: false,
            error: None,
            usage: Usage::default(),
            answer: String::new(),
            keep_answer,
            id: None,
        }
    }

    /// The next bytes of the body.
    pub fn feed(&mut self, chunk: &[u8]) {
        match self.framing {
            Framing::Events => self.lines(chunk),
            Framing::Json => {
                self.content |= !chunk.is_empty();
                if self.pending.len() + chunk.len() <= MAX_EVENT {
                    self.pending.extend_from_slice(chunk);
                } else {
                    self.skipping = true;
                }
            }
            Framing::Opaque => self.content |= !chunk.is_empty(),
        }
    }

    /// The body is complete.
    pub fn end(&mut self) {
        let rest = std::mem::take(&mut self.pending);
        match self.framing {
            Framing::Json if !self.skipping => {
                self.events += 1;
                self.event(&rest);
            }
            Framing::Events if !self.skipping => self.line(&rest),
            _ => {}
        }
    }

    /// Whether something content-bearing has passed.
    pub fn content(&self) -> bool {
        self.content
    }

    /// The code of an error told inside the body.
    pub fn error(&self) -> Option<u16> {
        self.error
    }

    /// Whether `[DONE]` or another mark of the end was seen.
    pub fn done(&self) -> bool {
        self.done
    }

    /// Events seen.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// What the engine said.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// The text, unless it grew beyond the bound.
    pub fn answer(&self) -> Option<&str> {
        (self.keep_answer && !self.answer.is_empty()).then_some(self.answer.as_str())
    }

    /// The id the engine gave the request.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    fn lines(&mut self, mut chunk: &[u8]) {
        while let Some(end) = memchr(b'\n', chunk) {
            let (line, rest) = (&chunk[..end], &chunk[end + 1..]);
            chunk = rest;
            if std::mem::take(&mut self.skipping) {
                self.pending.clear();
            } else if self.pending.is_empty() {
                self.line(line);
            } else {
                let mut whole = std::mem::take(&mut self.pending);
                whole.extend_from_slice(line);
                self.line(&whole);
                whole.clear();
                self.pending = whole;
            }
        }
        if self.pending.len() + chunk.len() > MAX_EVENT {
            self.skipping = true;
            self.pending.clear();
        } else if !self.skipping {
            self.pending.extend_from_slice(chunk);
        }
    }

    fn line(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            self.joined.clear();
            return;
        }
        let Some(data) = line.strip_prefix(b"data:") else { return };
        let data = data.strip_prefix(b" ").unwrap_or(data);
        if self.joined.is_empty() {
            self.events += 1;
            if data == b"[DONE]" {
                self.done = true;
            } else if !self.event(data) {
                self.joined.extend_from_slice(data);
            }
        } else if self.joined.len() + data.len() < MAX_EVENT {
            let mut joined = std::mem::take(&mut self.joined);
            joined.push(b'\n');
            joined.extend_from_slice(data);
            if self.event(&joined) {
                joined.clear();
            }
            self.joined = joined;
        }
    }

    /// One event's data; false if it is no (whole) JSON object.
    fn event(&mut self, data: &[u8]) -> bool {
        let Ok(event) = serde_json::from_slice::<Event<'_>>(data) else {
            // Of a shape nobody foresaw, but an object: count it as content rather than wait for ever.
            let object = serde_json::from_slice::<&RawValue>(data).is_ok_and(|raw| raw.get().starts_with('{'));
            self.content |= object;
            return object;
        };
        if let Some(error) = event.error.as_ref() {
            self.error = Some(error_code(error.get()));
        } else if event.object.as_deref() == Some("error") {
            self.error = Some(event.code.map_or(500, |code| error_code(code.get())));
        }
        if self.id.is_none() {
            let id = event.id.as_deref().or(event.meta_info.as_ref().and_then(|meta| meta.id.as_deref()));
            self.id = id.filter(|id| id.len() <= 128).map(str::to_owned);
        }
        for choice in event.choices.iter().flatten() {
            let (delta, message) = (choice.delta.as_ref(), choice.message.as_ref());
            for said in [delta, message].into_iter().flatten() {
                self.said(said.content.as_deref());
                self.content |=
                    said.reasoning_content.as_deref().or(said.reasoning.as_deref()).is_some_and(|t| !t.is_empty());
                self.content |=
                    said.tool_calls.is_some_and(is_something) || said.function_call.is_some_and(is_something);
            }
            self.said(choice.text.as_deref());
        }
        self.generated(&event);
        // The Responses API: typed events with a text delta, and the whole response at the end.
        match event.kind.as_deref() {
            Some(kind) if kind.ends_with(".delta") => {
                let text = event.delta.and_then(|d| serde_json::from_str::<Cow<'_, str>>(d.get()).ok());
                if kind == "response.output_text.delta" {
                    self.said(text.as_deref());
                } else {
                    self.content |= text.is_some_and(|text| !text.is_empty());
                }
            }
            Some("response.completed" | "response.incomplete") => self.done = true,
            Some("response.failed" | "error") => self.error = self.error.or(Some(500)),
            _ => {}
        }
        for usage in [event.usage, event.response.and_then(|r| r.usage)].into_iter().flatten() {
            self.usage = usage.read();
        }
        true
    }

    /// SGLang's `/generate`: `text` is all so far, or with `--incremental-streaming-output` only what is new.
    fn generated(&mut self, event: &Event<'_>) {
        if let Some(text) = event.text.as_deref().filter(|text| !text.is_empty()) {
            self.content = true;
            if text.len() > self.answer.len() && text.starts_with(self.answer.as_str()) {
                self.answer.clear();
            }
            self.said(Some(text));
        }
        if event.output_ids.is_some_and(|ids| ids.get().len() > 2) {
            self.content = true;
        }
        let Some(meta) = &event.meta_info else { return };
        self.usage = Usage {
            prompt_tokens: meta.prompt_tokens,
            output_tokens: meta.completion_tokens,
            cached_tokens: meta.cached_tokens,
        };
        let reason = meta.finish_reason.map_or("", RawValue::get);
        if memmem::find(reason.as_bytes(), b"\"abort\"").is_some() {
            self.error = Some(error_code(reason));
        }
    }

    fn said(&mut self, text: Option<&str>) {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return };
        self.content = true;
        if self.keep_answer {
            if self.answer.len() + text.len() > MAX_ANSWER {
                self.keep_answer = false;
                self.answer = String::new();
            } else {
                self.answer.push_str(text);
            }
        }
    }
}

fn is_something(raw: &RawValue) -> bool {
    !matches!(raw.get(), "null" | "[]" | "{}" | "\"\"")
}

/// The first number from 400 to 599 after a `code`, as SGLang and OpenAI write it; else 500.
fn error_code(text: &str) -> u16 {
    let from = text.find("code").map_or(text, |at| &text[at..]);
    let digits: String =
        from.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).take(4).collect();
    digits.parse().ok().filter(|code| (400..600).contains(code)).unwrap_or(500)
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    output_ids: Option<&'a RawValue>,
    #[serde(borrow, default)]
    meta_info: Option<Meta<'a>>,
    #[serde(default)]
    usage: Option<UsageJson>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
    #[serde(borrow, default)]
    object: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(default)]
    response: Option<Whole>,
}

#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    usage: Option<UsageJson>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Option<Said<'a>>,
    #[serde(borrow, default)]
    message: Option<Said<'a>>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow, default)]
    function_call: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(default)]
    prompt_tokens: Option<u32>,
    #[serde(default)]
    completion_tokens: Option<u32>,
    #[serde(default)]
    cached_tokens: Option<u32>,
    #[serde(borrow, default)]
    finish_reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct UsageJson {
    #[serde(default, alias = "input_tokens")]
    prompt_tokens: Option<u32>,
    #[serde(default, alias = "output_tokens")]
    completion_tokens: Option<u32>,
    #[serde(default, alias = "input_tokens_details")]
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: Option<u32>,
}

impl UsageJson {
    fn read(self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.completion_tokens,
            cached_tokens: self.prompt_tokens_details.and_then(|d| d.cached_tokens),
        }
    }
}

/// Entry point of the fuzzer: however the bytes are cut, the tap sees the same.
pub fn fuzz(data: &[u8]) {
    for framing in [Framing::Events, Framing::Json, Framing::Opaque] {
        let seen = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut tap = Tap::new(framing, true);
            pieces.for_each(|piece| tap.feed(piece));
            tap.end();
            (tap.events, tap.content, tap.done, tap.error, tap.usage, tap.answer)
        };
        let whole = seen(&mut std::iter::once(data));
        assert_eq!(whole, seen(&mut data.chunks(1)));
        assert_eq!(whole, seen(&mut data.chunks(7)));
    }
}

#[cfg(test)]
mod tests;
