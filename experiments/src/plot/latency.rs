//! Distribution of the time to first token, and percentiles side by side.

use super::frame::{Axis, EDGE, Entry, Frame, MEDIUM, SMALL, WIDTH, head, head_height, number};
use super::sheet::{Anchor, GREY, INK, Sheet, area_color, color, dash, text_width};
use crate::results::Point;
use crate::stats::{Digest, Estimate};
use crate::summary::{ArmSummary, Spread};

/// Steps of a drawn distribution.
const STEPS: usize = 400;

pub(super) fn entries(arms: &[ArmSummary], line: bool) -> Vec<Entry> {
    let entry = |(i, arm): (usize, &ArmSummary)| {
        let (color, dash) = if line { (color(i), dash(i)) } else { (area_color(i), None) };
        Entry { label: arm.arm.clone(), color, dash, line }
    };
    arms.iter().enumerate().map(entry).collect()
}

/// Cumulative distribution of the time to first token, logarithmic in time.
pub(super) fn cdf(arms: &[ArmSummary], points: &[Point]) -> Option<Sheet> {
    let levels: Vec<f64> = (0..=STEPS).map(|i| i as f64 / STEPS as f64).collect();
    let curves: Vec<Vec<f64>> = arms
        .iter()
        .map(|arm| {
            let seeds = points.iter().filter(|p| p.arm == arm.arm);
            seeds.fold(Digest::default(), |sum, p| sum.merge(&p.latency.ttft)).quantiles(&levels)
        })
        .collect();
    distributions(&entries(arms, true), &levels, &curves)
}

/// Cumulative distributions of samples of the time to first token, one for each (label, samples).
pub(super) fn cdf_of(samples: &[(String, Digest)]) -> Option<Sheet> {
    let levels: Vec<f64> = (0..=STEPS).map(|i| i as f64 / STEPS as f64).collect();
    let curves: Vec<Vec<f64>> = samples.iter().map(|(_, digest)| digest.quantiles(&levels)).collect();
    let entry = |(i, (label, _)): (usize, &(String, Digest))| Entry {
        label: label.clone(),
        color: color(i),
        dash: dash(i),
        line: true,
    };
    distributions(&samples.iter().enumerate().map(entry).collect::<Vec<_>>(), &levels, &curves)
}

fn distributions(entries: &[Entry], levels: &[f64], curves: &[Vec<f64>]) -> Option<Sheet> {
    // A tenth of a millisecond is below any network; it keeps the logarithm off zero.
    let low = curves.iter().filter_map(|c| c.first()).fold(f64::INFINITY, |a, &b| a.min(b)).max(0.1);
    let high = curves.iter().filter_map(|c| c.last()).fold(0.0, |a: f64, &b| a.max(b));
    if !low.is_finite() {
        return None;
    }
    let top = head_height(entries);
    let height = top + 400.0;
    let mut sheet = Sheet::new(WIDTH, height);
    head(&mut sheet, "Time to first token", entries);
    let x = Axis::log("time to first token at the user (ms, logarithmic)", low, high.max(low * 1.1));
    let y = Axis::linear("share of requests", 0.0, 1.0, 5);
    let frame = Frame::draw(&mut sheet, (EDGE, top), (WIDTH - EDGE, height - EDGE), x, y);
    for (i, curve) in curves.iter().enumerate() {
        let line = curve.iter().zip(levels).map(|(&ms, &level)| frame.at((ms, level))).collect();
        sheet.line(line, color(i), 2.0, dash(i));
    }
    Some(sheet)
}

/// Bars of p50, p95 and p99 of time to first token and of end-to-end latency, with interval whiskers.
pub(super) fn bars(arms: &[ArmSummary]) -> Option<Sheet> {
    type Pick = fn(&ArmSummary) -> Option<&Spread>;
    let panels: [(&str, Pick); 2] =
        [("time to first token (ms)", |a| a.ttft_ms.as_ref()), ("end-to-end latency (ms)", |a| a.e2e_ms.as_ref())];
    if !arms.iter().any(|arm| arm.ttft_ms.is_some()) {
        return None;
    }
    let entries = entries(arms, false);
    let top = head_height(&entries);
    let panel = 270.0;
    let mut sheet = Sheet::new(WIDTH, top + 2.0 * panel + EDGE);
    head(&mut sheet, "Latency: mean over seeds, whiskers 95 % interval", &entries);
    for (i, (title, pick)) in panels.into_iter().enumerate() {
        let from = top + i as f64 * panel;
        bar_panel(&mut sheet, (from, from + panel - 14.0), title, &arms.iter().map(pick).collect::<Vec<_>>());
    }
    Some(sheet)
}

fn bar_panel(sheet: &mut Sheet, (top, bottom): (f64, f64), title: &str, arms: &[Option<&Spread>]) {
    type Pick = fn(&Spread) -> Estimate;
    let statistics: [(&str, Pick); 3] = [("p50", |s| s.p50), ("p95", |s| s.p95), ("p99", |s| s.p99)];
    let highest = arms.iter().flatten().flat_map(|s| statistics.map(|(_, pick)| pick(s).range().1)).fold(0.0, f64::max);
    let label_room = MEDIUM + 6.0;
    let y = Axis::linear(title, 0.0, highest.max(1e-3), 5);
    // The free line on top is for the numbers over the highest bars.
    let frame = Frame::draw(sheet, (EDGE, top + SMALL), (WIDTH - EDGE, bottom - label_room), Axis::places("", 3), y);
    let group = (frame.right - frame.left) / 3.0;
    let width = (group * 0.86 / arms.len() as f64).min(90.0);
    for (g, (name, pick)) in statistics.into_iter().enumerate() {
        let middle = frame.x(g as f64 + 0.5);
        sheet.text(name, (middle, frame.bottom + 4.0 + MEDIUM / 2.0), MEDIUM, INK, Anchor::Centre);
        for (a, estimate) in arms.iter().enumerate().filter_map(|(a, s)| Some((a, pick((*s)?)))) {
            let left = middle + (a as f64 - arms.len() as f64 / 2.0) * width;
            let (from, to) = (left + width * 0.06, left + width * 0.94);
            let centre = (from + to) / 2.0;
            sheet.fill((from, frame.y(estimate.value)), (to, frame.bottom), area_color(a));
            let (low, high) = estimate.range();
            if estimate.ci95.is_some() {
                let (low, high, cap) = (frame.y(low.max(0.0)), frame.y(high), (width * 0.18).min(6.0));
                sheet.line(vec![(centre, low), (centre, high)], INK, 1.25, None);
                for y in [low, high] {
                    sheet.line(vec![(centre - cap, y), (centre + cap, y)], INK, 1.25, None);
                }
            }
            let label = number(estimate.value);
            if text_width(&label, SMALL) + 2.0 < width {
                sheet.text(label, (centre, frame.y(high) - SMALL / 2.0 - 3.0), SMALL, GREY, Anchor::Centre);
            }
        }
    }
}
