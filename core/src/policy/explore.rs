//! Exploration: a share of choices is random and logged with its odds, so that [`crate::off_policy`] can evaluate other
//! policies from the log.

use super::select::{eligible, reason, uniform};
use super::{Candidate, Selection};
use crate::rng::ChaCha8Rng;
use rand::RngExt;

/// With probability `share` any eligible candidate, each equally likely, else the policy's `choice`. Returns the probability
/// of what was chosen, too. Draws from `rng` only when `share` is above 0.
pub(crate) fn explore(
    share: f64,
    choice: Selection,
    candidates: &[Candidate],
    rng: &mut ChaCha8Rng,
) -> (Selection, f64) {
    if share <= 0.0 || choice.chosen.is_none() {
        return (choice, 1.0);
    }
    let explores = rng.random::<f64>() < share;
    let made = if explores { Selection::fallback(uniform(candidates, rng), reason::EXPLORED) } else { choice };
    let random = share / eligible(candidates).count().max(1) as f64;
    (made, if made.chosen == choice.chosen { 1.0 - share + random } else { random })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Exclusion;
    use crate::policy::select::tests::fleet;
    use crate::rng::stream;

    #[test]
    fn the_odds_are_the_frequencies() {
        let mut fleet = fleet(4);
        fleet[3].excluded = Some(Exclusion::Full);
        let (mut rng, mut counts, mut odds) = (stream(1, "policy", 0), [0u32; 4], [0.0; 4]);
        for _ in 0..30_000 {
            let (made, p) = explore(0.3, Selection::own(Some(1)), &fleet, &mut rng);
            let i = made.chosen.unwrap();
            (counts[i], odds[i]) = (counts[i] + 1, p);
        }
        assert_eq!((counts[3], odds[3]), (0, 0.0));
        assert!((odds.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        for i in 0..3 {
            assert!((f64::from(counts[i]) / 30_000.0 - odds[i]).abs() < 0.01, "{counts:?} {odds:?}");
        }
    }

    #[test]
    fn without_a_share_nothing_is_drawn() {
        let (fleet, mut rng) = (fleet(2), stream(1, "policy", 0));
        let choice = Selection::fallback(Some(1), "x");
        assert_eq!(explore(0.0, choice, &fleet, &mut rng), (choice, 1.0));
        assert_eq!(rng.random::<u64>(), stream(1, "policy", 0).random::<u64>());
    }
}
