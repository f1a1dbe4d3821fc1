//! ARCHITECTURE.md and the first pages of rooms, held against the sources.

use crate::sources::{backticked, crates, modules, paths, read, root};
use std::collections::BTreeSet;

fn page() -> String {
    read(&root().join("ARCHITECTURE.md"))
}

/// The words between backticks: `a::b`, `a/b.rs` and `a` name `a`.
fn named(text: &str) -> BTreeSet<String> {
    let words = backticked(text).into_iter().flat_map(|t| t.split(|c: char| !(c.is_alphanumeric() || c == '_')));
    words.map(str::to_owned).collect()
}

/// The comment at the head of a module.
fn head(text: &str) -> String {
    text.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n")
}

/// The rows of the code map about one crate.
fn rows_of(page: &str, folder: &str) -> String {
    let name = if folder.is_empty() { "root".to_owned() } else { format!("`{folder}`") };
    let rows = page.lines().filter(|line| line.starts_with('|'));
    let mut inside = false;
    let mut found = String::new();
    for row in rows {
        let first = row.split('|').nth(1).unwrap_or_default().trim();
        if !first.is_empty() {
            inside = first == name;
        }
        if inside {
            found += row;
            found.push('\n');
        }
    }
    found
}

#[test]
fn every_module_stands_in_the_code_map_or_on_the_first_page_of_its_room() {
    let page = page();
    let mut missing = Vec::new();
    for folder in crates() {
        let in_map = named(&rows_of(&page, &folder));
        let all = modules(&folder);
        for module in all.iter().filter(|m| !m.path.is_empty()) {
            let (name, room) = module.path.split_last().unwrap();
            let first_page = all.iter().find(|m| m.path == room).map(|m| named(&head(&m.text))).unwrap_or_default();
            if !in_map.contains(name) && !first_page.contains(name) {
                missing.push(format!("{folder}: {}", module.path.join("/")));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "name these modules in ARCHITECTURE.md's code map or in the page above them:\n{}",
        missing.join("\n")
    );
}

#[test]
fn every_file_that_the_page_names_exists() {
    let (page, paths) = (page(), paths());
    let is_path = |text: &&str| {
        let plain = text.chars().all(|c| c.is_alphanumeric() || "_-./".contains(c));
        plain && !text.starts_with('/') && [".rs", ".toml", ".md", "/"].iter().any(|end| text.ends_with(end))
    };
    let exists = |text: &str| {
        let text = text.trim_end_matches('/');
        paths.iter().any(|path| path == text || path.ends_with(&format!("/{text}")))
    };
    let missing: Vec<&str> = backticked(&page).into_iter().filter(is_path).filter(|text| !exists(text)).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names files that do not exist: {missing:?}");
}

/// The names of all test functions.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in paths().iter().filter(|path| path.ends_with(".rs")) {
        let text = read(&root().join(path));
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[") {
                is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            } else if let Some((_, after)) = line.split_once("fn ") {
                let name = after.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
                if std::mem::take(&mut is_test) {
                    found.insert(name.to_owned());
                }
            }
        }
    }
    found
}

#[test]
fn every_invariant_names_a_test_and_every_named_test_exists() {
    let (page, tests) = (page(), tests());
    let invariants: Vec<&str> = page.lines().filter(|line| line.starts_with("Invariant:")).collect();
    assert!(invariants.len() >= 15, "only {} invariants", invariants.len());
    for invariant in invariants {
        let proofs = invariant.rsplit_once('[').map_or("", |(_, proofs)| proofs);
        let names: Vec<&str> = backticked(proofs).into_iter().filter(|name| !name.contains(['/', '.'])).collect();
        assert!(!names.is_empty(), "this invariant names no test: {invariant}");
        for name in names {
            assert!(tests.contains(name), "there is no test `{name}`: {invariant}");
        }
    }
}
