//! Selection among candidates, shared by all policies. No function here returns an excluded candidate.

use super::{Candidate, CostTerms, EngineView};
use crate::rng::ChaCha8Rng;
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Reasons why a fallback decided instead of the policy's own rule.
pub mod reason {
    /// No candidate has the engine report the rule needs: one at random.
    pub const EMPTY_CANDIDATES: &str = "empty-candidates";
    /// No candidate holds (enough of) the prompt.
    pub const NO_PREFIX: &str = "no-prefix";
    /// The prompt is empty.
    pub const NO_PROMPT: &str = "no-prompt";
    /// The caller has no session.
    pub const NO_SESSION: &str = "no-session";
    /// The loads are too unequal to look at caches.
    pub const IMBALANCE: &str = "imbalance";
    /// The router explored: one at random, see `router.explore`.
    pub const EXPLORED: &str = "explored";
    /// No replica has an empty queue.
    pub const NONE_FREE: &str = "none-free";
    /// The predicted TTFT exceeds the objective.
    pub const OVER_SLO: &str = "over-slo";
    /// The replica that owns the key is excluded.
    pub const OWNER_EXCLUDED: &str = "owner-excluded";
}

/// Unit of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Prompt tokens.
    #[default]
    Tokens,
    /// Requests.
    Requests,
}

/// Source of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Signal {
    /// The router's own live counters.
    #[default]
    Own,
    /// The engine's last report, corrected by the router's own counters.
    Engine,
    /// The engine's last report alone, as in a load balancer that only polls.
    Gauges,
}

/// The load of a candidate; `None` if it needs an engine report that was never scraped.
///
/// | | `own` | `engine` | `gauges` |
/// |---|---|---|---|
/// | `tokens` | W + D | running + queued + K + W + D | running + queued + K |
/// | `requests` | requests | max(running + queued, requests) | running + queued |
pub(crate) fn load(candidate: &Candidate, unit: Unit, signal: Signal) -> Option<f64> {
    let own = match unit {
        Unit::Tokens => candidate.tokens() as f64,
        Unit::Requests => f64::from(candidate.requests()),
    };
    Some(match (signal, unit) {
        (Signal::Own, _) => own,
        (Signal::Engine, Unit::Tokens) => own + reported(&candidate.engine?),
        (Signal::Engine, Unit::Requests) => own.max(requests(&candidate.engine?)),
        (Signal::Gauges, Unit::Tokens) => reported(&candidate.engine?),
        (Signal::Gauges, Unit::Requests) => requests(&candidate.engine?),
    })
}

fn requests(engine: &EngineView) -> f64 {
    f64::from(engine.running) + f64::from(engine.queued)
}

/// running + queued + K: a sum of requests and tokens, as the recorded baseline computes it.
pub(crate) fn reported(engine: &EngineView) -> f64 {
    f64::from(engine.running) + f64::from(engine.queued) + engine.used_tokens as f64
}

/// Requests at a candidate: the greater of the engine's report and this router's own count. The report may be old, and
/// other routers may use the engine, so each corrects the other.
pub(crate) fn busy(candidate: &Candidate) -> u32 {
    candidate.requests().max(candidate.engine.map_or(0, |engine| engine.running))
}

/// Writes the terms of every candidate, excluded ones included: records show them all.
pub(crate) fn fill(candidates: &[Candidate], terms: &mut [CostTerms], mut cost: impl FnMut(&Candidate) -> CostTerms) {
    for (candidate, terms) in candidates.iter().zip(terms) {
        *terms = cost(candidate);
    }
}

/// Sets the totals of every candidate, for scores of one part.
pub(crate) fn totals(candidates: &[Candidate], terms: &mut [CostTerms], mut total: impl FnMut(&Candidate) -> f64) {
    fill(candidates, terms, |candidate| CostTerms { total: total(candidate), ..CostTerms::default() });
}

/// Candidates that may be chosen, with their index.
pub(crate) fn eligible(candidates: &[Candidate]) -> impl Iterator<Item = (usize, &Candidate)> + Clone {
    candidates.iter().enumerate().filter(|(_, candidate)| candidate.excluded.is_none())
}

/// Index of the lexicographically least key among eligible candidates; `None` as a key leaves a candidate out.
/// Exact ties at random, NaN after every number.
pub(crate) fn least_of<const N: usize>(
    candidates: &[Candidate],
    rng: &mut ChaCha8Rng,
    mut key: impl FnMut(usize, &Candidate) -> Option<[f64; N]>,
) -> Option<usize> {
    let mut best: Option<([f64; N], usize)> = None;
    let mut ties = 0u32;
    for (i, candidate) in eligible(candidates) {
        let Some(value) = key(i, candidate).map(|parts| parts.map(sortable)) else { continue };
        match best.map_or(Ordering::Less, |(least, _)| compare(&value, &least)) {
            Ordering::Greater => {}
            Ordering::Less => {
                best = Some((value, i));
                ties = 0;
            }
            Ordering::Equal => {
                // Reservoir: the k-th of k equals wins with probability 1/k.
                ties += 1;
                if rng.random_range(0..=ties) == 0 {
                    best = Some((value, i));
                }
            }
        }
    }
    best.map(|(_, i)| i)
}

/// Makes `total_cmp` the order of numbers: -0 ties with 0, and every NaN (whatever its sign) comes last.
fn sortable(value: f64) -> f64 {
    if value.is_nan() { f64::NAN.copysign(1.0) } else { value + 0.0 }
}

fn compare<const N: usize>(a: &[f64; N], b: &[f64; N]) -> Ordering {
    a.iter().zip(b).map(|(x, y)| x.total_cmp(y)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// Any eligible candidate, each equally likely.
pub(crate) fn uniform(candidates: &[Candidate], rng: &mut ChaCha8Rng) -> Option<usize> {
    let count = eligible(candidates).count();
    if count == 0 {
        return None;
    }
    eligible(candidates).nth(rng.random_range(0..count)).map(|(i, _)| i)
}

/// An eligible candidate with probability proportional to `exp(-(cost - min) / (max - min) / temperature)`, all equal
/// when max = min; `None` as a cost leaves a candidate out.
pub(crate) fn softmax(
    candidates: &[Candidate],
    temperature: f64,
    rng: &mut ChaCha8Rng,
    cost: impl Fn(usize, &Candidate) -> Option<f64>,
) -> Option<usize> {
    let costs = eligible(candidates).filter_map(|(i, candidate)| Some((i, cost(i, candidate)?)));
    let (min, max) =
        costs.clone().fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), (_, cost)| (min.min(cost), max.max(cost)));
    let odds = |cost: f64| {
        let scaled = if max > min { (cost - min) / (max - min) } else { 0.0 };
        (-scaled / temperature).exp()
    };
    let sum: f64 = costs.clone().map(|(_, cost)| odds(cost)).sum();
    let mut left = rng.random::<f64>() * sum;
    let mut last = None;
    for (i, cost) in costs {
        let odds = odds(cost);
        if odds > 0.0 {
            last = Some(i);
            left -= odds;
        }
        if left < 0.0 {
            break;
        }
    }
    last
}

/// Two distinct numbers below `count` (at least 2), each ordered pair equally likely.
pub(crate) fn two_of(count: usize, rng: &mut ChaCha8Rng) -> (usize, usize) {
    let first = rng.random_range(0..count);
    let second = rng.random_range(0..count - 1);
    (first, second + usize::from(second >= first))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ReplicaId;
    use crate::fleet::{Learned, Load};
    use crate::network::Path;
    use crate::policy::{Exclusion, least};
    use crate::rng::stream;

    /// An idle, healthy, never scraped replica.
    pub(crate) fn idle(id: u16) -> Candidate {
        Candidate {
            id: ReplicaId(id),
            excluded: None,
            rtt_ms: 0.0,
            path: Path::default(),
            packed_bytes: None,
            cached_tokens: 0,
            load: Load::default(),
            engine: None,
            ms_per_token: None,
            egress_ms: 0.0,
            learned: Learned::default(),
            digest: None,
            truth: None,
        }
    }

    /// `count` idle replicas.
    pub(crate) fn fleet(count: u16) -> Vec<Candidate> {
        (0..count).map(idle).collect()
    }

    #[test]
    fn nan_of_either_sign_loses_to_infinity() {
        let fleet = fleet(3);
        for nan in [f64::NAN.copysign(1.0), f64::NAN.copysign(-1.0)] {
            let keys = [nan, f64::INFINITY, nan];
            assert_eq!(least(&fleet, &mut stream(1, "policy", 0), |i, _| keys[i]), Some(1));
        }
    }

    #[test]
    fn exact_ties_are_shared_evenly_and_excluded_candidates_get_nothing() {
        let mut fleet = fleet(4);
        fleet[2].excluded = Some(Exclusion::Draining);
        let mut rng = stream(1, "policy", 0);
        let (mut by_key, mut by_draw) = ([0u32; 4], [0u32; 4]);
        for _ in 0..3000 {
            by_key[least(&fleet, &mut rng, |i, _| if i == 0 { -0.0 } else { 0.0 }).unwrap()] += 1;
            by_draw[uniform(&fleet, &mut rng).unwrap()] += 1;
        }
        for counts in [by_key, by_draw] {
            assert_eq!(counts[2], 0);
            assert!([0, 1, 3].iter().all(|&i| (900..1100).contains(&counts[i])), "{counts:?}");
        }
    }

    #[test]
    fn two_of_draws_every_ordered_pair_and_never_a_double() {
        let mut rng = stream(1, "policy", 0);
        let mut seen = [[0u32; 3]; 3];
        for _ in 0..600 {
            let (a, b) = two_of(3, &mut rng);
            seen[a][b] += 1;
        }
        for (a, row) in seen.iter().enumerate() {
            for (b, &count) in row.iter().enumerate() {
                assert_eq!(count == 0, a == b, "{seen:?}");
            }
        }
    }

    #[test]
    fn loads_follow_their_table() {
        let mut c = idle(0);
        (c.load.waiting_requests, c.load.waiting_tokens, c.load.running_requests, c.load.running_tokens) =
            (1, 900, 3, 15_000);
        assert_eq!(load(&c, Unit::Tokens, Signal::Own), Some(15_900.0));
        assert_eq!(load(&c, Unit::Requests, Signal::Own), Some(4.0));
        assert_eq!(load(&c, Unit::Tokens, Signal::Engine), None);
        c.engine = Some(EngineView { running: 5, queued: 2, used_tokens: 48_000, ..EngineView::default() });
        assert_eq!(load(&c, Unit::Tokens, Signal::Engine), Some(63_907.0));
        assert_eq!(load(&c, Unit::Requests, Signal::Engine), Some(7.0));
        assert_eq!(load(&c, Unit::Tokens, Signal::Gauges), Some(48_007.0));
        assert_eq!(load(&c, Unit::Requests, Signal::Gauges), Some(7.0));
        assert_eq!(busy(&c), 5);
    }
}
