//! Prefix lookup and insert against prompt length, held prompts and replicas.
//!
//! `cargo bench -p gorgo-core --bench index`. The peer in the same run is the obvious other design: one tree a
//! replica, walked one after the other.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use gorgo_core::ReplicaId;
use gorgo_core::prefix::PrefixIndex;
use gorgo_core::rng::stream;
use rand::Rng;
use std::hint::black_box;

/// Text-like bytes: reproducible and without long repeats.
fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream(seed, "bench", 0).fill_bytes(&mut bytes);
    bytes.iter_mut().for_each(|b| *b = b' ' + (*b & 63));
    bytes
}

/// Prompts of `len` bytes: one of 50 system prompts (3/4 of the length), then a tail of its own.
fn prompt(i: usize, len: usize) -> Vec<u8> {
    let mut bytes = text((i % 50) as u64, len * 3 / 4);
    bytes.extend(text(1_000 + i as u64, len - bytes.len()));
    bytes
}

/// An index that holds `held` prompts. All but 500 have short tails, or 100,000 of 80 kB would be 2 GB of text.
fn filled(held: usize, len: usize, replicas: u16) -> PrefixIndex<u8> {
    let mut index = PrefixIndex::new(None, u64::MAX, usize::MAX);
    for i in 0..held {
        let mut bytes = prompt(i, len);
        if i >= 500 {
            bytes.truncate(len * 3 / 4 + 200);
        }
        index.insert(&bytes, bytes.len() as u32 / 4, ReplicaId(i as u16 % replicas));
    }
    index
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup");
    let base = (80_000, 100_000, 16);
    let points = [base, (8_000, 100_000, 16), (400_000, 1_000, 16), (80_000, 1_000, 16), (80_000, 10_000, 16)];
    for (len, held, replicas) in points.into_iter().chain([1, 64, 256].map(|r| (80_000, 10_000, r))) {
        let index = filled(held, len, replicas);
        let probes: Vec<Vec<u8>> = (0..64).map(|i| prompt(i * 7 % 500, len)).collect();
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
    group.bench_function("peer: 16 separate trees, 80 kB, 1000 held", |b| {
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
        let mut fresh: Vec<Vec<u8>> = (0..64).map(|i| prompt(500_000 + i, len)).collect();
        let mut n = 0u64;
        group.bench_function(format!("{} kB, {held} held, quarter new, with eviction", len / 1000), |b| {
            b.iter(|| {
                n += 1;
                let slot = n as usize % fresh.len();
                let bytes = &mut fresh[slot];
                let at = len * 3 / 4 + 8;
                bytes[at..at + 8].copy_from_slice(&n.to_le_bytes());
                index.insert(bytes, len as u32 / 4, ReplicaId((n % 16) as u16));
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
