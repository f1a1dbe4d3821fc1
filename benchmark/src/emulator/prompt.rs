//! Prompts: from a request body to the engine's token count and block ids.
//!
//! The emulated chat template: a first user message stands without a marker, an assistant's message follows the prompt
//! without a marker (so that prompt and answer are the prefix of the next turn's prompt, as a cached conversation
//! needs), every other message follows a marker with its role. A conversation sent as one message therefore renders
//! to that message. Tools come first, as in common templates.

use super::bodies::{Content, Message};
use super::errors::ApiError;
use crate::text::{self, Answer, BLOCK_TOKENS, Blocks};
use gorgo_core::RequestId;
use gorgo_sim::engine::EngineRequest;
use serde::Deserialize;
use serde_json::Value;

/// The bytes of a rendered prompt and their division into tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    bytes: Vec<u8>,
    /// Bytes per token.
    per: u32,
}

impl Prompt {
    /// Creates a prompt from rendered text.
    pub fn of_text(text: &str, bytes_per_token: u32) -> Self {
        Self { bytes: text.as_bytes().to_vec(), per: bytes_per_token }
    }

    /// Creates a prompt from token ids, which count as four bytes each.
    pub fn of_ids(ids: &[u32]) -> Self {
        Self { bytes: ids.iter().flat_map(|id| id.to_le_bytes()).collect(), per: 4 }
    }

    /// The emulated model's answer to this prompt.
    pub fn answer(&self) -> Answer {
        Answer::to(&self.bytes)
    }

    /// The engine's request and the text of the answer. The answer has `output` tokens if given, else `max_new` if
    /// `ignore_eos`, else the model's natural length; never more than `max_new`.
    pub fn into_request(self, max_new: Option<u32>, ignore_eos: bool, output: Option<u32>) -> (EngineRequest, Answer) {
        let answer = self.answer();
        let wanted = output.or(max_new.filter(|_| ignore_eos)).unwrap_or_else(|| answer.natural_tokens()).max(1);
        let output_tokens = wanted.min(max_new.unwrap_or(u32::MAX)).min(1 << 20);
        let Blocks { tokens, ids } = text::blocks(&self.bytes, self.per);
        let block = (self.per * BLOCK_TOKENS) as usize;
        let whole = self.bytes.len() / block;
        let mut tail = self.bytes[whole * block..].to_vec();
        // An answer has as many bytes per token as the prompt, so that the next turn counts the same tokens.
        tail.extend(answer.text(0, output_tokens.saturating_mul(self.per).div_ceil(4)).bytes());
        tail.truncate(self.bytes.len() - whole * block + (output_tokens * self.per) as usize);
        let mut before = whole.checked_sub(1).map_or(0, |last| ids[last]);
        let answer_blocks = tail.chunks_exact(block).map(|bytes| {
            before = text::chained(bytes, before);
            before
        });
        let request = EngineRequest {
            id: RequestId(0), // set by the engine's handle
            input_tokens: tokens,
            output_tokens,
            max_new_tokens: max_new,
            block_tokens: BLOCK_TOKENS,
            refused: false,
            answer_blocks: answer_blocks.collect(),
            blocks: ids.into(),
        };
        (request, answer)
    }
}

/// Renders a conversation with the emulated chat template.
pub fn render(messages: &[Message], tools: Option<&Value>) -> String {
    let mut out = tools.filter(|t| !t.is_null()).map_or_else(String::new, |t| format!("<|tools|>\n{t}\n"));
    for message in messages {
        let bare = message.role == "assistant" || (out.is_empty() && message.role == "user");
        if !bare {
            out.push_str(&format!("\n<|{}|>\n", message.role));
        }
        match &message.content {
            Some(Content::Text(text)) => out.push_str(text),
            Some(Content::Parts(parts)) => {
                parts.iter().filter_map(|p| p.get("text").and_then(Value::as_str)).for_each(|text| out.push_str(text));
            }
            None => {}
        }
        if let Some(calls) = message.tool_calls.as_ref().filter(|c| !c.is_null()) {
            out.push_str(&calls.to_string());
        }
    }
    out
}

/// Token ids of `bytes`: the first four bytes of each token, in little-endian order.
pub fn token_ids(bytes: &[u8], bytes_per_token: u32) -> Vec<u32> {
    let id = |chunk: &[u8]| chunk.iter().take(4).rev().fold(0u32, |id, &b| (id << 8) | u32::from(b));
    bytes.chunks(bytes_per_token.max(1) as usize).map(id).collect()
}

#[derive(Deserialize)]
struct Tokenize {
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    messages: Option<Vec<Message>>,
}

/// Token ids, of so many bytes each, of the `prompt` or the `messages` of a body, as SGLang and vLLM tokenize them.
pub(super) fn tokens_of(body: &[u8], bytes_per_token: u32) -> Result<Vec<u32>, ApiError> {
    let text = match serde_json::from_slice::<Tokenize>(body) {
        Ok(Tokenize { prompt: Some(text), .. }) => text,
        Ok(Tokenize { messages: Some(messages), .. }) => render(&messages, None),
        Ok(_) => return Err(ApiError::bad_request("give a `prompt` or `messages`")),
        Err(e) => return Err(ApiError::bad_request(format!("the body cannot be read: {e}"))),
    };
    Ok(token_ids(text.as_bytes(), bytes_per_token))
}

#[cfg(test)]
mod tests {
    use super::super::bodies::ChatBody;
    use super::*;
    use serde_json::json;

    fn chat(messages: &Value) -> String {
        let body: ChatBody = serde_json::from_value(json!({ "messages": messages })).unwrap();
        render(&body.messages, body.tools.as_ref())
    }

    #[test]
    fn a_prompt_and_its_answer_begin_the_next_turn() {
        let first = chat(&json!([{"role": "user", "content": "Why is the sky blue?"}]));
        assert_eq!(first, "Why is the sky blue?");
        let (request, answer) = Prompt::of_text(&first, 4).into_request(None, false, Some(100));
        let said = answer.text(0, 100);
        let second = chat(&json!([
            {"role": "user", "content": [{"type": "text", "text": "Why is the sky blue?"}]},
            {"role": "assistant", "content": said},
            {"role": "user", "content": "And the sea?"}
        ]));
        let (next, _) = Prompt::of_text(&second, 4).into_request(None, false, None);
        assert_eq!(request.input_tokens, 5);
        assert_eq!(request.answer_blocks.len(), 105 / 16);
        assert_eq!(next.blocks[..105 / 16], request.answer_blocks[..], "prompt is less than a block");
    }

    #[test]
    fn answers_stay_findable_when_a_token_is_not_four_bytes() {
        let (request, answer) = Prompt::of_text("Why?", 3).into_request(None, false, Some(64));
        let said: String = answer.text(0, 48);
        let (next, _) = Prompt::of_text(&format!("Why?{said} Then?"), 3).into_request(None, false, None);
        assert_eq!(next.blocks[..4], request.answer_blocks[..4]);
    }

    #[test]
    fn roles_and_tools_are_part_of_the_prompt() {
        let user = chat(&json!([{"role": "user", "content": "x"}]));
        let system = chat(&json!([{"role": "system", "content": "x"}]));
        assert_ne!(user, system);
        let body: ChatBody =
            serde_json::from_value(json!({"messages": [{"role": "user"}], "tools": [{"name": "f"}]})).unwrap();
        assert_eq!(render(&body.messages, body.tools.as_ref()), "<|tools|>\n[{\"name\":\"f\"}]\n\n<|user|>\n");
    }

    #[test]
    fn the_answer_has_the_requested_length() {
        let of = |max, eos, out| Prompt::of_text("p", 4).into_request(max, eos, out).0.output_tokens;
        assert_eq!(
            (of(Some(10), true, None), of(Some(10), false, Some(7)), of(Some(10), false, Some(70))),
            (10, 7, 10)
        );
        assert_eq!(of(None, true, None), Prompt::of_text("p", 4).answer().natural_tokens());
        assert_eq!(of(None, false, Some(u32::MAX)), 1 << 20);
    }

    #[test]
    fn a_prompt_of_token_ids_has_one_token_for_each() {
        assert_eq!(Prompt::of_ids(&[1, 2, 3]).into_request(None, false, Some(1)).0.input_tokens, 3);
    }
}
