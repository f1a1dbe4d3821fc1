//! The sources of the workspace as text.

use std::path::{Path, PathBuf};

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The folders of the workspace's crates; the binary's is "".
pub(crate) fn crates() -> Vec<String> {
    let manifest: toml::Table = read(&root().join("Cargo.toml")).parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    std::iter::once(String::new()).chain(members.iter().map(|m| m.as_str().unwrap().to_owned())).collect()
}

/// All files and folders below the root as relative paths, without build outputs and hidden files.
pub(crate) fn paths() -> Vec<String> {
    let root = root();
    let (mut found, mut open) = (Vec::new(), vec![root.clone()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let output = dir == root && matches!(name, "target" | "results");
            if output || name.starts_with('.') {
                continue;
            }
            found.push(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
            if path.is_dir() {
                open.push(path.clone());
            }
        }
    }
    found.sort();
    found
}

/// One module: its path in the crate (`["router", "event"]`; the crate's root is empty) and its text.
pub(crate) struct Module {
    pub(crate) path: Vec<String>,
    pub(crate) text: String,
}

/// The modules of the crate in `folder` that are files, without tests.
pub(crate) fn modules(folder: &str) -> Vec<Module> {
    let src = if folder.is_empty() { "src/".to_owned() } else { format!("{folder}/src/") };
    let files = paths().into_iter().filter_map(|p| p.strip_prefix(&src).map(str::to_owned));
    let module = |file: String| {
        let mut path: Vec<String> = file.strip_suffix(".rs")?.split('/').map(str::to_owned).collect();
        let text = read(&root().join(format!("{src}{file}")));
        if path.iter().any(|part| part.ends_with("tests") || part == "test_data") {
            return None;
        }
        path.pop_if(|last| ["lib", "main", "mod"].contains(&last.as_str()));
        Some(Module { path, text })
    };
    files.filter_map(module).collect()
}

/// The texts between backticks.
pub(crate) fn backticked(text: &str) -> Vec<&str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}
