//! Cost of every parser of foreign bytes against the size of its input: ten sizes, each twice the one before. The time a
//! byte must not grow; criterion shows it as throughput.
//!
//! `cargo bench -p gorgo-live --bench parsers`. The inputs are the worst known of each kind.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gorgo_live::testkit::{AnswerTap, Framing, fuzz, parsers};
use std::hint::black_box;
use std::time::Duration;

const SIZES: std::ops::Range<u32> = 10..20;

/// An input of about so many bytes.
#[derive(Clone, Copy)]
enum Input {
    /// The first text, then the second again and again, then the third.
    Text([&'static str; 3]),
    Made(fn(usize) -> Vec<u8>),
}
use Input::{Made, Text};

impl Input {
    fn of(self, size: usize) -> Vec<u8> {
        match self {
            Text([head, piece, tail]) => {
                let times = size.saturating_sub(head.len() + tail.len()) / piece.len();
                format!("{head}{}{tail}", piece.repeat(times.max(1))).into_bytes()
            }
            Made(make) => make(size),
        }
    }
}

/// Lines with a number in each, between a head and a tail.
fn numbered(size: usize, head: &str, line: impl Fn(usize) -> String, tail: &str) -> Vec<u8> {
    let mut text = head.to_owned();
    let mut lines = (0..).map(line);
    while text.len() < size {
        text.extend(lines.next());
    }
    (text + tail).into_bytes()
}

/// A batch of KV events as MessagePack: a time and `["BlockRemoved", [hash]]` again and again.
fn removals(size: usize) -> Vec<u8> {
    let event = [&[0x92, 0xac][..], b"BlockRemoved", &[0x91, 0xcf, 0, 1, 2, 3, 4, 5, 6, 7]].concat();
    let count = size / event.len();
    let head = [&[0x92, 0xcb][..], &1.5f64.to_be_bytes(), &[0xdd], &(count as u32).to_be_bytes()].concat();
    [head, event.repeat(count)].concat()
}

/// The same with all hashes in one event.
fn one_removal(size: usize) -> Vec<u8> {
    let count = size / 9;
    let head = [&[0x92, 0xcb][..], &1.5f64.to_be_bytes(), &[0x91, 0x92, 0xac], b"BlockRemoved", &[0xdd]].concat();
    [head, (count as u32).to_be_bytes().to_vec(), [0xcf, 0, 1, 2, 3, 4, 5, 6, 7].repeat(count)].concat()
}

fn named_headers(size: usize) -> Vec<u8> {
    let lines = |n| format!("x-{n}: y\n");
    // Each is named by `Connection` too, so that it is removed.
    let half = numbered(size / 2, "", lines, "");
    let names = numbered(size / 2, "connection: a", |n| format!(", x-{n}"), "\n");
    [names, half].concat()
}

fn tap(framing: Framing, data: &[u8]) {
    let mut tap = AnswerTap::new(framing, true);
    data.chunks(1_400).for_each(|piece| tap.feed(piece));
    tap.end();
    black_box(tap.usage());
}

fn events(data: &[u8]) {
    tap(Framing::Events, data);
}

fn answer(data: &[u8]) {
    tap(Framing::Json, data);
}

type Case = (&'static str, Input, fn(&[u8]));

#[rustfmt::skip] // one case a line
const CASES: &[Case] = &[
    ("events/many_lines", Text(["data: {\"a\":[1,\n", "data: 1,\n", "data: 1]}\n\n"]), events),
    ("events/many_events", Text(["", "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n", ""]), events),
    ("events/typed", Text(["", "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n", ""]), events),
    ("events/comments", Text(["", ": x\n\n", ""]), events),
    ("events/cumulative_text", Text(["", "data: {\"text\":\"abc\"}\n\n", ""]), events),
    ("events/one_line", Text(["data: {\"a\":\"", "x", "\"}\n\n"]), events),
    ("events/one_error", Text(["data: {\"error\":{\"message\":\"", "\\\"x", "\"}}\n\n"]), events),
    ("answer/deep", Text(["{\"a\":", "[", ""]), answer),
    ("answer/long", Text(["{\"choices\":[", "{\"message\":{\"content\":\"x\"}},", "{}],\"usage\":{}}"]), answer),
    ("answer/end", Text(["{\"a\":\"", "\\\\", "\"}"]), parsers::json_end),
    ("request/escapes", Text(["{\"prompt\":\"", "\\u00e9", "\"}"]), fuzz::request_fields),
    ("request/many_messages", Text(["{\"messages\":[", "{\"role\":\"user\",\"content\":\"x\"},", "{}]}"]), fuzz::request_fields),
    ("request/many_parts", Text(["{\"messages\":[{\"role\":\"user\",\"content\":[", "{\"type\":\"text\",\"text\":\"x\"},", "{}]}]}"]), fuzz::request_fields),
    ("request/token_ids", Text(["{\"prompt\":[", "1,", "1]}"]), fuzz::request_fields),
    ("request/many_members", Text(["{", "\"prompt\":\"x\",", "\"model\":\"m\"}"]), fuzz::request_fields),
    ("request/deep", Text(["{\"a\":", "[", ""]), fuzz::request_fields),
    ("request/headers", Made(|size| numbered(size, "", |n| format!("x-{n}: y\n"), "")), parsers::request_headers),
    ("request/forwarded_for", Text(["", "x-forwarded-for: 10.0.0.1\n", ""]), parsers::request_headers),
    ("request/connection", Made(named_headers), parsers::request_headers),
    ("request/routers", Text(["x-gorgo-router: a", ",b", "\n"]), parsers::request_headers),
    ("request/path", Text(["/v1", "/%61", "/x"]), parsers::path),
    ("request/fence", Text(["a", ",a;b", ""]), parsers::fence),
    ("response/headers", Made(named_headers), parsers::response_headers),
    ("response/location", Text(["http://10.0.0.1", "/a", ""]), parsers::response_headers),
    ("metrics/labels", Text(["", "a{b=\"c\",tp_rank=\"0\",dp_rank=\"1\"} 1\n", ""]), fuzz::prom_text),
    ("metrics/one_line", Text(["sglang:num_running_reqs{", "b=\"\\\"c\",", "} 1\n"]), parsers::engine_metrics),
    ("metrics/ranks", Made(|size| numbered(size, "", |n| format!("sglang:num_running_reqs{{dp_rank=\"{n}\"}} 1\n"), "")), parsers::engine_metrics),
    ("metrics/loads", Text(["{\"loads\":[", "{\"num_running_reqs\":1},", "{}]}"]), parsers::engine_loads),
    ("engine/server_info", Text(["{\"a\":[", "{\"b\":1},", "{}],\"kv_events\":null}"]), parsers::server_info),
    ("engine/models", Made(|size| numbered(size, "{\"data\":[", |n| format!("{{\"id\":\"m{n}\"}},"), "{}]}")), parsers::model_list),
    ("kv_events/many", Made(removals), parsers::kv_events),
    ("kv_events/one", Made(one_removal), parsers::kv_events),
    ("peer/report", Text(["{\"a\":[", "1,", "1],\"unix_ns\":1}"]), parsers::peer_report),
    ("peer/digest", Text(["{\"version\":1,\"key_id\":\"\",\"edition\":{\"author\":1,\"number\":1},\"every\":16,\"age_ms\":0.0,\"removed\":\"\",\"added\":\"", "AAAA", "\"}"]), parsers::digest),
    ("peer/share", Text(["{\"version\":1,\"key_id\":\"\",\"router\":\"\",\"name\":\"\",\"replicas\":[\"a\"],\"loads\":[],\"paths\":[", "[0,null,\"AAAAAAAAAAA=\",9],", "[0,null,\"\",0]]}"]), parsers::share_message),
    ("peer/share_one_path", Text(["{\"version\":1,\"key_id\":\"\",\"router\":\"\",\"name\":\"\",\"replicas\":[\"a\"],\"loads\":[],\"paths\":[[0,null,\"", "AAAA", "\",9]]}"]), parsers::share_message),
    ("peer/snapshot", Made(parsers::snapshot_of), parsers::snapshot),
    ("config/comments", Text(["", "# idle_ms = \"5s\" x = '\n", ""]), fuzz::config),
    ("config/replicas", Made(|size| numbered(size, "", |n| format!("[[replicas]]\nurl = \"http://e{n}:1\"\n"), "")), fuzz::config),
    ("config/shadows", Text(["shadow.policies = [", "\"random\",", "\"random\"]\n"]), fuzz::config),
    ("config/deep", Text(["a = ", "[", ""]), fuzz::config),
    ("endpoints/json", Made(|size| numbered(size, "{\"endpoints\":[", |n| format!("{{\"name\":\"p{n}\",\"address\":\"10.0.0.1\",\"port\":1}},"), "{\"name\":\"p\",\"address\":\"a\",\"port\":1}]}")), parsers::endpoint_file),
    ("endpoints/yaml", Made(|size| numbered(size, "endpoints:\n", |n| format!("- {{name: p{n}, address: 10.0.0.1, port: 1}}\n"), "")), parsers::endpoint_file),
    ("endpoints/toml", Made(|size| numbered(size, "", |n| format!("[[endpoints]]\nname = \"p{n}\"\naddress = \"a\"\nport = 1\n"), "")), parsers::endpoint_file),
    ("endpoints/labels", Made(|size| numbered(size, "endpoints:\n- name: p\n  address: a\n  port: 1\n  labels:\n", |n| format!("    l{n}: v\n"), "")), parsers::endpoint_file),
    ("endpoints/yaml_deep", Text(["endpoints: ", "[", ""]), parsers::endpoint_file),
];

fn parsers(c: &mut Criterion) {
    for (name, input, run) in CASES {
        let mut group = c.benchmark_group(*name);
        group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(250));
        for size in SIZES.map(|power| 1usize << power) {
            let data = input.of(size);
            group.throughput(Throughput::Bytes(data.len() as u64));
            group.bench_with_input(BenchmarkId::from_parameter(size), &data, |b, data| b.iter(|| run(data)));
        }
        group.finish();
    }
}

criterion_group!(benches, parsers);
criterion_main!(benches);
