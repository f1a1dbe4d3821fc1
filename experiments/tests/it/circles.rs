//! Import circles between the files of a crate.
//!
//! An import is a `use` declaration or a path in the code that begins with `crate`, `super` or `self` and leads into
//! another file. Imports between a room's first page and the files of that room (`router.rs` and `router/event.rs`) do
//! not count: the page re-exports its files, and the files extend its types.

use crate::sources::{Module, crates, modules};
use std::collections::{BTreeMap, BTreeSet};

type Path = Vec<String>;

/// The most files in one circle.
const MOST: usize = 3;

#[test]
fn no_import_circle_has_more_than_three_files() {
    for folder in crates() {
        let largest = circles(&imports(&modules(&folder))).into_iter().max_by_key(Vec::len).unwrap_or_default();
        let files: Vec<String> = largest.iter().map(|path| path.join("/")).collect();
        assert!(largest.len() <= MOST, "`{folder}` has a circle of {}: {files:?}", largest.len());
    }
}

#[test]
fn a_circle_is_found_through_groups_renames_and_bare_paths() {
    let module = |path: &str, text: &str| Module {
        path: path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        text: text.to_owned(),
    };
    let found = circles(&imports(&[
        module("", "mod a; mod b; mod c; mod d; pub use a::A;"),
        module("a", "use crate::{b::{self as other, B}, X};"),
        module("b", "fn f() { super::c::g() } // crate::d"),
        module("c", "use super::a::A;\nuse c_child::C;"),
        module("c/c_child", "use super::C; use crate::d::D;"),
        module("d", "#[cfg(test)]\nmod tests {\n    use crate::a;\n}\n"),
    ]));
    assert_eq!(found, [["a", "b", "c"].map(|name| vec![name.to_owned()])]);
}

/// Which files each file imports.
fn imports(modules: &[Module]) -> BTreeMap<Path, BTreeSet<Path>> {
    let known: BTreeSet<&Path> = modules.iter().map(|m| &m.path).collect();
    let of = |module: &Module| {
        let found =
            written_paths(&code(&module.text)).into_iter().filter_map(|path| resolve(&path, &module.path, &known));
        found.filter(|to| !to.starts_with(&module.path) && !module.path.starts_with(to)).collect()
    };
    modules.iter().map(|module| (module.path.clone(), of(module))).collect()
}

/// The text without comments and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The paths of `use` declarations, with groups written out, and those in the rest of the code.
fn written_paths(code: &str) -> Vec<Path> {
    let mut found = Vec::new();
    let mut rest = String::new();
    for statement in code.split_inclusive(';') {
        let start = statement.rfind("use ").filter(|&at| !statement[..at].ends_with(|c: char| c.is_alphanumeric()));
        match start {
            Some(at) => {
                rest += &statement[..at];
                expand(&[], statement[at + 4..].trim_end_matches(';'), &mut found);
            }
            None => rest += statement,
        }
    }
    for word in rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
        if ["crate::", "super::", "self::"].iter().any(|head| word.starts_with(head)) {
            expand(&[], word, &mut found);
        }
    }
    found
}

/// Writes the groups of a `use` tree out.
fn expand(head: &[String], tree: &str, found: &mut Vec<Path>) {
    let mut depth = 0;
    let branches = tree.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    for branch in branches.collect::<Vec<_>>() {
        let (plain, group) = branch.split_once('{').map_or((branch, None), |(plain, group)| (plain, Some(group)));
        let parts = plain.split("::").map(|part| part.split(" as ").next().unwrap_or_default().trim().to_owned());
        let path: Path = head.iter().cloned().chain(parts.filter(|part| !part.is_empty())).collect();
        match group.and_then(|group| group.rsplit_once('}')) {
            Some((inner, _)) => expand(&path, inner, found),
            None => found.push(path),
        }
    }
}

/// The file that a path written in the module `from` leads to; `None` for other crates.
fn resolve(path: &[String], from: &Path, known: &BTreeSet<&Path>) -> Option<Path> {
    let (mut at, mut parts) = match path.first().map(String::as_str)? {
        "crate" => (Vec::new(), &path[1..]),
        "self" => (from.clone(), &path[1..]),
        "super" => (from.clone(), path),
        _ => (from.clone(), path),
    };
    while let Some(rest) = parts.strip_prefix(&["super".to_owned()]) {
        at.pop();
        parts = rest;
    }
    let begun = path[0] == "crate" || path[0] == "self" || path[0] == "super";
    let mut entered = false;
    for part in parts {
        at.push(part.clone());
        if !known.contains(&at) {
            at.pop();
            break;
        }
        entered = true;
    }
    (begun || entered).then_some(at).filter(|at| known.contains(at))
}

/// Groups of files that import each other, by Kosaraju's two passes; only those of two files or more.
fn circles(imports: &BTreeMap<Path, BTreeSet<Path>>) -> Vec<Vec<Path>> {
    fn visit<'a>(
        at: &'a Path,
        edges: &BTreeMap<&'a Path, BTreeSet<&'a Path>>,
        seen: &mut BTreeSet<&'a Path>,
        out: &mut Vec<&'a Path>,
    ) {
        if seen.insert(at) {
            edges.get(at).into_iter().flatten().for_each(|next| visit(next, edges, seen, out));
            out.push(at);
        }
    }
    let forward: BTreeMap<&Path, BTreeSet<&Path>> =
        imports.iter().map(|(from, to)| (from, to.iter().collect())).collect();
    let mut backward: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
    for (from, to) in &forward {
        for to in to {
            backward.entry(to).or_default().insert(from);
        }
    }
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    imports.keys().for_each(|start| visit(start, &forward, &mut seen, &mut order));
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for start in order.into_iter().rev() {
        let mut circle = Vec::new();
        visit(start, &backward, &mut seen, &mut circle);
        if circle.len() > 1 {
            circle.sort();
            found.push(circle.into_iter().cloned().collect());
        }
    }
    found
}
