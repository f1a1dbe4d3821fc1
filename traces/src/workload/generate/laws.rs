//! Published distributions of WildChat traffic, and stratified sampling from them.
//!
//! Figures: turns over 529,428 conversations of the first release; first user messages of 68,667 American English
//! conversations, near-duplicates removed; later user messages and answers of 568 conversations (Mistral tokens);
//! hours from 524 local times. Sources are in `DATA.md`.

use gorgo_core::rng::ChaCha8Rng;
use rand::RngExt;
use rand::seq::SliceRandom;

/// P(turns >= n) for n = 1, 2, ...: six published anchors, log-linear between them.
pub(crate) const TURN_SURVIVAL: [f64; 52] = [
    1.0, 0.4211, 0.2619, 0.18043, 0.1243, 0.09179, 0.06779, 0.05006, 0.03697, 0.0273, 0.02124, 0.01652, 0.01285, 0.01,
    0.0082, 0.00672, 0.00551, 0.00452, 0.00371, 0.00304, 0.00249, 0.00204, 0.00168, 0.00137, 0.00113, 0.00092, 0.00076,
    0.00062, 0.00051, 0.00042, 0.00034, 0.00028, 0.00023, 0.00019, 0.00015, 0.00013, 0.0001, 9e-5, 7e-5, 6e-5, 5e-5,
    4e-5, 3e-5, 3e-5, 2e-5, 2e-5, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5,
];

/// Relative rate of conversations per local hour of the user.
pub(crate) const HOURS: [f64; 24] = [
    0.99, 0.82, 0.65, 0.5, 0.4, 0.36, 0.39, 0.48, 0.62, 0.79, 0.97, 1.12, 1.24, 1.32, 1.37, 1.39, 1.39, 1.39, 1.39,
    1.38, 1.36, 1.32, 1.25, 1.13,
];

/// A quantile table; lengths between its points are interpolated in the logarithm.
#[derive(Debug)]
pub(crate) struct Quantiles(&'static [(f64, f64)]);

/// First user message, tokens. The table is used directly, because the published two-lognormal fit misses the 95th
/// percentile by 17 %. The ends (1 and 12,000) are chosen so that the mean comes near the published 251.8.
pub(crate) const FIRST_USER: Quantiles = Quantiles(&[
    (0.0, 2.0),
    (0.25, 16.0),
    (0.5, 39.0),
    (0.75, 160.0),
    (0.9, 716.0),
    (0.95, 955.0),
    (0.99, 2_750.0),
    (1.0, 12_000.0),
]);
/// Later user messages, tokens; mean 159.
pub(crate) const LATER_USER: Quantiles = Quantiles(&[
    (0.0, 1.0),
    (0.05, 5.0),
    (0.1, 7.0),
    (0.25, 11.0),
    (0.5, 23.0),
    (0.75, 61.0),
    (0.9, 263.0),
    (0.95, 935.0),
    (0.99, 2_164.0),
    (1.0, 6_000.0),
]);
/// Answers, tokens; mean 401.
pub(crate) const ANSWER: Quantiles = Quantiles(&[
    (0.0, 4.0),
    (0.05, 21.0),
    (0.1, 51.0),
    (0.25, 141.0),
    (0.5, 331.0),
    (0.75, 591.0),
    (0.9, 797.0),
    (0.95, 983.0),
    (0.99, 1_513.0),
    (1.0, 3_000.0),
]);

impl Quantiles {
    /// The length at quantile `u` in [0, 1], at least 1 token.
    pub(crate) fn at(&self, u: f64) -> u32 {
        let above = self.0.iter().position(|&(p, _)| p > u).unwrap_or(self.0.len() - 1).max(1);
        let ((p0, x0), (p1, x1)) = (self.0[above - 1], self.0[above]);
        let part = ((u - p0) / (p1 - p0)).clamp(0.0, 1.0);
        (x0.ln() + (x1.ln() - x0.ln()) * part).exp().round().max(1.0) as u32
    }

    /// `n` stratified draws: one from each n-th part of the distribution, in random order, so that even a short trace
    /// has the published quantiles.
    pub(crate) fn draw(&self, n: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
        strata(n, rng).into_iter().map(|u| self.at(u)).collect()
    }
}

/// One uniform number from each n-th part of [0, 1), shuffled.
pub(crate) fn strata(n: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let mut u: Vec<f64> = (0..n).map(|i| (i as f64 + rng.random::<f64>()) / n as f64).collect();
    u.shuffle(rng);
    u
}

/// Number of turns of a conversation at quantile `u`.
pub(crate) fn turns_at(u: f64) -> u32 {
    TURN_SURVIVAL.iter().take_while(|&&s| s > 1.0 - u).count().max(1) as u32
}

/// Mean number of turns: the sum of the survival function.
pub(crate) fn mean_turns() -> f64 {
    TURN_SURVIVAL.iter().sum()
}

/// Divides `n` by shares: quotas by the largest-remainder method.
pub(crate) fn quotas(n: usize, shares: &[f64]) -> Vec<usize> {
    let mut counts: Vec<usize> = shares.iter().map(|s| (s * n as f64) as usize).collect();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    let rest = |i: &usize| shares[*i] * n as f64 - counts[*i] as f64;
    order.sort_by(|a, b| rest(b).total_cmp(&rest(a)));
    let left = n.saturating_sub(counts.iter().sum());
    for &i in order.iter().cycle().take(left) {
        counts[i] += 1;
    }
    counts
}

/// Zipf weights of `n` ranks as running sums that end at 1.
pub(crate) fn zipf(n: usize, exponent: f64) -> Vec<f64> {
    let mut sum = 0.0;
    let mut running: Vec<f64> = (1..=n)
        .map(|k| {
            sum += (k as f64).powf(-exponent);
            sum
        })
        .collect();
    running.iter_mut().for_each(|w| *w /= sum);
    running
}

/// The rank at `u` of running sums.
pub(crate) fn rank_at(running: &[f64], u: f64) -> usize {
    running.partition_point(|&w| w <= u).min(running.len().saturating_sub(1))
}

/// The fraction of a span of `days` days, starting at UTC hour `start`, after which the fraction `u` of a country's
/// conversations has started.
pub(crate) fn part_of_span(u: f64, start: f64, offset_h: f64, days: f64) -> f64 {
    const STEPS: usize = 240;
    let rate = |i: usize| {
        let hour = (start + offset_h + (i as f64 + 0.5) / STEPS as f64 * days * 24.0).rem_euclid(24.0);
        HOURS[(hour as usize).min(23)]
    };
    let total: f64 = (0..STEPS).map(rate).sum();
    let mut left = u * total;
    for i in 0..STEPS {
        if left < rate(i) {
            return (i as f64 + left / rate(i)) / STEPS as f64;
        }
        left -= rate(i);
    }
    1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_core::rng::stream;

    #[test]
    fn tables_give_back_their_own_quantiles() {
        for (table, p, x) in
            [(&FIRST_USER, 0.5, 39), (&FIRST_USER, 0.95, 955), (&LATER_USER, 0.5, 23), (&ANSWER, 0.95, 983)]
        {
            assert_eq!(table.at(p), x);
        }
        assert_eq!((ANSWER.at(0.0), ANSWER.at(1.0)), (4, 3_000));
        assert_eq!((turns_at(0.0), turns_at(0.57), turns_at(0.58)), (1, 1, 2));
    }

    #[test]
    fn quotas_are_exact() {
        assert_eq!(quotas(10, &[0.55, 0.25, 0.2]), [6, 2, 2]);
        assert_eq!(quotas(1, &[0.3, 0.7]).iter().sum::<usize>(), 1);
        assert_eq!(quotas(0, &[1.0]), [0]);
    }

    #[test]
    fn strata_hit_every_part_once() {
        let mut u = strata(100, &mut stream(1, "t", 0));
        u.sort_by(f64::total_cmp);
        assert!(u.iter().enumerate().all(|(i, &u)| (u * 100.0) as usize == i));
    }

    #[test]
    fn nights_are_quiet() {
        // A day that starts at local midnight: its first quarter brings well below a quarter of the traffic.
        let sixth_hour = part_of_span(0.155, 0.0, 0.0, 1.0) * 24.0;
        assert!((5.5..6.5).contains(&sixth_hour), "{sixth_hour}");
        assert_eq!(part_of_span(1.0, 3.0, 8.0, 0.5), 1.0);
    }
}
