//! The members of one event, or of a response in one piece.

use super::Usage;
use crate::wire::json::{JsonError, Kind, Reader, Text};
use gorgo_core::judgement::{Failure, ToldError};

/// The members of an event beside its choices.
#[derive(Default)]
pub(super) struct Event<'a> {
    pub(super) id: Option<Text<'a>>,
    pub(super) text: Option<Text<'a>>,
    pub(super) output_ids: bool,
    pub(super) meta: Meta<'a>,
    pub(super) usage: Option<Usage>,
    pub(super) error: Option<&'a [u8]>,
    pub(super) code: Option<&'a [u8]>,
    pub(super) object: Option<Text<'a>>,
    pub(super) kind: Option<Text<'a>>,
    pub(super) delta: Option<Delta<'a>>,
    /// The id of a response that an event carries whole (Responses API), or of a response in one piece.
    pub(super) response_id: Option<Text<'a>>,
    /// Whether a member was read that a known dialect has.
    pub(super) is_known: bool,
}

/// What a typed event adds.
#[derive(Clone, Copy)]
pub(super) enum Delta<'a> {
    /// A piece of text (Responses API).
    Text(Text<'a>),
    /// The text of an object (Anthropic); `None` if it holds something else that was generated.
    Object { text: Option<Text<'a>>, other: bool },
}

/// SGLang's `meta_info`.
#[derive(Default)]
pub(super) struct Meta<'a> {
    pub(super) present: bool,
    pub(super) id: Option<Text<'a>>,
    pub(super) usage: Usage,
    pub(super) finish_reason: Option<&'a [u8]>,
}

impl<'a> Meta<'a> {
    pub(super) fn member(&mut self, json: &mut Reader<'a>, key: Text<'a>) -> Result<(), JsonError> {
        self.present = true;
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

/// Reads a `usage` object of OpenAI's APIs or Anthropic's, which counts cached prompt tokens apart.
pub(super) fn usage(json: &mut Reader<'_>) -> Result<Usage, JsonError> {
    let mut usage = Usage::default();
    let (mut read, mut created) = (None, None);
    json.object(|json, key| {
        match key.plain().unwrap_or_default() {
            b"prompt_tokens" | b"input_tokens" => usage.prompt_tokens = json.count_or_null()?,
            b"completion_tokens" | b"output_tokens" => usage.output_tokens = json.count_or_null()?,
            b"cache_read_input_tokens" => read = json.count_or_null()?,
            b"cache_creation_input_tokens" => created = json.count_or_null()?,
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
    if read.is_some() || created.is_some() {
        let apart = read.unwrap_or(0).saturating_add(created.unwrap_or(0));
        usage.prompt_tokens = usage.prompt_tokens.map(|tokens| tokens.saturating_add(apart));
        usage.cached_tokens = usage.cached_tokens.or(read);
    }
    Ok(usage)
}

/// Reads the delta of a typed event: text, or an object with one.
pub(super) fn delta<'a>(json: &mut Reader<'a>) -> Result<Option<Delta<'a>>, JsonError> {
    match json.kind()? {
        Kind::Text => json.text().map(|text| Some(Delta::Text(text))),
        Kind::Object => {
            let (mut text, mut other) = (None, false);
            json.object(|json, key| {
                match key.plain().unwrap_or_default() {
                    b"text" => text = json.text_or_null()?,
                    b"type" | b"stop_reason" | b"stop_sequence" | b"container" => json.pass()?,
                    _ => other |= !is_nothing(json.skip()?),
                }
                Ok(())
            })?;
            Ok(Some(Delta::Object { text, other }))
        }
        _ => json.pass().map(|()| None),
    }
}

/// Whether a value holds nothing that was generated.
#[inline]
pub(super) fn is_nothing(raw: &[u8]) -> bool {
    matches!(raw, b"null" | b"[]" | b"{}" | b"\"\"" | b"false")
}

/// Skips a value; `None` for one that holds nothing.
pub(super) fn something<'a>(json: &mut Reader<'a>) -> Result<Option<&'a [u8]>, JsonError> {
    json.skip().map(|raw| Some(raw).filter(|raw| !is_nothing(raw)))
}

/// What the JSON of an error says: its members by their names, wherever an engine puts them.
pub(super) fn told(raw: &[u8]) -> Failure {
    let mut words = Words::default();
    let mut json = Reader::new(raw);
    if matches!(json.kind(), Ok(Kind::Object)) {
        let _ = json.object(|json, key| words.member(json, key.plain().unwrap_or_default()));
    }
    words.failure()
}

/// What an event says that is an error itself.
pub(super) fn told_at_top(code: Option<&[u8]>, kind: Option<Text<'_>>) -> Failure {
    let mut words = Words::default();
    if let Some(code) = code {
        let _ = words.member(&mut Reader::new(code), b"code");
    }
    words.kind = kind.map(|kind| kind.short(64)).filter(|kind| kind != "error");
    words.failure()
}

/// The members of an error, read.
#[derive(Default)]
struct Words {
    status: Option<u16>,
    code: Option<String>,
    kind: Option<String>,
}

impl Words {
    fn member(&mut self, json: &mut Reader<'_>, key: &[u8]) -> Result<(), JsonError> {
        let is_word = json.kind()? == Kind::Text;
        match key {
            b"code" if is_word => self.code = Some(json.text()?.short(64)),
            b"code" | b"status_code" | b"http_status" if json.kind()? == Kind::Number => {
                let number = json.number()?.and_then(|number| u16::try_from(number).ok());
                self.status = self.status.or(number);
            }
            b"type" | b"err_type" if is_word => {
                let kind = json.text()?.short(64);
                if !matches!(kind.as_str(), "error" | "abort") {
                    self.kind = Some(kind);
                }
            }
            _ => json.pass()?,
        }
        Ok(())
    }

    fn failure(&self) -> Failure {
        ToldError { status: self.status, code: self.code.as_deref(), kind: self.kind.as_deref() }.failure()
    }
}
