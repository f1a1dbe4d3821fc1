//! Single figures of a comparison: the error of each, and whether the recording's noise explains it.

use super::join::Joined;
use super::rows::{Agreement, Class, LATENCIES, RowFigure, renamed};
use super::settings::RowSettings;
use crate::records::Row;
use crate::stats::blocks::{Blocks, Sample, distance};
use std::collections::{BTreeMap, BTreeSet};

/// Weights of a simulated sample, whose values all belong to position 0.
pub(super) const EACH_ONCE: [u32; 1] = [1];

/// Figures of one arm while they are made.
pub(super) struct Figures<'a> {
    pub(super) blocks: Option<&'a Blocks>,
    pub(super) ones: Vec<u32>,
    pub(super) limit: Option<f64>,
    pub(super) found: Vec<RowFigure>,
}

pub(super) type Statistic<'a> = &'a dyn Fn(&Sample, &[u32]) -> Option<f64>;

impl<'a> Figures<'a> {
    /// No figures yet.
    pub(super) fn of(joined: &'a Joined<'_>, settings: &RowSettings) -> Self {
        let ones = vec![1; joined.pairs.len()];
        Self { blocks: joined.blocks.as_ref(), ones, limit: settings.max_error, found: Vec::new() }
    }

    /// Mean, p50 and p95 of a latency, ms; `judged` tells whether the limit applies to the two percentiles.
    pub(super) fn latency(&mut self, name: &str, a: &Sample, b: &Sample, judged: bool) {
        self.relative(format!("{name} mean, ms"), a, b, &|s, w| s.mean(w), false);
        self.relative(format!("{name} p50, ms"), a, b, &|s, w| s.quantile(w, 0.5), judged);
        self.relative(format!("{name} p95, ms"), a, b, &|s, w| s.quantile(w, 0.95), judged);
    }

    fn judge(&self, error: Option<f64>, noise: Option<(f64, f64)>) -> Option<Agreement> {
        let error = error?;
        if noise.is_none() && self.limit.is_none() {
            return None;
        }
        let inside = noise.is_some_and(|(low, high)| (low.min(0.0)..=high.max(0.0)).contains(&error));
        Some(match (inside, self.limit.is_some_and(|limit| error.abs() <= limit)) {
            (true, _) => Agreement::InsideNoise,
            (false, true) => Agreement::WithinLimit,
            (false, false) => Agreement::Beyond,
        })
    }

    /// A figure whose error is relative.
    pub(super) fn relative(&mut self, name: String, a: &Sample, b: &Sample, statistic: Statistic<'_>, judged: bool) {
        let (Some(measured), Some(simulated)) = (statistic(a, &self.ones), statistic(b, &EACH_ONCE)) else { return };
        let relative = |value: f64| (measured != 0.0).then(|| 100.0 * (value / measured - 1.0));
        let noise = self.blocks.and_then(|blocks| blocks.interval(|weights| relative(statistic(a, weights)?)));
        let error = relative(simulated);
        let agreement = self.judge(error, noise);
        self.found.push(RowFigure { name, measured: Some(measured), simulated, error, noise, agreement, judged });
    }

    /// A share in per cent: its error is in points. `part` and `whole` are the amounts of each measured request.
    pub(super) fn share(&mut self, name: String, amounts: &[(f64, f64)], simulated: Option<f64>) {
        let rate = |weights: &[u32]| {
            let pairs = amounts.iter().zip(weights);
            let (part, whole) = pairs
                .fold((0.0, 0.0), |(part, whole), (&(p, w), &n)| (part + p * f64::from(n), whole + w * f64::from(n)));
            (whole > 0.0).then(|| 100.0 * part / whole)
        };
        let (Some(measured), Some(simulated)) = (rate(&self.ones), simulated) else { return };
        let noise = self.blocks.and_then(|blocks| blocks.interval(|weights| Some(rate(weights)? - measured)));
        let error = Some(simulated - measured);
        let agreement = self.judge(error, noise).filter(|_| noise.is_some());
        self.found.push(RowFigure {
            name,
            measured: Some(measured),
            simulated,
            error,
            noise,
            agreement,
            judged: false,
        });
    }

    /// The Wasserstein-1 distance in ms; in per cent of the measured mean as an error.
    pub(super) fn distance(&mut self, name: String, a: &Sample, b: &Sample) {
        let (Some(simulated), Some(mean)) = (distance(a, b), a.mean(&self.ones)) else { return };
        let part = |value: f64| (mean != 0.0).then(|| 100.0 * value / mean);
        let noise = self.blocks.and_then(|blocks| blocks.interval(|weights| part(a.shift(weights)?)));
        let noise = noise.map(|(_, high)| (0.0, high));
        let error = part(simulated);
        let agreement = self.judge(error, noise).filter(|_| noise.is_some());
        self.found.push(RowFigure { name, measured: None, simulated, error, noise, agreement, judged: false });
    }
}

pub(super) fn classes(joined: &Joined<'_>, settings: &RowSettings) -> Vec<Class> {
    let (tiny, mid) = settings.classes;
    let length = |tokens: f64| if tokens <= tiny { 0 } else { 1 + usize::from(tokens > mid) };
    let mut members: BTreeMap<(usize, &str), Vec<usize>> = BTreeMap::new();
    for (i, pair) in joined.pairs.iter().enumerate() {
        if let (Some(tokens), Some(replica)) = (pair.measured.tokens(), pair.measured.replica.as_deref()) {
            members.entry((length(tokens), replica)).or_default().push(i);
        }
    }
    if members.len() > 192 {
        return Vec::new();
    }
    // The other source's classes once: requests by length and replica.
    let mut theirs: BTreeMap<(usize, &str), Vec<&Row>> = BTreeMap::new();
    for &row in &joined.simulated {
        if let (Some(tokens), Some(replica)) = (row.tokens(), row.replica.as_deref()) {
            theirs.entry((length(tokens), replica)).or_default().push(row);
        }
    }
    let empty = Vec::new();
    let class = |((length, replica), members): ((usize, &str), Vec<usize>)| {
        let others = theirs.get(&(length, renamed(settings, replica))).unwrap_or(&empty);
        let mut figures = Figures::of(joined, settings);
        for (name, value, _) in LATENCIES {
            let a = Sample::of(members.iter().filter_map(|&i| Some((value(joined.pairs[i].measured)?, i))));
            let b = Sample::of(others.iter().filter_map(|row| Some((value(row)?, 0))));
            figures.latency(name, &a, &b, false);
        }
        let name = format!("{} {replica}", ["tiny", "mid", "long"][length]);
        Class { name, requests: members.len(), figures: figures.found }
    };
    members.into_iter().map(class).collect()
}

pub(super) fn shares(figures: &mut Figures<'_>, joined: &Joined<'_>, settings: &RowSettings) {
    // The router's count of a simulated request is that of the measured one where the simulation does not tell it.
    type Rate = fn(&Row, &Row) -> Option<(f64, f64)>;
    let rates: [(&str, Rate); 2] = [
        ("hit rate, %", |row, _| row.cached_tokens.zip(row.prompt_tokens)),
        ("believed hit rate, %", |row, measured| {
            row.believed_tokens.zip(row.router_tokens.or(measured.router_tokens).or(row.prompt_tokens))
        }),
    ];
    for (name, rate) in rates {
        let amounts: Option<Vec<(f64, f64)>> =
            joined.pairs.iter().map(|pair| rate(pair.measured, pair.measured)).collect();
        // A load generator does not know what a router believes: 0 in every request is no record of it.
        let told =
            |amounts: &Vec<(f64, f64)>| !name.starts_with("believed") || amounts.iter().any(|&(part, _)| part > 0.0);
        let amounts = amounts.filter(told);
        let (mut part, mut whole) = (0.0, 0.0);
        let mut add = |row: &Row, measured: &Row| {
            let (p, w) = rate(row, measured).unwrap_or_default();
            (part, whole) = (part + p, whole + w);
        };
        if settings.unpaired {
            joined.simulated.iter().for_each(|row| add(row, row));
        } else {
            joined.pairs.iter().for_each(|pair| pair.simulated.iter().for_each(|row| add(row, pair.measured)));
        }
        if let Some(amounts) = amounts {
            figures.share(name.to_owned(), &amounts, (whole > 0.0).then(|| 100.0 * part / whole));
        }
    }
    let replicas: BTreeSet<&str> = joined.pairs.iter().filter_map(|pair| pair.measured.replica.as_deref()).collect();
    if replicas.len() > 64 {
        return; // a table of so many shares tells nothing
    }
    for replica in replicas {
        let here = |row: &Row, name: &str| (f64::from(u8::from(row.replica.as_deref() == Some(name))), 1.0);
        let amounts: Vec<(f64, f64)> = joined.pairs.iter().map(|pair| here(pair.measured, replica)).collect();
        let name = renamed(settings, replica);
        let there = joined.simulated.iter().filter(|row| here(row, name).0 > 0.0).count();
        let share = (!joined.simulated.is_empty()).then(|| 100.0 * there as f64 / joined.simulated.len() as f64);
        figures.share(format!("share of {replica}, %"), &amounts, share);
    }
}
