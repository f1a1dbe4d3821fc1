//! Which crates the workspace's crates import, checked against ARCHITECTURE.md with `cargo metadata`.

use crate::sources::{backticked, read, root};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

fn metadata() -> Value {
    // Only what this platform links: crates of others need not be at hand offline.
    let rustc = Command::new("rustc").arg("-vV").output().unwrap();
    let host = String::from_utf8(rustc.stdout).unwrap();
    let host = host.lines().find_map(|l| l.strip_prefix("host: ")).unwrap().to_owned();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let out = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", &host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Our crates and those of ours that each needs (not for its tests).
fn edges(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let members: BTreeSet<&str> =
        metadata["workspace_members"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: Vec<&Value> = packages.iter().filter(|p| members.contains(p["id"].as_str().unwrap())).collect();
    let names: BTreeSet<&str> = ours.iter().map(|p| p["name"].as_str().unwrap()).collect();
    let needs = |p: &Value| {
        let all = p["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"].is_null());
        all.map(|d| d["name"].as_str().unwrap()).filter(|d| names.contains(d)).map(str::to_owned).collect()
    };
    ours.iter().map(|p| (p["name"].as_str().unwrap().to_owned(), needs(p))).collect()
}

/// The edges that the page lists, as `- `crate` → `needed`, ...`.
fn listed() -> BTreeMap<String, BTreeSet<String>> {
    let page = read(&root().join("ARCHITECTURE.md"));
    let line = |line: &str| {
        let (name, needed) = line.strip_prefix("- `")?.split_once(" → ")?;
        let package = |name: &str| if name == "gorgo" { name.to_owned() } else { format!("gorgo-{name}") };
        Some((package(name.split('`').next()?), backticked(needed).into_iter().map(package).collect()))
    };
    page.lines().filter_map(line).collect()
}

#[test]
fn crates_import_what_the_page_lists_and_nothing_else() {
    let listed = listed();
    for (name, needs) in edges(&metadata()) {
        let listed = listed.get(&name).unwrap_or_else(|| panic!("ARCHITECTURE.md does not list what {name} imports"));
        assert_eq!(&needs, listed, "what {name} imports (left) is not what ARCHITECTURE.md lists (right)");
    }
    for (name, needs) in &listed {
        let outside = name != "gorgo" && needs.contains("gorgo-experiments");
        assert!(!outside && !needs.contains("gorgo"), "{name} must not import what stands above it");
    }
}

#[test]
fn core_and_sim_never_reach_a_runtime_a_network_or_a_logger() {
    let metadata = metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let id_name = |id: &str| {
        let package = metadata["packages"].as_array().unwrap().iter().find(|p| p["id"] == id).unwrap();
        package["name"].as_str().unwrap().to_owned()
    };
    let needs = |id: &str| -> Vec<String> {
        let node = nodes.iter().find(|n| n["id"] == id).unwrap();
        let normal = |d: &&Value| d["dep_kinds"].as_array().unwrap().iter().any(|k| k["kind"].is_null());
        node["deps"].as_array().unwrap().iter().filter(normal).map(|d| d["pkg"].as_str().unwrap().to_owned()).collect()
    };
    let forbidden = ["tokio", "hyper", "reqwest", "tracing", "mio", "chrono", "rustls", "axum", "log"];
    for root in ["gorgo-core", "gorgo-sim"] {
        let start = nodes.iter().map(|n| n["id"].as_str().unwrap()).find(|id| id_name(id) == root).unwrap();
        let (mut seen, mut open) = (BTreeSet::new(), vec![start.to_owned()]);
        while let Some(id) = open.pop() {
            let name = id_name(&id);
            assert!(!forbidden.contains(&name.as_str()), "{root} reaches {name}");
            if seen.insert(id.clone()) {
                open.extend(needs(&id));
            }
        }
    }
}

#[test]
fn everything_we_link_is_permissively_licensed() {
    let fine = ["MIT", "Apache-2.0", "BSD", "ISC", "Zlib", "Unicode-3.0", "BSL-1.0", "CC0-1.0", "0BSD", "Unlicense"];
    for package in metadata()["packages"].as_array().unwrap() {
        let (name, licence) = (&package["name"], package["license"].as_str().unwrap_or_default());
        assert!(fine.iter().any(|f| licence.contains(f)), "{name}: {licence}");
    }
}

#[test]
fn everything_we_link_comes_from_the_crate_registry() {
    for package in metadata()["packages"].as_array().unwrap() {
        let (name, source) = (&package["name"], package["source"].as_str());
        let registry = source.is_none_or(|s| s == "registry+https://github.com/rust-lang/crates.io-index");
        assert!(registry, "{name}: {source:?}");
    }
}
