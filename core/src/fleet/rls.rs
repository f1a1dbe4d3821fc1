//! Anchored robust recursive least squares: few numbers, strong priors, noise in proportion to the prediction.
//!
//! ```text
//! e = y - x.theta;   q = min(1, 1.5 s / |e|) / s^2                       s = standard deviation of the noise
//! g = P x / (1/q + x P x);  theta <- clip(theta + g e, lo, hi);  P <- P - g (P x)^T
//! d_i = sqrt(clamp(P0_i / P_ii, 1, 1/0.998));  P_ij <- d_i d_j P_ij      forgets, never wider than the prior
//! ```
//!
//! Plain recursive least squares was worse than fixed constants on recorded fleets; this form forgets a prior that is
//! wrong by a factor of four in about 200 samples.

/// A number to learn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prior {
    /// Where it starts.
    pub mean: f64,
    /// Its standard deviation.
    pub sd: f64,
    /// Its least value.
    pub low: f64,
    /// Its greatest value.
    pub high: f64,
}

/// What one sample can be off at most before it counts less, in standard deviations.
const HUBER: f64 = 1.5;

/// The greatest number in a sample: 11 days in ms.
const MOST: f64 = 1e9;

/// Most that a variance grows by forgetting in one sample.
const FORGET: f64 = 1.0 / 0.998;

/// The estimator. A sample touches few of its numbers: `x` is a list of (number, value).
#[derive(Debug, Clone, Default)]
pub(super) struct Rls {
    priors: Vec<Prior>,
    theta: Vec<f64>,
    /// Row by row.
    p: Vec<f64>,
    // Scratch space of one sample.
    px: Vec<f64>,
    wider: Vec<f64>,
}

impl Rls {
    /// How many numbers are learned.
    pub(super) fn len(&self) -> usize {
        self.theta.len()
    }

    /// Adds a number that is not correlated with the others.
    pub(super) fn push(&mut self, prior: Prior) {
        let (old, new) = (self.len(), self.len() + 1);
        let mut p = vec![0.0; new * new];
        for row in 0..old {
            p[row * new..row * new + old].copy_from_slice(&self.p[row * old..(row + 1) * old]);
        }
        p[new * new - 1] = prior.sd * prior.sd;
        self.p = p;
        self.priors.push(prior);
        self.theta.push(prior.mean);
    }

    /// Resets a number, which belongs to another replica now.
    pub(super) fn reset(&mut self, i: usize) {
        let n = self.len();
        for j in 0..n {
            (self.p[i * n + j], self.p[j * n + i]) = (0.0, 0.0);
        }
        self.p[i * n + i] = self.priors[i].sd * self.priors[i].sd;
        self.theta[i] = self.priors[i].mean;
    }

    /// Takes over a number that was learned elsewhere, within its bounds and never surer than a hundredth of its prior nor
    /// wider than it. A value or deviation that is no number changes nothing.
    pub(super) fn set(&mut self, i: usize, value: f64, sd: f64) {
        if !value.is_finite() || !sd.is_finite() {
            return;
        }
        self.reset(i);
        let Prior { sd: most, low, high, .. } = self.priors[i];
        self.theta[i] = value.clamp(low, high);
        let n = self.len();
        self.p[i * n + i] = sd.clamp(0.01 * most, most).powi(2);
    }

    /// The number `i`.
    pub(super) fn get(&self, i: usize) -> f64 {
        self.theta[i]
    }

    /// A value of number `i` within its bounds.
    pub(super) fn bounded(&self, i: usize, value: f32) -> f32 {
        let Prior { low, high, .. } = self.priors[i];
        value.clamp(low as f32, high as f32)
    }

    /// Its standard deviation.
    pub(super) fn sd(&self, i: usize) -> f64 {
        self.p[i * self.len() + i].max(0.0).sqrt()
    }

    /// The prediction for `x`.
    pub(super) fn predict(&self, x: &[(usize, f64)]) -> f64 {
        x.iter().map(|&(i, value)| self.theta[i] * value).sum()
    }

    /// Learns from a sample `y` at `x` with noise of standard deviation `s`. Samples beyond [`MOST`] are dropped.
    pub(super) fn learn(&mut self, x: &[(usize, f64)], y: f64, s: f64) {
        let n = self.len();
        let e = y - self.predict(x);
        let sane = |value: f64| value.abs() <= MOST; // false for NaN
        if !sane(e) || !(1.0 / MOST..=MOST).contains(&s) || !x.iter().all(|&(_, value)| sane(value)) {
            return;
        }
        let Self { priors, theta, p, px, wider } = self;
        px.clear();
        px.extend(p.chunks_exact(n).map(|row| x.iter().map(|&(i, value)| row[i] * value).sum::<f64>()));
        let xpx: f64 = x.iter().map(|&(i, value)| px[i] * value).sum();
        let trust = (HUBER * s / e.abs()).min(1.0) / (s * s);
        let scale = 1.0 / (1.0 / trust + xpx);
        for ((theta, prior), gain) in theta.iter_mut().zip(priors.iter()).zip(px.iter()) {
            *theta = (*theta + gain * scale * e).clamp(prior.low, prior.high);
        }
        // The variances after the sample first, so that one pass over the matrix both learns and forgets.
        wider.clear();
        wider.extend(priors.iter().zip(px.iter()).enumerate().map(|(i, (prior, px))| {
            let variance = p[i * n + i] - px * scale * px;
            (prior.sd.powi(2) / variance.max(f64::MIN_POSITIVE)).clamp(1.0, FORGET).sqrt()
        }));
        for ((row, gain), wide) in p.chunks_exact_mut(n).zip(px.iter()).zip(wider.iter()) {
            let gain = gain * scale;
            for ((entry, px), wider) in row.iter_mut().zip(px.iter()).zip(wider.iter()) {
                *entry = (*entry - gain * px) * (wide * wider);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;
    use proptest::prelude::*;
    use rand::RngExt;

    fn two() -> Rls {
        let mut rls = Rls::default();
        rls.push(Prior { mean: 0.0, sd: 60.0, low: -400.0, high: 500.0 });
        rls.push(Prior { mean: 60.0, sd: 20.0, low: 5.0, high: 400.0 });
        rls
    }

    fn teach(rls: &mut Rls, samples: usize, truth: [f64; 2], outliers: bool) {
        let mut rng = stream(3, "rls", 0);
        for _ in 0..samples {
            let u: f64 = rng.random_range(0.0..8.0);
            let mut y = truth[0] + truth[1] * u + rng.random_range(-20.0..20.0);
            if outliers && rng.random_range(0..10u8) == 0 {
                y += 3_000.0;
            }
            let s = 40.0 + 0.25 * rls.predict(&[(0, 1.0), (1, u)]).max(20.0);
            rls.learn(&[(0, 1.0), (1, u)], y, s);
        }
    }

    #[test]
    fn a_prior_wrong_by_four_is_forgotten_in_two_hundred_samples() {
        for rate in [15.0, 240.0] {
            let mut rls = two();
            teach(&mut rls, 200, [25.0, rate], false);
            assert!((rls.get(1) / rate - 1.0).abs() < 0.2, "{rate}: {}", rls.get(1));
            assert!(rls.sd(1) < 10.0);
        }
    }

    #[test]
    fn outliers_count_little() {
        let mut rls = two();
        teach(&mut rls, 1_000, [25.0, 60.0], true);
        assert!((rls.get(1) - 60.0).abs() < 12.0 && rls.get(0) < 130.0, "{} {}", rls.get(0), rls.get(1));
    }

    #[test]
    fn a_number_that_starts_anew_keeps_the_others() {
        let mut rls = two();
        teach(&mut rls, 400, [100.0, 30.0], false);
        let rate = rls.get(1);
        rls.reset(0);
        assert_eq!((rls.get(0), rls.sd(0), rls.get(1)), (0.0, 60.0, rate));
    }

    /// One sample, step by step as the page says.
    fn by_the_page(rls: &Rls, x: &[(usize, f64)], y: f64, s: f64) -> (Vec<f64>, Vec<f64>) {
        let (n, mut theta, mut p) = (rls.len(), rls.theta.clone(), rls.p.clone());
        let e = y - rls.predict(x);
        let px: Vec<f64> = (0..n).map(|row| x.iter().map(|&(i, value)| p[row * n + i] * value).sum()).collect();
        let xpx: f64 = x.iter().map(|&(i, value)| px[i] * value).sum();
        let trust = (HUBER * s / e.abs()).min(1.0) / (s * s);
        let scale = 1.0 / (1.0 / trust + xpx);
        for i in 0..n {
            theta[i] = (theta[i] + px[i] * scale * e).clamp(rls.priors[i].low, rls.priors[i].high);
        }
        let entries = || (0..n).flat_map(|row| (0..n).map(move |column| (row, column)));
        entries().for_each(|(row, column)| p[row * n + column] -= px[row] * scale * px[column]);
        let wider =
            |i: usize| (rls.priors[i].sd.powi(2) / p[i * n + i].max(f64::MIN_POSITIVE)).clamp(1.0, FORGET).sqrt();
        let wider: Vec<f64> = (0..n).map(wider).collect();
        entries().for_each(|(row, column)| p[row * n + column] *= wider[row] * wider[column]);
        (theta, p)
    }

    proptest! {
        #[test]
        fn one_pass_learns_what_the_steps_of_the_page_do_to_the_bit(
            samples in prop::collection::vec((-9.0f64..9.0, -900.0f64..900.0, 0.1f64..90.0), 1..30),
        ) {
            let mut rls = two();
            rls.push(Prior { mean: 1.0, sd: 3.0, low: -9.0, high: 9.0 });
            for (u, y, s) in samples {
                let x = [(0, 1.0), (2, u)];
                let (theta, p) = by_the_page(&rls, &x, y, s);
                rls.learn(&x, y, s);
                prop_assert_eq!((&rls.theta, &rls.p), (&theta, &p));
            }
        }

        #[test]
        fn nothing_makes_it_leave_its_bounds_or_become_nan(
            samples in prop::collection::vec((any::<f64>(), any::<f64>(), any::<f64>()), 0..50),
        ) {
            let mut rls = two();
            for (u, y, s) in samples {
                let u = if u.is_finite() { u.clamp(-1e9, 1e9) } else { 1.0 };
                rls.learn(&[(0, 1.0), (1, u)], y, s);
                for i in 0..2 {
                    let Prior { low, high, sd, .. } = rls.priors[i];
                    prop_assert!((low..=high).contains(&rls.get(i)), "{}", rls.get(i));
                    prop_assert!(rls.sd(i) <= sd * 1.000_001, "{}", rls.sd(i));
                }
            }
        }
    }
}
