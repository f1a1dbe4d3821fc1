//! Which files of a result folder are gorgo's own: they may be replaced and deleted, all others stay.

use super::ResultError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// First words of the `experiment.toml` of an experiment.
pub const HEAD: &str = "# Resolved by gorgo ";
/// First words of the `experiment.toml` of a bench.
pub const BENCH_HEAD: &str = "# gorgo bench";

/// The files beside `experiment.toml`, which is deleted last: an interrupted deletion can go on.
const FILES: [&str; 10] = [
    "summary.json",
    "summary.csv",
    "requests.csv",
    "timeline.json.gz",
    "report.html",
    "timing.json",
    "validation.json",
    "benchmarks.json",
    "benchmarks.csv",
    "benchmarks.html",
];

/// What a folder is to gorgo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Absent, or without a file that gorgo would write.
    Free,
    /// Results of gorgo; the text of `experiment.toml`.
    Results(String),
    /// Files of the same names that gorgo did not write.
    Foreign,
}

/// Looks at a folder.
///
/// # Errors
/// When its `experiment.toml` cannot be read.
pub fn owner(dir: &Path) -> Result<Owner, ResultError> {
    let path = dir.join("experiment.toml");
    match fs::read_to_string(&path) {
        Ok(text) if text.starts_with(HEAD) || text.starts_with(BENCH_HEAD) => Ok(Owner::Results(text)),
        Ok(_) => Ok(Owner::Foreign),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let taken = FILES.iter().chain(&["points", "plots"]).any(|name| dir.join(name).exists());
            Ok(if taken { Owner::Foreign } else { Owner::Free })
        }
        Err(e) => Err(ResultError::io("read", &path)(e)),
    }
}

/// Deletes gorgo's own files of a result folder, and its folders where they are empty then.
///
/// # Errors
/// When the folder holds files of the same names that gorgo did not write, or one cannot be deleted.
pub fn clear(dir: &Path) -> Result<(), ResultError> {
    match owner(dir)? {
        Owner::Free => return Ok(()),
        Owner::Foreign => return Err(ResultError::Foreign { path: dir.to_owned() }),
        Owner::Results(_) => {}
    }
    let mut own: Vec<PathBuf> = FILES.iter().map(|name| dir.join(name)).collect();
    for folder in ["points", "plots"] {
        let folder = dir.join(folder);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(ResultError::io("list", &folder)(e)),
        };
        for entry in entries {
            let path = entry.map_err(ResultError::io("list", &folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let suffixes: &[&str] = if folder.ends_with("plots") {
                &[".svg", ".png"]
            } else {
                &[".json", ".requests.csv.gz", ".decisions.json.gz"]
            };
            let left_over = name.starts_with('.') && name.ends_with(".tmp");
            if left_over || suffixes.iter().any(|suffix| name.ends_with(suffix)) {
                own.push(path);
            }
        }
    }
    own.push(dir.join("experiment.toml"));
    for path in own {
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(ResultError::io("delete", &path)(e)),
            _ => {}
        }
    }
    // A folder that holds other files stays.
    let _ = fs::remove_dir(dir.join("points"));
    let _ = fs::remove_dir(dir.join("plots"));
    Ok(())
}

/// Renames a folder to the first free `NAME.1`, `NAME.2`, ..., and returns the new path.
///
/// # Errors
/// When it cannot be renamed.
pub fn keep_aside(dir: &Path) -> Result<PathBuf, ResultError> {
    let aside = |n: u32| {
        let mut name = dir.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{n}"));
        dir.with_file_name(name)
    };
    let free = (1..=u32::MAX).map(aside).find(|path| !path.exists());
    let free = free.unwrap_or_else(|| dir.to_owned());
    fs::rename(dir, &free).map_err(ResultError::io("rename", dir))?;
    Ok(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_files_of_an_own_folder_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let put = |name: &str, text: &str| {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), text).unwrap();
        };
        assert_eq!(owner(dir.path()).unwrap(), Owner::Free);
        put("notes.md", "mine");
        assert_eq!(owner(dir.path()).unwrap(), Owner::Free, "other files hinder no result");
        clear(dir.path()).unwrap();
        put("experiment.toml", "title = \"my own\"");
        put("traces/t.jsonl", "mine");
        assert_eq!(owner(dir.path()).unwrap(), Owner::Foreign);
        let message = clear(dir.path()).unwrap_err().to_string();
        assert!(message.contains("did not write"), "{message}");
        put("experiment.toml", "# Resolved by gorgo 0.1.0.\n");
        for own in [
            "points/00.json",
            "points/00.requests.csv.gz",
            "points/00.decisions.json.gz",
            "points/.00.json.7.tmp",
            "plots/a.svg",
            "summary.csv",
        ] {
            put(own, "results");
        }
        put("plots/notes.txt", "mine");
        clear(dir.path()).unwrap();
        for gone in ["experiment.toml", "points", "plots/a.svg", "summary.csv"] {
            assert!(!path(gone).exists(), "{gone}");
        }
        for kept in ["notes.md", "traces/t.jsonl", "plots/notes.txt"] {
            assert_eq!(fs::read_to_string(path(kept)).unwrap(), "mine");
        }
    }

    #[test]
    fn results_are_kept_aside_under_the_next_free_name() {
        let dir = tempfile::tempdir().unwrap();
        let results = dir.path().join("run");
        for n in 1..=2 {
            fs::create_dir(&results).unwrap();
            fs::write(results.join("a"), n.to_string()).unwrap();
            let aside = keep_aside(&results).unwrap();
            assert_eq!(aside, dir.path().join(format!("run.{n}")));
            assert_eq!(fs::read_to_string(aside.join("a")).unwrap(), n.to_string());
            assert!(!results.exists());
        }
    }
}
