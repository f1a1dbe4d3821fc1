//! A running average per model, learned from the engines' own counts.

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// Weight of a new sample.
const ALPHA: f64 = 0.1;
/// Most models with an average of their own.
pub(super) const MAX_MODELS: usize = 64;

/// Exponentially weighted averages by model; requests without a model share one.
#[derive(Debug, Default)]
pub(super) struct PerModel(Mutex<FxHashMap<String, f64>>);

impl PerModel {
    /// The average of a model; `None` without a sample.
    pub(super) fn get(&self, model: Option<&str>) -> Option<f64> {
        self.0.lock().get(model.unwrap_or("")).copied()
    }

    /// Adds a sample. Samples of models beyond [`MAX_MODELS`] are ignored.
    pub(super) fn learn(&self, model: Option<&str>, sample: f64) {
        let model = model.unwrap_or("");
        let mut averages = self.0.lock();
        let full = averages.len() >= MAX_MODELS;
        match averages.get_mut(model) {
            Some(average) => *average += ALPHA * (sample - *average),
            None if !full => drop(averages.insert(model.to_owned(), sample)),
            None => {}
        }
    }

    /// All models with their averages, sorted by name.
    pub(super) fn all(&self) -> Vec<(String, f64)> {
        let mut all: Vec<_> = self.0.lock().iter().map(|(model, average)| (model.clone(), *average)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}
