//! Every experiment file that ships runs, loses nothing, and gives the same bytes again.

use gorgo_benchmark::emulator::{Emulator, EmulatorConfig};
use gorgo_experiments::results::{ResultFolder, Results, Rows};
use gorgo_experiments::runner::{self, Progress, RunOptions};
use gorgo_experiments::spec::Experiment;
use gorgo_live::AppState;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn files() -> Vec<PathBuf> {
    let all = std::fs::read_dir(here()).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<PathBuf> =
        all.filter(|p| p.extension().is_some_and(|e| e == "toml") && !p.ends_with("Cargo.toml")).collect();
    files.sort();
    files
}

fn run(file: &Path, sets: &[&str], dir: &Path, jobs: usize) -> Results {
    run_in(file, sets, dir, jobs, false)
}

fn run_in(file: &Path, sets: &[&str], dir: &Path, jobs: usize, live: bool) -> Results {
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    let experiment = Experiment::load(file, &sets, &[]).unwrap();
    let plan = experiment.plan().unwrap();
    let folder = ResultFolder::create(dir, &experiment.resolved()).unwrap();
    let options = RunOptions { jobs: Some(jobs), rows: Rows::Keep, live, shard: None };
    runner::run(&experiment, &plan, &folder, options, &|_| {}).unwrap()
}

/// Whether a file is `name` or a variant of it, such as `load-agents.toml` of `agents.toml`.
fn is_kind(file: &Path, name: &str) -> bool {
    file.file_name().and_then(|own| own.to_str()).is_some_and(|own| own.ends_with(name))
}

/// All files below a folder with their bytes.
fn bytes(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn every_experiment_runs_short_and_loses_nothing() {
    let files = files();
    assert!(files.len() >= 12, "{files:?}");
    for file in files {
        let dir = tempfile::tempdir().unwrap();
        let results = run(&file, &["seeds=1", "workload.requests=80", "measure.warm_up_s=0.0"], dir.path(), 2);
        for arm in &results.summary {
            let c = &arm.counts;
            // Turns that would come after the end of the experiment are not sent.
            let (sent, least) = if is_kind(&file, "agents.toml") { (c.requests, 40) } else { (80, 60) };
            assert!(sent > least, "{} {}: {c:?}", file.display(), arm.arm);
            let refused = refused(&file, c.failed, sent);
            assert_eq!(
                (c.lost, c.failed, c.rejected, c.requests),
                (0, refused, 0, sent),
                "{} {}",
                file.display(),
                arm.arm
            );
            // Two requests at once a replica are too few for this rate: some wait beyond the queue's timeout.
            assert!(
                c.finished + c.timed_out + refused == sent && c.finished > least,
                "{} {}: {c:?}",
                file.display(),
                arm.arm
            );
        }
    }
}

#[test]
fn two_runs_are_byte_identical_whatever_the_threads() {
    let file = here().join("three-regions.toml");
    let sets = ["seeds=2", "workload.duration_s=20"];
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(&file, &sets, a.path(), 1);
    run(&file, &sets, b.path(), 2);
    let (mut a, mut b) = (bytes(a.path()), bytes(b.path()));
    for found in [&mut a, &mut b] {
        assert!(found.remove(Path::new("timing.json")).is_some());
    }
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (path, bytes) in &a {
        assert!(*bytes == b[path], "{} differs", path.display());
    }
    for file in ["experiment.toml", "summary.json", "summary.csv", "requests.csv", "timeline.json.gz", "report.html"] {
        assert!(a.contains_key(Path::new(file)), "no {file}");
    }
    assert!(a.keys().filter(|p| p.starts_with("plots")).count() >= 8);
}

#[test]
fn the_timeline_of_the_first_seed_shows_the_terms_behind_each_choice() {
    let file = files().into_iter().find(|file| is_kind(file, "three-regions.toml")).unwrap();
    let sets = ["seeds=2", "workload.duration_s=20", "measure.warm_up_s=0.0"];
    let dir = tempfile::tempdir().unwrap();
    run(&file, &sets, dir.path(), 2);
    let timeline =
        gorgo_traces::timeline::read(std::fs::File::open(dir.path().join("timeline.json.gz")).unwrap()).unwrap();
    let mut shown = 0;
    for span in timeline.spans.iter().filter(|span| span.depth == 0 && span.category == "router") {
        let decision = &span.args["decision"];
        let candidates = decision["candidates"].as_object().unwrap();
        let chosen = &candidates[decision["chosen"].as_str().unwrap()];
        assert!(!candidates.is_empty() && chosen.get("excluded").is_none(), "{decision}");
        if span.name.starts_with("gorgo ") && decision["reason"].is_null() {
            let totals = candidates.values().filter_map(|one| one["total"].as_f64());
            assert_eq!(totals.min_by(f64::total_cmp), chosen["total"].as_f64(), "{decision}");
            let part = |name: &str| chosen[name].as_f64().unwrap();
            let sum = part("network") + part("prefill") + part("waiting") + part("running") + part("egress");
            assert!((sum - part("total")).abs() < 0.01, "{decision}");
            shown += 1;
        }
    }
    assert!(shown > 20, "{shown}");
}

/// Requests that may fail: the engines of the recorded fleet refused one request in six, and so do those here.
fn refused(file: &Path, failed: u64, sent: u64) -> u64 {
    if is_kind(file, "recorded-fleet.toml") && failed <= sent / 3 { failed } else { 0 }
}

/// One arm of each file: what an arm may ask for, three-regions asks for. Most of a run is waiting, so three run at once.
#[test]
fn every_experiment_runs_live() {
    let files = std::sync::Mutex::new(files().into_iter());
    let next = || files.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| std::iter::from_fn(next).for_each(|file| run_one_arm_live(&file)));
        }
    });
}

fn run_one_arm_live(file: &Path) {
    let mut sets = ["seeds=1", "workload.duration_s=2", "workload.max_output_tokens=4", "measure.warm_up_s=0.0"]
        .map(str::to_owned)
        .to_vec();
    if is_kind(file, "agents.toml") {
        // Sessions begin minutes apart, with prompts that take the engine seconds.
        sets.extend(["workload.session_rate=20", "workload.max_input_tokens=30000"].map(str::to_owned));
    }
    if is_kind(file, "recorded-fleet.toml") || file.ends_with("long-context.toml") {
        // Probes and idle connections are those of real routers here, and the file's numbers are refused.
        sets.extend(["network.probe_scale=1", "network.keep_alive_ms=4000"].map(str::to_owned));
    }
    let experiment = Experiment::load(file, &sets, &[]).unwrap();
    let plan = experiment.plan().unwrap();
    let arm = plan.iter().position(|arm| Some(&arm.label) == experiment.baseline.as_ref()).unwrap_or(0);
    let dir = tempfile::tempdir().unwrap();
    let folder = ResultFolder::create(dir.path(), &experiment.resolved()).unwrap();
    let options = RunOptions { jobs: None, rows: Rows::Keep, live: true, shard: None };
    let results = runner::run(&experiment, &plan[arm..=arm], &folder, options, &|_| {}).unwrap();
    let counts = &results.summary[0].counts;
    let refused = refused(file, counts.failed, counts.requests);
    assert!(counts.requests > 0 && counts.finished + refused == counts.requests, "{}: {counts:?}", file.display());
}

#[test]
fn the_same_file_runs_on_real_routers_and_emulated_replicas() {
    let dir = tempfile::tempdir().unwrap();
    let sets = [
        "seeds=1",
        "baseline=gorgo",
        "vary={}",
        "arms=[{ policy = \"gorgo\" }, { policy = \"gorgo\", topology = \"proxy\" }]",
        "workload.rate=20",
        "workload.requests=12",
        "workload.max_output_tokens=8",
    ];
    let results = run_in(&here().join("three-regions.toml"), &sets, dir.path(), 1, true);
    assert_eq!(results.summary.len(), 2);
    for arm in &results.summary {
        assert_eq!((arm.counts.requests, arm.counts.finished), (12, 12), "{}: {:?}", arm.arm, arm.counts);
        assert!((arm.share.iter().map(|s| s.share).sum::<f64>() - 1.0).abs() < 1e-9, "every answer names its replica");
        assert!(arm.ttft_ms.as_ref().is_some_and(|t| t.p50.value > 10.0), "users are not beside their routers");
    }
}

#[test]
fn a_crash_in_the_file_fails_only_streams_that_had_begun() {
    let dir = tempfile::tempdir().unwrap();
    let sets = ["seeds=3", "workload.duration_s=100", "arms=[{ policy = \"gorgo\" }]", "baseline=gorgo"];
    let results = run(&here().join("node-loss.toml"), &sets, dir.path(), 1);
    let c = results.summary[0].counts;
    assert_eq!(c.lost + c.rejected + c.timed_out + c.cancelled, 0, "{c:?}");
    assert!(c.failed > 0 && c.failed < 60 && c.finished + c.failed == c.requests, "{c:?}");
    let rows = std::fs::read_to_string(dir.path().join("requests.csv")).unwrap();
    let mut table = csv::Reader::from_reader(rows.as_bytes());
    let column = |name: &str, h: &csv::StringRecord| h.iter().position(|x| x == name).unwrap();
    let header = table.headers().unwrap().clone();
    let (status, ttft) = (column("status", &header), column("ttft_ms", &header));
    for row in table.records().map(Result::unwrap) {
        assert!(&row[status] == "finished" || !row[ttft].is_empty(), "lost before its first token: {row:?}");
    }
}

/// Two emulated engines with an edge beside each, as they would stand elsewhere. They stop with the runtime.
fn servers(runtime: &tokio::runtime::Runtime) -> (Vec<Emulator>, Vec<Arc<AppState>>) {
    runtime.block_on(async {
        let (mut engines, mut listeners) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let addr = "127.0.0.1:0".parse().unwrap();
            engines.push(Emulator::start(EmulatorConfig::default(), addr).await.unwrap());
            listeners.push(tokio::net::TcpListener::bind(addr).await.unwrap());
        }
        let doors: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        let mut nodes = Vec::new();
        for (i, listener) in listeners.into_iter().enumerate() {
            let (own, other) = (["one", "two"][i], ["one", "two"][1 - i]);
            let text = format!(
                "role = \"edge\"\nlisten = \"{}\"\npolicy = \"random\"\n\
                 replicas = [{{ url = \"http://{}\", name = \"{own}\" }}]\n\
                 peers = [{{ url = \"http://{}\", name = \"{other}\" }}]\n",
                doors[i],
                engines[i].addr(),
                doors[1 - i]
            );
            let config = toml::from_str(&text).unwrap();
            let node = gorgo_live::start(config, None, gorgo_live::tcp()).unwrap();
            nodes.push(Arc::clone(&node));
            tokio::spawn(gorgo_live::serve(node, listener, std::future::pending()));
        }
        (engines, nodes)
    })
}

#[test]
fn a_live_run_uses_servers_that_exist_and_gives_edges_the_arms_policy() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (engines, nodes) = servers(&runtime);
    let node = |i: usize| {
        let (name, engine, router) = (["one", "two"][i], engines[i].addr(), nodes[i].config().listen);
        format!("{{ name = \"{name}\", engine = \"http://{engine}\", router = \"http://{router}\" }}")
    };
    let nodes_set = format!("live.nodes=[{}, {}]", node(0), node(1));
    let sets = [
        "seeds=1",
        "baseline=gorgo",
        "vary={}",
        "arms=[{ policy = \"gorgo\" }, { policy = \"least-load\", topology = \"proxy\" }]",
        "fleet.replicas=[{ name = \"one\", region = \"aws:eu-central-1\" }, { name = \"two\", region = \"aws:us-west-1\" }]",
        "workload.rate=20",
        "workload.requests=12",
        "workload.max_output_tokens=8",
        &nodes_set,
    ];
    let dir = tempfile::tempdir().unwrap();
    let results = run_in(&here().join("three-regions.toml"), &sets, dir.path(), 1, true);
    for arm in &results.summary {
        assert_eq!((arm.counts.requests, arm.counts.finished), (12, 12), "{}: {:?}", arm.arm, arm.counts);
        assert!((arm.share.iter().map(|s| s.share).sum::<f64>() - 1.0).abs() < 1e-9, "every answer names its replica");
    }
    for node in &nodes {
        assert_eq!(node.driver.policy().name(), "gorgo", "the edges were told");
    }

    let crash = ["faults=[{ at_s = 1, replica = \"one\", kind = \"crash\" }]"];
    let sets: Vec<String> = sets.iter().chain(&crash).map(|s| (*s).to_owned()).collect();
    let experiment = Experiment::load(&here().join("three-regions.toml"), &sets, &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let folder = ResultFolder::create(folder.path(), &experiment.resolved()).unwrap();
    let options = RunOptions { jobs: None, rows: Rows::Keep, live: true, shard: None };
    let told = std::sync::Mutex::new(None);
    let news = |news| {
        if let Progress::Start { points, real_time_s, .. } = news {
            *told.lock().unwrap() = real_time_s.map(|s| s / points as f64);
        }
    };
    let error = runner::run(&experiment, &experiment.plan().unwrap(), &folder, options, &news).unwrap_err();
    assert!(error.to_string().contains("nodes are existing servers"), "{error}");
    let each = told.lock().unwrap().expect("live runs say how long they take");
    assert!((0.1..3.0).contains(&each), "12 requests at 20 a second take {each} s");
}
