//! The commands of the README, of the pages on experiments and of `--help`, run verbatim on few requests.

use super::{gorgo, text};
use std::path::Path;
use std::process::{Command, Output};

/// Runs a line of a shell in `dir`; runs and sweeps get one seed and few requests.
fn shell(dir: &Path, line: &str) -> Output {
    let short = r#"
        gorgo() {
            case "$*" in
                *--jobs*) ;;
                *--mode\ live*) set -- "$@" --jobs 6;;
            esac
            case $1 in
                run|sweep) "$GORGO" "$@" --set seeds=1 --set workload.requests=12 \
                    --set workload.max_output_tokens=4 --set measure.warm_up_s=0.0;;
                *) "$GORGO" "$@";;
            esac
        }
        open() { test -s "$1"; }
        "#;
    Command::new("bash")
        .args(["-c", &format!("{short}\n{line}")])
        .env("GORGO", env!("CARGO_BIN_EXE_gorgo"))
        .env("HOME", dir)
        .current_dir(dir)
        .output()
        .unwrap()
}

/// A folder with the experiments and the files that the examples name.
fn workplace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    std::fs::create_dir(dir.path().join("experiments")).unwrap();
    for entry in std::fs::read_dir(here).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            std::fs::copy(&path, dir.path().join("experiments").join(path.file_name().unwrap())).unwrap();
        }
    }
    let records = "experiments/records/recorded-fleet";
    std::fs::create_dir_all(dir.path().join(records)).unwrap();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(records)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(records).join(path.file_name().unwrap())).unwrap();
    }
    std::fs::create_dir_all(dir.path().join(".local/share/bash-completion/completions")).unwrap();
    let state = r#"{"id": "r1", "prompt_tokens": 5200, "replicas": [{"id": "a", "rtt_ms": 25}, {"id": "b"}]}"#;
    std::fs::write(dir.path().join("states.jsonl"), state).unwrap();
    let message =
        |role: &str, at: &str| format!(r#"{{"role":"{role}","content":"what is a router?","timestamp":{at}}}"#);
    let row = format!(
        r#"{{"conversation_hash":"c","model":"m","timestamp":"2023-04-09T00:02:53Z","conversation":[{},{}],"turn":1,"country":"France","state":"Paris","hashed_ip":"x"}}"#,
        message("user", "null"),
        message("assistant", "\"2023-04-09T00:02:53Z\"")
    );
    for name in ["wildchat.jsonl", "WildChat-1M.jsonl"] {
        std::fs::write(dir.path().join(name), &row).unwrap();
    }
    std::fs::write(dir.path().join("my-table.csv"), "Time,Prompt,Answer\n0.5,100,10\n1.5,90,7\n").unwrap();
    let made = shell(dir.path(), "gorgo workload generate wildchat-like --requests 20 --to my-trace.jsonl.gz");
    assert!(made.status.success(), "{}", text(&made.stderr));
    dir
}

/// The lines of a text that begin with one of these commands.
fn lines(text: &str) -> Vec<String> {
    const RUN_HERE: [&str; 11] = [
        "run",
        "sweep",
        "merge",
        "plot",
        "report",
        "validate",
        "calibrate",
        "workload",
        "policies",
        "decide",
        "completions",
    ];
    let mut found: Vec<String> = Vec::new();
    let mut whole = false;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("gorgo ") {
            // A probe needs an engine; `calibrate.rs` starts one.
            whole = RUN_HERE.contains(&rest.split(' ').next().unwrap_or_default()) && !rest.contains("--probe");
            found.extend(whole.then(|| line.to_owned()));
        } else if let (true, false, Some(last)) =
            (whole && !line.is_empty(), line.starts_with("curl "), found.last_mut())
        {
            // `--help` breaks long lines; a page may end them with a backslash, as a shell asks for.
            let length = last.trim_end_matches('\\').len();
            last.truncate(length);
            *last += &format!(" {line}");
        } else {
            whole = false;
        }
    }
    found
}

fn run_all(dir: &Path, lines: &[String]) {
    for line in lines {
        let out = shell(dir, line);
        let message = text(&out.stderr);
        // So few requests measure nothing: a comparison may well fail, but it must have compared.
        let failed = ["has an error of", "the sources do not match"].iter().any(|why| message.contains(why));
        let compared = line.contains("--max-error") && failed;
        assert!(out.status.success() || compared, "{line}: {message}");
    }
}

#[test]
fn the_commands_of_the_readme_run_as_they_stand() {
    let dir = workplace();
    let mut lines = lines(include_str!("../../README.md"));
    assert!(lines.len() >= 12, "{lines:?}");
    for page in [include_str!("../../docs/experiments.md"), include_str!("../../docs/results.md")] {
        lines.extend(self::lines(page));
    }
    let mut seen = std::collections::HashSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    run_all(dir.path(), &lines);
}

/// README and pages name the programs of `benchmark` as commands.
#[cfg(unix)]
#[test]
fn every_benchmark_can_be_run_by_its_name() {
    use std::os::unix::fs::PermissionsExt;
    let (mut folders, mut seen) = (vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("benchmark")], 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if std::fs::read(&entry).unwrap().starts_with(b"#!/") {
                let mode = entry.metadata().unwrap().permissions().mode();
                assert!(mode & 0o111 != 0, "{} is no command: chmod +x", entry.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "{seen} programs");
}

#[test]
fn the_page_of_policies_names_every_policy() {
    let page = include_str!("../../docs/policies.md");
    let listed = text(&gorgo(&["policies"], "").stdout);
    for name in gorgo_core::policy::PolicyConfig::names() {
        assert!(page.contains(&format!("`{name}`")), "{name}");
        assert!(listed.contains(&format!("\n{name} ")) || listed.starts_with(name), "{name}");
    }
}

/// The page's lines of Python read the summary of a run. Without pandas only their columns are looked up.
#[test]
fn the_pandas_example_reads_a_summary() {
    let page = include_str!("../../docs/experiments.md");
    let code: Vec<&str> =
        page.split("    import pandas").nth(1).unwrap().lines().take_while(|l| !l.is_empty()).collect();
    let code = format!("import pandas{}\n", code.join("\n").replace("\n    ", "\n"));
    let dir = workplace();
    assert!(shell(dir.path(), "gorgo run experiments/three-regions.toml").status.success());
    let head = std::fs::read_to_string(dir.path().join("results/three-regions/summary.csv")).unwrap();
    let columns: Vec<&str> = head.lines().next().unwrap().split(',').collect();
    for name in code.split('"').skip(1).step_by(2).filter(|name| !name.contains('/')) {
        assert!(columns.contains(&name), "{name} of {columns:?}");
    }
    let python = |code: &str| Command::new("python3").args(["-c", code]).current_dir(dir.path()).output();
    if python("import pandas").is_ok_and(|out| out.status.success()) {
        let out = python(&code).unwrap();
        assert!(
            out.status.success() && text(&out.stdout).contains("gorgo-proxy"),
            "{}{}",
            text(&out.stdout),
            text(&out.stderr)
        );
    }
}

#[test]
fn the_examples_of_help_run_as_they_stand() {
    let dir = workplace();
    let mut all = Vec::new();
    for command in
        ["run", "sweep", "merge", "plot", "report", "validate", "calibrate", "policies", "decide", "completions"]
    {
        all.extend(lines(&text(&gorgo(&[command, "--help"], "").stdout)));
    }
    for command in ["stats", "convert", "generate", "prepare"] {
        all.extend(lines(&text(&gorgo(&["workload", command, "--help"], "").stdout)));
    }
    assert!(all.len() >= 16, "{all:?}");
    run_all(dir.path(), &all);
}
