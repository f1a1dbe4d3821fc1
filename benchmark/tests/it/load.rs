//! The load generator against emulated servers.

use gorgo_benchmark::emulator::{Emulator, EmulatorConfig};
use gorgo_benchmark::load::profile::sweep_rates;
use gorgo_benchmark::load::report::Report;
use gorgo_benchmark::load::slo::Slo;
use gorgo_benchmark::load::source::{Api, Output, SourceOptions};
use gorgo_benchmark::load::target::Target;
use gorgo_benchmark::load::{Bench, Limits, Profile, Progress, ceiling, files, table};
use gorgo_core::record::Status;
use gorgo_core::request::TraceRequest;
use gorgo_core::{RequestId, Time};
use gorgo_sim::engine::{Engine, EngineEvent, EngineRequest};
use gorgo_traces::workload::{Options, Prompts, open};
use std::sync::Arc;

fn fast() -> EmulatorConfig {
    EmulatorConfig { speed: 200.0, health_ms: 0.0, ..EmulatorConfig::default() }
}

async fn servers(n: usize) -> (Vec<Emulator>, Arc<[Target]>) {
    let mut servers = Vec::new();
    for _ in 0..n {
        servers.push(Emulator::start(fast(), "127.0.0.1:0".parse().unwrap()).await.unwrap());
    }
    let targets = servers.iter().map(|s| Target::parse(&s.url()).unwrap()).collect();
    (servers, targets)
}

fn trace(first: usize) -> Arc<[TraceRequest]> {
    let mut rows = open("wildchat-located", &Options::default()).unwrap().requests;
    rows.truncate(first);
    rows.into()
}

fn bench(rows: Arc<[TraceRequest]>, targets: Arc<[Target]>, profile: Profile) -> Bench {
    Bench {
        rows,
        targets,
        profile,
        limits: Limits::default(),
        source: SourceOptions { output: Output::Recorded, ..SourceOptions::default() },
        seed: 1,
        warmup_s: 0.0,
        timeout_s: 60.0,
        drain_s: 30.0,
        max_in_flight: 1000,
        user_rtt: false,
        network: gorgo_sim::network::NetworkConfig::default(),
        key: None,
        tls: None,
    }
}

/// Tokens that one engine finds in its cache when it gets the rows of a trace one after the other.
fn simulated_hits(rows: &[TraceRequest]) -> Vec<u32> {
    let mut engine = Engine::new(fast().engine, 1).unwrap();
    let mut now = Time::ZERO;
    let mut hits = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        engine.submit(now, EngineRequest::from_trace(RequestId(i as u64), row)).unwrap();
        let mut events = Vec::new();
        while let Some(at) = engine.next_event() {
            now = at;
            engine.advance(at, &mut events);
        }
        hits.extend(events.iter().find_map(|e| match e {
            EngineEvent::Finished { cached_tokens, .. } => Some(*cached_tokens),
            _ => None,
        }));
    }
    hits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_made_from_structure_hits_the_cache_exactly_as_the_structure_does() {
    let rows = trace(60);
    let wanted = simulated_hits(&rows);
    assert!(wanted.iter().filter(|&&hit| hit > 0).count() > 5, "{wanted:?}");
    for api in [Api::Chat, Api::Completions, Api::Generate] {
        let (_servers, targets) = servers(1).await;
        let source = SourceOptions { output: Output::Recorded, api, ..SourceOptions::default() };
        let bench = Bench { source, ..bench(Arc::clone(&rows), targets, Profile::Synchronous) };
        let runs = bench.run(&Arc::new(Progress::default())).await.unwrap();
        let hits: Vec<u32> = runs[0].rows.iter().map(|r| r.record.cached_tokens).collect();
        assert_eq!(hits, wanted, "{api:?}");
        for (row, asked) in runs[0].rows.iter().zip(rows.iter()) {
            let r = &row.record;
            assert_eq!(
                (r.status, r.prompt_tokens, r.output_tokens),
                (Status::Finished, asked.input_tokens, asked.output_tokens)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_sends_everything_and_reports_it() {
    let (_servers, targets) = servers(2).await;
    let rows = trace(40);
    let bench = bench(rows, targets, Profile::Constant(400.0));
    let progress = Arc::new(Progress::default());
    let runs = bench.run(&progress).await.unwrap();
    let figures = progress.figures();
    assert_eq!((figures.sent, figures.finished, figures.failed), (40, 40, 0));
    let report = Report::of(&bench, &runs, "wildchat-located", "gorgo bench", Some(Slo::parse("e2e=600000").unwrap()));
    let b = &report.benchmarks[0];
    assert_eq!((b.request_totals.successful, b.request_totals.total), (40, 40));
    assert_eq!(b.goodput.as_ref().unwrap().share, 1.0);
    assert_eq!(b.by_region.iter().map(|r| r.requests).collect::<Vec<_>>(), [20, 20]);
    assert!(b.metrics.time_to_first_token_ms.min > 0.0);
    for (i, row) in runs[0].rows.iter().enumerate() {
        let r = &row.record;
        let first = r.first_token.get().unwrap();
        assert_eq!((r.request, r.scheduled), (i as u64, Time::from_ms(i as f64 * 2.5)));
        assert!(r.scheduled <= r.sent && r.sent < first && first <= r.done.get().unwrap());
        assert_eq!(r.sent - r.scheduled, row.lateness);
    }
    let (mut json, mut csv) = (Vec::new(), Vec::new());
    files::json(&mut json, &report).unwrap();
    files::csv(&mut csv, &report).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let metric = &json["benchmarks"][0]["metrics"]["time_to_first_token_ms"];
    assert!(metric["percentiles"]["p95"].as_f64().unwrap() >= metric["median"].as_f64().unwrap());
    let csv = String::from_utf8(csv).unwrap();
    assert!(csv.starts_with("profile,rate,streams,") && csv.lines().count() == 2);
    assert!(table::table(&report, 200).lines().next().unwrap().starts_with("profile"));
    let narrow = table::table(&report, 80);
    assert!(narrow.lines().take(3).all(|line| line.chars().count() <= 80), "{narrow}");
    assert!(narrow.contains("left out at 80 columns: ") && narrow.contains("TTFT p95"), "{narrow}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_request_has_no_rate() {
    let (_servers, targets) = servers(1).await;
    let bench = bench(trace(1), targets, Profile::Constant(5.0));
    let runs = bench.run(&Arc::new(Progress::default())).await.unwrap();
    let report = Report::of(&bench, &runs, "wildchat-located", "gorgo bench", None);
    assert_eq!(report.benchmarks[0].schedule.achieved_rate, 0.0);
    let shown = table::table(&report, 200);
    let cells: Vec<&str> = shown.lines().nth(2).unwrap().split_whitespace().take(4).collect();
    assert_eq!(cells, ["constant", "5.00", "-", "1"], "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_loop_keeps_no_more_in_flight_than_it_has_workers() {
    let (_servers, targets) = servers(1).await;
    let bench = Bench {
        limits: Limits { max_requests: Some(90), duration_s: None },
        ..bench(trace(30), targets, Profile::Concurrent(5))
    };
    let runs = bench.run(&Arc::new(Progress::default())).await.unwrap();
    let rows = &runs[0].rows;
    assert_eq!((rows.len(), runs[0].workers), (90, Some(5)));
    for row in rows {
        let at = row.record.sent;
        let in_flight = rows.iter().filter(|r| r.record.sent <= at && at < r.record.done.get().unwrap()).count();
        assert!(in_flight <= 5, "{in_flight}");
    }
    let repeated = rows[30..].iter().filter(|r| r.record.cached_tokens > 0 && r.record.turn == 1).count();
    assert!(repeated < 30, "another pass through the data says other things: {repeated}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_lies_between_one_worker_and_all() {
    let (_servers, targets) = servers(1).await;
    let limits = Limits { max_requests: Some(15), duration_s: None };
    let bench = Bench { limits, ..bench(trace(15), targets, Profile::Sweep(4)) };
    let runs = bench.run(&Arc::new(Progress::default())).await.unwrap();
    assert_eq!(runs.iter().map(|r| r.name).collect::<Vec<_>>(), ["synchronous", "throughput", "constant", "constant"]);
    let rates = sweep_rates(4, runs[0].per_second(), runs[1].per_second());
    assert_eq!(runs[2..].iter().map(|r| r.rate.unwrap()).collect::<Vec<_>>(), rates);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_results_too_and_the_warm_up_does_not_count() {
    let targets: Arc<[Target]> = [Target::parse("http://127.0.0.1:1").unwrap()].into();
    // Scheduled at 0, 1 and 2 ms.
    let bench = Bench { warmup_s: 0.0005, ..bench(trace(3), targets, Profile::Constant(1000.0)) };
    let runs = bench.run(&Arc::new(Progress::default())).await.unwrap();
    assert!(runs[0].rows.iter().all(|r| r.record.status == Status::Failed && r.record.first_token.is_none()));
    let report = Report::of(&bench, &runs, "t", "c", None);
    let (error, count) = &report.benchmarks[0].errors[0];
    assert_eq!(runs[0].rows.iter().map(|r| r.warmup).collect::<Vec<_>>(), [true, false, false]);
    assert!(error.contains("refused") && *count == 2, "{error}");
    assert_eq!(report.benchmarks[0].request_totals.errored, 2, "without the one of the warm-up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_stopped_still_accounts_for_every_request_it_sent() {
    let slow = EmulatorConfig { speed: 0.01, ..fast() };
    let server = Emulator::start(slow, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let targets: Arc<[Target]> = [Target::parse(&server.url()).unwrap()].into();
    let bench = Bench { user_rtt: true, ..bench(trace(5), targets, Profile::Constant(1000.0)) };
    let progress = Arc::new(Progress::default());
    let (runs, ()) = tokio::join!(bench.run(&progress), async {
        while progress.figures().sent < 5 {
            tokio::task::yield_now().await;
        }
        progress.stop();
    });
    let rows = &runs.unwrap()[0].rows;
    assert_eq!(rows.len(), 5);
    assert!(
        rows.iter().all(|r| r.record.status == Status::Cancelled && r.record.done.get().unwrap() >= r.record.scheduled)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_can_be_measured_alone() {
    let limits = Limits { duration_s: None, max_requests: Some(200) };
    assert!(ceiling::streams_per_second(limits).await.unwrap() > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_with_a_delay_wait_for_the_turn_before_them() {
    let text: String = [("a", 0, 100, None), ("a", 0, 300, Some(40)), ("b", 10, 90, None), ("a", 0, 700, Some(0))]
        .map(|(session, at, input, delay)| {
            let time = delay.map_or(format!("\"timestamp\":{at}"), |ms| format!("\"delay\":{ms}"));
            format!("{{\"session_id\":\"{session}\",{time},\"input_length\":{input},\"output_length\":20}}\n")
        })
        .concat();
    let added = Options { prompts: Prompts::Added, ..Options::default() };
    let rows = gorgo_traces::workload::read_bytes("t", text.as_bytes(), &added).unwrap().requests;
    let (_servers, targets) = servers(1).await;
    let bench = bench(rows.into(), targets, Profile::Trace);
    let runs = bench.run(&Arc::new(Progress::default())).await.unwrap();
    let run = &runs[0];
    assert_eq!((run.totals().all, run.totals().answered), (4, 4));
    let mut own: Vec<_> = run.rows.iter().map(|r| &r.record).filter(|r| r.prompt_tokens != 90).collect();
    own.sort_by_key(|r| r.scheduled);
    assert_eq!(own.iter().map(|r| r.prompt_tokens).collect::<Vec<_>>(), [100, 420, 1_140], "history and answers");
    let waited: Vec<f64> = own.windows(2).map(|p| (p[1].scheduled - p[0].done.get().unwrap()).ms()).collect();
    assert_eq!(waited, [40.0, 0.0]);
    assert!(own[2].cached_tokens >= 400, "the last turn finds prompt and answer of the one before it");

    let short = Bench { limits: Limits { duration_s: Some(0.03), max_requests: None }, ..bench };
    let runs = short.run(&Arc::new(Progress::default())).await.unwrap();
    assert_eq!(runs[0].totals().all, 2, "no turn is sent after the end");
}
