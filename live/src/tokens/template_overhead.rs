//! What a chat template puts around the text, learned per model from the engines' own counts.

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// Weight of a new sample.
const ALPHA: f64 = 0.1;
/// Models remembered; more share the start values.
const MODELS: usize = 64;
/// Around a message until an engine has told: `<|im_start|>`, role, line end, `<|im_end|>`, line end.
const START: f64 = 5.0;

/// Tokens a message takes beyond its text. The opening of the answer counts as one message more; a prompt without
/// messages as one (its mark of the beginning, if the model has one).
#[derive(Debug, Default)]
pub(crate) struct Overheads(Mutex<FxHashMap<(String, bool), f64>>);

impl Overheads {
    /// Tokens around a prompt of `messages`.
    pub(crate) fn get(&self, model: Option<&str>, messages: u32) -> u32 {
        let map = self.0.lock();
        let start = if messages > 0 { START } else { 0.0 };
        let each = map.get(&(model.unwrap_or("").to_owned(), messages > 0)).copied().unwrap_or(start);
        (each * (f64::from(messages) + 1.0)).round() as u32
    }

    /// An engine counted `all` tokens where the text has `text`.
    pub(crate) fn learn(&self, model: Option<&str>, messages: u32, text: u32, all: u32) {
        let each = (f64::from(all) - f64::from(text)) / (f64::from(messages) + 1.0);
        // Less than nothing is another tokenizer's count, and no template takes a thousand tokens a message.
        let each = each.clamp(0.0, 1_000.0);
        let mut map = self.0.lock();
        let full = map.len() >= MODELS;
        match map.get_mut(&(model.unwrap_or("").to_owned(), messages > 0)) {
            Some(known) => *known += ALPHA * (each - *known),
            None if !full => drop(map.insert((model.unwrap_or("").to_owned(), messages > 0), each)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_learned_per_model_and_bounded() {
        let overheads = Overheads::default();
        assert_eq!((overheads.get(Some("a"), 3), overheads.get(Some("a"), 0)), (20, 0));
        overheads.learn(Some("a"), 3, 100, 112);
        overheads.learn(Some("a"), 0, 100, 101);
        assert_eq!((overheads.get(Some("a"), 3), overheads.get(Some("a"), 0)), (12, 1));
        assert_eq!((overheads.get(Some("a"), 9), overheads.get(Some("b"), 3)), (30, 20));
        (0..1_000).for_each(|i| overheads.learn(Some(&i.to_string()), 1, 10, 90));
        assert_eq!((overheads.get(Some("999"), 1), overheads.0.lock().len()), (10, MODELS));
    }
}
