//! A tap on an answer: sees what passes, alters nothing.
//!
//! It splits a stream into its events, finds the first that bears content, and notes usage, errors and the text.
//! All that is kept is bounded: an event longer than a megabyte is not read, an answer is kept up to 256 kB.

use crate::wire::json::{Kind, Reader, Text, Wrong};
use memchr::{memchr, memmem};

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
    choices: u32,
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
            choices: 1,
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

    /// A JSON body that is complete, instead of [`Self::feed`] and [`Self::end`]: nothing is copied.
    pub fn whole(&mut self, body: &[u8]) {
        debug_assert!(self.framing == Framing::Json && self.pending.is_empty());
        self.content |= !body.is_empty();
        self.events += 1;
        self.event(body);
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

    /// How many answers to the one prompt there are.
    pub fn choices(&self) -> u32 {
        self.choices
    }

    /// The text of the first choice, unless it grew beyond the bound.
    pub fn answer(&self) -> Option<&str> {
        (self.keep_answer && !self.answer.is_empty()).then_some(self.answer.as_str())
    }

    /// The id the engine gave the request, if the answer is a stream.
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
        let mut json = Reader::new(data);
        if !matches!(json.kind(), Ok(Kind::Object)) {
            return false;
        }
        let (content, told) = (self.content, self.answer.len());
        let mut event = Event::default();
        let read = json.object(|json, key| self.member(json, key, &mut event)).and_then(|()| json.end());
        if read.is_err() {
            self.content = content;
            self.answer.truncate(told);
            // Of a shape nobody foresaw, but an object: count it as content rather than wait for ever.
            let mut json = Reader::new(data);
            let object = json.skip().and_then(|_| json.end()).is_ok();
            self.content |= object;
            return object;
        }
        if let Some(error) = event.error {
            self.error = Some(error_code(error));
        } else if event.object.is_some_and(|object| object.is(b"error")) {
            self.error = Some(event.code.map_or(500, error_code));
        }
        // What came whole nobody aborts.
        if self.id.is_none() && self.framing == Framing::Events {
            self.id = event.id.or(event.meta.id).map(|id| id.short(129)).filter(|id| id.len() <= 128);
        }
        self.generated(&event);
        // The Responses API: typed events with a text delta, and the whole response at the end.
        let kind = event.kind.and_then(|kind| kind.plain()).unwrap_or_default();
        if kind.ends_with(b".delta") {
            if kind == b"response.output_text.delta" {
                self.said(event.delta);
            } else {
                self.content |= event.delta.is_some_and(|text| !text.is_empty());
            }
        }
        match kind {
            b"response.completed" | b"response.incomplete" => self.done = true,
            b"response.failed" | b"error" => self.error = self.error.or(Some(500)),
            _ => {}
        }
        if let Some(usage) = event.usage {
            self.usage = usage;
        }
        if self.answer.len() > MAX_ANSWER {
            self.keep_answer = false;
            self.answer = String::new();
        }
        true
    }

    /// A member of an event. Choices are heard at once, the rest is noted.
    fn member<'a>(&mut self, json: &mut Reader<'a>, key: Text<'a>, event: &mut Event<'a>) -> Result<(), Wrong> {
        match key.plain().unwrap_or_default() {
            b"id" => event.id = json.text_or_null()?,
            b"choices" if !json.null()? => json.array(|json| self.choice(json))?,
            b"text" => event.text = json.text_or_null()?,
            b"output_ids" => event.output_ids = json.skip()?.len() > 2,
            b"meta_info" if !json.null()? => json.object(|json, key| event.meta.member(json, key))?,
            b"usage" if !json.null()? => event.usage = Some(usage(json)?),
            b"error" => event.error = something(json)?,
            b"code" => event.code = something(json)?,
            b"object" => event.object = json.text_or_null()?,
            b"type" => event.kind = json.text_or_null()?,
            b"delta" => {
                event.delta = if json.kind()? == Kind::Text { Some(json.text()?) } else { json.skip().map(|_| None)? }
            }
            b"response" if !json.null()? => json.object(|json, key| {
                match key.plain().unwrap_or_default() {
                    b"usage" if !json.null()? => event.usage = Some(usage(json)?),
                    _ => json.pass()?,
                }
                Ok(())
            })?,
            _ => json.pass()?,
        }
        Ok(())
    }

    /// One choice. The text of all but the first is taken back: conversations go on with one, and mixed with others
    /// it would be nobody's.
    fn choice(&mut self, json: &mut Reader<'_>) -> Result<(), Wrong> {
        let (told, mut index) = (self.answer.len(), 0);
        json.object(|json, key| {
            if key.is(b"index") {
                index = json.count_or_null()?.unwrap_or(0);
                return Ok(());
            }
            self.choice_member(json, key)
        })?;
        if index > 0 {
            self.answer.truncate(told);
            self.choices = self.choices.max(index.saturating_add(1));
        }
        Ok(())
    }

    fn choice_member<'a>(&mut self, json: &mut Reader<'a>, key: Text<'a>) -> Result<(), Wrong> {
        match key.plain().unwrap_or_default() {
            b"delta" | b"message" if !json.null()? => json.object(|json, key| {
                match key.plain().unwrap_or_default() {
                    b"content" => {
                        let text = json.text_or_null()?;
                        self.said(text);
                    }
                    b"reasoning_content" | b"reasoning" => {
                        self.content |= json.text_or_null()?.is_some_and(|text| !text.is_empty());
                    }
                    b"tool_calls" | b"function_call" => {
                        self.content |= !matches!(json.skip()?, b"null" | b"[]" | b"{}" | b"\"\"");
                    }
                    _ => drop(json.skip()?),
                }
                Ok(())
            })?,
            b"text" => {
                let text = json.text_or_null()?;
                self.said(text);
            }
            _ => json.pass()?,
        }
        Ok(())
    }

    /// SGLang's `/generate`: `text` is all so far, or with `--incremental-streaming-output` only what is new.
    fn generated(&mut self, event: &Event<'_>) {
        if let Some(text) = event.text.filter(|text| !text.is_empty()) {
            self.content = true;
            if self.keep_answer {
                let so_far = self.answer.as_bytes();
                let goes_on = |all: &[u8]| all.len() > so_far.len() && all.starts_with(so_far);
                if text.plain().map_or_else(|| goes_on(text.short(MAX_ANSWER + 1).as_bytes()), goes_on) {
                    self.answer.clear();
                }
            }
            self.said(Some(text));
        }
        self.content |= event.output_ids;
        if !event.meta.there {
            return;
        }
        self.usage = event.meta.usage;
        let reason = event.meta.finish_reason.unwrap_or_default();
        if memmem::find(reason, b"\"abort\"").is_some() {
            self.error = Some(error_code(reason));
        }
    }

    fn said(&mut self, text: Option<Text<'_>>) {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return };
        self.content = true;
        if !self.keep_answer {
            return;
        }
        let answer = &mut self.answer;
        text.pieces(|piece| answer.push_str(std::str::from_utf8(piece).unwrap_or_default()));
    }
}

/// What an event says beside its choices.
#[derive(Default)]
struct Event<'a> {
    id: Option<Text<'a>>,
    text: Option<Text<'a>>,
    output_ids: bool,
    meta: Meta<'a>,
    usage: Option<Usage>,
    error: Option<&'a [u8]>,
    code: Option<&'a [u8]>,
    object: Option<Text<'a>>,
    kind: Option<Text<'a>>,
    delta: Option<Text<'a>>,
}

/// SGLang's `meta_info`.
#[derive(Default)]
struct Meta<'a> {
    there: bool,
    id: Option<Text<'a>>,
    usage: Usage,
    finish_reason: Option<&'a [u8]>,
}

impl<'a> Meta<'a> {
    fn member(&mut self, json: &mut Reader<'a>, key: Text<'a>) -> Result<(), Wrong> {
        self.there = true;
        match key.plain().unwrap_or_default() {
            b"id" => self.id = json.text_or_null()?,
            b"prompt_tokens" => self.usage.prompt_tokens = json.count_or_null()?,
            b"completion_tokens" => self.usage.output_tokens = json.count_or_null()?,
            b"cached_tokens" => self.usage.cached_tokens = json.count_or_null()?,
            b"finish_reason" => self.finish_reason = Some(json.skip()?),
            _ => drop(json.skip()?),
        }
        Ok(())
    }
}

fn usage(json: &mut Reader<'_>) -> Result<Usage, Wrong> {
    let mut usage = Usage::default();
    json.object(|json, key| {
        match key.plain().unwrap_or_default() {
            b"prompt_tokens" | b"input_tokens" => usage.prompt_tokens = json.count_or_null()?,
            b"completion_tokens" | b"output_tokens" => usage.output_tokens = json.count_or_null()?,
            b"prompt_tokens_details" | b"input_tokens_details" if !json.null()? => json.object(|json, key| {
                match key.plain().unwrap_or_default() {
                    b"cached_tokens" => usage.cached_tokens = json.count_or_null()?,
                    _ => drop(json.skip()?),
                }
                Ok(())
            })?,
            _ => json.pass()?,
        }
        Ok(())
    })?;
    Ok(usage)
}

/// Any value but null.
fn something<'a>(json: &mut Reader<'a>) -> Result<Option<&'a [u8]>, Wrong> {
    json.skip().map(|raw| Some(raw).filter(|raw| *raw != b"null"))
}

/// The first number from 400 to 599 after a `code`, as SGLang and OpenAI write it; else 500.
fn error_code(text: &[u8]) -> u16 {
    let from = memmem::find(text, b"code").map_or(text, |at| &text[at..]);
    let digits = from.iter().skip_while(|c| !c.is_ascii_digit()).take_while(|c| c.is_ascii_digit()).take(4);
    let code = digits.fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    if (400..600).contains(&code) { code } else { 500 }
}

/// Entry point of the fuzzer: however the bytes are cut, the tap sees the same.
#[cfg(any(test, feature = "testkit"))]
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
    let mut tap = Tap::new(Framing::Json, true);
    tap.feed(data);
    tap.end();
    let mut at_once = Tap::new(Framing::Json, true);
    at_once.whole(data);
    assert_eq!((tap.error, tap.usage, tap.answer), (at_once.error, at_once.usage, at_once.answer));
}

#[cfg(test)]
mod tests;
