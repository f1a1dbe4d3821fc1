//! Requests per second through one engine, with the shape of the Mooncake conversation trace: prompts of 12,000 tokens
//! on average in 512-token blocks, two fifths of it shared with earlier ones, answers of 343 tokens.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gorgo_core::{RequestId, Time};
use gorgo_sim::engine::{Engine, EngineConfig, EngineRequest};
use std::hint::black_box;

const BLOCK: u32 = 512;
const REQUESTS: u64 = 20_000;

/// Conversations of five turns, a hundred at a time, each turn 20 blocks of a shared past and a few new ones.
fn workload() -> Vec<EngineRequest> {
    let mut state = 1u64;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    (0..REQUESTS)
        .map(|n| {
            let (chat, turn) = (n / 500 * 100 + n % 100, n / 100 % 5);
            let input = 2000 + turn as u32 * 5000 + draw(400) as u32;
            let output = 43 + draw(600) as u32;
            let id = |b: u64| chat << 20 | b;
            let whole = u64::from(input / BLOCK);
            let mut blocks: Vec<u64> = (0..whole).map(id).collect();
            if !input.is_multiple_of(BLOCK) {
                blocks.push(1 << 60 | n);
            }
            EngineRequest {
                id: RequestId(n),
                input_tokens: input,
                output_tokens: output,
                max_new_tokens: None,
                block_tokens: BLOCK,
                refused: false,
                blocks: blocks.into(),
                answer_blocks: (whole..u64::from((input + output) / BLOCK)).map(id).collect(),
            }
        })
        .collect()
}

/// Feeds the workload at a fixed gap and follows the engine's events; returns how many there were.
fn drive(config: &EngineConfig, work: &[EngineRequest], gap: u64) -> u64 {
    let mut engine = Engine::new(config.clone(), 7).expect("a preset is valid");
    let (mut out, mut events) = (Vec::new(), 0);
    for (n, request) in work.iter().enumerate() {
        let at = Time(n as u64 * gap);
        while let Some(next) = engine.next_event().filter(|&next| next <= at) {
            engine.advance(next, &mut out);
            events += out.len() as u64;
            out.clear();
        }
        engine.submit(at, request.clone()).expect("a request that fits");
    }
    while let Some(next) = engine.next_event() {
        engine.advance(next, &mut out);
        events += out.len() as u64;
        out.clear();
    }
    events
}

fn engine(c: &mut Criterion) {
    let work = workload();
    let mut group = c.benchmark_group("engine");
    group.sample_size(10).throughput(Throughput::Elements(REQUESTS));
    for (name, preset, gap_ms) in [
        ("h100 light", "mistral-7b-h100", 1000),
        ("h100 busy", "mistral-7b-h100", 260),
        ("a100 overload", "mistral-7b-a100-80", 260),
    ] {
        let config = EngineConfig::preset(preset).expect("known");
        group.bench_function(name, |b| b.iter(|| drive(&config, black_box(&work), gap_ms * 1_000_000)));
    }
    let streaming = EngineConfig { stream_tokens: true, ..EngineConfig::preset("mistral-7b-h100").expect("known") };
    group.bench_function("h100 busy, every token", |b| b.iter(|| drive(&streaming, black_box(&work), 260_000_000)));
    group.finish();
}

criterion_group!(benches, engine);
criterion_main!(benches);
