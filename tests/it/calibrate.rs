//! Records that ship, compared and fitted by the command; a live engine, probed.

use super::processes::{Process, ports};
use super::{gorgo, text};

const RECORDS: &str = "experiments/records/recorded-fleet";

#[test]
fn shipped_records_agree_with_themselves_and_their_arms_differ() {
    let same = gorgo(&["validate", RECORDS, RECORDS, "--warm-up", "20", "--by-class"], "");
    let table = text(&same.stdout);
    assert!(same.status.success(), "{}", text(&same.stderr));
    for word in ["simple-session-affinity", "TTFT p95, ms", "in noise", "long 2", "share of 1, %"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let arm = |name: &str| format!("{RECORDS}/requests_{name}.csv.gz");
    let args = ["validate", &arm("random"), &arm("simple-session-affinity"), "--max-error", "1"];
    let other = gorgo(&args, "");
    let message = text(&other.stderr);
    assert_eq!(other.status.code(), Some(1));
    assert!(message.contains("has an error of") && message.contains("--max-error 1"), "{message}");
    let wrong = gorgo(&["validate", &arm("random"), RECORDS, "--columns", "ttft_ms=ttft"], "");
    assert!(text(&wrong.stderr).contains("did you mean `ttft_ms`?"), "{}", text(&wrong.stderr));
}

#[test]
fn shipped_records_are_fitted_and_what_is_written_is_toml() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("fit").display().to_string();
    let args = ["calibrate", RECORDS, "--arm", "random", "--engine", "l40s-2-qwen3.5", "--out", &out];
    let fitted = gorgo(&args, "");
    let table = text(&fitted.stdout);
    assert!(fitted.status.success(), "{}", text(&fitted.stderr));
    assert!(table.contains("prefill.floor_ms") && table.contains("not identified"), "{table}");
    for name in ["engine.toml", "network.toml", "policy.toml"] {
        let text = std::fs::read_to_string(dir.path().join("fit").join(name)).unwrap();
        text.parse::<toml::Table>().unwrap_or_else(|e| panic!("{name}: {e}: {text}"));
    }
    let plot = std::fs::read_to_string(dir.path().join("fit/residuals.svg")).unwrap();
    assert!(plot.contains("long 2"));
    let many = gorgo(&["calibrate", RECORDS], "");
    assert!(text(&many.stderr).contains("name the one to fit on with --arm"), "{}", text(&many.stderr));
}

#[test]
fn a_live_engine_is_probed() {
    let addr = ports(1)[0];
    let engine = Process::engine(addr, &["--gpu", "h100"]);
    let dir = tempfile::tempdir().unwrap();
    let (url, out) = (format!("http://{addr}"), dir.path().display().to_string());
    let args = [
        "calibrate",
        "--probe",
        &url,
        "--lengths",
        "16,2048,8192",
        "--batches",
        "1,4",
        "--repeats",
        "3",
        "--out",
        &out,
    ];
    let probed = gorgo(&args, "");
    drop(engine);
    let table = text(&probed.stdout);
    assert!(probed.status.success(), "{}", text(&probed.stderr));
    for key in ["prefill.ms_per_token", "prefill.floor_ms", "decode.weights_ms", "round trip"] {
        assert!(table.contains(key), "{key}: {table}");
    }
    let written = std::fs::read_to_string(dir.path().join("engine.toml")).unwrap();
    written.parse::<toml::Table>().unwrap();
    let gone = gorgo(&["calibrate", "--probe", &url], "");
    assert!(gone.status.code() == Some(1) && text(&gone.stderr).contains("cannot be probed"), "{}", text(&gone.stderr));
}
