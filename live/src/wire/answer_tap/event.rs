//! The members of one event, or of a response in one piece.

use super::Usage;
use crate::wire::json::{JsonError, Reader, Text};
use memchr::memmem;

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
    pub(super) delta: Option<Text<'a>>,
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

/// Reads a `usage` object of either OpenAI API.
pub(super) fn usage(json: &mut Reader<'_>) -> Result<Usage, JsonError> {
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

/// Skips a value; `None` for null.
pub(super) fn non_null<'a>(json: &mut Reader<'a>) -> Result<Option<&'a [u8]>, JsonError> {
    json.skip().map(|raw| Some(raw).filter(|raw| *raw != b"null"))
}

/// The first number from 400 to 599 after a `code`, as SGLang and OpenAI write it; else 500.
pub(super) fn error_code(text: &[u8]) -> u16 {
    let from = memmem::find(text, b"code").map_or(text, |at| &text[at..]);
    let digits = from.iter().skip_while(|c| !c.is_ascii_digit()).take_while(|c| c.is_ascii_digit()).take(4);
    let code = digits.fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    if (400..600).contains(&code) { code } else { 500 }
}
