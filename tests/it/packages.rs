//! The packages of `deploy/`, as far as the tools for them are on this machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn has(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn a_tarball_and_a_deb_of_this_binary_unpack_and_serve() {
    if !["bash", "strip", "dpkg-deb", "python3", "gzip", "tar"].iter().all(|tool| has(tool)) {
        eprintln!("a tool for packages is missing: skipped");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let out = Command::new(deploy().join("package"))
        .args(["tar", "deb"])
        .env("BINARY", env!("CARGO_BIN_EXE_gorgo"))
        .env("OUT", dir.path())
        .env("LEVEL", "1")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", said(&out));
    let out = Command::new(deploy().join("check-packages")).arg(dir.path()).output().unwrap();
    assert!(out.status.success(), "{}", said(&out));
    for line in ["tarball: gorgo-", "deb: gorgo_", "wheel: skipped", "image: skipped"] {
        assert!(said(&out).contains(line), "{}", said(&out));
    }
    // A package that was changed afterwards is found out.
    let tarball = std::fs::read_dir(dir.path()).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        path.to_string_lossy().ends_with(".tar.gz").then_some(path)
    });
    std::fs::write(tarball.unwrap(), "no tarball").unwrap();
    let out = Command::new(deploy().join("check-packages")).arg(dir.path()).output().unwrap();
    assert!(!out.status.success(), "{}", said(&out));
}

#[test]
fn the_chart_renders_to_valid_objects_that_the_router_accepts() {
    let modules = "import helm_python, kubernetes_validate, yaml";
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !Command::new(&python).args(["-c", modules]).output().is_ok_and(|out| out.status.success()) {
        eprintln!("pip install helm-python-sdk kubernetes-validate pyyaml: skipped");
        return;
    }
    let check = deploy().join("helm/check");
    let out = Command::new(python).arg(check).arg(env!("CARGO_BIN_EXE_gorgo")).output().unwrap();
    assert!(out.status.success(), "{}", said(&out));
    assert!(said(&out).contains("objects rendered and checked"), "{}", said(&out));
}

/// There is no container engine in these tests: what the Dockerfile names must be what the workspace has.
#[test]
fn the_dockerfile_names_what_the_workspace_has() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let text = read("deploy/Dockerfile").replace("\\\n", " ");
    let lines = |word: &str| -> Vec<Vec<String>> {
        let found = text.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
        found.map(|rest| rest.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let toolchain: toml::Table = read("rust-toolchain.toml").parse().unwrap();
    let stages = lines("FROM");
    let image = format!("rust:{}-", toolchain["toolchain"]["channel"].as_str().unwrap().trim_end_matches(".0"));
    assert!(stages[0][0].starts_with(&image), "{stages:?} and the toolchain's {image}");
    for copied in lines("COPY") {
        let (from, sources) = match copied[0].strip_prefix("--from=") {
            Some(stage) => (Some(stage), &copied[1..copied.len() - 1]),
            None => (None, &copied[..copied.len() - 1]),
        };
        assert!(from.is_none_or(|stage| stages.iter().any(|from| from.last().unwrap() == stage)), "{copied:?}");
        assert!(from.is_some() || sources.iter().all(|path| root.join(path).exists()), "{copied:?}");
    }
    let build = lines("RUN").concat();
    let after =
        |word: &str| build.iter().position(|at| at == word).and_then(|at| build.get(at + 1)).unwrap().trim_matches('"');
    assert_eq!(after("--bin"), env!("CARGO_PKG_NAME"));
    assert!(manifest["profile"].get(after("--profile")).is_some());
    assert!(build.iter().any(|word| word.ends_with(&format!("/{}/gorgo\"", after("--profile")))), "{build:?}");
    for feature in lines("ARG").concat() {
        let feature = feature.strip_prefix("FEATURES=").unwrap().to_owned();
        assert!(manifest["features"].get(&feature).is_some(), "{feature}");
    }
    let program = lines("ENTRYPOINT").concat().join(" ");
    let program: Vec<&str> = serde_json::from_str(&program).unwrap();
    assert!(build.contains(&format!("/root-of-image{}", program[0])), "{program:?} is not installed by {build:?}");
    // The command, but for its file: the sample that is shipped.
    let args = lines("CMD").concat().join(" ").replace("/etc/gorgo/router.toml", "deploy/router.toml");
    let args: Vec<&str> = serde_json::from_str(&args).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_gorgo")).args(args).arg("--check").current_dir(root).output().unwrap();
    assert!(out.status.success(), "{}", said(&out));
    // What the builder is not given is never committed.
    let git = read(".gitignore");
    for ignored in
        read("deploy/Dockerfile.dockerignore").lines().filter(|line| !line.starts_with('#') && *line != ".git")
    {
        assert!(git.contains(ignored.trim_start_matches("**/")), "{ignored}");
    }
}
