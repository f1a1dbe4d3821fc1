//! Request bodies of the three generating paths, and what their prompts render to.
//!
//! The emulated chat template: a first user message stands bare, an assistant's message follows the prompt bare (so
//! that prompt and answer are the beginning of the next turn's prompt, as a cached conversation needs), every other
//! message comes after a marker with its role. A conversation sent as one message therefore renders to that message.
//! Tools go in front, as in usual templates. Fields that a model without a GPU cannot mind are ignored, as SGLang
//! ignores unknown ones.

use crate::text::{self, Answer, BLOCK_TOKENS, Blocks};
use gorgo_core::RequestId;
use gorgo_sim::engine::EngineRequest;
use serde::Deserialize;
use serde_json::Value;

/// Body of `/v1/chat/completions`.
#[derive(Debug, Clone, Deserialize)]
pub struct ChatBody {
    /// Conversation so far.
    pub messages: Vec<Message>,
    /// Tool declarations, part of the prompt.
    #[serde(default)]
    pub tools: Option<Value>,
    /// The newer name of `max_tokens`.
    #[serde(default)]
    pub max_completion_tokens: Option<u32>,
    /// What the OpenAI paths share.
    #[serde(flatten)]
    pub common: Common,
}

/// Body of `/v1/completions`.
#[derive(Debug, Clone, Deserialize)]
pub struct CompletionBody {
    /// Text or token ids.
    pub prompt: PromptField,
    /// What the OpenAI paths share.
    #[serde(flatten)]
    pub common: Common,
}

/// What the OpenAI paths share.
#[derive(Debug, Clone, Deserialize)]
pub struct Common {
    /// Given back as it came.
    #[serde(default)]
    pub model: Option<String>,
    /// Answer in events.
    #[serde(default)]
    pub stream: bool,
    /// What the stream tells beside the text.
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    /// Most tokens to generate.
    #[serde(default)]
    pub max_tokens: Option<u32>,
    /// Generate all of them.
    #[serde(default)]
    pub ignore_eos: bool,
    /// Answers wanted; only 1 is served.
    #[serde(default)]
    pub n: Option<u32>,
    /// The request's id; made up when absent.
    #[serde(default)]
    pub rid: Option<String>,
    /// The emulated model's instructions.
    #[serde(default)]
    pub custom_params: Option<CustomParams>,
}

/// Read by the emulated model only; a real engine hands it to custom logit processors and else ignores it.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct CustomParams {
    /// Tokens the model will generate, whatever `max_tokens` allows beyond.
    #[serde(default)]
    pub output_tokens: Option<u32>,
}

/// `stream_options`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct StreamOptions {
    /// A last chunk with the usage.
    #[serde(default)]
    pub include_usage: bool,
    /// The usage so far in every chunk.
    #[serde(default)]
    pub continuous_usage_stats: bool,
}

/// One message.
#[derive(Debug, Clone, Deserialize)]
pub struct Message {
    /// Its role.
    pub role: String,
    /// Text, parts or nothing.
    #[serde(default)]
    pub content: Option<Content>,
    /// Calls that an assistant made.
    #[serde(default)]
    pub tool_calls: Option<Value>,
}

/// Content of a message.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain.
    Text(String),
    /// Parts; only those with a `text` have tokens here.
    Parts(Vec<Value>),
}

/// A prompt of `/v1/completions`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum PromptField {
    /// Text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
    /// A batch of texts; only one is served.
    Texts(Vec<String>),
    /// A batch of token ids; only one is served.
    ManyIds(Vec<Vec<u32>>),
}

/// Body of `/generate`.
#[derive(Debug, Clone, Deserialize)]
pub struct GenerateBody {
    /// The prompt as text.
    #[serde(default)]
    pub text: Option<String>,
    /// The prompt as token ids.
    #[serde(default)]
    pub input_ids: Option<Vec<u32>>,
    /// Length of the answer.
    #[serde(default)]
    pub sampling_params: SamplingParams,
    /// Answer in events.
    #[serde(default)]
    pub stream: bool,
    /// The request's id; made up when absent.
    #[serde(default)]
    pub rid: Option<String>,
}

/// `sampling_params` of `/generate`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct SamplingParams {
    /// Most tokens to generate; 128 when absent.
    #[serde(default)]
    pub max_new_tokens: Option<u32>,
    /// Generate all of them.
    #[serde(default)]
    pub ignore_eos: bool,
    /// The emulated model's instructions.
    #[serde(default)]
    pub custom_params: Option<CustomParams>,
}

/// A prompt as the engine model takes it, with the bytes it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    bytes: Vec<u8>,
    /// Bytes a token.
    per: u32,
}

impl Prompt {
    /// A prompt of rendered text.
    pub fn of_text(text: &str, bytes_per_token: u32) -> Self {
        Self { bytes: text.as_bytes().to_vec(), per: bytes_per_token }
    }

    /// A prompt of token ids, four bytes each.
    pub fn of_ids(ids: &[u32]) -> Self {
        Self { bytes: ids.iter().flat_map(|id| id.to_le_bytes()).collect(), per: 4 }
    }

    /// The answer that the emulated model gives.
    pub fn answer(&self) -> Answer {
        Answer::to(&self.bytes)
    }

    /// The engine's request and the answer's text. The answer ends with `output` tokens if told, else with
    /// `max_new` if `ignore_eos`, else where the model would end it.
    pub fn into_request(self, max_new: Option<u32>, ignore_eos: bool, output: Option<u32>) -> (EngineRequest, Answer) {
        let answer = self.answer();
        let wanted = output.or(max_new.filter(|_| ignore_eos)).unwrap_or_else(|| answer.natural_tokens()).max(1);
        let output_tokens = wanted.min(max_new.unwrap_or(u32::MAX)).min(1 << 20);
        let Blocks { tokens, ids } = text::blocks(&self.bytes, self.per);
        let block = (self.per * BLOCK_TOKENS) as usize;
        let whole = self.bytes.len() / block;
        let mut tail = self.bytes[whole * block..].to_vec();
        // A token of an answer is as long as one of a prompt, or the next turn would count other tokens.
        tail.extend(answer.text(0, output_tokens.saturating_mul(self.per).div_ceil(4)).bytes());
        tail.truncate(self.bytes.len() - whole * block + (output_tokens * self.per) as usize);
        let mut before = whole.checked_sub(1).map_or(0, |last| ids[last]);
        let answer_blocks = tail.chunks_exact(block).map(|bytes| {
            before = text::chained(bytes, before);
            before
        });
        let request = EngineRequest {
            id: RequestId(0), // the engine's handle names it
            input_tokens: tokens,
            output_tokens,
            max_new_tokens: max_new,
            block_tokens: BLOCK_TOKENS,
            answer_blocks: answer_blocks.collect(),
            blocks: ids.into(),
        };
        (request, answer)
    }
}

/// What the chat template makes of a conversation.
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

#[cfg(test)]
mod tests {
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
    fn the_answer_ends_where_it_is_told_to() {
        let of = |max, eos, out| Prompt::of_text("p", 4).into_request(max, eos, out).0.output_tokens;
        assert_eq!(
            (of(Some(10), true, None), of(Some(10), false, Some(7)), of(Some(10), false, Some(70))),
            (10, 7, 10)
        );
        assert_eq!(of(None, true, None), Prompt::of_text("p", 4).answer().natural_tokens());
        assert_eq!(of(None, false, Some(u32::MAX)), 1 << 20);
    }

    #[test]
    fn token_ids_and_texts_are_told_apart() {
        let field = |v: Value| serde_json::from_value::<CompletionBody>(json!({ "prompt": v })).map(|b| b.prompt);
        assert!(matches!(field(json!("a")), Ok(PromptField::Text(_))));
        assert!(matches!(field(json!([1, 2])), Ok(PromptField::Ids(_))));
        assert!(matches!(field(json!(["a"])), Ok(PromptField::Texts(_))));
        assert!(field(json!({"a": 1})).is_err());
        assert_eq!(Prompt::of_ids(&[1, 2, 3]).into_request(None, false, Some(1)).0.input_tokens, 3);
    }
}
