//! Request bodies of the three generating paths. Unknown fields are ignored, as SGLang does.

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
    /// Fields common to the OpenAI paths.
    #[serde(flatten)]
    pub common: Common,
}

/// Body of `/v1/completions`.
#[derive(Debug, Clone, Deserialize)]
pub struct CompletionBody {
    /// Text or token ids.
    pub prompt: PromptField,
    /// Fields common to the OpenAI paths.
    #[serde(flatten)]
    pub common: Common,
}

/// Fields common to the OpenAI paths.
#[derive(Debug, Clone, Deserialize)]
pub struct Common {
    /// Model name, returned unchanged.
    #[serde(default)]
    pub model: Option<String>,
    /// Stream the answer as server-sent events.
    #[serde(default)]
    pub stream: bool,
    /// What the stream contains besides the text.
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    /// Most tokens to generate.
    #[serde(default)]
    pub max_tokens: Option<u32>,
    /// Generate `max_tokens` tokens, without an end of sequence before.
    #[serde(default)]
    pub ignore_eos: bool,
    /// Sampling temperature; below 0 the request is refused.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// Number of answers; only 1 is supported.
    #[serde(default)]
    pub n: Option<u32>,
    /// Id of the request; generated when absent.
    #[serde(default)]
    pub rid: Option<String>,
    /// Parameters of the emulated model.
    #[serde(default)]
    pub custom_params: Option<CustomParams>,
}

/// Parameters of the emulated model. A real engine passes them to custom logit processors and otherwise ignores them.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct CustomParams {
    /// Tokens that the model will generate, if `max_tokens` allows.
    #[serde(default)]
    pub output_tokens: Option<u32>,
}

/// `stream_options`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct StreamOptions {
    /// Send the usage in a last chunk.
    #[serde(default)]
    pub include_usage: bool,
    /// Send the usage so far in every chunk.
    #[serde(default)]
    pub continuous_usage_stats: bool,
}

/// One message of a conversation.
#[derive(Debug, Clone, Deserialize)]
pub struct Message {
    /// Role of its author.
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
#[serde(untagged, expecting = "`content` must be text or a list of parts")]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts; only those with a `text` count as tokens.
    Parts(Vec<Value>),
}

/// A prompt of `/v1/completions`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "`prompt` must be text, a list of token ids, or a list with one of them")]
pub enum PromptField {
    /// Text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
    /// A batch of texts; only batches of one are supported.
    Texts(Vec<String>),
    /// A batch of token ids; only batches of one are supported.
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
    /// Sampling parameters; only the length matters.
    #[serde(default)]
    pub sampling_params: SamplingParams,
    /// Stream the answer as server-sent events.
    #[serde(default)]
    pub stream: bool,
    /// Id of the request; generated when absent.
    #[serde(default)]
    pub rid: Option<String>,
}

/// `sampling_params` of `/generate`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct SamplingParams {
    /// Most tokens to generate; 128 when absent.
    #[serde(default)]
    pub max_new_tokens: Option<u32>,
    /// Generate `max_tokens` tokens, without an end of sequence before.
    #[serde(default)]
    pub ignore_eos: bool,
    /// Sampling temperature; below 0 the request is refused.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// Parameters of the emulated model.
    #[serde(default)]
    pub custom_params: Option<CustomParams>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn token_ids_and_texts_are_distinguished() {
        let field = |v: Value| serde_json::from_value::<CompletionBody>(json!({ "prompt": v })).map(|b| b.prompt);
        assert!(matches!(field(json!("a")), Ok(PromptField::Text(_))));
        assert!(matches!(field(json!([1, 2])), Ok(PromptField::Ids(_))));
        assert!(matches!(field(json!(["a"])), Ok(PromptField::Texts(_))));
        assert!(field(json!({"a": 1})).is_err());
    }
}
