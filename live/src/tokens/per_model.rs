//! A running average per model, learned from the engines' own counts.

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// Weight of a new sample.
const ALPHA: f64 = 0.1;
/// Most models with an average of their own.
pub(super) const MAX_MODELS: usize = 64;

/// Exponentially weighted averages by model; requests without a model share one.
#[derive(Debug, Default)]
pub(super) struct PerModel(Mutex<Averages>);

#[derive(Debug, Default)]
struct Averages {
    models: FxHashMap<String, Average>,
    /// Samples so far.
    samples: u64,
}

#[derive(Debug, Clone, Copy)]
struct Average {
    value: f64,
    /// The number of its latest sample.
    latest: u64,
}

impl PerModel {
    /// The average of a model; `None` without a sample.
    pub(super) fn get(&self, model: Option<&str>) -> Option<f64> {
        self.0.lock().models.get(model.unwrap_or("")).map(|average| average.value)
    }

    /// Adds a sample. Beyond [`MAX_MODELS`] the model without a sample for longest is forgotten: made-up names must not
    /// keep those in use out.
    pub(super) fn learn(&self, model: Option<&str>, sample: f64) {
        let model = model.unwrap_or("");
        let mut averages = self.0.lock();
        averages.samples += 1;
        let latest = averages.samples;
        if let Some(average) = averages.models.get_mut(model) {
            average.value += ALPHA * (sample - average.value);
            average.latest = latest;
            return;
        }
        if averages.models.len() >= MAX_MODELS {
            let stalest =
                averages.models.iter().min_by_key(|(_, average)| average.latest).map(|(name, _)| name.clone());
            stalest.and_then(|name| averages.models.remove(&name));
        }
        averages.models.insert(model.to_owned(), Average { value: sample, latest });
    }

    /// All models with their averages, sorted by name.
    pub(super) fn all(&self) -> Vec<(String, f64)> {
        let averages = self.0.lock();
        let mut all: Vec<_> = averages.models.iter().map(|(model, average)| (model.clone(), average.value)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_in_use_outlive_names_that_were_seen_once() {
        let averages = PerModel::default();
        for n in 0..1_000 {
            averages.learn(Some(&format!("made up {n}")), 9.0);
            if n >= 500 {
                averages.learn(Some("used"), 3.0);
            }
        }
        assert_eq!((averages.get(Some("used")), averages.all().len()), (Some(3.0), MAX_MODELS));
        assert_eq!(averages.get(Some("made up 0")), None);
    }
}
