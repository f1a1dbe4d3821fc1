//! Simulated requests a second of one core: `cargo bench -p gorgo-experiments --bench simulation`.
//!
//! The time of an iteration is that of a whole run; criterion's throughput line is requests a second.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gorgo_experiments::runner::simulate;
use gorgo_experiments::spec::Experiment;
use std::path::PathBuf;

const MOONCAKE: &str = r#"
topology = "proxy"
policy = "gorgo"
[workload]
trace = "mooncake-conversation"
[fleet]
engine = "mistral-7b-h100"
settings = { context_len = 131072 }
replicas = [
  { name = "virginia", region = "aws:us-east-1" },
  { name = "frankfurt", region = "aws:eu-central-1" },
  { name = "tokyo", region = "aws:ap-northeast-1" },
]
"#;

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("simulation");
    group.sample_size(10);
    let cases: [(&str, &[&str]); 6] = [
        ("Mooncake conversation, 12,031 requests, 3 replicas, gorgo, proxy", &[]),
        ("the same, least-load", &["policy=least-load"]),
        ("the same at the edges", &["topology=edge"]),
        (
            "100,000 requests (rate 3.4/s, fresh copies of the trace)",
            &["workload.rate=3.4", "workload.duration_s=29412"],
        ),
        ("wildchat-like, 8,893 requests at 5/s", &["workload={ generate = \"wildchat-like\", rate = 5.0 }"]),
        ("wildchat-like at the edges", &["topology=edge", "workload={ generate = \"wildchat-like\", rate = 5.0 }"]),
    ];
    for (name, sets) in cases {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        let experiment = Experiment::parse("bench", PathBuf::new(), MOONCAKE, &sets, &[]).unwrap();
        let arm = experiment.plan().unwrap().remove(0);
        let requests = arm.spec.workload.load(&experiment.dir, 1).unwrap();
        group.throughput(Throughput::Elements(requests.len() as u64));
        group.bench_function(name, |b| b.iter(|| simulate("bench", &arm, 1, &requests).unwrap().0.records.len()));
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
