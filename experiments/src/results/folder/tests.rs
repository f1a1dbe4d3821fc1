use super::*;
use crate::results::test_data::{run, swept};
use crate::results::{ArmTiming, Timing};
use gorgo_traces::timeline::Decision;
use std::collections::BTreeMap;

const SPEC: &str = "# Resolved by gorgo 0.1.0.\nname = \"three regions\"\n";

fn filled(dir: &Path, arms: &[&str], n: u64) -> ResultFolder {
    let folder = ResultFolder::create(dir, SPEC).unwrap();
    for seed in 1..=2 {
        for (i, arm) in arms.iter().enumerate() {
            folder.add(i as u32, &run(arm, seed, n), Rows::Keep).unwrap();
        }
    }
    folder
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

fn relative(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files(dir).into_iter().map(|(path, bytes)| (path.strip_prefix(dir).unwrap().to_owned(), bytes)).collect()
}

#[test]
fn equal_runs_make_equal_folders_in_whatever_order_they_end() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    filled(one.path(), &["least-load", "gorgo"], 40).finish().unwrap();
    let other = ResultFolder::create(two.path(), SPEC).unwrap();
    for (position, arm, seed) in [(1, "gorgo", 2), (0, "least-load", 2), (1, "gorgo", 1), (0, "least-load", 1)] {
        other.add(position, &run(arm, seed, 40), Rows::Keep).unwrap();
    }
    other.finish().unwrap();
    let (one, two) = (relative(one.path()), relative(two.path()));
    assert_eq!(one.keys().collect::<Vec<_>>(), two.keys().collect::<Vec<_>>());
    for (path, bytes) in &one {
        assert!(two[path] == *bytes, "{} differs", path.display());
    }
    let names: Vec<String> = one.keys().map(|p| p.display().to_string()).filter(|p| !p.starts_with("points")).collect();
    insta::assert_snapshot!(names.join("\n"), @r"
    experiment.toml
    plots/e2e.png
    plots/e2e.svg
    plots/queues.png
    plots/queues.svg
    plots/share.png
    plots/share.svg
    plots/ttft-cdf.png
    plots/ttft-cdf.svg
    plots/ttft.png
    plots/ttft.svg
    report.html
    requests.csv
    summary.csv
    summary.json
    timeline.json.gz
    ");
}

#[test]
fn rows_of_all_arms_stand_in_order_under_one_header() {
    let dir = tempfile::tempdir().unwrap();
    let folder = filled(dir.path(), &["least-load", "gorgo"], 25);
    folder.join_rows(&folder.points().unwrap()).unwrap();
    let arms = requests::read(File::open(dir.path().join("requests.csv")).unwrap(), &Default::default(), 1000).unwrap();
    let found: Vec<_> = arms.iter().map(|a| (a.arm.as_str(), a.seed, a.records.len())).collect();
    assert_eq!(found, [("least-load", 1, 25), ("least-load", 2, 25), ("gorgo", 1, 25), ("gorgo", 2, 25)]);
    let mut csv = csv::Reader::from_path(dir.path().join("requests.csv")).unwrap();
    assert_eq!(csv.records().count(), 100);
}

#[test]
fn the_timeline_holds_the_first_seed_of_each_arm_and_says_what_it_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let folder = ResultFolder::create(dir.path(), SPEC).unwrap();
    for seed in 1..=2 {
        let decision =
            Decision { request: 7, chosen: Some(format!("of {seed}")), reason: None, candidates: Vec::new() };
        let run = ArmRun { decisions: vec![decision], ..run("gorgo", seed, 2100) };
        folder.add(0, &run, Rows::Keep).unwrap();
    }
    folder.write_timeline(&folder.points().unwrap()).unwrap();
    let timeline = gorgo_traces::timeline::read(File::open(dir.path().join("timeline.json.gz")).unwrap()).unwrap();
    let cut = &timeline.runs[0];
    assert_eq!((timeline.runs.len(), cut.seed, cut.requests, cut.drawn), (1, 1, 2100, 2000));
    let requests: Vec<_> = timeline.spans.iter().filter(|s| s.depth == 0 && s.category == "router").collect();
    assert_eq!(requests.len(), 2000);
    let decided: Vec<_> =
        requests.iter().filter_map(|span| Some((&span.args["request"], span.args.get("decision")?))).collect();
    assert_eq!((decided.len(), decided[0].0, &decided[0].1["chosen"]), (1, &7.into(), &"of 1".into()));

    // Folders of shards keep them when they are merged.
    let merged = tempfile::tempdir().unwrap();
    let whole = ResultFolder::create(merged.path(), SPEC).unwrap();
    assert_eq!(whole.absorb(&folder).unwrap(), 2);
    whole.write_timeline(&whole.points().unwrap()).unwrap();
    let bytes = |dir: &Path| fs::read(dir.join("timeline.json.gz")).unwrap();
    assert!(bytes(dir.path()) == bytes(merged.path()));
}

#[test]
fn an_interrupted_run_goes_on_and_another_experiment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = filled(dir.path(), &["gorgo"], 5);
    // What a killed process leaves behind.
    fs::write(dir.path().join("points/.0123456789abcdef.json.99.tmp"), "{\"arm\": ").unwrap();
    let again = ResultFolder::create(dir.path(), SPEC).unwrap();
    assert!(again.holds("gorgo", 2, Rows::Keep) && !again.holds("gorgo", 3, Rows::Keep));
    folder.add(0, &run("gorgo", 3, 5), Rows::Drop).unwrap();
    assert!(again.holds("gorgo", 3, Rows::Drop) && !again.holds("gorgo", 3, Rows::Keep));
    fs::write(dir.path().join("points/my.json"), "mine").unwrap();
    assert_eq!(again.load().unwrap().summary[0].seeds, [1, 2, 3], "other files hinder nothing");
    let other = ResultFolder::create(dir.path(), "# Resolved by gorgo 0.1.0.\nname = \"other\"\n");
    let other = other.unwrap_err().to_string();
    assert!(other.contains("another experiment") && other.contains("--out") && !other.contains("--fresh"), "{other}");
    fs::write(dir.path().join("experiment.toml"), "title = \"not by gorgo\"\n").unwrap();
    let foreign = ResultFolder::create(dir.path(), SPEC).unwrap_err().to_string();
    assert!(foreign.contains("did not write"), "{foreign}");
}

#[test]
fn a_folder_is_checked_before_a_measurement_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    ResultFolder::check(&out, SPEC).unwrap();
    assert_eq!(files(dir.path()).len(), 0);
    filled(&out, &["gorgo"], 5);
    let before = files(&out);
    ResultFolder::check(&out, SPEC).unwrap();
    assert_eq!(files(&out), before);
    let other = ResultFolder::check(&out, "# gorgo bench\nname = \"other\"\n").unwrap_err().to_string();
    assert!(other.contains("another experiment"), "{other}");
    fs::write(dir.path().join("file"), "mine").unwrap();
    let message = ResultFolder::check(&dir.path().join("file/out"), SPEC).unwrap_err().to_string();
    assert!(message.starts_with("cannot ") && message.contains("file/out"), "{message}");
}

#[test]
fn shards_merge_to_the_whole() {
    let dirs: [_; 3] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let [whole, left, right] = dirs.each_ref().map(|d| ResultFolder::create(d.path(), SPEC).unwrap());
    for (i, value) in [0.0, 0.5, 1.0].into_iter().enumerate() {
        let run = swept("gorgo", &[("factor", value)], 1, 30);
        whole.add(i as u32, &run, Rows::Drop).unwrap();
        [&left, &right][i % 2].add(i as u32, &run, Rows::Drop).unwrap();
    }
    assert_eq!(left.absorb(&right).unwrap(), 1);
    assert_eq!(left.load().unwrap(), whole.load().unwrap());
    let mut other = swept("gorgo", &[("factor", 0.0)], 1, 30);
    other.event_hash += 1;
    right.add(0, &other, Rows::Drop).unwrap();
    let conflict = left.absorb(&right).unwrap_err().to_string();
    assert!(conflict.contains("arm `gorgo factor=0` with seed 1"), "{conflict}");
}

#[test]
fn arms_without_requests_and_with_one_request_have_all_files() {
    for n in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let results = filled(dir.path(), &["least-load", "gorgo"], n).finish().unwrap();
        assert_eq!(results.summary[1].counts.requests, 2 * n);
        for name in ["summary.json", "summary.csv", "requests.csv", "timeline.json.gz", "report.html"] {
            assert!(dir.path().join(name).exists(), "{name} with {n} requests");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = ResultFolder::create(dir.path(), SPEC).unwrap();
    folder.add(0, &ArmRun::default(), Rows::Keep).unwrap();
    folder.finish().unwrap();
}

#[test]
fn damaged_and_missing_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = ResultFolder::open(dir.path()).unwrap_err().to_string();
    assert!(missing.contains("cannot read") && missing.contains("experiment.toml"), "{missing}");
    let folder = ResultFolder::create(dir.path(), SPEC).unwrap();
    let empty = folder.load().unwrap_err().to_string();
    assert!(empty.contains("no finished runs"), "{empty}");
    let path = dir.path().join("points/0123456789abcdef.json");
    fs::write(&path, "{\"arm\": 3}").unwrap();
    let damaged = folder.load().unwrap_err().to_string();
    assert!(damaged.contains("0123456789abcdef.json") && damaged.contains("delete it"), "{damaged}");
    fs::remove_file(&path).unwrap();
    let point = folder.add(0, &run("gorgo", 1, 3), Rows::Keep).unwrap();
    let rows = folder.rows_path(&Point::key(&point.arm, point.seed));
    fs::write(&rows, "not packed").unwrap();
    let damaged = folder.finish().unwrap_err().to_string();
    assert!(damaged.contains("requests.csv"), "{damaged}");
}

#[test]
fn timing_is_a_file_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let folder = ResultFolder::create(dir.path(), SPEC).unwrap();
    let timing = ArmTiming { arm: "gorgo".to_owned(), seed: 1, wall_s: 0.5, simulated_requests_per_second: 2e5 };
    let timing = Timing::of(vec![(100_000, timing)], 0.7);
    folder.write_timing(&timing).unwrap();
    assert_eq!(timing.simulated_requests_per_second, 2e5);
    let text = fs::read_to_string(dir.path().join("timing.json")).unwrap();
    assert_eq!(serde_json::from_str::<Timing>(&text).unwrap(), timing);
}

#[test]
fn runs_of_the_experiment_that_are_not_there_are_named() {
    let spec = "# Resolved by gorgo 0.1.0.\nseeds = 3\narms = [{ name = \"a\" }, { name = \"b\" }]\n\
                workload = { trace = \"wildchat-located\" }\n\
                fleet = { replicas = [{ name = \"r\", region = \"aws:us-east-1\" }] }\n";
    let dir = tempfile::tempdir().unwrap();
    let folder = ResultFolder::create(dir.path(), spec).unwrap();
    for (arm, seed) in [("a", 1), ("a", 2), ("b", 3)] {
        folder.add(u32::from(arm == "b"), &run(arm, seed, 5), Rows::Drop).unwrap();
    }
    let results = folder.load().unwrap();
    assert_eq!(results.gap().unwrap(), "3 of 6 runs are missing: a seed 3, b seed 1, b seed 2");
    assert!(report::html(&results).unwrap().contains("3 of 6 runs are missing: a seed 3"));
    for (arm, seed) in results.missing {
        folder.add(u32::from(arm == "b"), &run(&arm, seed, 5), Rows::Drop).unwrap();
    }
    assert_eq!(folder.load().unwrap().gap(), None);
}
