//! Tokens of a prompt: counted by the model's tokenizer if one is configured and done in time, else estimated from the
//! learned bytes per token.
//!
//! Read [`bytes_per_token`] (the estimate), then [`counter`] (the count, on blocking threads), then
//! `template_overhead` (tokens that a chat template adds). Both learned averages are a `PerModel`.

use crate::config::Config;
use crate::wire::request_fields::RequestFields;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

pub(crate) mod bytes_per_token;
pub(crate) mod counter;

mod per_model;
mod template_overhead;

use bytes_per_token::BytesPerToken;
use counter::Counter;

/// The number of prompt tokens that a policy decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tokens {
    /// All prompt tokens.
    pub(crate) all: u32,
    /// Whether `all` was counted, by the tokenizer or by a client that sent token ids.
    pub(crate) exact: bool,
    /// Tokens of the text alone, without the chat template, if the tokenizer counted them.
    pub(crate) text: Option<u32>,
}

/// Counts the prompt tokens of a request if there is a counter and it is done in time, else estimates them.
pub(crate) async fn count_tokens(
    counter: Option<&Arc<Counter>>,
    bytes_per_token: &BytesPerToken,
    config: &Config,
    seed: u64,
    body: &Bytes,
    found: Option<&RequestFields>,
) -> Tokens {
    let Some(RequestFields { prompt, model, .. }) = found else { return Tokens::default() };
    let model = model.as_deref();
    if let Some(counter) = counter.filter(|_| prompt.bytes > 0) {
        let limit = Duration::from_millis(config.timeouts.tokenize_ms);
        let counted = Box::pin(counter.count(body, seed, prompt, limit)); // rare, and a large future
        if let Some(text) = counted.await {
            let template = counter.template_overhead.tokens(model, prompt.messages);
            return Tokens { all: text.saturating_add(template), exact: true, text: Some(text) };
        }
    }
    Tokens { all: prompt.tokens(bytes_per_token.get(model)), exact: prompt.bytes == 0, text: None }
}
