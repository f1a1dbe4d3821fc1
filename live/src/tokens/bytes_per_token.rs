//! Bytes per prompt token, learned per model: the estimate for prompts that are not counted.

use crate::tokens::per_model::PerModel;
use crate::wire::prompt_blocks::START_RATIO;

/// Shortest prompt that is learned from, bytes: a shorter one is mostly chat template.
const LEAST_BYTES: u64 = 256;

/// Learned bytes per token.
#[derive(Debug, Default)]
pub struct BytesPerToken(PerModel);

impl BytesPerToken {
    /// Bytes per token of a model.
    pub fn get(&self, model: Option<&str>) -> f64 {
        self.0.get(model).unwrap_or(START_RATIO)
    }

    /// Learns from an engine that counted `tokens` in a prompt of `bytes`.
    pub fn learn(&self, model: Option<&str>, bytes: u64, tokens: u32) {
        if bytes >= LEAST_BYTES && tokens > 0 {
            self.0.learn(model, (bytes as f64 / f64::from(tokens)).clamp(0.5, 16.0));
        }
    }

    /// Takes over what another process learned of a model, unless this one has learned of it.
    pub(crate) fn restore(&self, model: &str, ratio: f64) {
        if (0.5..=16.0).contains(&ratio) && self.0.get(Some(model)).is_none() {
            self.0.learn(Some(model), ratio);
        }
    }

    /// All models with their bytes per token, sorted by name.
    pub fn all(&self) -> Vec<(String, f64)> {
        self.0.all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::per_model::MAX_MODELS;

    #[test]
    fn ratios_are_learned_per_model_and_bounded() {
        let ratios = BytesPerToken::default();
        ratios.learn(Some("a"), 3_000, 1_000);
        ratios.learn(Some("a"), 4_000, 1_000);
        assert!((ratios.get(Some("a")) - 3.1).abs() < 1e-9);
        assert!((ratios.get(Some("b")) - START_RATIO).abs() < 1e-9);
        (0..1_000).for_each(|i| ratios.learn(Some(&i.to_string()), 1_000, 100));
        assert_eq!(ratios.all().len(), MAX_MODELS);
    }
}
