//! Observes an engine's response without altering it: first content, usage, errors, text and request id.
//!
//! Knows the vocabularies of OpenAI's chat, completions and Responses APIs and of SGLang's `/generate`. Memory is
//! bounded: an event of more than a megabyte is not read, and text is kept up to 256 kB.

use crate::wire::json::{JsonError, Kind, Reader, Text};
use crate::wire::sse_frames::{MAX_EVENT, SseFrames};
use event::{Event, error_code, non_null, usage};
use memchr::memmem;

mod event;

const MAX_ANSWER: usize = 256 << 10;

/// Token counts that an engine reported for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt_tokens: Option<u32>,
    /// Tokens generated.
    pub output_tokens: Option<u32>,
    /// Prompt tokens found in the engine's cache; `None` if not reported.
    pub cached_tokens: Option<u32>,
}

/// Framing of a response body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `text/event-stream`
    Events,
    /// One JSON object at the end.
    Json,
    /// Anything else: only whether bytes came is observed.
    Opaque,
}

/// Observes one response body.
#[derive(Debug)]
pub struct Tap {
    framing: Framing,
    frames: SseFrames,
    /// The body so far, of [`Framing::Json`].
    body: Vec<u8>,
    /// Whether that grew beyond [`MAX_EVENT`].
    too_long: bool,
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
    /// Creates a tap for a body of this framing; `keep_answer` collects the text.
    pub fn new(framing: Framing, keep_answer: bool) -> Self {
        Self {
            framing,
            frames: SseFrames::default(),
            body: Vec::new(),
            too_long: false,
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

    /// Observes the next bytes of the body.
    pub fn feed(&mut self, chunk: &[u8]) {
        match self.framing {
            Framing::Events => self.read_frames(|frames, event| frames.feed(chunk, event)),
            Framing::Json => {
                self.content |= !chunk.is_empty();
                if self.body.len() + chunk.len() <= MAX_EVENT {
                    self.body.extend_from_slice(chunk);
                } else {
                    self.too_long = true;
                }
            }
            Framing::Opaque => self.content |= !chunk.is_empty(),
        }
    }

    /// Observes a complete JSON body without copying it, instead of [`Self::feed`] and [`Self::end`].
    pub fn whole(&mut self, body: &[u8]) {
        debug_assert!(self.framing == Framing::Json && self.body.is_empty());
        self.content |= !body.is_empty();
        self.events += 1;
        self.event(body);
    }

    /// Observes the end of the body.
    pub fn end(&mut self) {
        match self.framing {
            Framing::Json if !self.too_long => {
                let body = std::mem::take(&mut self.body);
                self.events += 1;
                self.event(&body);
            }
            Framing::Events => self.read_frames(SseFrames::end),
            _ => {}
        }
    }

    /// Whether content has passed: text, reasoning, a tool call or token ids.
    pub fn content(&self) -> bool {
        self.content
    }

    /// The code of an error inside the body.
    pub fn error(&self) -> Option<u16> {
        self.error
    }

    /// Whether `[DONE]` or another end mark has passed.
    pub fn done(&self) -> bool {
        self.done
    }

    /// Number of events.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The engine's token counts.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Number of choices (answers to the same prompt).
    pub fn choices(&self) -> u32 {
        self.choices
    }

    /// The text of the first choice; `None` if it is too long to keep.
    pub fn answer(&self) -> Option<&str> {
        (self.keep_answer && !self.answer.is_empty()).then_some(self.answer.as_str())
    }

    /// The engine's id of the request, if the answer is a stream.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Runs `read` with the frames and a callback for the data of each event.
    fn read_frames(&mut self, read: impl FnOnce(&mut SseFrames, &mut dyn FnMut(&[u8], bool) -> bool)) {
        let mut frames = std::mem::take(&mut self.frames);
        read(&mut frames, &mut |data, first| {
            self.events += u64::from(first);
            if first && data == b"[DONE]" {
                self.done = true;
                return true;
            }
            self.event(data)
        });
        self.frames = frames;
    }

    /// Reads the data of one event; false if it is not a complete JSON object.
    #[inline]
    fn event(&mut self, data: &[u8]) -> bool {
        let mut json = Reader::new(data);
        if !matches!(json.kind(), Ok(Kind::Object)) {
            return false;
        }
        let (content, length) = (self.content, self.answer.len());
        let mut event = Event::default();
        let read = json.object(|json, key| self.member(json, key, &mut event)).and_then(|()| json.end());
        if read.is_err() {
            self.content = content;
            self.answer.truncate(length);
            // An object of an unknown shape counts as content: otherwise the first token would never come.
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
        // Only streams are aborted by id.
        if self.id.is_none() && self.framing == Framing::Events {
            self.id = event.id.or(event.meta.id).map(|id| id.short(129)).filter(|id| id.len() <= 128);
        }
        self.generated(&event);
        // The Responses API: typed events with a text delta, and the whole response at the end.
        let kind = event.kind.and_then(|kind| kind.plain()).unwrap_or_default();
        if kind.ends_with(b".delta") {
            if kind == b"response.output_text.delta" {
                self.add_text(event.delta);
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

    /// Reads a member of an event: choices take effect at once, other members at the end of the event.
    #[inline]
    fn member<'a>(&mut self, json: &mut Reader<'a>, key: Text<'a>, event: &mut Event<'a>) -> Result<(), JsonError> {
        match key.plain().unwrap_or_default() {
            b"id" => event.id = json.text_or_null()?,
            b"choices" if !json.null()? => json.array(|json| self.choice(json))?,
            b"text" => event.text = json.text_or_null()?,
            b"output_ids" => event.output_ids = json.skip()?.len() > 2,
            b"meta_info" if !json.null()? => json.object(|json, key| event.meta.member(json, key))?,
            b"usage" if !json.null()? => event.usage = Some(usage(json)?),
            b"error" => event.error = non_null(json)?,
            b"code" => event.code = non_null(json)?,
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

    /// Reads one choice. Only the text of the first is kept: the next turn continues one of them, and mixed text
    /// would match none.
    fn choice(&mut self, json: &mut Reader<'_>) -> Result<(), JsonError> {
        let (length, mut index) = (self.answer.len(), 0);
        json.object(|json, key| {
            if key.is(b"index") {
                index = json.count_or_null()?.unwrap_or(0);
                return Ok(());
            }
            self.choice_member(json, key)
        })?;
        if index > 0 {
            self.answer.truncate(length);
            self.choices = self.choices.max(index.saturating_add(1));
        }
        Ok(())
    }

    #[inline]
    fn choice_member<'a>(&mut self, json: &mut Reader<'a>, key: Text<'a>) -> Result<(), JsonError> {
        match key.plain().unwrap_or_default() {
            b"delta" | b"message" if !json.null()? => json.object(|json, key| {
                match key.plain().unwrap_or_default() {
                    b"content" => {
                        let text = json.text_or_null()?;
                        self.add_text(text);
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
                self.add_text(text);
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
            self.add_text(Some(text));
        }
        self.content |= event.output_ids;
        if !event.meta.present {
            return;
        }
        self.usage = event.meta.usage;
        let reason = event.meta.finish_reason.unwrap_or_default();
        if memmem::find(reason, b"\"abort\"").is_some() {
            self.error = Some(error_code(reason));
        }
    }

    #[inline]
    fn add_text(&mut self, text: Option<Text<'_>>) {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return };
        self.content = true;
        if !self.keep_answer {
            return;
        }
        let answer = &mut self.answer;
        text.pieces(|piece| answer.push_str(std::str::from_utf8(piece).unwrap_or_default()));
    }
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
