//! Laws that hold for every policy, on any input.

use gorgo_core::fleet::{Learned, Load};
use gorgo_core::network::Path;
use gorgo_core::policy::{Candidate, CostTerms, EngineView, Exclusion, PolicyConfig, RequestInfo, Selection};
use gorgo_core::rng::stream;
use gorgo_core::{ReplicaId, ReplicaSet};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Every policy with its defaults, and those settings that take another path.
fn configs() -> Vec<PolicyConfig> {
    let plain = PolicyConfig::names().iter().map(|name| (*name, json!({})));
    let other = [
        ("gorgo", json!({"preset": "paper-v1", "tie_band": 100.0})),
        ("gorgo", json!({"preset": "physical"})),
        ("prefix-tree", json!({"min_match": 0.5, "unit": "requests"})),
        ("least-load", json!({"signal": "engine"})),
        ("least-load", json!({"signal": "engine", "unit": "requests"})),
        ("power-of-two", json!({"signal": "engine"})),
        ("prefix-cache", json!({"stdev_factor": 0.5})),
        ("kv-cost", json!({"temperature": 0.7, "active_weight": 2.0})),
        ("smetric", json!({"attention_crossover_tokens": 6923, "slack": 0.1})),
        ("smg-cache-aware", json!({"temperature": 0.5, "overlap_decay": 1.0})),
        ("dualmap", json!({"slo_ms": 0})),
        ("preble", json!({"window": 1, "rebalance": 1})),
        ("stargate", json!({"samples": 1, "affinity_replicas": 2, "max_concurrency": 4})),
    ];
    plain
        .chain(other)
        .map(|(name, settings)| {
            let settings: Map<String, Value> = serde_json::from_value(settings).unwrap();
            PolicyConfig::parse(name, settings).unwrap()
        })
        .collect()
}

fn exclusion() -> impl Strategy<Value = Option<Exclusion>> {
    prop_oneof![
        3 => Just(None),
        1 => prop_oneof![Just(Exclusion::Unhealthy), Just(Exclusion::Draining), Just(Exclusion::Full)].prop_map(Some),
    ]
}

/// Any candidate; with `wild`, the numbers are the worst there are.
fn candidate(wild: bool) -> impl Strategy<Value = Candidate> {
    let (tokens, counts) = if wild { (u64::MAX, u32::MAX) } else { (1 << 40, 1 << 20) };
    let float = move |most: f64| {
        let normal = 0.0..most;
        if wild {
            prop_oneof![
                4 => normal,
                1 => prop_oneof![Just(f64::NAN), Just(-f64::NAN), Just(f64::INFINITY), Just(-1.0), Just(f64::MAX)]
            ]
            .boxed()
        } else {
            normal.boxed()
        }
    };
    let count = move || prop_oneof![Just(0), 0..=counts, Just(counts)];
    let token = move || prop_oneof![Just(0), 0..=tokens, Just(tokens)];
    let engine = prop::option::of((count(), count(), token(), float(1e6)));
    let own = (count(), token(), token(), count(), token());
    (exclusion(), float(2000.0), (float(64.0), float(2.0)), count(), own, engine, prop::option::of(float(1.0)))
        .prop_map(|(excluded, rtt_ms, path, cached_tokens, own, engine, ms_per_token)| Candidate {
            id: ReplicaId(0),
            excluded,
            rtt_ms,
            path: Path { rounds: path.0, opening: path.1 },
            packed_bytes: None,
            cached_tokens,
            load: Load {
                waiting_requests: own.0,
                waiting_tokens: own.1,
                waiting_uncached_tokens: own.2,
                running_requests: own.3,
                running_tokens: own.4,
            },
            engine: engine.map(|(running, queued, used_tokens, age_ms)| EngineView {
                running,
                queued,
                used_tokens,
                kv_tokens: used_tokens / 2,
                age_ms,
            }),
            ms_per_token,
            egress_ms: rtt_ms / 2.0,
            learned: Learned::default(),
            digest: None,
            truth: None,
        })
}

fn fleet(wild: bool) -> impl Strategy<Value = Vec<Candidate>> {
    prop::collection::vec(candidate(wild), 0..9).prop_map(|mut fleet| {
        for (slot, candidate) in (0u16..).zip(&mut fleet) {
            candidate.id = ReplicaId(slot * 7);
        }
        fleet
    })
}

fn request() -> impl Strategy<Value = RequestInfo> {
    let key = || prop_oneof![Just(0u64), any::<u64>()];
    let tokens = prop_oneof![Just(0u32), Just(1), 0..30_000u32, Just(u32::MAX)];
    (tokens, key(), key()).prop_map(|(prompt_tokens, session, head)| RequestInfo {
        prompt_tokens,
        bytes: 4 * u64::from(prompt_tokens),
        session,
        head,
        counted: false,
    })
}

/// Three decisions in a row, so that a policy's state counts too.
fn decide(
    config: &PolicyConfig,
    request: &RequestInfo,
    fleet: &[Candidate],
    seed: u64,
) -> Vec<(Selection, Vec<CostTerms>)> {
    let (mut policy, mut rng) = (config.build(), stream(seed, "policy", 0));
    (0..3)
        .map(|_| {
            let mut terms = vec![CostTerms::default(); fleet.len()];
            (policy.choose(request, fleet, &mut terms, &mut rng), terms)
        })
        .collect()
}

/// Bits, so that NaN equals itself.
fn bits(terms: &[CostTerms]) -> Vec<[u64; 5]> {
    terms.iter().map(|t| [t.network, t.prefill, t.waiting, t.running, t.total].map(f64::to_bits)).collect()
}

proptest! {
    #[test]
    fn whatever_the_numbers_an_eligible_candidate_is_chosen_if_there_is_one(
        fleet in fleet(true), request in request(), seed: u64
    ) {
        let any = fleet.iter().any(|candidate| candidate.excluded.is_none());
        for config in configs() {
            for (choice, _) in decide(&config, &request, &fleet, seed) {
                prop_assert_eq!(choice.chosen.is_some(), any, "{:?}", config);
                if let Some(i) = choice.chosen {
                    prop_assert_eq!(fleet[i].excluded, None, "{:?}", config);
                }
            }
        }
    }

    #[test]
    fn equal_seeds_make_equal_choices_and_equal_terms(fleet in fleet(true), request in request(), seed: u64) {
        for config in configs() {
            let (one, two) = (decide(&config, &request, &fleet, seed), decide(&config, &request, &fleet, seed));
            for ((choice, terms), (again, more)) in one.iter().zip(&two) {
                prop_assert_eq!(choice, again);
                prop_assert_eq!(bits(terms), bits(more));
            }
        }
    }

    #[test]
    fn finite_inputs_have_finite_terms_of_0_or_more(fleet in fleet(false), request in request()) {
        for config in configs() {
            for (_, terms) in decide(&config, &request, &fleet, 1) {
                for t in terms {
                    let all = [t.network, t.prefill, t.waiting, t.running, t.total];
                    prop_assert!(all.iter().all(|x| x.is_finite() && *x >= 0.0), "{:?}: {:?}", config, t);
                }
            }
        }
    }

    #[test]
    fn without_ties_and_draws_the_order_of_candidates_does_not_matter(
        mut fleet in fleet(false), request in request(), shift in 0usize..9
    ) {
        // Distinct loads, counts and round trips everywhere: no tie is left to the generator.
        for (i, candidate) in fleet.iter_mut().enumerate() {
            candidate.rtt_ms = 10.0 + 3.0 * i as f64;
            candidate.load.running_requests = 100 + (i as u32 * 5) % 9;
            candidate.load.waiting_requests = 0;
            candidate.load.running_tokens = 1000 + i as u64;
            candidate.engine = None;
        }
        let mut turned = fleet.clone();
        turned.rotate_left(shift % fleet.len().max(1));
        let drawn = ["random", "power-of-two", "stargate"];
        for name in PolicyConfig::names().iter().filter(|name| !drawn.contains(name)) {
            let config = PolicyConfig::parse(name, Map::new()).unwrap();
            let request = RequestInfo { session: request.session.max(1), head: request.head.max(1), ..request };
            let ids = |fleet: &[Candidate]| -> Vec<_> {
                decide(&config, &request, fleet, 1).iter().map(|(choice, _)| choice.chosen.map(|i| fleet[i].id)).collect()
            };
            prop_assert_eq!(ids(&fleet), ids(&turned), "{}", name);
        }
    }

    #[test]
    fn round_robin_serves_every_eligible_replica_once_a_round(fleet in fleet(false)) {
        let mut policy = PolicyConfig::parse("round-robin", Map::new()).unwrap().build();
        let mut rng = stream(1, "policy", 0);
        let mut terms = vec![CostTerms::default(); fleet.len()];
        let eligible = fleet.iter().filter(|candidate| candidate.excluded.is_none()).count();
        let mut served = ReplicaSet::EMPTY;
        for _ in 0..eligible {
            let i = policy.choose(&RequestInfo::default(), &fleet, &mut terms, &mut rng).chosen.unwrap();
            prop_assert!(served.insert(fleet[i].id));
        }
    }

    #[test]
    fn policies_that_do_not_read_learned_rates_choose_the_same_whatever_they_are(
        fleet in fleet(false), request in request(), seed: u64, rate in 0.001..1.0f64, step in 0.1..90.0f64
    ) {
        let mut other = fleet.clone();
        for candidate in &mut other {
            let rates = Learned { ms_per_token: rate, step_ms: step, kappa: 0.3, offset_ms: 9.0, ..Learned::default() };
            candidate.learned = rates;
        }
        for config in configs().iter().filter(|config| !PolicyConfig::reads_learned(config.name())) {
            let (one, two) = (decide(config, &request, &fleet, seed), decide(config, &request, &other, seed));
            for ((choice, terms), (again, more)) in one.iter().zip(&two) {
                prop_assert_eq!(choice, again, "{:?}", config);
                prop_assert_eq!(bits(terms), bits(more), "{:?}", config);
            }
        }
    }
}
