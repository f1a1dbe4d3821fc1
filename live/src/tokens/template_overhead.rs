//! Tokens that a chat template adds to the text, learned per model.

use crate::tokens::per_model::PerModel;

/// Tokens around a message before any were learned: `<|im_start|>`, role, line end, `<|im_end|>`, line end.
const START: f64 = 5.0;

/// Learned tokens per message beyond its text. The opening of the answer counts as one more message, and a prompt
/// without messages as one (the token that marks its beginning, if the model has one).
#[derive(Debug, Default)]
pub(crate) struct TemplateOverhead {
    chats: PerModel,
    plain: PerModel,
}

impl TemplateOverhead {
    /// Tokens that the template adds to a prompt of `messages`.
    pub(crate) fn tokens(&self, model: Option<&str>, messages: u32) -> u32 {
        let each = match messages {
            0 => self.plain.get(model).unwrap_or(0.0),
            _ => self.chats.get(model).unwrap_or(START),
        };
        (each * (f64::from(messages) + 1.0)).round() as u32
    }

    /// Learns from an engine that counted `all` tokens where the text alone has `text`.
    pub(crate) fn learn(&self, model: Option<&str>, messages: u32, text: u32, all: u32) {
        let each = (f64::from(all) - f64::from(text)) / (f64::from(messages) + 1.0);
        // A negative overhead is another tokenizer's count, and no template takes a thousand tokens a message.
        let each = each.clamp(0.0, 1_000.0);
        let averages = if messages == 0 { &self.plain } else { &self.chats };
        averages.learn(model, each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::per_model::MAX_MODELS;

    #[test]
    fn templates_are_learned_per_model_and_bounded() {
        let overhead = TemplateOverhead::default();
        assert_eq!((overhead.tokens(Some("a"), 3), overhead.tokens(Some("a"), 0)), (20, 0));
        overhead.learn(Some("a"), 3, 100, 112);
        overhead.learn(Some("a"), 0, 100, 101);
        assert_eq!((overhead.tokens(Some("a"), 3), overhead.tokens(Some("a"), 0)), (12, 1));
        assert_eq!((overhead.tokens(Some("a"), 9), overhead.tokens(Some("b"), 3)), (30, 20));
        (0..1_000).for_each(|i| overhead.learn(Some(&i.to_string()), 1, 10, 90));
        assert_eq!((overhead.tokens(Some("0"), 1), overhead.chats.all().len()), (10, MAX_MODELS));
    }
}
