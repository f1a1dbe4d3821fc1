//! The members of one event, or of a response in one piece.

use super::Usage;
use crate::wire::json::{JsonError, Kind, Reader, Text};
use gorgo_core::judgement::{ErrorInBody, Failure};

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
    /// A status of HTTP beside an error.
    pub(super) status: Option<&'a [u8]>,
    /// What FastAPI calls the text of an error.
    pub(super) detail: Option<&'a [u8]>,
    pub(super) object: Option<Text<'a>>,
    pub(super) kind: Option<Text<'a>>,
    pub(super) delta: Option<Delta<'a>>,
    /// The id of a response that an event carries whole (Responses API), or of a response in one piece.
    pub(super) response_id: Option<Text<'a>>,
    /// The ids of the files that a batch has written.
    pub(super) files: [Option<Text<'a>>; 2],
    /// Whether a member was read that a known dialect has.
    pub(super) is_known: bool,
}

impl Event<'_> {
    /// Whether it is an error in FastAPI's shape, which has no member of an answer.
    pub(super) fn is_detail(&self, kind: &[u8]) -> bool {
        let is_answer = self.is_known || self.id.is_some() || self.object.is_some() || self.usage.is_some();
        self.detail.is_some() && kind.is_empty() && !is_answer
    }
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
            b"id" => self.id = json.text_or_none()?,
            b"prompt_tokens" => self.usage.prompt_tokens = json.count_or_none()?,
            b"completion_tokens" => self.usage.output_tokens = json.count_or_none()?,
            b"cached_tokens" => self.usage.cached_tokens = json.count_or_none()?,
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
            b"prompt_tokens" | b"input_tokens" => usage.prompt_tokens = json.count_or_none()?,
            b"completion_tokens" | b"output_tokens" => usage.output_tokens = json.count_or_none()?,
            b"cache_read_input_tokens" => read = json.count_or_none()?,
            b"cache_creation_input_tokens" => created = json.count_or_none()?,
            b"prompt_tokens_details" | b"input_tokens_details" if json.kind()? == Kind::Object => {
                json.object(|json, key| {
                    match key.plain().unwrap_or_default() {
                        b"cached_tokens" => usage.cached_tokens = json.count_or_none()?,
                        _ => drop(json.skip()?),
                    }
                    Ok(())
                })?;
            }
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
                    b"text" => text = json.text_or_none()?,
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
    Words::of(raw).failure()
}

/// What an event says that is or holds an error: by the error's own members, else by those beside it.
pub(super) fn told_by(event: &Event<'_>) -> Failure {
    let mut words = event.error.map(Words::of).unwrap_or_default();
    for (name, value) in [(&b"code"[..], event.code), (b"status", event.status)] {
        if let Some(value) = value {
            let _ = words.member(&mut Reader::new(value), name, 0);
        }
    }
    let kind = event.kind.map(|kind| kind.short(64)).filter(|kind| is_kind(kind));
    words.kind = words.kind.or(kind);
    // FastAPI lists what is wrong with a request; the text of any other error is no list.
    if event.error.is_none() && event.detail.is_some_and(|detail| detail.starts_with(b"[")) {
        words.kind = words.kind.or(Some("validation".to_owned()));
    }
    words.failure()
}

/// Whether a type says more than that there is an error.
fn is_kind(word: &str) -> bool {
    !matches!(word, "error" | "abort")
}

/// The status of HTTP in a number or a word: `400`, `400.0`, `"400"`.
fn status_in(raw: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(raw).ok()?.trim_matches('"');
    let number = text.parse::<f64>().ok().filter(|number| number.fract() == 0.0 && (0.0..=999.0).contains(number))?;
    Some(number as u16)
}

/// How deep an error may lie in another.
const NESTED: u8 = 3;

/// The members of an error, read.
#[derive(Default)]
struct Words {
    status: Option<u16>,
    code: Option<String>,
    kind: Option<String>,
    /// A `status` that is a word (`INVALID_ARGUMENT`).
    word: Option<String>,
}

impl Words {
    /// The members of a JSON value; none of what is no object.
    fn of(raw: &[u8]) -> Self {
        let mut words = Self::default();
        let mut json = Reader::new(raw);
        let _ = words.object(&mut json, NESTED);
        words
    }

    fn object(&mut self, json: &mut Reader<'_>, nested: u8) -> Result<(), JsonError> {
        if json.kind()? != Kind::Object {
            return json.pass();
        }
        json.object(|json, key| self.member(json, key.plain().unwrap_or_default(), nested))
    }

    /// Reads a member, of which the first counts; errors in it are read `nested` deep.
    fn member(&mut self, json: &mut Reader<'_>, key: &[u8], nested: u8) -> Result<(), JsonError> {
        let kind = json.kind()?;
        let is_word = kind == Kind::Text;
        match key {
            b"code" if is_word => {
                let word = json.text()?.short(64);
                self.code.get_or_insert(word);
            }
            b"code" | b"status" | b"status_code" | b"statusCode" | b"http_status"
                if is_word || kind == Kind::Number =>
            {
                let raw = json.skip()?;
                match status_in(raw) {
                    Some(status) => drop(self.status.get_or_insert(status)),
                    None if is_word => {
                        let word = String::from_utf8_lossy(raw).trim_matches('"').chars().take(64).collect();
                        self.word = self.word.take().or(Some(word).filter(|word: &String| is_kind(word)));
                    }
                    None => {}
                }
            }
            b"type" | b"err_type" | b"error_type" if is_word => {
                let kind = json.text()?.short(64);
                self.kind = self.kind.take().or(Some(kind).filter(|kind| is_kind(kind)));
            }
            b"error" if nested > 0 => self.object(json, nested - 1)?,
            _ => json.pass()?,
        }
        Ok(())
    }

    fn failure(&self) -> Failure {
        ErrorInBody {
            status: self.status,
            code: self.code.as_deref(),
            kind: self.kind.as_deref().or(self.word.as_deref()),
        }
        .failure()
    }
}
