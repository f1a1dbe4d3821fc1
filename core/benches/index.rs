//! Prefix lookup and insert against prompt length, held prompts and replicas, over the block ids that routers use.
//!
//! `cargo bench -p gorgo-core --bench index`. A block id stands for 64 bytes of prompt text, as in the live router: 80 kB
//! are 1,250 ids. For comparison the same run measures another design: one tree a replica, searched one by one.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use gorgo_core::ReplicaId;
use gorgo_core::prefix::PrefixIndex;
use gorgo_core::rng::stream;
use rand::Rng;
use std::hint::black_box;

/// Bytes of prompt text a block id stands for.
const BLOCK: usize = 64;

/// Block ids of `len` bytes of text.
fn blocks_of(seed: u64, len: usize) -> Vec<u64> {
    let mut rng = stream(seed, "bench", 0);
    (0..len / BLOCK).map(|_| rng.next_u64()).collect()
}

/// A prompt of `len` bytes: one of 50 system prompts (3/4 of the length), then a tail of its own.
fn prompt(i: usize, len: usize) -> Vec<u64> {
    let mut ids = blocks_of((i % 50) as u64, len * 3 / 4);
    ids.extend(blocks_of(1_000 + i as u64, len - ids.len() * BLOCK));
    ids
}

/// An index that holds `held` prompts. All but 500 have tails of 4 blocks, to bound the memory of the benchmark.
fn filled(held: usize, len: usize, replicas: u16) -> PrefixIndex<u64> {
    let mut index = PrefixIndex::new(None, u64::MAX, usize::MAX);
    for i in 0..held {
        let mut ids = prompt(i, len);
        if i >= 500 {
            ids.truncate(len * 3 / 4 / BLOCK + 4);
        }
        index.insert(&ids, (ids.len() * BLOCK / 4) as u32, ReplicaId(i as u16 % replicas));
    }
    index
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup");
    let base = (80_000, 100_000, 16);
    let points = [base, (8_000, 100_000, 16), (400_000, 1_000, 16), (80_000, 1_000, 16), (80_000, 10_000, 16)];
    for (len, held, replicas) in points.into_iter().chain([1, 64, 256].map(|r| (80_000, 10_000, r))) {
        let index = filled(held, len, replicas);
        let probes: Vec<Vec<u64>> = (0..64).map(|i| prompt(i * 7 % 500, len)).collect();
        let mut matched = vec![0; usize::from(replicas)];
        let mut next = 0;
        let id = format!("{} kB, {held} held, {replicas} replicas", len / 1000);
        group.bench_function(BenchmarkId::from_parameter(id), |b| {
            b.iter(|| {
                next = (next + 1) % probes.len();
                index.lookup(&probes[next], &mut matched);
                black_box(matched[0])
            });
        });
    }
    let trees: Vec<_> = (0..16).map(|_| filled(1_000, 80_000, 1)).collect();
    let probe = prompt(3, 80_000);
    group.bench_function("for comparison: 16 separate trees, 80 kB, 1000 held", |b| {
        let mut matched = [0];
        b.iter(|| {
            for tree in &trees {
                tree.lookup(black_box(&probe), &mut matched);
            }
            black_box(matched[0])
        });
    });
    group.finish();
}

fn insert(c: &mut Criterion) {
    let mut group = c.benchmark_group("insert");
    for (len, held) in [(80_000, 100_000), (8_000, 100_000), (80_000, 1_000)] {
        let mut index = filled(held, len, 16);
        // From here on each insert pays for the eviction of what it displaces.
        for r in 0..16 {
            index.set_budget(ReplicaId(r), index.tokens(ReplicaId(r)));
        }
        let mut fresh: Vec<Vec<u64>> = (0..64).map(|i| prompt(500_000 + i, len)).collect();
        let mut n = 0u64;
        group.bench_function(format!("{} kB, {held} held, quarter new, with eviction", len / 1000), |b| {
            b.iter(|| {
                n += 1;
                let slot = n as usize % fresh.len();
                let ids = &mut fresh[slot];
                ids[len * 3 / 4 / BLOCK + 1] = n;
                index.insert(ids, len as u32 / 4, ReplicaId((n % 16) as u16));
            });
        });
    }
    group.finish();
}

fn blocks(c: &mut Criterion) {
    // The simulator's case: a prompt of 12,000 tokens as 24 block ids.
    let mut index: PrefixIndex<u64> = PrefixIndex::new(Some(512), 400_000, usize::MAX);
    let chain =
        |i: u64| -> Vec<u64> { (0..24).map(|b| if b < 12 { (i % 200) << 8 | b } else { i << 20 | b }).collect() };
    for i in 0..10_000 {
        index.insert(&chain(i), 24 * 512, ReplicaId((i % 3) as u16));
    }
    let mut matched = [0; 3];
    let mut i = 0;
    c.bench_function("24 blocks: lookup and insert, 3 replicas", |b| {
        b.iter(|| {
            i += 1;
            let key = chain(i);
            index.lookup(&key, &mut matched);
            index.insert(&key, 24 * 512, ReplicaId((i % 3) as u16));
            black_box(matched[0])
        });
    });
}

criterion_group!(benches, lookup, insert, blocks);
criterion_main!(benches);
