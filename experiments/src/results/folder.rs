//! The result folder on disk. Every file is written under a temporary name and renamed, so that files are complete.
//!
//! `points/<key>.json` (and, where rows are kept, `points/<key>.requests.csv.gz` and the first decisions of the first
//! seed, `points/<key>.decisions.json.gz`) are written when an arm and seed ends.
//! [`ResultFolder::finish`] makes all other files from them, and can do so again at any time.

use super::own_files::{Owner, is_of_point, owner};
use super::{ArmRun, Point, ResultError, Timing, requests};
use crate::plot::{self, Format};
use crate::report;
use crate::spec::Experiment;
use crate::summary::loads::arm_name;
use crate::summary::{self, ArmSummary};
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use gorgo_core::suggest::did_you_mean;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Whether to keep one row per request; sweeps need none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Rows go to `requests.csv` and the timeline.
    Keep,
    /// Only the point is kept.
    Drop,
}

/// A result folder being filled or read. May be shared by threads that add different arms or seeds.
#[derive(Debug, Clone)]
pub struct ResultFolder {
    dir: PathBuf,
    spec: String,
}

/// Contents of a result folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    /// `experiment.toml`, resolved.
    pub spec: String,
    /// Ordered by arm's position, arm, seed.
    pub points: Vec<Point>,
    /// One row per arm, in the same order.
    pub summary: Vec<ArmSummary>,
    /// Arm and seed of the experiment's runs that the folder does not hold.
    pub missing: Vec<(String, u64)>,
}

impl Results {
    /// The results of `spec` from its points, which are ordered by position, arm and seed.
    pub fn of(spec: String, points: Vec<Point>) -> Self {
        let summary = summary::summarize(&points);
        let mut missing = planned(&spec);
        missing.retain(|(arm, seed)| !points.iter().any(|point| point.arm == *arm && point.seed == *seed));
        Self { spec, points, summary, missing }
    }

    /// These arms alone, by their name with or without the varied settings behind it; all without names.
    ///
    /// # Errors
    /// A name that no arm has, with the nearest.
    pub fn only(mut self, names: &[String]) -> Result<Self, String> {
        if names.is_empty() {
            return Ok(self);
        }
        let is = |arm: &ArmSummary, name: &str| arm.arm == name || arm_name(&arm.arm, &arm.settings) == name;
        arms_are_known(names, self.summary.iter().map(|arm| (arm.arm.as_str(), &arm.settings)))?;
        self.summary.retain(|arm| names.iter().any(|name| is(arm, name)));
        let summary = &self.summary;
        self.points.retain(|point| summary.iter().any(|arm| arm.arm == point.arm));
        self.missing.retain(|(arm, _)| names.iter().any(|name| arm == name || arm.starts_with(&format!("{name} "))));
        Ok(self)
    }

    /// One sentence that names the runs that are missing; `None` when all are there.
    pub fn gap(&self) -> Option<String> {
        let of = self.points.len() + self.missing.len();
        let named: Vec<String> =
            self.missing.iter().take(NAMED).map(|(arm, seed)| format!("{arm} seed {seed}")).collect();
        let more = if self.missing.len() > NAMED { ", ..." } else { "" };
        (!self.missing.is_empty())
            .then(|| format!("{} of {of} runs are missing: {}{more}", self.missing.len(), named.join(", ")))
    }
}

/// Checks names of arms, with or without the varied settings behind them, against the arms with their settings.
///
/// # Errors
/// A name that no arm has, with the nearest.
pub fn arms_are_known<'a>(
    names: &[String],
    arms: impl Iterator<Item = (&'a str, &'a BTreeMap<String, String>)>,
) -> Result<(), String> {
    let known: Vec<(&str, String)> = arms.map(|(label, settings)| (label, arm_name(label, settings))).collect();
    match names.iter().find(|name| !known.iter().any(|(label, short)| label == name || short == *name)) {
        None => Ok(()),
        Some(name) => {
            let hint = did_you_mean(name, known.iter().map(|(_, short)| short.as_str()));
            Err(format!("no arm is called `{name}`; {hint}"))
        }
    }
}

/// Missing runs that are named.
const NAMED: usize = 12;

/// Arm and seed of every run of the experiment; none if the text is no experiment of this version.
fn planned(spec: &str) -> Vec<(String, u64)> {
    let Ok(experiment) = Experiment::parse("experiment.toml", PathBuf::new(), spec, &[], &[]) else {
        return Vec::new();
    };
    let Ok(plan) = experiment.plan() else { return Vec::new() };
    plan.iter().flat_map(|arm| experiment.seeds.iter().map(|&seed| (arm.label.clone(), seed))).collect()
}

impl ResultFolder {
    /// Creates `dir` with the resolved experiment `spec`, or opens a folder that holds the same experiment.
    ///
    /// # Errors
    /// When the folder holds another experiment, or files that gorgo did not write, or cannot be written.
    pub fn create(dir: &Path, spec: &str) -> Result<Self, ResultError> {
        let points = claim(dir, spec)?;
        fs::create_dir_all(&points).map_err(ResultError::io("create", &points))?;
        atomic(&dir.join("experiment.toml"), |out| out.write_all(spec.as_bytes()))?;
        Ok(Self { dir: dir.to_owned(), spec: spec.to_owned() })
    }

    /// Whether [`Self::create`] would succeed. It is asked before a long measurement, which would be lost otherwise.
    ///
    /// # Errors
    /// See [`Self::create`].
    pub fn check(dir: &Path, spec: &str) -> Result<(), ResultError> {
        let points = claim(dir, spec)?;
        fs::create_dir_all(&points).map_err(ResultError::io("create", &points))?;
        for folder in [dir, &points] {
            let probe = folder.join(format!(".check.{}.tmp", std::process::id()));
            File::create(&probe).map_err(ResultError::io("write", &probe))?;
            fs::remove_file(&probe).map_err(ResultError::io("delete", &probe))?;
        }
        let _ = fs::remove_dir(&points); // it stays where it holds points
        Ok(())
    }

    /// Opens a folder that a run or sweep has made.
    ///
    /// # Errors
    /// When it has no `experiment.toml`.
    pub fn open(dir: &Path) -> Result<Self, ResultError> {
        let path = dir.join("experiment.toml");
        let spec = fs::read_to_string(&path).map_err(ResultError::io("read", &path))?;
        Ok(Self { dir: dir.to_owned(), spec })
    }

    /// Path of the folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the folder holds `arm` with `seed`, with its rows if `rows` requires them.
    pub fn holds(&self, arm: &str, seed: u64, rows: Rows) -> bool {
        let key = Point::key(arm, seed);
        self.point_path(&key).exists() && (rows == Rows::Drop || self.rows_path(&key).exists())
    }

    /// Adds one finished arm and seed; `position` is the arm's place in the experiment, 0 being the baseline.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn add(&self, position: u32, run: &ArmRun, rows: Rows) -> Result<Point, ResultError> {
        let point = Point::of(position, run);
        let key = Point::key(&run.arm, run.seed);
        if rows == Rows::Keep {
            atomic(&self.rows_path(&key), |out| {
                let mut packed = GzEncoder::new(out, Compression::fast());
                requests::write(&mut packed, run, true)?;
                packed.finish().map(|_| ())
            })?;
            if !run.decisions.is_empty() {
                atomic(&self.decisions_path(&key), |out| {
                    let mut packed = GzEncoder::new(out, Compression::fast());
                    serde_json::to_writer(&mut packed, &run.decisions)?;
                    packed.finish().map(|_| ())
                })?;
            }
        }
        // The point comes last: if it exists, so do its rows.
        self.write_point(&point)?;
        Ok(point)
    }

    /// Copies the points of another folder of the same experiment, for example of another shard; returns their number.
    ///
    /// # Errors
    /// When the folders hold different experiments, or different results for one arm and seed.
    pub fn absorb(&self, other: &Self) -> Result<usize, ResultError> {
        if other.spec != self.spec {
            return Err(ResultError::Mixed { paths: [self.dir.clone(), other.dir.clone()] });
        }
        let theirs = other.points()?;
        for point in &theirs {
            let key = Point::key(&point.arm, point.seed);
            let place = self.point_path(&key);
            if place.exists() && &read_point(&place)? != point {
                return Err(ResultError::Conflict { arm: point.arm.clone(), seed: point.seed });
            }
            for (from, to) in
                [(other.rows_path(&key), self.rows_path(&key)), (other.decisions_path(&key), self.decisions_path(&key))]
            {
                if from.exists() {
                    let mut input = File::open(&from).map_err(ResultError::io("read", &from))?;
                    atomic(&to, |out| io::copy(&mut input, out).map(|_| ()))?;
                }
            }
            self.write_point(point)?;
        }
        Ok(theirs.len())
    }

    /// Writes `timing.json`, the one file that differs from run to run.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_timing(&self, timing: &Timing) -> Result<(), ResultError> {
        self.write_json(&self.dir.join("timing.json"), timing)
    }

    /// Reads all points and summarises them.
    ///
    /// # Errors
    /// When the folder holds no point, or a file is damaged.
    pub fn load(&self) -> Result<Results, ResultError> {
        let points = self.points()?;
        if points.is_empty() {
            return Err(ResultError::Empty { path: self.dir.clone() });
        }
        Ok(Results::of(self.spec.clone(), points))
    }

    /// Writes summary, joined rows, timeline, plots and report from the points, and returns the results.
    ///
    /// # Errors
    /// When the folder holds no point, a file is damaged, or a file cannot be written.
    pub fn finish(&self) -> Result<Results, ResultError> {
        let results = self.load()?;
        self.write_json(&self.dir.join("summary.json"), &results.summary)?;
        atomic(&self.dir.join("summary.csv"), |out| summary::write_csv(out, &results.summary))?;
        self.join_rows(&results.points)?;
        self.write_timeline(&results.points)?;
        self.write_plots(&results, &[Format::Svg, Format::Png])?;
        self.write_report(&results)?;
        Ok(results)
    }

    /// Writes `plots/` and returns the paths.
    ///
    /// # Errors
    /// When a plot cannot be drawn or written.
    pub fn write_plots(&self, results: &Results, formats: &[Format]) -> Result<Vec<PathBuf>, ResultError> {
        let dir = self.dir.join("plots");
        fs::create_dir_all(&dir).map_err(ResultError::io("create", &dir))?;
        let mut paths = Vec::new();
        for figure in plot::figures(results) {
            for &format in formats {
                let path = dir.join(format!("{}.{}", figure.name, format.suffix()));
                let bytes = figure.render(format)?;
                atomic(&path, |out| out.write_all(&bytes))?;
                paths.push(path);
            }
        }
        Ok(paths)
    }

    /// Writes `report.html` and returns its path.
    ///
    /// # Errors
    /// When a plot cannot be drawn or the file not written.
    pub fn write_report(&self, results: &Results) -> Result<PathBuf, ResultError> {
        let path = self.dir.join("report.html");
        let page = report::html(results)?;
        atomic(&path, |out| out.write_all(page.as_bytes()))?;
        Ok(path)
    }

    fn point_path(&self, key: &str) -> PathBuf {
        self.dir.join("points").join(format!("{key}.json"))
    }

    fn rows_path(&self, key: &str) -> PathBuf {
        self.dir.join("points").join(format!("{key}.requests.csv.gz"))
    }

    fn decisions_path(&self, key: &str) -> PathBuf {
        self.dir.join("points").join(format!("{key}.decisions.json.gz"))
    }

    fn points(&self) -> Result<Vec<Point>, ResultError> {
        let dir = self.dir.join("points");
        let mut points = Vec::new();
        for entry in fs::read_dir(&dir).map_err(ResultError::io("list", &dir))? {
            let path = entry.map_err(ResultError::io("list", &dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if is_of_point(&name) && name.ends_with(".json") {
                points.push(read_point(&path)?);
            }
        }
        points.sort_by(|a, b| (a.position, &a.arm, a.seed).cmp(&(b.position, &b.arm, b.seed)));
        Ok(points)
    }

    fn join_rows(&self, points: &[Point]) -> Result<(), ResultError> {
        let paths: Vec<PathBuf> = points.iter().map(|p| self.rows_path(&Point::key(&p.arm, p.seed))).collect();
        let paths: Vec<&PathBuf> = paths.iter().filter(|path| path.exists()).collect();
        if paths.is_empty() {
            return Ok(());
        }
        let target = self.dir.join("requests.csv");
        atomic(&target, |out| {
            for (i, path) in paths.iter().enumerate() {
                let mut rows = io::BufReader::new(MultiGzDecoder::new(io::BufReader::new(File::open(path)?)));
                if i > 0 {
                    io::BufRead::skip_until(&mut rows, b'\n')?;
                }
                io::copy(&mut rows, out)?;
            }
            Ok(())
        })
    }

    /// Writes a point without line breaks, because most of it is long arrays.
    fn write_point(&self, point: &Point) -> Result<(), ResultError> {
        let path = self.point_path(&Point::key(&point.arm, point.seed));
        atomic(&path, |out| Ok(serde_json::to_writer(out, point)?))
    }

    fn write_json(&self, path: &Path, value: &impl serde::Serialize) -> Result<(), ResultError> {
        let mut text = serde_json::to_string_pretty(value).map_err(|e| ResultError::io("write", path)(e.into()))?;
        text.push('\n');
        atomic(path, |out| out.write_all(text.as_bytes()))
    }
}

/// The folder of points in `dir`, which is free or holds results of `spec`.
fn claim(dir: &Path, spec: &str) -> Result<PathBuf, ResultError> {
    match owner(dir)? {
        Owner::Results(there) if there == spec => {}
        Owner::Results(_) => return Err(ResultError::Other { path: dir.to_owned() }),
        Owner::Foreign(path) => return Err(ResultError::Foreign { path }),
        Owner::Free => {}
    }
    Ok(dir.join("points"))
}

fn read_point(path: &Path) -> Result<Point, ResultError> {
    let text = fs::read_to_string(path).map_err(ResultError::io("read", path))?;
    serde_json::from_str(&text).map_err(|e| ResultError::bad(path, format!("is not a point of this version: {e}")))
}

/// Writes a file beside `path` and renames it into place.
fn atomic(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), ResultError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Workers of a sweep on several machines may share the folder, and so may their process ids.
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let beside = path.with_file_name(format!(".{name}.{}-{nanos:x}.tmp", std::process::id()));
    let attempt = || {
        let mut out = BufWriter::new(File::create(&beside)?);
        write(&mut out)?;
        out.flush()?;
        fs::rename(&beside, path)
    };
    attempt().map_err(|source| {
        // The incomplete file is useless; the first error is the one to report.
        let _ = fs::remove_file(&beside);
        ResultError::io("write", path)(source)
    })
}

mod timeline;
pub(crate) use timeline::DECISIONS;

#[cfg(test)]
mod tests;
