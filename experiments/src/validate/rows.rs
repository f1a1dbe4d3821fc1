//! Compares two recordings request by request, with the measured recording's own noise beside each error.
//!
//! Arms are matched by name, requests joined by run and id; a request counts where both sources answered it. All runs of the
//! simulated arm are pooled for a recording that names no run, as far as they hold its requests. The noise of a figure is the central 95 % of `replicate / measured - 1` over the replicates of
//! `blocks`; an error within that interval may be the recording's own noise.

use super::figures::{Figures, classes, shares};
use super::join::{Joined, Pair, join, lengths, near_lengths};
use super::order::{self, Order};
use super::settings::RowSettings;
use crate::records::{Records, Row};
use crate::stats::blocks::{NoBlocks, Sample, spearman};
use gorgo_core::suggest::did_you_mean;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What is said of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Agreement {
    /// The error lies within the recording's own noise.
    InsideNoise,
    /// It is larger, but at most `--max-error`.
    WithinLimit,
    /// It is larger than both.
    Beyond,
}

impl Agreement {
    /// Its text in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InsideNoise => "in noise",
            Self::WithinLimit => "in limit",
            Self::Beyond => "beyond",
        }
    }
}

/// One figure of both sources.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowFigure {
    /// Name, with its unit.
    pub name: String,
    /// In the measured source; `None` for figures of a pair (distance, correlation).
    pub measured: Option<f64>,
    /// In the simulated one, or the figure of the pair.
    pub simulated: f64,
    /// Error in per cent of the measured; for shares and rates the difference in points, for a distance its size in per
    /// cent of the measured mean.
    pub error: Option<f64>,
    /// The central 95 % of what the recording's own chance does to it, in the unit of the error.
    pub noise: Option<(f64, f64)>,
    /// How the two compare; `None` without noise and limit, and for figures that are not judged by an error.
    pub agreement: Option<Agreement>,
    /// Whether it decides the outcome: p50 and p95 of TTFT and E2E.
    pub judged: bool,
}

/// Requests of one length at one replica.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Class {
    /// `tiny`, `mid` or `long`, and the measured replica.
    pub name: String,
    /// Measured requests in it.
    pub requests: usize,
    /// Mean, p50 and p95 of TTFT, TPOT and E2E.
    pub figures: Vec<RowFigure>,
}

/// One arm of both sources.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmRows {
    /// Its name in the measured source.
    pub arm: String,
    /// Its name in the simulated source.
    pub simulated: String,
    /// Measured requests that were compared.
    pub compared: usize,
    /// Measured requests that were answered after the warm-up.
    pub answered: usize,
    /// The figures.
    pub figures: Vec<RowFigure>,
    /// The same by class; empty where prompts or replicas are not known.
    pub classes: Vec<Class>,
    /// What could not be compared; one sentence each.
    pub missing: Vec<String>,
    /// Runs and repeated requests that were left out; one sentence each.
    pub notes: Vec<String>,
    #[serde(skip)]
    pub(super) measured_ttft: Vec<f64>,
    #[serde(skip)]
    pub(super) simulated_ttft: Vec<f64>,
}

/// Two sources side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowComparison {
    /// The arms that both have.
    pub arms: Vec<ArmRows>,
    /// Measured arms without a partner; one sentence each.
    pub unmatched: Vec<String>,
    /// Simulated arms without a partner.
    pub extra: Vec<String>,
    /// Pairs of arms that the recording tells apart, and whether the simulation orders them alike.
    pub order: Vec<Order>,
}

impl RowComparison {
    /// Why this comparison shows no agreement, whatever its errors are; one sentence each.
    pub fn gaps(&self) -> Vec<String> {
        let missing = self.arms.iter().flat_map(|arm| arm.missing.iter().map(move |why| format!("{}: {why}", arm.arm)));
        let extra = self.extra.iter().map(|arm| format!("arm `{arm}` is in the simulated source only"));
        self.unmatched.iter().cloned().chain(extra).chain(missing).collect()
    }

    /// Judged figures beyond noise and limit, with their arm.
    pub fn beyond(&self) -> Vec<(&str, &RowFigure)> {
        let judged = self.arms.iter().flat_map(|arm| arm.figures.iter().map(move |figure| (arm.arm.as_str(), figure)));
        judged.filter(|(_, figure)| figure.judged && figure.agreement == Some(Agreement::Beyond)).collect()
    }
}

/// Compares every arm that both sources have.
pub fn compare_rows(measured: &Records, simulated: &Records, settings: &RowSettings) -> RowComparison {
    let theirs = simulated.arms();
    let ours = measured.arms();
    let lone = ours.len() == 1 && theirs.len() == 1;
    let mut used: Vec<Arc<str>> = Vec::new();
    let mut joins: Vec<(String, String, Joined<'_>)> = Vec::new();
    let mut unmatched = Vec::new();
    for arm in &ours {
        let wanted = settings.arms.get(&**arm).map_or(&**arm, String::as_str);
        // One arm on each side needs no name.
        let found = theirs.iter().find(|other| &***other == wanted).or(if lone { theirs.first() } else { None });
        let Some(other) = found else {
            let hint = did_you_mean(wanted, theirs.iter().map(|name| &**name));
            unmatched.push(format!("the simulated source has no arm `{wanted}`; {hint} (--arm-map {arm}=...)"));
            continue;
        };
        used.push(Arc::clone(other));
        let of = |records: &'_ Records, name: &str| -> Vec<usize> {
            (0..records.rows.len()).filter(|&i| &*records.rows[i].arm == name).collect()
        };
        let a: Vec<&Row> = of(measured, arm).into_iter().map(|i| &measured.rows[i]).collect();
        let b: Vec<&Row> = of(simulated, other).into_iter().map(|i| &simulated.rows[i]).collect();
        joins.push((arm.to_string(), other.to_string(), join(&a, &b, settings)));
    }
    let alone = theirs.iter().filter(|other| !used.contains(other));
    let extra = alone.map(ToString::to_string).collect();
    let order = order::of(&joins);
    let arms = joins.iter().map(|(arm, other, joined)| compare_arm(arm, other, joined, settings)).collect();
    RowComparison { arms, unmatched, extra, order }
}

pub(super) type Latency = fn(&Row) -> Option<f64>;
/// Latencies by name; with whether the limit applies to their percentiles.
pub(super) const LATENCIES: [(&str, Latency, bool); 3] =
    [("TTFT", |row| row.ttft, true), ("TPOT", Row::tpot, false), ("E2E", |row| row.e2e, true)];

/// The values of both sides, those of the measured one with the position of their pair.
pub(super) fn samples(joined: &Joined<'_>, value: impl Fn(&Row) -> Option<f64>) -> (Sample, Sample) {
    let measured = joined.pairs.iter().enumerate().filter_map(|(i, pair)| Some((value(pair.measured)?, i)));
    let simulated = joined.simulated.iter().filter_map(|row| Some((value(row)?, 0)));
    (Sample::of(measured), Sample::of(simulated))
}

fn compare_arm(arm: &str, other: &str, joined: &Joined<'_>, settings: &RowSettings) -> ArmRows {
    let mut figures = Figures::of(joined, settings);
    for (name, value, judged) in LATENCIES {
        let (a, b) = samples(joined, value);
        figures.latency(name, &a, &b, judged);
        figures.distance(format!("{name} distance (W1), ms"), &a, &b);
        let alike: Vec<(f64, f64)> =
            joined.pairs.iter().filter_map(|pair| same_replica(pair, settings, value)).collect();
        if let Some(simulated) = spearman(&alike) {
            let name = format!("{name} rank correlation");
            let (error, noise, agreement) = (None, None, None);
            figures.found.push(RowFigure { name, measured: None, simulated, error, noise, agreement, judged: false });
        }
    }
    let stages: BTreeSet<&Arc<str>> =
        joined.pairs.iter().flat_map(|pair| pair.measured.stages.iter().map(|(name, _)| name)).collect();
    for stage in stages {
        // A stage of no length is left out of timelines: requests without one spent no time in it.
        let of = |row: &Row| {
            (!row.stages.is_empty())
                .then(|| row.stages.iter().filter(|(name, _)| name == stage).map(|(_, ms)| ms).sum())
        };
        let (a, b) = samples(joined, of);
        figures.relative(format!("{stage} mean, ms"), &a, &b, &|s, w| s.mean(w), false);
        figures.relative(format!("{stage} p95, ms"), &a, &b, &|s, w| s.quantile(w, 0.95), false);
    }
    let slip = |row: &Row| Some((row.at? - row.scheduled?).max(0.0));
    let (a, b) = samples(joined, slip);
    figures.relative("sent late, p95, ms".to_owned(), &a, &b, &|s, w| s.quantile(w, 0.95), false);
    shares(&mut figures, joined, settings);
    let mut missing = missing(joined, &figures.found, settings);
    if let Some(why @ NoBlocks::Long { .. }) = joined.no_blocks {
        missing.push(why.to_string());
    } else if joined.blocks.is_none() && settings.max_error.is_none() {
        missing.push(
            "the recording is too short for its noise to be known, or has no times; give --max-error, or a smaller --block"
                .to_owned(),
        );
    }
    let ttft = |sample: &Sample| sample.values().collect::<Vec<f64>>();
    let (a, b) = samples(joined, |row| row.ttft);
    ArmRows {
        arm: arm.to_owned(),
        simulated: other.to_owned(),
        compared: joined.pairs.len(),
        answered: joined.answered,
        classes: classes(joined, settings),
        figures: figures.found,
        missing,
        notes: joined.notes.clone(),
        measured_ttft: ttft(&a),
        simulated_ttft: ttft(&b),
    }
}

/// The measured value and the mean of the simulated ones on the same replica.
fn same_replica(pair: &Pair<'_>, settings: &RowSettings, value: Latency) -> Option<(f64, f64)> {
    let replica = pair.measured.replica.as_deref().map(|name| renamed(settings, name));
    let there = |row: &&&Row| replica.is_none() || row.replica.is_none() || row.replica.as_deref() == replica;
    let values: Vec<f64> = pair.simulated.iter().filter(there).filter_map(|row| value(row)).collect();
    (!values.is_empty()).then_some(())?;
    Some((value(pair.measured)?, values.iter().sum::<f64>() / values.len() as f64))
}

/// The name of a measured replica in the simulated source.
pub(super) fn renamed<'a>(settings: &'a RowSettings, name: &'a str) -> &'a str {
    settings.replicas.get(name).map_or(name, String::as_str)
}

/// Pairs whose prompts differ in length by too much to be the same, and pairs whose lengths both sources tell.
fn other_prompts(pairs: &[Pair<'_>]) -> (usize, usize) {
    let known = pairs.iter().filter_map(|pair| lengths(pair.measured, pair.simulated.first()?));
    let known: Vec<(f64, f64)> = known.collect();
    let other = known.iter().filter(|(a, b)| !near_lengths(*a, *b)).count();
    (other, known.len())
}

/// Judged figures that cannot be compared, and sources without a common request.
fn missing(joined: &Joined<'_>, figures: &[RowFigure], settings: &RowSettings) -> Vec<String> {
    if joined.answered == 0 {
        return vec!["no request of the measured source was answered after the warm-up".to_owned()];
    }
    if let Some(why) = &joined.refused {
        return vec![why.clone()];
    }
    if joined.pairs.is_empty() {
        let why = "no request of the two sources has the same id; name the column with --columns id=..., or compare distributions with --unpaired";
        return vec![why.to_owned()];
    }
    let mut missing = joined.gaps.clone();
    if !settings.unpaired && joined.pairs.len() * 2 < joined.answered {
        let (few, all) = (joined.pairs.len(), joined.answered);
        missing.push(format!("only {few} of {all} answered requests have a partner that was answered, too"));
    }
    let (other, known) = other_prompts(&joined.pairs);
    if 2 * other > known {
        missing.push(format!(
            "the prompts of {other} of {known} joined requests have other lengths, so equal ids name other requests; name the column with --columns id=..., or compare distributions with --unpaired"
        ));
    }
    for name in ["TTFT p50, ms", "TTFT p95, ms", "E2E p50, ms", "E2E p95, ms"] {
        let known = figures.iter().find(|f| f.name == name).and_then(|f| f.error).is_some_and(f64::is_finite);
        if !known {
            missing.push(format!("{name} cannot be compared"));
        }
    }
    missing
}
