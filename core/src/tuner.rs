//! Search for a policy's weights: propose a candidate, measure it, report its score.
//!
//! [`Published`] is the (1+1)-ES of the GORGO repository, exactly. [`Paired`] fixes the causes of its failures there:
//! the published form never scores its incumbent again, so a candidate that was measured in a good minute stays
//! forever; only a quarter of the samples of a score belong to the candidate; steps grow without bound to the corners
//! of the box. [`Online`] runs [`Paired`] on a router's own requests.

mod online;
mod paired;
mod published;
mod weights;

pub use online::{Online, OnlineConfig, Stage, Trial, Trials};
pub use paired::{Paired, PairedConfig, Verdict, loss};
pub use published::{Published, PublishedConfig, StepOutcome};
pub use weights::{usual, weights, with_weights};

use crate::rng::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use thiserror::Error;

/// The values that a weight may take.
#[derive(Debug, Clone, PartialEq)]
pub struct Dimension {
    /// The key of the policy's setting.
    pub key: String,
    /// Least value, above 0: the search is in log space.
    pub low: f64,
    /// Greatest value.
    pub high: f64,
}

/// A box that cannot be searched.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("`{key}` may lie between {low} and {high}; a search needs 0 < low < high, both finite")]
pub struct BadDimension {
    key: String,
    low: f64,
    high: f64,
}

impl Dimension {
    /// A weight that may lie between two values.
    ///
    /// # Errors
    /// Unless `0 < low < high`, both finite.
    pub fn new(key: impl Into<String>, low: f64, high: f64) -> Result<Self, BadDimension> {
        let key = key.into();
        if low > 0.0 && low < high && high.is_finite() {
            Ok(Self { key, low, high })
        } else {
            Err(BadDimension { key, low, high })
        }
    }
}

/// `exp(ln from + sigma N(0,1))` for each dimension, within its bounds.
fn step(dimensions: &[Dimension], from: &[f64], sigma: f64, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let one = |(dimension, &from): (&Dimension, &f64)| {
        let drawn: f64 = StandardNormal.sample(rng);
        moved(dimension, from, sigma * drawn)
    };
    dimensions.iter().zip(from).map(one).collect()
}

/// `from` times `exp(by)`, within the bounds.
fn moved(dimension: &Dimension, from: f64, by: f64) -> f64 {
    (from.max(1e-300).ln() + by).exp().clamp(dimension.low, dimension.high)
}
