//! Time of one decision of every policy over 3, 16 and 64 candidates.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use gorgo_core::ReplicaId;
use gorgo_core::fleet::{Learned, Load};
use gorgo_core::network::Path;
use gorgo_core::policy::{Candidate, CostTerms, EngineView, PolicyConfig, RequestInfo};
use gorgo_core::rng::stream;
use rand::RngExt;
use std::hint::black_box;

fn fleet(count: u16) -> Vec<Candidate> {
    let mut rng = stream(1, "bench", 0);
    (0..count)
        .map(|slot| Candidate {
            id: ReplicaId(slot),
            excluded: None,
            rtt_ms: rng.random_range(1.0..400.0),
            path: Path { rounds: f64::from(rng.random_range(1..6u8)), opening: 0.0 },
            packed_bytes: None,
            cached_tokens: rng.random_range(0..8000),
            load: Load {
                waiting_requests: rng.random_range(0..8),
                waiting_tokens: rng.random_range(0..30_000),
                waiting_uncached_tokens: rng.random_range(0..9000),
                running_requests: rng.random_range(0..8),
                running_tokens: rng.random_range(0..80_000),
            },
            engine: Some(EngineView {
                running: rng.random_range(0..8),
                queued: 0,
                used_tokens: 40_000,
                kv_tokens: 400_000,
                age_ms: 900.0,
            }),
            ms_per_token: None,
            egress_ms: 0.0,
            learned: Learned::default(),
            digest: None,
            truth: None,
        })
        .collect()
}

fn decisions(c: &mut Criterion) {
    let request = RequestInfo { prompt_tokens: 8000, bytes: 32_000, session: 77, head: 99, counted: true };
    let mut group = c.benchmark_group("decision");
    for name in PolicyConfig::names() {
        for count in [3u16, 16, 64] {
            let fleet = fleet(count);
            let mut policy = PolicyConfig::parse(name, serde_json::Map::new()).expect("a known policy").build();
            let (mut rng, mut terms) = (stream(1, "policy", 0), vec![CostTerms::default(); fleet.len()]);
            group.bench_function(BenchmarkId::new(*name, count), |b| {
                b.iter(|| {
                    terms.fill(CostTerms::default());
                    policy.choose(black_box(&request), black_box(&fleet), &mut terms, &mut rng)
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(50)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600));
    targets = decisions
}
criterion_main!(benches);
