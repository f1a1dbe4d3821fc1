//! Observes an engine's response without altering it: first content, usage, errors, text and request id.
//!
//! It reads OpenAI's chat, completions and Responses APIs, Anthropic's messages and SGLang's `/generate`. In any other
//! format every event counts as content, since otherwise the stream would be held back for a field that never comes.
//! Memory is bounded: an event of more than a megabyte is not parsed, and text is kept up to 256 kB.

use crate::kept_ids;
use crate::wire::json::{Kind, Reader, Text};
use crate::wire::sse_frames::{MAX_EVENT, Part, SseFrames};
use event::{Event, told, told_by};
use gorgo_core::router::Failure;
use memchr::memmem;

mod event;
mod members;

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
pub struct AnswerTap {
    framing: Framing,
    frames: SseFrames,
    /// The body so far, of [`Framing::Json`].
    body: Vec<u8>,
    /// Whether that grew beyond [`MAX_EVENT`].
    too_long: bool,
    /// Events in which a token came.
    tokens: u64,
    /// Whether one came in the event that is read.
    event_has_token: bool,
    content: bool,
    done: bool,
    /// Whether anything except heartbeats and the end mark has arrived.
    told: bool,
    /// Whether the event that was read last is a heartbeat.
    is_heartbeat: bool,
    /// Reasons to finish that choices had.
    finished: u32,
    /// Whether one of them is that the engine gave the choice up.
    gave_up: bool,
    /// The error that a choice carries.
    choice_error: Option<Failure>,
    /// Whether anything was generated.
    generated_any: bool,
    /// Whether something was generated that is no part of the next turn's prompt as it stands: reasoning, tool calls.
    generated_other: bool,
    /// Whether events had choices, which end with `[DONE]` or a reason to finish.
    has_choices: bool,
    /// Whether events named types of a dialect that ends its streams with one.
    has_types: bool,
    /// Whether the last `meta_info` told that the text goes on.
    goes_on: bool,
    error: Option<Failure>,
    /// Whether an event told that, which ends the stream; beside a choice that failed others may go on.
    ended_by_error: bool,
    usage: Usage,
    answer: String,
    keep_answer: bool,
    choices: u32,
    id: Option<String>,
    wants_id: bool,
    made_id: Option<String>,
    made_files: Vec<String>,
}

impl AnswerTap {
    /// Creates a tap for a body of this framing; `keep_answer` collects the text.
    pub fn new(framing: Framing, keep_answer: bool) -> Self {
        Self {
            framing,
            frames: SseFrames::default(),
            body: Vec::new(),
            too_long: false,
            tokens: 0,
            event_has_token: false,
            content: false,
            done: false,
            told: false,
            is_heartbeat: false,
            finished: 0,
            gave_up: false,
            choice_error: None,
            generated_any: false,
            generated_other: false,
            has_choices: false,
            has_types: false,
            goes_on: false,
            error: None,
            ended_by_error: false,
            usage: Usage::default(),
            answer: String::new(),
            keep_answer,
            choices: 1,
            id: None,
            wants_id: false,
            made_id: None,
            made_files: Vec::new(),
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

    /// Observes a complete JSON body without copying it, instead of [`Self::feed`] and [`Self::end`]; false if it is
    /// no complete JSON text.
    pub fn whole(&mut self, body: &[u8]) -> bool {
        debug_assert!(self.framing == Framing::Json && self.body.is_empty());
        let is_blank = body.trim_ascii().is_empty();
        self.content |= !is_blank;
        self.told |= !is_blank;
        self.text(body) || is_json(body)
    }

    /// Whether nothing but heartbeats has come: of an event stream comments, pings, events without data; nothing of a JSON
    /// answer. They hold nothing of an answer, so another replica may still be asked for it.
    pub fn has_only_heartbeats(&self) -> bool {
        match self.framing {
            Framing::Events => !self.told && !self.done && self.frames.is_between(),
            Framing::Json => !self.content,
            Framing::Opaque => false,
        }
    }

    /// Whether a stream that ends here lacks its end, as far as its dialect has one.
    pub fn lacks_end(&self) -> bool {
        let is_open = self.has_choices && self.finished < self.choices;
        let is_told_open = (self.has_types || self.goes_on) && self.error.is_none();
        self.framing == Framing::Events && !self.done && (is_open || is_told_open)
    }

    /// Whether a body that ends here is none: no event, or only the end mark.
    pub fn is_empty(&self) -> bool {
        !self.told && !self.content
    }

    /// Observes the end of the body.
    pub fn end(&mut self) {
        match self.framing {
            Framing::Json if !self.too_long => {
                let body = std::mem::take(&mut self.body);
                self.text(&body);
            }
            Framing::Events => self.read_frames(SseFrames::end),
            _ => {}
        }
    }

    /// Whether content has passed: text, reasoning, a tool call or token ids.
    pub fn content(&self) -> bool {
        self.content
    }

    /// The error inside the body.
    pub fn error(&self) -> Option<Failure> {
        self.error
    }

    /// Whether `[DONE]` or another end mark has passed.
    pub fn done(&self) -> bool {
        self.done
    }

    /// Whether nothing is due any more: an end mark or an error event has passed.
    pub fn is_over(&self) -> bool {
        self.done || self.ended_by_error
    }

    /// Events of a stream in which a token came, or something of an unknown dialect.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The engine's token counts.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Number of choices (answers to the same prompt).
    pub fn choices(&self) -> u32 {
        self.choices
    }

    /// The text of the first choice; `None` if it is too long to keep, or if it is not all that was generated: the
    /// engine's cache then holds reasoning or tool calls between prompt and text.
    pub fn answer(&self) -> Option<&str> {
        (self.keep_answer && !self.generated_other && !self.answer.is_empty()).then_some(self.answer.as_str())
    }

    /// Reads the id of what the engine made and may keep.
    #[must_use]
    pub fn with_id(mut self, wants_id: bool) -> Self {
        self.wants_id = wants_id;
        self
    }

    /// The id of what the engine made, if it was to be read.
    pub fn made_id(&self) -> Option<&str> {
        self.made_id.as_deref()
    }

    /// The ids of the files that a batch has written, if they were to be read.
    pub fn made_files(&self) -> &[String] {
        &self.made_files
    }

    /// The engine's id of the request, if the answer is a stream.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Runs `read` with the frames and a callback for the data of each event.
    fn read_frames(&mut self, read: impl FnOnce(&mut SseFrames, &mut dyn FnMut(&[u8], Part) -> bool)) {
        let mut frames = std::mem::take(&mut self.frames);
        read(&mut frames, &mut |data, part| {
            if part == Part::First && data == b"[DONE]" {
                self.done = true;
                return true;
            }
            if part == Part::Error {
                self.told = true;
                self.error = self.error.or(Some(told(data)));
                self.ended_by_error = true;
                return true;
            }
            if data == b"{}" {
                return true; // `event: keepalive`
            }
            // Data of several lines is read at its end; what is no JSON object is content of an unknown dialect.
            let is_read = self.event(data) || self.list_of_one(data);
            let is_heartbeat = std::mem::take(&mut self.is_heartbeat);
            self.told |= !is_heartbeat && (!data.is_empty() || part != Part::First);
            let may_go_on = part == Part::First && matches!(data.first(), Some(b'{' | b'['));
            let is_other = !is_read && !may_go_on && (part == Part::TooLong || !data.is_empty());
            self.content |= is_other;
            self.tokens += u64::from(is_other);
            is_read || !may_go_on
        });
        self.frames = frames;
    }

    /// Reads an answer in one piece: an object, or those of a batch of prompts. False if it is no complete JSON of these.
    fn text(&mut self, body: &[u8]) -> bool {
        let mut json = Reader::new(body);
        if !matches!(json.kind(), Ok(Kind::Array)) {
            return self.event(body);
        }
        let (mut usage, mut errors, mut others) = (Usage::default(), None, false);
        let read = json.array(|json| {
            let element = json.skip()?;
            (self.usage, self.error) = (Usage::default(), None);
            self.event(element);
            usage = usage.plus(self.usage);
            errors = errors.or(self.error);
            others |= self.error.is_none();
            Ok(())
        });
        // Some of its answers stand when others failed. The next turn continues none of them.
        (self.usage, self.error) = (usage, errors.filter(|_| !others));
        (self.keep_answer, self.answer) = (false, String::new());
        read.and_then(|()| json.end()).is_ok()
    }

    /// Reads an event that is wrapped in a list, as some servers send their errors; false if it is no such list.
    #[cold]
    fn list_of_one(&mut self, data: &[u8]) -> bool {
        let mut json = Reader::new(data);
        if !matches!(json.kind(), Ok(Kind::Array)) {
            return false;
        }
        let (mut element, mut length) = (&[][..], 0);
        let read = json.array(|json| {
            (element, length) = (json.skip()?, length + 1);
            Ok(())
        });
        read.and_then(|()| json.end()).is_ok() && length == 1 && self.event(element)
    }

    /// Reads the data of one event; false if it is not a complete JSON object.
    #[inline]
    fn event(&mut self, data: &[u8]) -> bool {
        let mut json = Reader::new(data);
        if !matches!(json.kind(), Ok(Kind::Object)) {
            return false;
        }
        let before = (self.content, self.finished, self.gave_up, self.generated_any, self.generated_other);
        let length = self.answer.len();
        let mut event = Event::default();
        self.event_has_token = false;
        let read = json.object(|json, key| self.member(json, key, &mut event)).and_then(|()| json.end());
        if read.is_err() {
            (self.content, self.finished, self.gave_up, self.generated_any, self.generated_other) = before;
            self.answer.truncate(length);
            // An object of an unknown shape counts as content: otherwise the first token would never come.
            let object = is_json(data);
            self.content |= object;
            self.tokens += u64::from(object);
            return object;
        }
        self.finish_event(&event);
        self.tokens += u64::from(self.event_has_token && self.framing == Framing::Events);
        true
    }

    /// Takes over what an event says beside its choices.
    #[inline]
    fn finish_event(&mut self, event: &Event<'_>) {
        let kind = event.kind.and_then(|kind| kind.plain()).unwrap_or_default();
        let is_error = kind == b"error" || event.object.is_some_and(|object| object.is(b"error"));
        if event.error.is_some() || is_error || event.is_detail(kind) {
            (self.error, self.ended_by_error) = (Some(told_by(event)), true);
        }
        if self.gave_up && !self.generated_any {
            self.error = self.error.or(self.choice_error).or(Some(Failure::Server(500)));
        }
        // Only streams are aborted by id.
        if self.id.is_none() && self.framing == Framing::Events {
            self.id = event.id.or(event.meta.id).and_then(|id| id.bounded(kept_ids::LONGEST));
        }
        if self.wants_id && self.made_id.is_none() {
            let whole = event.id.filter(|_| self.framing == Framing::Json);
            self.made_id = event.response_id.or(whole).and_then(|id| id.bounded(kept_ids::LONGEST));
        }
        if self.wants_id && self.framing == Framing::Json {
            self.made_files.extend(event.files.into_iter().flatten().filter_map(|id| id.bounded(kept_ids::LONGEST)));
        }
        self.generated(event);
        self.typed(kind, event);
        if let Some(usage) = event.usage {
            self.usage = self.usage.with(usage, kind == b"message_delta");
        }
        if self.answer.len() > MAX_ANSWER {
            self.keep_answer = false;
            self.answer = String::new();
        }
    }

    /// SGLang's `/generate`: `text` is all so far, or with `--incremental-streaming-output` only what is new.
    #[inline]
    fn generated(&mut self, event: &Event<'_>) {
        if let Some(text) = event.text.filter(|text| !text.is_empty()) {
            self.has_token();
            if self.keep_answer {
                let so_far = self.answer.as_bytes();
                let goes_on = |all: &[u8]| all.len() > so_far.len() && all.starts_with(so_far);
                if text.plain().map_or_else(|| goes_on(text.short(MAX_ANSWER + 1).as_bytes()), goes_on) {
                    self.answer.clear();
                }
            }
            self.add_text(Some(text));
        }
        if event.output_ids {
            self.has_token();
        }
        if !event.meta.present {
            return;
        }
        self.usage = event.meta.usage;
        self.goes_on = event.meta.finish_reason.is_some_and(|reason| reason == b"null");
        let reason = event.meta.finish_reason.unwrap_or_default();
        if memmem::find(reason, b"\"abort\"").is_some() {
            self.error = Some(told(reason));
        }
    }

    /// Notes that something other than text was generated.
    #[inline]
    fn add_other(&mut self, generated: bool) {
        self.content |= generated;
        self.generated_any |= generated;
        self.generated_other |= generated;
        self.event_has_token |= generated;
    }

    /// Notes content of a dialect that is not known.
    #[inline]
    fn add_unknown(&mut self, is_content: bool) {
        self.content |= is_content;
        self.event_has_token |= is_content;
    }

    #[inline]
    pub(super) fn has_token(&mut self) {
        (self.content, self.generated_any, self.event_has_token) = (true, true, true);
    }

    #[inline]
    fn add_text(&mut self, text: Option<Text<'_>>) {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return };
        self.has_token();
        if !self.keep_answer {
            return;
        }
        let answer = &mut self.answer;
        text.pieces(|piece| answer.push_str(std::str::from_utf8(piece).unwrap_or_default()));
    }
}

impl Usage {
    /// The counts after a later report. `of_answer` reports count the answer; what they say of the prompt lacks its
    /// cached part.
    fn with(self, later: Self, of_answer: bool) -> Self {
        // Some servers begin with 0, and tell the counts at the end only.
        let prompt_is_known = of_answer && self.prompt_tokens.is_some_and(|tokens| tokens > 0);
        Self {
            prompt_tokens: if prompt_is_known {
                self.prompt_tokens
            } else {
                later.prompt_tokens.or(self.prompt_tokens)
            },
            output_tokens: later.output_tokens.or(self.output_tokens),
            cached_tokens: if prompt_is_known && self.cached_tokens.is_some() {
                self.cached_tokens
            } else {
                later.cached_tokens.or(self.cached_tokens)
            },
        }
    }

    /// The counts of two answers together.
    fn plus(self, other: Self) -> Self {
        let sum = |a: Option<u32>, b: Option<u32>| match (a, b) {
            (Some(a), Some(b)) => Some(a.saturating_add(b)),
            (one, None) | (None, one) => one,
        };
        Self {
            prompt_tokens: sum(self.prompt_tokens, other.prompt_tokens),
            output_tokens: sum(self.output_tokens, other.output_tokens),
            cached_tokens: sum(self.cached_tokens, other.cached_tokens),
        }
    }
}

/// Whether this is one complete JSON text.
fn is_json(data: &[u8]) -> bool {
    let mut json = Reader::new(data);
    json.skip().and_then(|_| json.end()).is_ok()
}

/// Entry point of the fuzzer: however the bytes are cut, the tap sees the same.
#[cfg(any(test, feature = "testkit"))]
pub fn fuzz(data: &[u8]) {
    for framing in [Framing::Events, Framing::Json, Framing::Opaque] {
        let seen = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut tap = AnswerTap::new(framing, true);
            pieces.for_each(|piece| tap.feed(piece));
            tap.end();
            (tap.tokens, tap.content, tap.done, tap.error, tap.usage, tap.answer)
        };
        let whole = seen(&mut std::iter::once(data));
        assert_eq!(whole, seen(&mut data.chunks(1)));
        assert_eq!(whole, seen(&mut data.chunks(7)));
    }
    let mut tap = AnswerTap::new(Framing::Json, true);
    tap.feed(data);
    tap.end();
    let mut at_once = AnswerTap::new(Framing::Json, true);
    at_once.whole(data);
    assert_eq!((tap.error, tap.usage, tap.answer), (at_once.error, at_once.usage, at_once.answer));
}

#[cfg(test)]
mod tests;
