//! Plots of a sweep: lines over one varied setting, a heat map over two.

mod heat;
mod lines;

use super::Figure;
use super::sheet::Paint;
use crate::summary::ArmSummary;
use plotters::style::RGBAColor;
use std::collections::BTreeMap;

/// Series of a line plot and heat maps of one sweep.
const MAX_SERIES: usize = 12;

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

/// The arm that a line stands for: its name without the swept settings.
fn series(arm: &ArmSummary, knobs: &[String]) -> String {
    let swept = arm.settings.iter().filter(|(key, _)| knobs.contains(key));
    let words: Vec<String> =
        swept.map(|(key, value)| format!(" {}={value}", key.rsplit('.').next().unwrap_or(key))).collect();
    words.iter().fold(arm.arm.clone(), |name, word| name.replacen(word.as_str(), "", 1))
}

/// The plots of a sweep over one or two settings; none for other results.
pub(super) fn figures(arms: &[ArmSummary]) -> Vec<Figure> {
    let knobs = knobs(arms);
    match knobs.as_slice() {
        [x] => lines::lines(arms, x)
            .map(|sheet| Figure {
                name: format!("sweep-{}", file_part(x)),
                caption: format!(
                    "Time to first token against {x}: mean over seeds, bands are 95 % intervals, dots mark the lowest point; arms without this setting are drawn as level lines."
                ),
                sheet,
            })
            .into_iter()
            .collect(),
        [x, y] => heat::heat_maps(arms, x, y),
        _ => Vec::new(),
    }
}

fn file_part(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}
