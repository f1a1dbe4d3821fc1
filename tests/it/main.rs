//! The `gorgo` command as a user meets it.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // long tests print what they measured

mod calibrate;
mod client;
mod cloud;
mod dashboard;
mod examples;
#[path = "../../cloud/tests/fake_lambda/mod.rs"]
mod fake_lambda;
#[path = "../../cloud/tests/fake_modal/mod.rs"]
mod fake_modal;
mod kill;
mod load;
mod log;
mod long_path;
#[path = "../../cloud/tests/it/loopback_sshd.rs"]
mod loopback_sshd;
mod packages;
mod panels;
mod processes;
mod prometheus;
mod reference;
mod result_folders;
mod socket;
mod stop;
mod streams;
mod upgrade;
mod upgrade_protocols;
#[path = "../../cloud/tests/it/user_systemd.rs"]
mod user_systemd;

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn gorgo(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gorgo"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that fails early closes its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_names_every_command_and_each_has_an_example() {
    let out = gorgo(&["--help"], "");
    insta::assert_snapshot!("help", text(&out.stdout));
    for command in [
        &["run"][..],
        &["sweep"],
        &["merge"],
        &["plot"],
        &["report"],
        &["decide"],
        &["validate"],
        &["calibrate"],
        &["completions"],
        &["launch"],
        &["kill"],
        &["cluster"],
    ]
    .into_iter()
    .map(<[_]>::to_vec)
    .chain(["stats", "convert", "generate", "prepare"].map(|c| vec!["workload", c]))
    {
        let out = gorgo(&[command.as_slice(), &["--help"]].concat(), "");
        assert!(out.status.success() && text(&out.stdout).contains("Example"), "{command:?}");
    }
}

#[test]
fn usage_errors_exit_2_and_failures_exit_1_in_one_sentence_without_colour() {
    assert_eq!(gorgo(&["rum"], "").status.code(), Some(2));
    for (args, says) in [
        (&["run", "nowhere.toml"][..], "cannot read `nowhere.toml`"),
        (&["run", "experiments/three-regions.toml", "--set", "fleet.engine=mistral-7b-a100"], "no engine preset"),
        (
            &["run", "experiments/three-regions.toml", "--set", "fleet.replicas.0.region=aws:eu-centrl-1"],
            "did you mean `aws:eu-central-1`",
        ),
        (&["sweep", "experiments/mooncake.toml", "--shard", "4/4"], "write i/n"),
        (&["workload", "stats", "nowhere.jsonl"], "nowhere.jsonl"),
        (&["report", "src"], "experiment.toml"),
        (&["decide", "--policy", "gorga"], "did you mean `gorgo`"),
        (&["decide", "--set", "ms_per_token=1"], "write policy.ms_per_token=..."),
    ] {
        let out = gorgo(args, "");
        let message = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{args:?}: {message}");
        assert!(message.starts_with("error: ") && message.contains(says), "{args:?}: {message}");
        assert!(!message.contains('\x1b') && message.trim_end().lines().count() == 1, "{args:?}: {message}");
    }
}

#[test]
fn decide_answers_the_good_lines_and_names_the_bad() {
    let good = r#"{"id": "r1", "prompt_tokens": 5200, "replicas": [{"id": "a", "rtt_ms": 25, "cached_tokens": 4096}, {"id": "b", "rtt_ms": 5}]}"#;
    let input = format!("{good}\nnot json\n\n{}\n", good.replace("5200", "\"many\""));
    let out = gorgo(&["decide", "--policy", "gorgo", "--set", "policy.ms_per_token=0.058"], &input);
    assert_eq!(out.status.code(), Some(1));
    let decision: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&decision["id"], &decision["chosen"]), (&"r1".into(), &"a".into()));
    assert!((decision["candidates"][0]["prefill"].as_f64().unwrap() - 0.058 * 1104.0).abs() < 1e-9);
    let message = text(&out.stderr);
    let left_out = "note: standard input: 1 line of 3 is no JSON and left out, the first is line 2 (";
    assert!(
        message.contains(left_out) && message.contains("line 4: ") && message.contains("prompt_tokens"),
        "{message}"
    );
}

/// A router that was killed while it wrote leaves half a line; the next one goes on in the same file.
#[test]
fn a_torn_line_of_a_decision_log_stops_no_command() {
    let dir = tempfile::tempdir().unwrap();
    let decision = |id: u32| {
        format!(
            r#"{{"id": "{id}", "prompt_tokens": 10, "replicas": [{{"id": "a", "rtt_ms": 5}}, {{"id": "b", "rtt_ms": 9}}], "decision": {{"chosen": "a", "odds": 0.75}}}}"#
        )
    };
    let outcome = |id: u32| format!(r#"{{"outcome": {{"id": "{id}", "ttft_ms": 7.0, "e2e_ms": 70.0}}}}"#);
    let of = |ids: std::ops::RangeInclusive<u32>| -> String {
        ids.map(|id| format!("{}\n{}\n", decision(id), outcome(id))).collect()
    };
    let whole = of(1..=20);
    let path = dir.path().join("decisions.jsonl");
    let log = path.display().to_string();
    let torn = format!("{whole}{}", &decision(21)[..60]);
    let in_the_middle = format!("{torn}{}\n{}", decision(22), of(23..=42));
    for (log_text, says) in
        [(&torn, "the last line, 41, is torn and left out"), (&in_the_middle, "the first is line 41 (")]
    {
        std::fs::write(&path, log_text).unwrap();
        for args in [&["evaluate", &log, "--policy", "nearest"][..], &["evaluate", &log, "--predictions"]] {
            let out = gorgo(args, "");
            let message = text(&out.stderr);
            assert!(out.status.success() && message.contains(says) && message.contains(&log), "{args:?}: {message}");
        }
        let out = gorgo(&["decide", "--policy", "nearest"], log_text);
        let decided = text(&out.stdout).lines().count();
        assert!(out.status.success() && [20, 40].contains(&decided), "{decided}: {}", text(&out.stderr));
    }
    std::fs::write(&path, format!("{whole}x\nx\nx\n")).unwrap();
    let out = gorgo(&["evaluate", &log, "--policy", "nearest"], "");
    let message = text(&out.stderr);
    assert!(
        !out.status.success() && message.contains("line 41: is not JSON (") && message.contains("give the"),
        "{message}"
    );
    let alone = whole.replace(", {\"id\": \"b\", \"rtt_ms\": 9}", "");
    std::fs::write(&path, alone.replace(", \"odds\": 0.75", "")).unwrap();
    let out = gorgo(&["evaluate", &log, "--policy", "nearest"], "");
    let message = text(&out.stderr);
    assert!(!out.status.success() && message.contains("was between two replicas"), "{message}");
}

#[test]
fn presets_under_their_old_name_are_read_with_a_note() {
    let state =
        r#"{"id": "r1", "prompt_tokens": 520, "replicas": [{"id": "a", "rtt_ms": 25}, {"id": "b", "rtt_ms": 5}]}"#;
    let decide =
        |preset: &str| gorgo(&["decide", "--policy", "gorgo", "--set", &format!("policy.preset={preset}")], state);
    let (old, new) = (decide("seed"), decide("gotoni"));
    assert!(old.status.success() && new.status.success() && old.stdout == new.stdout, "{}", text(&old.stderr));
    assert_eq!(
        (text(&old.stderr).trim(), text(&new.stderr).trim()),
        ("note: policy.preset = \"seed\" is called \"gotoni\" now; the old name is still read", "")
    );
    let checked =
        gorgo(&["proxy", "start", "--servers", "http://127.0.0.1:1", "--set", "policy.preset=seed", "--check"], "");
    assert!(checked.status.success() && text(&checked.stderr).contains("is called"), "{}", text(&checked.stderr));
}

#[test]
fn a_run_prints_its_table_and_a_second_one_goes_on_from_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let out_dir = dir.path().join("r").display().to_string();
    let args =
        ["run", "experiments/three-regions.toml", "--seed", "3", "--out", &out_dir, "--set", "workload.duration_s=10"];
    let first = gorgo(&args, "");
    assert!(first.status.success(), "{}", text(&first.stderr));
    let table = text(&first.stdout);
    for word in ["Three regions", "least-load", "prefix-tree", "gorgo-proxy", "vs baseline", "report.html"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let second = gorgo(&args, "");
    assert!(text(&second.stderr).contains("18 runs are in the folder already, 0 to go"), "{}", text(&second.stderr));
    assert_eq!(text(&second.stdout), table);
    let compared = gorgo(&["validate", "--measured", &out_dir, "--simulated", &out_dir, "--max-error", "0"], "");
    assert!(compared.status.success() && text(&compared.stdout).contains("+0.0 %"), "{}", text(&compared.stderr));
    let other = gorgo(&[&args[..], &["--set", "fleet.max_running=4"]].concat(), "");
    assert!(text(&other.stderr).contains("another experiment"), "{}", text(&other.stderr));
    let json = gorgo(&[&args[..], &["--json"]].concat(), "");
    let rows: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 18);
}

#[test]
fn shards_of_a_sweep_merge_to_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let sweep = |out: &str, more: &[&str]| {
        let args = [
            "sweep",
            "experiments/grid.toml",
            "--set",
            "workload.requests=60",
            "--vary",
            "policy.ms_per_token=0.05,0.1",
        ];
        let args = [&args[..], &["--vary", "policy.running_cost_factor=0..1:0.5", "--out", out], more].concat();
        let out = gorgo(&args, "");
        assert!(out.status.success(), "{}", text(&out.stderr));
    };
    let (whole, a, b) = (path("whole"), path("a"), path("b"));
    sweep(&whole, &[]);
    sweep(&a, &["--shard", "0/2"]);
    sweep(&b, &["--shard", "1/2"]);
    assert!(gorgo(&["merge", &a, &b], "").status.success());
    let summary = |d: &str| std::fs::read(std::path::Path::new(d).join("summary.csv")).unwrap();
    assert_eq!(summary(&a), summary(&whole));
    assert!(gorgo(&["plot", &a, "--format", "svg"], "").status.success());
    assert!(gorgo(&["report", &a], "").status.success());
}

#[test]
fn stats_of_the_shipped_traces_are_the_known_ones() {
    let out = text(&gorgo(&["workload", "stats", "mooncake-conversation"], "").stdout);
    assert!(out.contains("12,031") || out.contains("12031"), "{out}");
    assert!(out.contains("37.4") || out.contains("37.36"), "{out}");
    for name in ["wildchat-located", "azure-conv"] {
        assert!(gorgo(&["workload", "stats", name, "--json"], "").status.success(), "{name}");
    }
}

#[test]
fn made_and_converted_traces_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let (made, packed) = (dir.path().join("t.jsonl"), dir.path().join("t.jsonl.gz"));
    let (made, packed) = (made.display().to_string(), packed.display().to_string());
    let out = gorgo(&["workload", "generate", "wildchat-like", "--requests", "300", "--to", &made], "");
    assert!(text(&out.stdout).contains("published"), "{}", text(&out.stdout));
    assert!(gorgo(&["workload", "convert", &made, "--to", &packed], "").status.success());
    let stats = |file: &str| text(&gorgo(&["workload", "stats", file, "--json"], "").stdout);
    assert_eq!(stats(&made), stats(&packed));
}

#[test]
fn completions_are_made_for_shells() {
    assert!(text(&gorgo(&["completions", "bash"], "").stdout).contains("_gorgo"));
}
