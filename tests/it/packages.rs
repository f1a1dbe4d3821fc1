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
