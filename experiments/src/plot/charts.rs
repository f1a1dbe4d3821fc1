//! The lines of the page's interactive charts, as data: distributions and sweeps, with the colours of the pictures.

use super::arms::Styles;
use super::latency::ttft_and_share;
use super::sheet::{DISTINCT, hex};
use super::sweep;
use crate::results::Results;
use crate::stats::Estimate;
use crate::summary::loads::{Load, loads};
use serde::Serialize;

/// Steps of a distribution in time, and in its quantiles.
const STEPS: usize = 160;
const QUANTILES: usize = 400;

/// All charts of a page; empty lists where nothing can be charted.
#[derive(Debug, Serialize)]
pub struct Charts {
    arms: Vec<Arm>,
    charts: Vec<Chart>,
}

impl Charts {
    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.charts.is_empty()
    }
}

#[derive(Debug, Serialize)]
struct Arm {
    name: String,
    color: String,
    dash: Option<f64>,
}

/// One chart: lines over common places `xs`.
#[derive(Debug, Serialize)]
pub(in crate::plot) struct Chart {
    pub(in crate::plot) title: String,
    pub(in crate::plot) x: String,
    pub(in crate::plot) y: String,
    /// Unit of the values, as shown beside them.
    pub(in crate::plot) unit: &'static str,
    pub(in crate::plot) log: bool,
    pub(in crate::plot) xs: Vec<f64>,
    pub(in crate::plot) lines: Vec<ChartLine>,
}

/// One line of a chart: a value a place, with half the width of its interval.
#[derive(Debug, Serialize)]
pub(in crate::plot) struct ChartLine {
    pub(in crate::plot) name: String,
    pub(in crate::plot) ys: Vec<Option<f64>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(in crate::plot) half: Vec<Option<f64>>,
}

impl ChartLine {
    /// A line of estimates.
    pub(in crate::plot) fn of(name: String, values: &[Option<Estimate>]) -> Self {
        let ys = values.iter().map(|v| v.map(|e| short(e.value))).collect();
        Self { name, ys, half: values.iter().map(|v| v.and_then(|e| e.ci95).map(short)).collect() }
    }
}

/// Five digits: more cannot be seen.
fn short(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

/// The charts of `results`: lines of a sweep over one setting, then a distribution for each load. Loads with more arms
/// than can be told apart have pictures only.
pub fn charts(results: &Results) -> Charts {
    let styles = Styles::of(&results.summary);
    let mut charts = sweep::charts(&results.summary, &styles);
    let all = loads(&results.summary);
    let few = all.iter().filter(|load| load.arms.len() <= DISTINCT).take(super::MAX_LOADS);
    charts.extend(few.filter_map(|load| distribution(load, results)));
    let mut arms: Vec<Arm> = Vec::new();
    for line in charts.iter().flat_map(|chart| &chart.lines) {
        if !arms.iter().any(|arm| arm.name == line.name) {
            let (color, dash) = styles.of_line(&line.name);
            arms.push(Arm { name: line.name.clone(), color: hex(color), dash });
        }
    }
    Charts { arms, charts }
}

fn distribution(load: &Load<'_>, results: &Results) -> Option<Chart> {
    let levels: Vec<f64> = (0..=QUANTILES).map(|i| i as f64 / QUANTILES as f64).collect();
    let curve = |label: &str| {
        let (digest, share) = ttft_and_share(results.points.iter().filter(|p| p.arm == label));
        (digest.quantiles(&levels), share)
    };
    let curves = load.arms.iter().map(|(name, arm)| (name.clone(), curve(&arm.arm)));
    let curves: Vec<(String, (Vec<f64>, f64))> = curves.filter(|(_, (c, _))| !c.is_empty()).collect();
    let low = curves.iter().map(|(_, (c, _))| c[0]).fold(f64::INFINITY, f64::min).max(0.1);
    let high = curves.iter().map(|(_, (c, _))| c[QUANTILES]).fold(low * 1.1, f64::max);
    if curves.is_empty() {
        return None;
    }
    let xs: Vec<f64> = (0..=STEPS).map(|i| short(low * (high / low).powf(i as f64 / STEPS as f64))).collect();
    let line = |(name, (curve, share)): (String, (Vec<f64>, f64))| ChartLine {
        name,
        ys: xs.iter().map(|&x| Some((100.0 * share * share_below(&curve, x) * 100.0).round() / 100.0)).collect(),
        half: Vec::new(),
    };
    let lines = curves.into_iter().map(line).collect();
    let title = match load.name.as_str() {
        "" => "Time to first token".to_owned(),
        load => format!("Time to first token, {load}"),
    };
    let (x, y) = ("time to first token at the user (ms)".to_owned(), "counted requests (%)".to_owned());
    Some(Chart { title, x, y, unit: "%", log: true, xs, lines })
}

/// The share of samples below `x`, from ascending quantiles at equal steps.
fn share_below(quantiles: &[f64], x: f64) -> f64 {
    let above = quantiles.partition_point(|&q| q <= x);
    let steps = (quantiles.len() - 1) as f64;
    if above == 0 || above == quantiles.len() {
        return if above == 0 { 0.0 } else { 1.0 };
    }
    let (low, high) = (quantiles[above - 1], quantiles[above]);
    ((above - 1) as f64 + (x - low) / (high - low)) / steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::test_data::{points, results};

    #[test]
    fn a_share_is_the_inverse_of_the_quantiles() {
        let quantiles = [100.0, 200.0, 400.0];
        let shares = [50.0, 100.0, 150.0, 300.0, 400.0, 500.0].map(|x| share_below(&quantiles, x));
        assert_eq!(shares, [0.0, 0.0, 0.25, 0.75, 1.0, 1.0]);
        assert_eq!(share_below(&[5.0, 5.0, 5.0], 5.0), 1.0);
    }

    #[test]
    fn charts_hold_every_arm_of_a_load_and_end_at_one_hundred() {
        let charts = charts(&results(points(&["least-load", "gorgo"], 2, 60)));
        assert_eq!(charts.arms.iter().map(|a| a.color.as_str()).collect::<Vec<_>>(), ["#0072B2", "#D55E00"]);
        let chart = &charts.charts[0];
        assert!(chart.log && chart.lines.len() == 2 && chart.xs.windows(2).all(|w| w[0] < w[1]));
        for line in &chart.lines {
            assert!(line.ys.windows(2).all(|w| w[0] <= w[1]) && line.ys.len() == chart.xs.len());
        }
        assert!(chart.lines.iter().any(|l| *l.ys.last().unwrap() >= Some(99.9)));
    }

    #[test]
    fn the_curve_of_an_arm_that_drops_half_of_its_requests_ends_at_fifty() {
        let mut all = points(&["least-load", "gorgo"], 2, 60);
        all.iter_mut().filter(|p| p.arm == "gorgo").for_each(|p| p.counts.requests *= 2);
        let charts = charts(&results(all));
        let end = |i: usize| charts.charts[0].lines[i].ys.last().unwrap().unwrap();
        assert!(end(0) >= 99.0 && (49.0..=50.0).contains(&end(1)), "{} {}", end(0), end(1));
    }
}
