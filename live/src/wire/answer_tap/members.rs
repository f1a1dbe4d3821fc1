//! Reads the members of an event: choices, parts and deltas of each dialect.

use super::AnswerTap;
use super::event::{Delta, Event, delta, is_nothing, something, told, usage};
use crate::wire::json::{JsonError, Kind, Reader, Text};
use gorgo_core::router::Failure;

impl AnswerTap {
    /// Reads the events that name their type, of the Responses API and of Anthropic's messages. What is none of the
    /// events that come before the first token is content.
    #[inline]
    pub(super) fn typed(&mut self, kind: &[u8], event: &Event<'_>) {
        self.has_types |=
            kind.starts_with(b"response.") || kind.starts_with(b"content_block_") || kind == b"message_start";
        match kind {
            b"" => self.add_unknown(!event.is_known && self.error.is_none() && event.usage.is_none()),
            b"response.completed" | b"response.incomplete" | b"message_stop" => self.done = true,
            b"response.failed" | b"error" => {
                (self.error, self.ended_by_error) = (self.error.or(Some(Failure::Server(500))), true);
            }
            b"response.created"
            | b"response.in_progress"
            | b"response.queued"
            | b"response.output_item.added"
            | b"response.content_part.added"
            | b"response.reasoning_summary_part.added"
            | b"message_start"
            | b"message_delta"
            | b"message"
            | b"content_block_start"
            | b"content_block_stop" => {}
            b"ping" | b"keepalive" => self.is_heartbeat = true,
            _ => match event.delta {
                Some(Delta::Text(text)) if kind == b"response.output_text.delta" => self.add_text(Some(text)),
                Some(Delta::Text(text)) => self.add_other(!text.is_empty()),
                Some(Delta::Object { text, other }) => {
                    self.add_text(text);
                    self.add_other(other);
                }
                None => self.add_unknown(self.error.is_none()),
            },
        }
    }

    /// Reads a member of an event: choices take effect at once, other members at the end of the event. A value of an
    /// unexpected type is skipped, so that an error beside it is judged.
    #[inline]
    pub(super) fn member<'a>(
        &mut self,
        json: &mut Reader<'a>,
        key: Text<'a>,
        event: &mut Event<'a>,
    ) -> Result<(), JsonError> {
        match key.plain().unwrap_or_default() {
            b"id" => event.id = json.text_or_none()?,
            b"output_file_id" => event.files[0] = json.text_or_none()?,
            b"error_file_id" => event.files[1] = json.text_or_none()?,
            b"choices" if json.kind()? == Kind::Array => {
                (event.is_known, self.has_choices) = (true, true);
                json.array(|json| self.choice(json))?;
            }
            b"text" if json.kind()? == Kind::Text || json.null()? => {
                event.is_known = true;
                event.text = json.text_or_none()?;
            }
            b"output_ids" => {
                event.is_known = true;
                event.output_ids = json.skip()?.len() > 2;
            }
            b"meta_info" if json.kind()? == Kind::Object => {
                event.is_known = true;
                json.object(|json, key| event.meta.member(json, key))?;
            }
            b"usage" if json.kind()? == Kind::Object => event.usage = Some(usage(json)?),
            b"error" => event.error = something(json)?,
            b"detail" => event.detail = something(json)?,
            b"code" => event.code = something(json)?,
            b"status" | b"status_code" | b"statusCode" => event.status = something(json)?.or(event.status),
            b"object" => event.object = json.text_or_none()?,
            b"type" => event.kind = json.text_or_none()?,
            // TGI's, beside a sentence in `error`.
            b"error_type" => event.kind = event.kind.or(json.text_or_none()?),
            b"delta" => event.delta = delta(json)?,
            b"content" | b"output" if json.kind()? == Kind::Array => {
                event.is_known = true;
                json.array(|json| self.part(json))?;
            }
            b"content_block" if json.kind()? == Kind::Object => self.part(json)?,
            b"response" | b"message" if json.kind()? == Kind::Object => json.object(|json, key| {
                match key.plain().unwrap_or_default() {
                    b"id" => event.response_id = json.text_or_none()?,
                    b"usage" if json.kind()? == Kind::Object => event.usage = Some(usage(json)?),
                    b"error" => event.error = something(json)?,
                    _ => json.pass()?,
                }
                Ok(())
            })?,
            _ => json.pass()?,
        }
        Ok(())
    }

    /// Reads a part of an answer in one piece (an output item of the Responses API or a content block of Anthropic's),
    /// or the start of one.
    fn part(&mut self, json: &mut Reader<'_>) -> Result<(), JsonError> {
        if json.kind()? != Kind::Object {
            return json.pass();
        }
        let (mut text, mut is_text) = (None, false);
        json.object(|json, key| {
            match key.plain().unwrap_or_default() {
                b"type" => {
                    let kind = json.text_or_none()?.and_then(|kind| kind.plain()).unwrap_or_default();
                    is_text = matches!(kind, b"text" | b"output_text" | b"message");
                }
                b"text" => text = json.text_or_none()?,
                b"content" if json.kind()? == Kind::Array => json.array(|json| self.part(json))?,
                _ => json.pass()?,
            }
            Ok(())
        })?;
        self.add_text(text.filter(|_| is_text));
        self.add_other(!is_text);
        Ok(())
    }

    /// Reads one choice. Only the text of the first is kept: the next turn continues one of them, and mixed text
    /// would match none.
    #[inline]
    fn choice(&mut self, json: &mut Reader<'_>) -> Result<(), JsonError> {
        if json.kind()? != Kind::Object {
            let is_content = !is_nothing(json.skip()?);
            self.add_unknown(is_content);
            return Ok(());
        }
        let (length, mut index) = (self.answer.len(), 0);
        json.object(|json, key| {
            if key.is(b"index") {
                index = json.count_or_none()?.unwrap_or(0);
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
            b"delta" | b"message" if json.kind()? == Kind::Object => json.object(|json, key| {
                match key.plain().unwrap_or_default() {
                    b"content" if json.kind()? == Kind::Text => {
                        let text = json.text()?;
                        self.add_text(Some(text));
                    }
                    b"role" | b"name" | b"annotations" | b"provider_specific_fields" => json.pass()?,
                    // Reasoning, tool calls, refusals, audio, and what engines may generate yet.
                    _ => {
                        let generated = !is_nothing(json.skip()?);
                        self.add_other(generated);
                    }
                }
                Ok(())
            })?,
            b"text" if json.kind()? == Kind::Text => {
                let text = json.text()?;
                self.add_text(Some(text));
            }
            b"text" => {
                let generated = !is_nothing(json.skip()?);
                self.add_other(generated);
            }
            b"token_ids" => {
                if !is_nothing(json.skip()?) {
                    self.has_token();
                }
            }
            b"finish_reason" => {
                let reason = json.skip()?;
                self.finished = self.finished.saturating_add(u32::from(!is_nothing(reason)));
                self.gave_up |= matches!(reason, b"\"abort\"" | b"\"error\"");
            }
            b"error" => self.choice_error = something(json)?.map(told).or(self.choice_error),
            _ => json.pass()?,
        }
        Ok(())
    }
}
