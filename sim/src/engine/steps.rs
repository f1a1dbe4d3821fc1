//! Step times: the formulas, the noise, and runs of decode steps in closed form.

use gorgo_core::{Span, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Time of one prefill step, ms:
/// `max(floor, fixed + hypot(weights, per_token·N) + per_pair·P)`, where `N` is the number of new tokens of the batch and
/// `P = Σ n·(p + n/2)` counts (query, key) pairs for `n` new tokens after `p` tokens already in the cache.
///
/// The hypotenuse joins the two limits of the linear layers: reading the weights once and multiplying `N` rows. It
/// fits the per-layer timings of Vidur's profiles (Llama-3-8B, A100 and A40) within 9 % but for one point each. The floor
/// is the time that the host needs to launch a step that was not captured as a graph.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrefillTimes {
    /// Launch and sampling, ms a step.
    pub fixed_ms: f64,
    /// One reading of the weights, ms.
    pub weights_ms: f64,
    /// Linear layers, ms a new token.
    pub ms_per_token: f64,
    /// Attention, ms a (query, key) pair.
    pub ms_per_pair: f64,
    /// Least time of a step, ms: its launches, where they take longer than the work of a short prompt.
    #[serde(default)]
    pub floor_ms: f64,
}

impl PrefillTimes {
    /// Time of a step over `tokens` new tokens and `pairs` (query, key) pairs, ms.
    pub fn ms(&self, tokens: u64, pairs: f64) -> f64 {
        let work = self.fixed_ms + hypot(self.weights_ms, self.ms_per_token * tokens as f64) + self.ms_per_pair * pairs;
        work.max(self.floor_ms)
    }
}

/// Pairs of `new` tokens that follow `past` cached ones.
pub(super) fn pairs(past: u32, new: u32) -> f64 {
    f64::from(new) * (f64::from(past) + f64::from(new) / 2.0)
}

/// Time of one decode step, ms:
/// `fixed + hypot(weights, row_compute·B) + per_row·B + per_context_token·C`, with the batch `B` padded up to a
/// captured size and `C` the tokens of context of all its requests. Above `cuda_graph_max_bs` there is no captured
/// graph and the launches of an eager step take at least `eager_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecodeTimes {
    /// Launch and sampling, ms a step.
    pub fixed_ms: f64,
    /// One reading of the weights, ms.
    pub weights_ms: f64,
    /// Compute of the linear layers, ms a request; it shows only once it outgrows the reading of the weights.
    pub row_compute_ms: f64,
    /// Whatever else grows with the batch, ms a request.
    pub ms_per_row: f64,
    /// Reading the KV cache, ms a token of context.
    pub ms_per_context_token: f64,
    /// Least time of a step that was not captured, ms.
    pub eager_ms: f64,
    /// Largest captured batch.
    pub cuda_graph_max_bs: u32,
}

impl DecodeTimes {
    /// Time of a step for `rows` requests with `context` tokens together, ms.
    pub fn ms(&self, rows: u32, context: u64) -> f64 {
        (self.batch_ms(rows) + self.ms_per_context_token * context as f64).max(self.least_ms(rows))
    }

    /// The batch size that runs for `rows` requests: 1, 2, 4, 8, 12, 16, 24, ... by 8 up to 256, then by 16; above
    /// the largest captured size nothing is padded.
    pub fn padded(&self, rows: u32) -> u32 {
        if rows > self.cuda_graph_max_bs {
            return rows;
        }
        let size = match rows {
            0..=2 => rows,
            3..=4 => 4,
            5..=16 => rows.next_multiple_of(4),
            17..=256 => rows.next_multiple_of(8),
            _ => rows.next_multiple_of(16),
        };
        size.min(self.cuda_graph_max_bs)
    }

    fn batch_ms(&self, rows: u32) -> f64 {
        let b = f64::from(self.padded(rows));
        self.fixed_ms + hypot(self.weights_ms, self.row_compute_ms * b) + self.ms_per_row * b
    }

    fn least_ms(&self, rows: u32) -> f64 {
        if rows > self.cuda_graph_max_bs { self.eager_ms } else { 0.0 }
    }
}

/// `sqrt(a² + b²)` by operations that IEEE 754 fixes to the bit, which `f64::hypot` is not.
fn hypot(a: f64, b: f64) -> f64 {
    (a * a + b * b).sqrt()
}

/// Relative noise of step times as a pure function of (seed, which step), so that jumping over steps and walking
/// through them see the same values.
///
/// A prefill step and a whole run of decode steps are stretched by `1 + sigma·z`; inside a run each step's *end* is
/// further moved by `sigma/√2·z` of a step. The first keeps the 1 % spread that sustained throughput shows, the
/// second gives single steps theirs without a sum to carry along.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Noise {
    pub(super) seed: u64,
    pub(super) sigma: f64,
}

impl Noise {
    /// A number of mean 0, variance 1 and at most `2·√3` in size: the sum of four uniform draws.
    #[inline]
    pub(super) fn z(&self, concern: u64, index: u64) -> f64 {
        let hash = mix(self.seed ^ mix(index.wrapping_mul(8).wrapping_add(concern)));
        let sum: u64 = (0..4).map(|k| (hash >> (16 * k)) & 0xffff).sum();
        (sum as f64 + 2.0 - 131_072.0) * (1.0 / 37_837.227_5) // 65536·sqrt(4/12)
    }

    pub(super) fn stretch(&self, concern: u64, index: u64) -> f64 {
        1.0 + self.sigma * self.z(concern, index)
    }
}

/// Which draw of [`Noise`].
pub(super) const PREFILL: u64 = 0;
const RUN: u64 = 1;
const END: u64 = 2;
/// A step of vLLM.
pub(super) const MIXED: u64 = 4;
/// The cold-start draw.
pub(super) const START: u64 = 3;

/// A bijective scrambling of 64 bits (the finalizer of SplitMix64).
pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A run: decode steps over one unchanged batch. Its context grows by `rows` a step, so step times grow linearly and
/// their sum is a quadratic; the end of any step costs the same whether the steps before were walked or not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Run {
    /// Number of its first step among all decode steps of the engine.
    pub(super) first: u64,
    /// Requests in the batch, those included that finish unnoticed under overlap.
    pub(super) rows: u32,
    anchor: Time,
    base_ms: f64,
    slope_ms: f64,
    least_ms: f64,
    /// How many of the first steps are at `least_ms`.
    flat: u64,
    stretch: f64,
    jitter_ms: f64,
    noise: Noise,
}

impl Run {
    /// A run that starts at `anchor` with step `first`, over `rows` requests whose contexts sum to `context`.
    pub(super) fn new(times: &DecodeTimes, noise: Noise, first: u64, anchor: Time, rows: u32, context: u64) -> Self {
        let base_ms = times.batch_ms(rows) + times.ms_per_context_token * context as f64;
        let slope_ms = times.ms_per_context_token * f64::from(rows);
        let least_ms = times.least_ms(rows);
        let flat = if base_ms >= least_ms {
            0
        } else if slope_ms > 0.0 {
            ((least_ms - base_ms) / slope_ms).ceil() as u64
        } else {
            u64::MAX
        };
        let jitter_ms = noise.sigma * std::f64::consts::FRAC_1_SQRT_2 * base_ms.max(least_ms);
        let stretch = noise.stretch(RUN, first);
        Self { first, rows, anchor, base_ms, slope_ms, least_ms, flat, stretch, jitter_ms, noise }
    }

    /// Time of step `index` without its own jitter, ms.
    #[inline]
    pub(super) fn step_ms(&self, index: u64) -> f64 {
        (self.base_ms + self.slope_ms * (index - self.first) as f64).max(self.least_ms) * self.stretch
    }

    /// When step `index` ends. Strictly increasing in `index`.
    #[inline]
    pub(super) fn end(&self, index: u64) -> Time {
        let steps = index - self.first + 1;
        let linear = |n: u64| {
            let n = n as f64;
            self.base_ms * n + self.slope_ms * (n * (n - 1.0) * 0.5)
        };
        let sum = if self.flat == 0 {
            linear(steps)
        } else {
            let flat = self.flat.min(steps);
            self.least_ms * flat as f64 + (linear(steps) - linear(flat))
        };
        let jitter = if self.jitter_ms > 0.0 { self.jitter_ms * self.noise.z(END, index) } else { 0.0 };
        self.anchor + Span::from_ms(sum * self.stretch + jitter)
    }

    /// The first step from `from` on that ends at or after `t`.
    pub(super) fn first_ending_at(&self, from: u64, t: Time) -> u64 {
        let begin = self.end(from);
        if begin >= t {
            return from;
        }
        // Steps never get shorter, so this guess is rarely short; gallop from it both ways, then bisect.
        let guess = ((t - begin).ms() / self.step_ms(from)) as u64 + 1;
        let (mut low, mut high, mut width) = (from, from + guess, 1);
        while self.end(high) < t {
            (low, high, width) = (high, high + width, width * 2);
        }
        width = 1;
        while high - low > width && self.end(high - width) >= t {
            (high, width) = (high - width, width * 2);
        }
        low = low.max(high.saturating_sub(width));
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.end(middle) < t { low = middle } else { high = middle }
        }
        high
    }

    /// How many steps from `index` on take less than `limit_ms`, at most `most`.
    pub(super) fn steps_below(&self, index: u64, limit_ms: f64, most: u64) -> u64 {
        let here = self.step_ms(index);
        if here >= limit_ms {
            return 0;
        }
        if self.step_ms(index + most - 1) < limit_ms {
            return most;
        }
        let (mut low, mut high) = (0, most - 1); // step `low` is below, step `high` is not
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.step_ms(index + middle) < limit_ms { low = middle } else { high = middle }
        }
        high
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIMES: DecodeTimes = DecodeTimes {
        fixed_ms: 0.2,
        weights_ms: 10.0,
        row_compute_ms: 0.0671,
        ms_per_row: 0.01,
        ms_per_context_token: 8e-5,
        eager_ms: 25.0,
        cuda_graph_max_bs: 32,
    };

    #[test]
    fn batches_are_padded_to_captured_sizes_and_not_beyond() {
        let padded: Vec<u32> = [1, 3, 5, 9, 13, 17, 31, 32, 33, 40].iter().map(|&b| TIMES.padded(b)).collect();
        assert_eq!(padded, [1, 4, 8, 12, 16, 24, 32, 32, 33, 40]);
        assert_eq!(DecodeTimes { cuda_graph_max_bs: 20, ..TIMES }.padded(18), 20);
        assert_eq!(DecodeTimes { cuda_graph_max_bs: 512, ..TIMES }.padded(257), 272);
    }

    #[test]
    fn noise_has_mean_0_and_variance_1() {
        let noise = Noise { seed: 7, sigma: 1.0 };
        let draws: Vec<f64> = (0..20_000).map(|i| noise.z(END, i)).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let variance = draws.iter().map(|z| (z - mean) * (z - mean)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.03, "mean {mean}, variance {variance}");
    }

    proptest! {
        #[test]
        fn closed_form_equals_the_sum_of_step_times(rows in 1u32..80, context in 0u64..400_000, steps in 1u64..3000) {
            let noise = Noise { seed: 1, sigma: 0.0 };
            let run = Run::new(&TIMES, noise, 5, Time(1_000), rows, context);
            let mut ms = 0.0;
            for k in 0..steps {
                ms += TIMES.ms(rows, context + k * u64::from(rows));
            }
            let end = run.end(5 + steps - 1);
            prop_assert!((end - Time(1_000)).0.abs_diff(Span::from_ms(ms).0) <= 2 + (ms * 1e-3) as u64, "{end:?} {ms}");
        }

        #[test]
        fn ends_increase_and_are_found_again(
            seed: u64, rows in 1u32..60, context in 0u64..400_000, from in 0u64..50, at in 0u64..2000, off in 0u64..3
        ) {
            let run = Run::new(&TIMES, Noise { seed, sigma: 0.05 }, 0, Time(9), rows, context);
            let index = from + at;
            prop_assert!(run.end(index) < run.end(index + 1));
            let t = Time(run.end(index).0 + off - 1);
            let naive = (from..).find(|&j| run.end(j) >= t).unwrap();
            prop_assert_eq!(run.first_ending_at(from, t), naive);
        }

        #[test]
        fn steps_below_a_limit_are_counted_like_one_by_one(
            seed: u64, rows in 1u32..60, context in 0u64..400_000, index in 0u64..50, most in 1u64..500, limit in 9.0f64..60.0
        ) {
            let run = Run::new(&TIMES, Noise { seed, sigma: 0.02 }, 0, Time(9), rows, context);
            let naive = (0..most).take_while(|k| run.step_ms(index + k) < limit).count() as u64;
            prop_assert_eq!(run.steps_below(index, limit, most), naive);
        }
    }
}
