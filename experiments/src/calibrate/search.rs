//! Fits the settings that the regressions leave open: at most six, by CMA-ES in log space, to minimise the distance
//! between the simulated and the measured distributions.
//!
//! All candidates run with the same seeds (common random numbers), so the loss is a smooth function of the settings as far
//! as the simulator is one. The loss is W1(TTFT) / noise + W1(E2E) / noise, the first one class by class, so that errors of
//! opposite sign do not cancel. Afterwards each setting is moved alone over nine points: a flat loss is "not identified".

use super::cma::minimise;
use crate::records::{Records, Row};
use crate::results::ArmRun;
use crate::runner::{self, RunError};
use crate::spec::Experiment;
use crate::stats::blocks::{Blocks, NoBlocks, Sample, distance};
use gorgo_core::Span;
use gorgo_core::record::RequestRecord;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Most settings of a search: two distributions cannot identify more.
pub(super) const MAX_TUNED: usize = 6;

/// Points of a profile.
const PROFILE: usize = 9;

/// A search.
#[derive(Debug, Clone)]
pub struct SearchOptions<'a> {
    /// The experiment whose arms are named as those of the records.
    pub experiment: &'a Path,
    /// Further settings, `key=value`.
    pub sets: Vec<String>,
    /// Searched settings with their bounds, both above 0.
    pub tuned: Vec<(String, f64, f64)>,
    /// Simulations of each arm at most.
    pub evaluations: usize,
    /// Seeds of each simulation.
    pub seeds: usize,
    /// The arm that is fitted on.
    pub arm: String,
    /// Requests of the first seconds that do not count, s.
    pub warm_up_s: f64,
    /// Only requests up to this share of the run count.
    pub part: f64,
    /// Length of the bootstrap's blocks, s.
    pub block_s: f64,
}

/// A setting found by simulation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tuned {
    /// The setting.
    pub key: String,
    /// Bounds of the search.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
    /// Middle of the bounds, where the search begins.
    pub before: f64,
    /// The best value.
    pub value: f64,
    /// Values whose loss is within one unit of noise of the best.
    pub interval: Option<(f64, f64)>,
    /// Whether that range is less than half of the bounds.
    pub identified: bool,
    /// Loss at nine values between the bounds: (value, loss).
    pub profile: Vec<(f64, f64)>,
}

/// The measured side of the loss.
struct Target {
    /// Class of each measured request by its id.
    ids: HashMap<u64, usize>,
    classes: BTreeMap<usize, (Sample, f64)>,
    e2e: Sample,
    noise: (f64, f64),
}

impl Target {
    fn of(rows: &[&Row], options: &SearchOptions<'_>) -> Result<Self, String> {
        let first = rows.iter().filter_map(|row| row.at).fold(f64::INFINITY, f64::min);
        let last = rows.iter().filter_map(|row| row.at).fold(f64::NEG_INFINITY, f64::max);
        let span = options.warm_up_s * 1e3..=options.part * (last - first);
        let late = |row: &Row| row.at.is_some_and(|at| span.contains(&(at - first)));
        let used: Vec<&Row> = rows.iter().copied().filter(|row| row.ok && late(row)).collect();
        let times: Vec<f64> = used.iter().filter_map(|row| row.at).collect();
        let blocks = Blocks::draw(&times, options.block_s * 1e3).map_err(|why| match why {
            NoBlocks::Short => format!("{why}; record for longer, or give a smaller --block"),
            NoBlocks::Long { .. } => why.to_string(),
        })?;
        let sample = |value: fn(&Row) -> Option<f64>| {
            Sample::of(used.iter().enumerate().filter_map(|(i, row)| Some((value(row)?, i))))
        };
        let (ttft, e2e) = (sample(|row| row.ttft), sample(|row| row.e2e));
        let mut ids = HashMap::new();
        let mut values: BTreeMap<usize, Vec<(f64, usize)>> = BTreeMap::new();
        for row in &used {
            let tokens = row.tokens().unwrap_or_default();
            let length = if tokens <= super::fleet::TINY { 0 } else { 1 + usize::from(tokens > super::LONG_PROMPT) };
            if let (Ok(id), Some(ttft)) = (row.id.parse(), row.ttft) {
                ids.insert(id, length);
                values.entry(length).or_default().push((ttft, 0));
            }
        }
        let all = ids.len() as f64;
        let classes = values.into_iter().map(|(class, values)| {
            let part = values.len() as f64 / all;
            (class, (Sample::of(values), part))
        });
        // What chance alone does to the distance.
        let middle = |sample: &Sample| {
            let mut shifts: Vec<f64> = blocks.each(|weights| sample.shift(weights)).flatten().collect();
            shifts.sort_by(f64::total_cmp);
            shifts.get(shifts.len() / 2).copied().filter(|noise| *noise > 0.0)
        };
        let noise = middle(&ttft).zip(middle(&e2e));
        let noise = noise.ok_or("the records have no TTFT and E2E that vary; name columns with --columns")?;
        Ok(Self { ids, classes: classes.collect(), noise, e2e })
    }

    /// The loss of simulated records.
    fn loss(&self, records: &[&RequestRecord]) -> f64 {
        let (mut classes, mut e2e): (BTreeMap<usize, Vec<(f64, usize)>>, _) = (BTreeMap::new(), Vec::new());
        for record in records {
            let Some(class) = self.ids.get(&record.request) else { continue };
            if let (Some(first), Some(whole)) = (record.ttft(), record.e2e()) {
                classes.entry(*class).or_default().push((first.ms(), 0));
                e2e.push((whole.ms(), 0));
            }
        }
        let mut sum = 0.0;
        for (class, (sample, part)) in &self.classes {
            let simulated = classes.remove(class).map(Sample::of).unwrap_or_default();
            sum += part * distance(sample, &simulated).unwrap_or(1e6) / self.noise.0;
        }
        sum + distance(&self.e2e, &Sample::of(e2e)).unwrap_or(1e6) / self.noise.1
    }
}

/// Why a search failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// The options.
    #[error("{0}")]
    Options(String),
    /// The experiment or a run of it.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The experiment file.
    #[error(transparent)]
    Spec(#[from] crate::spec::SpecError),
}

/// Searches the settings. Requests are joined by the number of the row, as `requests.csv` has it.
///
/// # Errors
/// When the experiment has no such arm, the records no noise, or a setting does not exist.
pub fn search(records: &Records, options: &SearchOptions<'_>) -> Result<(Vec<Tuned>, f64, f64), SearchError> {
    let n = options.tuned.len();
    if n == 0 || n > MAX_TUNED {
        return Err(SearchError::Options(format!("{n} settings to search; give 1 to {MAX_TUNED} with --tune")));
    }
    for (key, low, high) in &options.tuned {
        if !(*low > 0.0 && high > low && high.is_finite()) {
            return Err(SearchError::Options(format!(
                "--tune {key}={low}..{high}: give bounds above 0 in ascending order"
            )));
        }
    }
    let rows: Vec<&Row> = records.rows.iter().filter(|row| *row.arm == *options.arm).collect();
    let target = Target::of(&rows, options)
        .map_err(|why| SearchError::Options(format!("arm `{}` of the records: {why}", options.arm)))?;
    let simulator = Simulator::new(options, &target)?;
    let value = |x: &[f64]| -> Vec<f64> {
        let bounds = options.tuned.iter().zip(x);
        bounds.map(|((_, low, high), x)| low * (high / low).powf(x.clamp(0.0, 1.0))).collect()
    };
    // Outside of the bounds the loss rises with the distance.
    let outside = |x: &[f64]| x.iter().map(|x| (x - x.clamp(0.0, 1.0)).abs()).sum::<f64>();
    let start = vec![0.5; n];
    let begin = simulator.loss(&value(&start))?;
    let many = |points: &[Vec<f64>]| -> Result<Vec<f64>, SearchError> {
        points.par_iter().map(|x| Ok(simulator.loss(&value(x))? + 100.0 * outside(x))).collect()
    };
    let (mut best, mut least) = minimise(&start, 0.25, options.evaluations, many)?;
    if begin < least {
        (best, least) = (start.clone(), begin);
    }
    let mut tuned = Vec::new();
    for (i, (key, low, high)) in options.tuned.iter().enumerate() {
        let points: Vec<Vec<f64>> = (0..PROFILE)
            .map(|k| {
                let mut x = best.clone();
                x[i] = k as f64 / (PROFILE - 1) as f64;
                x
            })
            .collect();
        let losses = many(&points)?;
        let profile: Vec<(f64, f64)> = points.iter().zip(&losses).map(|(x, loss)| (value(x)[i], *loss)).collect();
        let here = value(&best)[i];
        let near: Vec<f64> = profile.iter().filter(|(_, l)| *l <= least + 1.0).map(|p| p.0).chain([here]).collect();
        let (from, to) = near.iter().fold((here, here), |(a, b), v| (a.min(*v), b.max(*v)));
        let identified = (to / from).ln() < 0.5 * (high / low).ln();
        let (low, high) = (*low, *high);
        let interval = Some((from, to));
        tuned.push(Tuned {
            key: key.clone(),
            low,
            high,
            before: value(&start)[i],
            value: here,
            interval,
            identified,
            profile,
        });
    }
    Ok((tuned, begin, least))
}

struct Simulator<'a> {
    options: &'a SearchOptions<'a>,
    target: &'a Target,
    text: String,
    file: String,
    dir: std::path::PathBuf,
    requests: Vec<Vec<gorgo_core::request::TraceRequest>>,
}

impl<'a> Simulator<'a> {
    fn new(options: &'a SearchOptions<'a>, target: &'a Target) -> Result<Self, SearchError> {
        let path = options.experiment;
        let text = std::fs::read_to_string(path)
            .map_err(|source| crate::spec::SpecError::Read { path: path.to_owned(), source })?;
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut simulator = Self { options, target, text, file: path.display().to_string(), dir, requests: Vec::new() };
        // The workload does not depend on what is searched, so it is drawn once.
        let arm = simulator.arm(&[])?;
        for seed in 1..=options.seeds as u64 {
            simulator.requests.push(arm.spec.workload.load(&simulator.dir, seed)?);
        }
        Ok(simulator)
    }

    fn arm(&self, values: &[f64]) -> Result<crate::spec::PlannedArm, SearchError> {
        let tuned =
            self.options.tuned.iter().zip(values).map(|((key, ..), value)| format!("{key}={}", whole(key, *value)));
        let sets: Vec<String> = self.options.sets.iter().cloned().chain(tuned).collect();
        let experiment = Experiment::parse(&self.file, self.dir.clone(), &self.text, &sets, &[])?;
        let plan = experiment.plan()?;
        let names: Vec<String> = plan.iter().map(|arm| arm.label.clone()).collect();
        plan.into_iter().find(|arm| arm.label == self.options.arm).ok_or_else(|| {
            let hint = gorgo_core::suggest::did_you_mean(&self.options.arm, names.iter().map(String::as_str));
            SearchError::Options(format!("`{}` has no arm `{}`; {hint}", self.file, self.options.arm))
        })
    }

    fn loss(&self, values: &[f64]) -> Result<f64, SearchError> {
        let arm = self.arm(values)?;
        let mut runs: Vec<ArmRun> = Vec::new();
        for (seed, requests) in (1..).zip(&self.requests) {
            runs.push(runner::simulate(&self.file, &arm, seed, requests)?.0);
        }
        let late =
            |record: &&RequestRecord| (record.sent - gorgo_core::Time::ZERO) >= Span::from_secs(self.options.warm_up_s);
        let records: Vec<&RequestRecord> = runs.iter().flat_map(|run| &run.records).filter(late).collect();
        Ok(self.target.loss(&records))
    }
}

/// A value as a setting takes it: counts are whole numbers.
fn whole(key: &str, value: f64) -> String {
    const COUNTS: [&str; 8] =
        ["_tokens", "_size", "_requests", "_bs", "_window", "max_running", "workers", "_interval"];
    let counts = COUNTS.iter().any(|end| key.ends_with(end)) && !key.contains("ms_per");
    if counts { format!("{value:.0}") } else { format!("{value:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_whole_numbers() {
        assert_eq!(whole("fleet.settings.resume_tokens", 4096.4), "4096");
        assert_eq!(whole("network.sigma", 0.25), "0.25");
        assert_eq!(whole("fleet.settings.prefill.ms_per_token", 0.057), "0.057");
    }
}
