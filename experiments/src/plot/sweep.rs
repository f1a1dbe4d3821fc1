//! Plots of a sweep: lines over one varied setting, a heat map over two.

mod heat;
mod lines;

use super::Figure;
use super::arms::Styles;
use super::charts::Chart;
use super::sheet::Paint;
use crate::summary::ArmSummary;
use crate::summary::loads::{is_load, load_name, without};
use plotters::style::RGBAColor;
use std::collections::BTreeMap;

/// Panels of a line plot and heat maps of one sweep.
const MAX_PANELS: usize = 12;

/// Five points of viridis, which stays readable without colour.
const VIRIDIS: [(f64, f64, f64); 5] =
    [(68.0, 1.0, 84.0), (59.0, 82.0, 139.0), (33.0, 145.0, 140.0), (94.0, 201.0, 98.0), (253.0, 231.0, 37.0)];

/// The colour at `part` (0..1) of the ramp.
pub(super) fn ramp(part: f64) -> Paint {
    let place = part.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let i = (place as usize).min(VIRIDIS.len() - 2);
    let (a, b, t) = (VIRIDIS[i], VIRIDIS[i + 1], place - i as f64);
    let mix = |a: f64, b: f64| (a + (b - a) * t).round() as u8;
    RGBAColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2), 1.0)
}

/// The value of a setting, where it is a number.
fn knob(arm: &ArmSummary, key: &str) -> Option<f64> {
    arm.settings.get(key)?.parse().ok().filter(|v: &f64| v.is_finite())
}

/// Settings that take two or more numbers.
fn knobs(arms: &[ArmSummary]) -> Vec<String> {
    let mut seen: BTreeMap<&str, f64> = BTreeMap::new();
    let mut varied: Vec<String> = Vec::new();
    for arm in arms {
        for key in arm.settings.keys() {
            let Some(value) = knob(arm, key) else { continue };
            if *seen.entry(key).or_insert(value) != value && !varied.contains(key) {
                varied.push(key.clone());
            }
        }
    }
    varied.sort();
    varied
}

/// The line or grid that an arm's point belongs to: the arm by its name, without the settings of the axes and the load.
fn series(arm: &ArmSummary, axes: &[&str]) -> String {
    without(&arm.arm, &arm.settings, |key| axes.contains(&key) || is_load(key))
}

/// What remains of the load beside the settings of the axes: points of different ones lie in panels of their own.
fn rest_of_load(arm: &ArmSummary, axes: &[&str]) -> String {
    let rest = arm.settings.iter().filter(|(key, _)| !axes.contains(&key.as_str()));
    load_name(&rest.map(|(k, v)| (k.clone(), v.clone())).collect())
}

/// The plots of a sweep over one or two settings; none for other results. Where a policy's setting and the load vary,
/// each has its lines.
pub(super) fn figures(arms: &[ArmSummary], styles: &Styles) -> Vec<Figure> {
    let knobs = knobs(arms);
    let one = |x: &str| lines::figures(arms, x, styles);
    match knobs.as_slice() {
        [x] => one(x),
        [x, y] if is_load(x) == is_load(y) => heat::heat_maps(arms, x, y),
        [x, y] => one(x).into_iter().chain(one(y)).collect(),
        _ => Vec::new(),
    }
}

/// The lines of [`figures`] as charts.
pub(super) fn charts(arms: &[ArmSummary], styles: &Styles) -> Vec<Chart> {
    let knobs = knobs(arms);
    match knobs.as_slice() {
        [x] => lines::charts(arms, x, styles),
        [x, y] if is_load(x) != is_load(y) => {
            lines::charts(arms, x, styles).into_iter().chain(lines::charts(arms, y, styles)).collect()
        }
        _ => Vec::new(),
    }
}

fn file_part(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}
