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

/// The plots of a result folder beside those of a sweep.
const PLOTS: [&str; 5] = ["ttft-cdf", "ttft", "e2e", "share", "queues"];

/// What a folder is to gorgo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Absent, or without a file that gorgo would write.
    Free,
    /// Results of gorgo; the text of `experiment.toml`.
    Results(String),
    /// This file has a name that gorgo would write, and is not known to be gorgo's.
    Foreign(PathBuf),
}

/// Looks at a folder.
///
/// # Errors
/// When it cannot be read.
pub fn owner(dir: &Path) -> Result<Owner, ResultError> {
    let path = dir.join("experiment.toml");
    match fs::read_to_string(&path) {
        Ok(text) if text.starts_with(HEAD) || text.starts_with(BENCH_HEAD) => Ok(Owner::Results(text)),
        Ok(_) => Ok(Owner::Foreign(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Ok(own_files(dir)?.into_iter().next().map_or(Owner::Free, Owner::Foreign))
        }
        Err(e) => Err(ResultError::io("read", &path)(e)),
    }
}

/// Whether a file of `points/` has the name of a point or of what belongs to one.
pub(super) fn is_of_point(name: &str) -> bool {
    let (key, ending) = name.split_once('.').unwrap_or((name, ""));
    key.len() == 16
        && key.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
        && ["json", "requests.csv.gz", "decisions.json.gz"].contains(&ending)
}

/// Whether a file of `plots/` has the name of a plot: one of [`PLOTS`], with a number from the second on, or of a sweep.
fn is_plot(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".svg").or_else(|| name.strip_suffix(".png")) else { return false };
    let number = |rest: &str| rest.strip_prefix('-').is_some_and(|n| n.parse::<u32>().is_ok());
    let of = |plot: &&str| stem.strip_prefix(plot).is_some_and(|rest| rest.is_empty() || number(rest));
    stem.starts_with("sweep-") || PLOTS.iter().any(of)
}

/// The file that an interrupted write was to become: `a` of `.a.71-2f.tmp`.
fn unfinished(name: &str) -> Option<&str> {
    let (name, _process) = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
    Some(name)
}

/// The files beside `experiment.toml` that have names of gorgo's.
fn own_files(dir: &Path) -> Result<Vec<PathBuf>, ResultError> {
    let mut own: Vec<PathBuf> = FILES.iter().map(|name| dir.join(name)).filter(|path| path.exists()).collect();
    for (folder, is_own) in [("points", is_of_point as fn(&str) -> bool), ("plots", is_plot)] {
        let folder = dir.join(folder);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(ResultError::io("list", &folder)(e)),
        };
        for entry in entries {
            let path = entry.map_err(ResultError::io("list", &folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if is_own(unfinished(&name).unwrap_or(&name)) {
                own.push(path);
            }
        }
    }
    Ok(own)
}

/// Deletes gorgo's own files of a result folder, and its folders where they are empty then. Other files stay.
///
/// # Errors
/// When the folder holds files of the same names that gorgo did not write, or one cannot be deleted.
pub fn clear(dir: &Path) -> Result<(), ResultError> {
    match owner(dir)? {
        Owner::Free => return Ok(()),
        Owner::Foreign(file) => return Err(ResultError::Foreign { path: file }),
        Owner::Results(_) => {}
    }
    let mut own = own_files(dir)?;
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
        assert_eq!(owner(dir.path()).unwrap(), Owner::Foreign(path("experiment.toml")));
        let message = clear(dir.path()).unwrap_err().to_string();
        assert!(message.contains("did not write"), "{message}");
        put("experiment.toml", "# Resolved by gorgo 0.1.0.\n");
        for own in [
            "points/0123456789abcdef.json",
            "points/0123456789abcdef.requests.csv.gz",
            "points/0123456789abcdef.decisions.json.gz",
            "points/.0123456789abcdef.json.7-2f.tmp",
            "plots/ttft-cdf-2.svg",
            "plots/sweep-workload-rate.png",
            "summary.csv",
        ] {
            put(own, "results");
        }
        let mine =
            ["notes.md", "traces/t.jsonl", "plots/my.svg", "plots/ttft-mine.png", "points/notes.txt", "points/a.json"];
        mine.iter().for_each(|name| put(name, "mine"));
        clear(dir.path()).unwrap();
        for gone in ["experiment.toml", "points/0123456789abcdef.json", "plots/ttft-cdf-2.svg", "summary.csv"] {
            assert!(!path(gone).exists(), "{gone}");
        }
        for kept in mine {
            assert_eq!(fs::read_to_string(path(kept)).unwrap(), "mine");
        }
        assert_eq!(fs::read_dir(path("points")).unwrap().count(), 2);
        assert_eq!(fs::read_dir(path("plots")).unwrap().count(), 2);
        assert_eq!(owner(dir.path()).unwrap(), Owner::Free, "what is left hinders no result");
        put("points/0123456789abcdef.json", "results");
        let message = owner(dir.path()).map(|_| clear(dir.path()).unwrap_err().to_string()).unwrap();
        assert!(message.contains("points/0123456789abcdef.json"), "the file that is in the way: {message}");
    }

    #[test]
    fn every_file_of_a_result_folder_is_known() {
        use crate::results::test_data::swept;
        use crate::results::{ResultFolder, Rows};
        let dir = tempfile::tempdir().unwrap();
        let folder = ResultFolder::create(dir.path(), &format!("{HEAD}0.1.0.\n")).unwrap();
        for (i, rate) in [1.0, 2.0, 3.0, 4.0, 5.0].into_iter().enumerate() {
            folder.add(i as u32, &swept("gorgo", &[("workload.rate", rate)], 1, 20), Rows::Keep).unwrap();
        }
        folder.finish().unwrap();
        assert!(dir.path().join("plots/ttft-cdf-2.svg").exists());
        clear(dir.path()).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
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
