//! A sweep on many machines: a plan of self-contained points, each run independently, collected into one result folder.
//!
//! A point is one arm with one seed. Its file holds the whole resolved experiment, so that it runs wherever the file and
//! the experiment's traces are; its name is a digest of its content. Its result goes into the result folder that all
//! points share, under the name of arm and seed, written to a temporary file and renamed: a point may run twice, in
//! parallel or again after its worker was killed, and the folder holds one complete result. Nothing else is shared.

use crate::results::{ArmRun, ResultError, ResultFolder, Results, Rows, VERSION};
use crate::runner::{RunError, few_counted, simulate};
use crate::spec::{Experiment, PlannedArm, SpecError};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_128;

/// Why a plan or a point failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PointError {
    /// The experiment is malformed.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Results cannot be read or written.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// The run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The file is no point.
    #[error("`{}` is not a point of `gorgo sweep plan`: {why}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Its trace is not the one that was planned.
    #[error("`{}` was planned with other trace files than those here; plan again, or copy the traces", path.display())]
    Trace {
        /// Which point.
        path: PathBuf,
    },
    /// The plan has fewer points.
    #[error("the plan `{}` has {points} points, numbered from 0; there is no number {index}", dir.display())]
    Index {
        /// Which plan.
        dir: PathBuf,
        /// How many it has.
        points: usize,
        /// Which was asked for.
        index: usize,
    },
}

/// One run, self-contained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PointFile {
    /// Version of gorgo that planned it: another one may compute another result.
    version: String,
    /// Place of the arm in the experiment.
    position: u32,
    arm: String,
    seed: u64,
    /// The resolved experiment.
    experiment: String,
}

/// Folder of the points in a plan, and the list of them in the order of arms and seeds.
const POINTS: &str = "points";
const LIST: &str = "points.txt";
/// Folder of the results in a plan.
const RESULTS: &str = "results";

/// Writes a plan into `dir`, one file a point and the list of them, and returns their number. A plan of the same
/// experiment is written again, byte for byte.
///
/// # Errors
/// When the folder cannot be written, or holds results of another experiment.
pub fn write_plan(experiment: &Experiment, plan: &[PlannedArm], dir: &Path) -> Result<usize, PointError> {
    let spec = experiment.resolved();
    ResultFolder::create(&dir.join(RESULTS), &spec)?;
    let points = dir.join(POINTS);
    fs::create_dir_all(&points).map_err(ResultError::io("create", &points))?;
    let mut list = String::new();
    let mut count = 0;
    for (position, arm) in (0u32..).zip(plan) {
        for &seed in &experiment.seeds {
            let (version, arm) = (VERSION.to_owned(), arm.label.clone());
            let file = PointFile { version, position, arm, seed, experiment: spec.clone() };
            let text = serde_json::to_string(&file).unwrap_or_default();
            let name = format!("{:032x}.json", xxh3_128(text.as_bytes()));
            let path = points.join(&name);
            fs::write(&path, text).map_err(ResultError::io("write", &path))?;
            list += &format!("{POINTS}/{name}\n");
            count += 1;
        }
    }
    let path = dir.join(LIST);
    fs::write(&path, list).map_err(ResultError::io("write", &path))?;
    Ok(count)
}

/// The points of a plan, in the order of arms and seeds.
///
/// # Errors
/// When `dir` is no plan.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>, PointError> {
    let path = dir.join(LIST);
    let text = fs::read_to_string(&path).map_err(ResultError::io("read", &path))?;
    Ok(text.lines().map(|line| dir.join(line)).collect())
}

/// The point with this number, from 0: what an array job has.
///
/// # Errors
/// When `dir` is no plan or has fewer points.
pub fn nth(dir: &Path, index: usize) -> Result<PathBuf, PointError> {
    let points = list(dir)?;
    let error = || PointError::Index { dir: dir.to_owned(), points: points.len(), index };
    points.get(index).cloned().ok_or_else(error)
}

/// What running a point did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its arm.
    pub arm: String,
    /// Its seed.
    pub seed: u64,
    /// Requests run; `None` when the folder held the result already.
    pub requests: Option<usize>,
}

/// Runs a point unless its result is there. The results go to `results`, else beside the plan's points.
///
/// # Errors
/// When the file is no point of this version, its traces differ, its run fails or results cannot be written.
pub fn run(path: &Path, results: Option<&Path>) -> Result<Ran, PointError> {
    let bad = |why: String| PointError::File { path: path.to_owned(), why };
    let text = fs::read_to_string(path).map_err(ResultError::io("read", path))?;
    let point: PointFile = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if path.file_stem().is_some_and(|stem| stem.to_string_lossy() != format!("{:032x}", xxh3_128(text.as_bytes()))) {
        return Err(bad("its name is not the digest of its content; it was changed or renamed".to_owned()));
    }
    if point.version != VERSION {
        return Err(bad(format!("it was planned by gorgo {}, this is {VERSION}; plan again", point.version)));
    }
    let beside = || path.parent().and_then(Path::parent).unwrap_or(Path::new("")).join(RESULTS);
    let folder = ResultFolder::create(&results.map_or_else(beside, Path::to_owned), &point.experiment)?;
    let ran = |requests| Ran { arm: point.arm.clone(), seed: point.seed, requests };
    if folder.holds(&point.arm, point.seed, Rows::Drop) {
        return Ok(ran(None));
    }
    let file = path.display().to_string();
    let mut experiment = Experiment::parse(&file, PathBuf::new(), &point.experiment, &[], &[])?;
    let plan = experiment.plan()?;
    let arm = plan.iter().find(|arm| arm.label == point.arm);
    let arm = arm.ok_or_else(|| bad(format!("its experiment has no arm `{}`", point.arm)))?;
    experiment.read_digests(&plan)?;
    if experiment.resolved() != point.experiment {
        return Err(PointError::Trace { path: path.to_owned() });
    }
    let requests = arm.spec.workload.load(&experiment.dir, point.seed)?;
    let (run, _): (ArmRun, _) = simulate(&file, arm, point.seed, &requests)?;
    few_counted(&run)?;
    folder.add(point.position, &run, Rows::Drop)?;
    Ok(ran(Some(run.records.len())))
}

/// Makes the result folder's files from the points that are there. The second part names the files of missing points;
/// the results are `None` when none is there yet.
///
/// # Errors
/// When `dir` is no plan, or its results are damaged or cannot be written.
pub fn collect(dir: &Path) -> Result<(Option<Results>, Vec<PathBuf>), PointError> {
    let folder = ResultFolder::open(&dir.join(RESULTS))?;
    let mut missing = Vec::new();
    let mut there = 0;
    for path in list(dir)? {
        let text = fs::read_to_string(&path).map_err(ResultError::io("read", &path))?;
        let point: PointFile = serde_json::from_str(&text)
            .map_err(|error| PointError::File { path: path.clone(), why: error.to_string() })?;
        if folder.holds(&point.arm, point.seed, Rows::Drop) {
            there += 1;
        } else {
            missing.push(path);
        }
    }
    let results = if there > 0 { Some(folder.finish()?) } else { None };
    Ok((results, missing))
}

/// Where the results of a plan are.
pub fn results_of(dir: &Path) -> PathBuf {
    dir.join(RESULTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        seeds = [1, 2]
        [workload]
        trace = "wildchat-located"
        duration_s = 5.0
        [vary]
        "workload.rate" = [3.0, 4.0]
        [fleet]
        replicas = [{ name = "a", region = "aws:us-east-1" }, { name = "b", region = "aws:eu-central-1" }]
        [[arms]]
        policy = "gorgo"
        [[arms]]
        policy = "random"
    "#;

    fn planned(dir: &Path) -> Experiment {
        let mut experiment = Experiment::parse("x.toml", PathBuf::new(), FILE, &[], &[]).unwrap();
        let plan = experiment.plan().unwrap();
        experiment.read_digests(&plan).unwrap();
        assert_eq!(write_plan(&experiment, &plan, dir).unwrap(), 8);
        experiment
    }

    #[test]
    fn points_run_anywhere_in_any_order_twice_and_give_what_one_run_gives() {
        let dir = tempfile::tempdir().unwrap();
        let experiment = planned(dir.path());
        let mut points = list(dir.path()).unwrap();
        points.reverse();
        assert!(collect(dir.path()).unwrap().0.is_none());
        for path in &points[..7] {
            assert!(run(path, None).unwrap().requests.is_some());
            assert_eq!(run(path, None).unwrap().requests, None, "its result is there");
        }
        let (partial, missing) = collect(dir.path()).unwrap();
        assert_eq!(missing, [points[7].clone()]);
        assert!(partial.unwrap().gap().unwrap().starts_with("1 of 8 runs are missing: gorgo"));
        // Elsewhere, then brought here.
        let other = tempfile::tempdir().unwrap();
        run(&nth(dir.path(), 0).unwrap(), Some(&other.path().join("there"))).unwrap();
        let folder = ResultFolder::open(&results_of(dir.path())).unwrap();
        assert_eq!(folder.absorb(&ResultFolder::open(&other.path().join("there")).unwrap()).unwrap(), 1);
        let (whole, missing) = collect(dir.path()).unwrap();
        let whole = whole.unwrap();
        assert!(missing.is_empty() && whole.gap().is_none());

        let plain = tempfile::tempdir().unwrap();
        let folder = ResultFolder::create(&plain.path().join("r"), &experiment.resolved()).unwrap();
        let options = crate::runner::RunOptions { jobs: Some(1), rows: Rows::Drop, live: false, shard: None };
        let direct = crate::runner::run(&experiment, &experiment.plan().unwrap(), &folder, options, &|_| ()).unwrap();
        assert_eq!((whole.points, whole.summary), (direct.points, direct.summary));
    }

    #[test]
    fn a_changed_point_and_a_wrong_number_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        planned(dir.path());
        let path = nth(dir.path(), 3).unwrap();
        let text = fs::read_to_string(&path).unwrap().replace("\"seed\":2", "\"seed\":3");
        fs::write(&path, text).unwrap();
        let error = run(&path, None).unwrap_err().to_string();
        assert!(error.contains("its name is not the digest of its content"), "{error}");
        let error = nth(dir.path(), 8).unwrap_err().to_string();
        assert!(error.contains("has 8 points, numbered from 0; there is no number 8"), "{error}");
    }
}
