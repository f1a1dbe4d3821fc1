//! Bytes a token, learned per model from the engines' own counts.

use crate::wire::prompt_blocks::START_RATIO;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// Weight of a new sample.
const ALPHA: f64 = 0.1;
/// Models remembered; more share the start value.
const MODELS: usize = 64;

/// The ratios.
#[derive(Debug, Default)]
pub struct Ratios(Mutex<FxHashMap<String, f64>>);

impl Ratios {
    /// The ratio of a model.
    pub fn get(&self, model: Option<&str>) -> f64 {
        let map = self.0.lock();
        map.get(model.unwrap_or("")).copied().unwrap_or(START_RATIO)
    }

    /// An engine counted `tokens` in a prompt of `bytes`. Short prompts tell more of the template than of the text.
    pub fn learn(&self, model: Option<&str>, bytes: u64, tokens: u32) {
        if bytes < 256 || tokens == 0 {
            return;
        }
        let sample = (bytes as f64 / f64::from(tokens)).clamp(0.5, 16.0);
        let mut map = self.0.lock();
        let full = map.len() >= MODELS;
        match map.get_mut(model.unwrap_or("")) {
            Some(ratio) => *ratio += ALPHA * (sample - *ratio),
            None if !full => drop(map.insert(model.unwrap_or("").to_owned(), sample)),
            None => {}
        }
    }

    /// All models and their ratios, by name.
    pub fn all(&self) -> Vec<(String, f64)> {
        let map = self.0.lock();
        let mut all: Vec<_> = map.iter().map(|(model, ratio)| (model.clone(), *ratio)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_learned_per_model_and_bounded() {
        let ratios = Ratios::default();
        ratios.learn(Some("a"), 3_000, 1_000);
        ratios.learn(Some("a"), 4_000, 1_000);
        assert!((ratios.get(Some("a")) - 3.1).abs() < 1e-9);
        assert!((ratios.get(Some("b")) - START_RATIO).abs() < 1e-9);
        (0..1_000).for_each(|i| ratios.learn(Some(&i.to_string()), 1_000, 100));
        assert_eq!(ratios.all().len(), MODELS);
    }
}
