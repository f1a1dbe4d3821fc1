//! Calibration: engine, network and policy settings from the records of a run.
//!
//! Reading order: [`calibrate`] (the fits in their order, with intervals) uses `fleet` (state of each replica at each
//! request, from the records), `fits` (the regressions), `least` (robust least squares) and `parameters`; [`search()`]
//! fits the remaining settings by simulation (`cma`); `write` turns the result into TOML, `probe` measures a live
//! server and `probe_fit` fits settings to it.
//!
//! An interval is the central 95 % over resampled blocks of time (`stats`). A parameter is identified when its interval
//! is less than half as wide as the prior range: half to twice the larger of the preset's value and the fit.

mod cma;
mod fits;
mod fleet;
mod least;
mod parameters;
mod probe;
mod probe_fit;
mod search;
mod write;

pub use probe::{ProbeError, ProbeOptions, Probed, probe};
pub use probe_fit::fit_probe;
pub use search::{SearchError, SearchOptions, Tuned, search};
pub use write::{engine_toml, network_toml, parameters, policy_toml, probe_toml, table};

use crate::plot::{self, Figure, Residuals};
use crate::records::{Records, Row};
use crate::stats::blocks::{Blocks, NoBlocks};
use fits::{Found, Held, Model};
use fleet::Fleet;
use gorgo_sim::engine::EngineConfig;
use gorgo_sim::network::NetworkConfig;
use parameters::Fit;
use serde::Serialize;

/// Fewest answered requests to fit on.
const LEAST_REQUESTS: usize = 100;

/// Replicates of a fit; each costs about 20 robust regressions.
const REPLICATES: usize = 60;

/// What is known before a fit, and which requests count.
#[derive(Debug, Clone)]
pub struct CalibrateOptions {
    /// The arm to fit on; the only one when absent.
    pub arm: Option<String>,
    /// The engine believed in: step times that the records do not show stay as they are here.
    pub engine: EngineConfig,
    /// The network believed in.
    pub network: NetworkConfig,
    /// Requests of the first seconds are left out, s: a cold engine follows another law.
    pub warm_up_s: f64,
    /// Only requests up to this share of the run are used; the rest judges the fit.
    pub part: f64,
    /// Length of the bootstrap's blocks, s.
    pub block_s: f64,
}

/// One fitted number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Parameter {
    /// The setting, as in an experiment file; in parentheses what is no setting.
    pub key: String,
    /// What was believed before.
    pub prior: Option<f64>,
    /// The fit.
    pub value: f64,
    /// The central 95 % of the fit over blocks of time.
    pub interval: Option<(f64, f64)>,
    /// Which quantity the records vary, and from where to where (5th to 95th percentile).
    pub visited: String,
    /// Whether the records say more than the prior; otherwise the prior stays in force.
    pub identified: bool,
}

/// The outcome of a calibration.
#[derive(Debug, Clone, Serialize)]
pub struct Calibration {
    /// The arm that was fitted on.
    pub arm: String,
    /// Requests that were used.
    pub requests: usize,
    /// Replicas in the order of their names.
    pub replicas: Vec<String>,
    /// Round trip of requests to each replica, ms, with intervals.
    pub rtt: Vec<Parameter>,
    /// Settings of the engine.
    pub engine: Vec<Parameter>,
    /// Settings of the network.
    pub network: Vec<Parameter>,
    /// Settings of the policy `gorgo`.
    pub policy: Vec<Parameter>,
    /// Share of the variance of the time to first token that the fit explains, where it was made.
    pub explained: f64,
    /// The same on the requests that were kept to judge; `None` without any.
    pub explained_apart: Option<f64>,
    /// What was left out and why intervals are missing; one sentence each.
    pub notes: Vec<String>,
    /// Residuals (measured - predicted TTFT, ms) by class.
    #[serde(skip)]
    pub residuals: Vec<Residuals>,
}

/// Why a calibration failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// No arm to fit on.
    #[error("{0}")]
    Arm(String),
    /// Too few requests.
    #[error(
        "arm `{arm}` has {found} answered requests with replica, time, tokens, TTFT and E2E after the warm-up; a fit needs {LEAST_REQUESTS} (name columns with --columns)"
    )]
    Few {
        /// The arm.
        arm: String,
        /// How many there are.
        found: usize,
    },
    /// The recording is far too long for its blocks.
    #[error("arm `{arm}`: {why}")]
    Times {
        /// The arm.
        arm: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The regressors cannot be told apart.
    #[error("the time to first token of arm `{arm}` cannot be fitted: {why}")]
    Singular {
        /// The arm.
        arm: String,
        /// What is missing.
        why: &'static str,
    },
}

/// Fits engine and network to the records of one arm.
///
/// # Errors
/// When there is no such arm, or its requests are too few or too uniform.
pub fn calibrate(records: &Records, options: &CalibrateOptions) -> Result<Calibration, CalibrateError> {
    let arms = records.arms();
    let arm = fleet::arm_of(&arms, options.arm.as_deref()).map_err(CalibrateError::Arm)?;
    let rows: Vec<&Row> = records.rows.iter().filter(|row| &*row.arm == arm).collect();
    let (rows, copies) = fleet::without_copies(rows);
    let mut model = Model {
        engine: options.engine.clone(),
        network: options.network.clone(),
        keep_alive: None,
        bytes_per_token: options.network.bytes_per_token,
        bytes_known: false,
        held: Held::default(),
    };
    let (fleet, apart) = split(Fleet::of(&rows), options);
    if fleet.seen.len() < LEAST_REQUESTS {
        return Err(CalibrateError::Few { arm: arm.to_owned(), found: fleet.seen.len() });
    }
    let mut notes = Vec::new();
    if copies > 0 {
        notes.push(format!("{copies} rows repeat the id, time and replica of an earlier one and are left out"));
    }
    let times: Vec<f64> = fleet.seen.iter().map(|seen| seen.at).collect();
    let blocks = match Blocks::draw(&times, options.block_s * 1e3) {
        Ok(blocks) => Some(blocks),
        Err(NoBlocks::Short) => {
            notes.push(too_short(&times, options.block_s));
            None
        }
        Err(why) => return Err(CalibrateError::Times { arm: arm.to_owned(), why: why.to_string() }),
    };
    let singular = |why| CalibrateError::Singular { arm: arm.to_owned(), why };
    let ones = vec![1.0; fleet.seen.len()];
    let mut steps = fits::decode(&fleet, &ones, &model);
    let weights = || {
        let drawn = blocks.iter().flat_map(|blocks| blocks.weights().take(REPLICATES));
        drawn.map(|weights| weights.iter().map(|&w| f64::from(w)).collect::<Vec<f64>>())
    };
    let again: Vec<Found> = weights().map(|weights| fits::decode(&fleet, &weights, &model)).collect();
    // An intercept is fitted together with its slopes: where a slope is not identified and its prior stays in force, the
    // intercept must be the one that belongs to the prior.
    let free = steps.clone();
    model.held = {
        let fit = Fit { fleet: &fleet, model: &model, found: &free, replicates: &again };
        let unknown = |slope: Option<Parameter>| slope.is_some_and(|s| s.interval.is_some() && !s.identified);
        Held { row: unknown(fit.row()), floor: unknown(fit.floor()) }
    };
    let is_held = model.held != Held::default();
    if is_held {
        steps = fits::decode(&fleet, &ones, &model);
        let slopes = [(model.held.row, "decode.ms_per_row"), (model.held.floor, "prefill.floor_ms")];
        let slopes: Vec<&str> = slopes.into_iter().filter_map(|(held, key)| held.then_some(key)).collect();
        notes
            .push(format!("not identified: {}; decode.weights_ms is fitted with the values before", slopes.join(", ")));
    }
    let floor = floor_of(&steps, &model);
    let mut rtt = fits::floors(&fleet, &model, floor);
    model.keep_alive = fits::keep_alive(&fleet, &rtt);
    rtt = fits::floors(&fleet, &model, floor);
    // The floors hold what every request waits for; the regression takes it out, and its round trips go into the openings of
    // the next one.
    let mut found = Found::default();
    for _ in 0..3 {
        fits::token_bytes(&fleet, &mut model, floor, &rtt);
        found = fits::first_token(&fleet, &ones, &model, floor, &rtt)
            .ok_or(singular("its prompts, replicas and queues vary too little"))?
            .0;
        rtt.clone_from(&found.rtt);
    }
    (found.step, found.row, found.floor, found.stall) = (steps.step, free.row, free.floor, steps.stall);
    let replicates: Vec<Found> = weights()
        .zip(again)
        .filter_map(|(weights, free)| {
            let steps = if is_held { fits::decode(&fleet, &weights, &model) } else { free.clone() };
            let (mut again, _) = fits::first_token(&fleet, &weights, &model, floor_of(&steps, &model), &rtt)?;
            (again.step, again.row, again.floor, again.stall) = (steps.step, free.row, free.floor, steps.stall);
            Some(again)
        })
        .collect();
    let fit = Fit { fleet: &fleet, model: &model, found: &found, replicates: &replicates };
    let full = Found { floor: Some(floor), ..found.clone() };
    Ok(Calibration {
        arm: arm.to_owned(),
        requests: fleet.seen.len(),
        replicas: fleet.replicas.clone(),
        rtt: fit.rtt(),
        engine: fit.engine(),
        network: fit.network(),
        policy: fit.policy(),
        explained: explained(&fleet, &model, &full).unwrap_or_default(),
        explained_apart: explained(&apart, &model, &full),
        notes,
        residuals: residuals(&fleet, &model, &full),
    })
}

/// Why there are no intervals.
fn too_short(times: &[f64], block_s: f64) -> String {
    let (first, last) = times.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), at| (a.min(*at), b.max(*at)));
    format!(
        "the requests that were fitted take {:.0} s, fewer than three blocks of {block_s} s, so there are no intervals and nothing is identified; record for longer, or give a smaller --block",
        (last - first) / 1e3
    )
}

/// The requests after the warm-up, in the first part of the run and in the rest.
fn split(fleet: Fleet, options: &CalibrateOptions) -> (Fleet, Fleet) {
    let first = fleet.seen.iter().map(|s| s.at).fold(f64::INFINITY, f64::min);
    let last = fleet.seen.iter().map(|s| s.at).fold(f64::NEG_INFINITY, f64::max);
    let (from, to) = (first + options.warm_up_s * 1e3, first + options.part * (last - first));
    let replicas = fleet.replicas.clone();
    let (used, apart) = fleet.seen.into_iter().filter(|s| s.at >= from).partition(|s| s.at <= to);
    (Fleet { replicas: replicas.clone(), seen: used }, Fleet { replicas, seen: apart })
}

/// The least prefill step: as stalls show it, else as the engine that was believed in has it.
fn floor_of(found: &Found, model: &Model) -> f64 {
    found.floor.filter(|floor| *floor > 0.0).unwrap_or_else(|| model.engine.prefill.ms(fleet::TINY as u64, 0.0))
}

/// R²; `None` for fewer than 20 requests.
fn explained(fleet: &Fleet, model: &Model, found: &Found) -> Option<f64> {
    let n = fleet.seen.len() as f64;
    if n < 20.0 {
        return None;
    }
    let mean = fleet.seen.iter().map(|s| s.ttft).sum::<f64>() / n;
    let (rest, all) = fleet.seen.iter().fold((0.0, 0.0), |(rest, all), seen| {
        (rest + (seen.ttft - fits::predicted(seen, model, found)).powi(2), all + (seen.ttft - mean).powi(2))
    });
    (all > 0.0).then(|| 1.0 - rest / all)
}

/// Residuals of each length at each replica.
fn residuals(fleet: &Fleet, model: &Model, found: &Found) -> Vec<Residuals> {
    let mut classes: std::collections::BTreeMap<(usize, usize), Vec<f64>> = std::collections::BTreeMap::new();
    for seen in &fleet.seen {
        let length = if seen.prompt <= fleet::TINY { 0 } else { 1 + usize::from(seen.prompt > LONG_PROMPT) };
        classes.entry((length, seen.replica)).or_default().push(seen.ttft - fits::predicted(seen, model, found));
    }
    let class = |((length, replica), mut values): ((usize, usize), Vec<f64>)| {
        values.sort_by(f64::total_cmp);
        let at = |p: f64| values[((values.len() - 1) as f64 * p) as usize];
        Residuals {
            name: format!("{} {}", ["tiny", "mid", "long"][length], fleet.replicas[replica]),
            requests: values.len(),
            p10: at(0.1),
            p50: at(0.5),
            p90: at(0.9),
        }
    };
    classes.into_iter().take(MAX_CLASSES).map(class).collect()
}

/// Bound of the longest class, tokens, as in `validate`.
const LONG_PROMPT: f64 = 4096.0;
const MAX_CLASSES: usize = 48;

impl Calibration {
    /// The residuals of the time to first token by class.
    pub fn figure(&self) -> Option<Figure> {
        plot::residuals(
            &format!("{}: TTFT measured less predicted, by class (bar: 10 to 90 %)", self.arm),
            &self.residuals,
        )
    }
}

#[cfg(test)]
mod tests;
