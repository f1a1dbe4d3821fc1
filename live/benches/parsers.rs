//! Cost of every parser of foreign bytes against the size of its input: ten sizes, each twice the one before. The time a
//! byte must not grow; criterion shows it as throughput.
//!
//! `cargo bench -p gorgo-live --bench parsers`. The inputs are the worst known of each kind.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gorgo_live::testkit::{AnswerTap, Framing, fuzz};
use std::hint::black_box;

const SIZES: std::ops::Range<u32> = 10..20;

/// Text of about `size` bytes: `head`, then `piece` again and again, then `tail`.
fn text(size: usize, head: &str, piece: &str, tail: &str) -> Vec<u8> {
    let times = size.saturating_sub(head.len() + tail.len()) / piece.len();
    format!("{head}{}{tail}", piece.repeat(times.max(1))).into_bytes()
}

fn tap(framing: Framing, data: &[u8]) {
    let mut tap = AnswerTap::new(framing, true);
    data.chunks(1_400).for_each(|piece| tap.feed(piece));
    tap.end();
    black_box(tap.usage());
}

fn parsers(c: &mut Criterion) {
    type Case = (&'static str, [&'static str; 3], fn(&[u8]));
    let cases: [Case; 9] = [
        ("events/many_lines", ["data: {\"a\":[1,\n", "data: 1,\n", "data: 1]}\n\n"], |data| tap(Framing::Events, data)),
        ("events/many_events", ["", "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n", ""], |data| {
            tap(Framing::Events, data);
        }),
        ("events/cumulative_text", ["", "data: {\"text\":\"abc\"}\n\n", ""], |data| tap(Framing::Events, data)),
        ("events/one_line", ["data: {\"a\":\"", "x", "\"}\n\n"], |data| tap(Framing::Events, data)),
        ("answer/deep", ["{\"a\":", "[", ""], |data| tap(Framing::Json, data)),
        ("request/escapes", ["{\"prompt\":\"", "\\u00e9", "\"}"], fuzz::request_fields),
        (
            "request/many_messages",
            ["{\"messages\":[", "{\"role\":\"user\",\"content\":\"x\"},", "{}]}"],
            fuzz::request_fields,
        ),
        ("metrics/labels", ["", "a{b=\"c\",tp_rank=\"0\",dp_rank=\"1\"} 1\n", ""], fuzz::prom_text),
        ("config/keys", ["", "# idle_ms = \"5s\" x = '\n", ""], fuzz::config),
    ];
    for (name, [head, piece, tail], run) in cases {
        let mut group = c.benchmark_group(name);
        group.sample_size(10);
        for size in SIZES.map(|power| 1usize << power) {
            let data = text(size, head, piece, tail);
            group.throughput(Throughput::Bytes(data.len() as u64));
            group.bench_with_input(BenchmarkId::from_parameter(size), &data, |b, data| b.iter(|| run(data)));
        }
        group.finish();
    }
}

criterion_group!(benches, parsers);
criterion_main!(benches);
