//! What the router learns from a finished answer: tokens per byte of the model, and the blocks that the replica has
//! cached now.

use crate::tokens::bytes_per_token::BytesPerToken;
use crate::tokens::counter::Counter;
use crate::wire::answer_tap::AnswerTap;
use crate::wire::prompt_blocks::Prompt;
use gorgo_core::router::Answer;
use std::sync::Arc;

/// A request's prompt, kept until its answer is complete.
#[derive(Debug)]
pub(crate) struct Learning {
    pub(super) prompt: Prompt,
    pub(super) model: Option<String>,
    /// Tokens of the prompt's text, if they were counted.
    pub(super) text_tokens: Option<u32>,
    /// Whether the answer becomes a message of the next turn's prompt.
    pub(super) is_chat: bool,
}

impl Learning {
    /// Learns from the engine's own count of the prompt's tokens. A prompt of token ids teaches nothing.
    pub(super) fn learn_tokens(&self, bytes_per_token: &BytesPerToken, counter: Option<&Arc<Counter>>, counted: u32) {
        if self.prompt.tokens > 0 {
            return;
        }
        let model = self.model.as_deref();
        bytes_per_token.learn(model, self.prompt.bytes, counted);
        if let (Some(text), Some(counter)) = (self.text_tokens, counter) {
            counter.template_overhead.learn(model, self.prompt.messages, text, counted);
        }
    }

    /// The answer's blocks, which the next turn's prompt begins with; `None` if the answer's text is not known.
    pub(super) fn answer(&self, tap: &AnswerTap, prompt_tokens: u32, output_tokens: u32) -> Option<Answer> {
        let text = tap.answer().filter(|_| !self.prompt.symbols.is_empty())?;
        // Usage counts all choices; the text is one of them.
        let output = output_tokens / tap.choices();
        let blocks = self.prompt.answer(text, self.is_chat, prompt_tokens, output);
        Some(Answer { keep: blocks.keep, tail: blocks.tail, tokens: blocks.tokens })
    }
}
