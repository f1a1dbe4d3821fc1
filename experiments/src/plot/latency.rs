//! Distribution of the time to first token, and percentiles side by side; a panel a load.

use super::arms::{Styles, coloured, names_of, panel_title, rows};
use super::frame::{Axis, EDGE, Entry, Frame, MEDIUM, SMALL, WIDTH, head, head_height, number};
use super::sheet::{Anchor, GREY, INK, PALE, Paint, Sheet, color, dash, shorten, text_width};
use crate::results::Point;
use crate::stats::{Digest, Estimate};
use crate::summary::loads::Load;
use crate::summary::{ArmSummary, Spread};
use std::collections::BTreeMap;

/// Steps of a drawn distribution, and of one among many grey ones.
const STEPS: usize = 400;
const GREY_STEPS: usize = 60;

/// What the curves of samples without a count of all requests are a share of.
const ANSWERED: &str = "share of answered requests";

struct Curve {
    name: String,
    values: Vec<f64>,
    /// Share of the requests that the values are of, 0..1: where the curve ends.
    share: f64,
    color: Paint,
    width: f64,
    dash: Option<f64>,
}

struct Panel {
    title: String,
    curves: Vec<Curve>,
}

fn levels(steps: usize) -> Vec<f64> {
    (0..=steps).map(|i| i as f64 / steps as f64).collect()
}

/// Cumulative distributions of the time to first token, logarithmic in time.
pub(super) fn cdf(loads: &[Load<'_>], points: &[Point], styles: &Styles) -> Option<Sheet> {
    let mut seeds: BTreeMap<&str, Vec<&Point>> = BTreeMap::new();
    points.iter().for_each(|p| seeds.entry(&p.arm).or_default().push(p));
    let curve = |arm: &ArmSummary, steps: usize| {
        let all = seeds.get(arm.arm.as_str()).map_or(&[][..], Vec::as_slice);
        let (digest, share) = ttft_and_share(all.iter().copied());
        (digest.quantiles(&levels(steps)), share)
    };
    let panel = |load: &Load<'_>| {
        let (named, rest) = coloured(load);
        let note = if rest.is_empty() {
            String::new()
        } else {
            format!("{} arms, the lowest means and the baseline in colour", load.arms.len())
        };
        let pale = rest.into_iter().map(|(name, arm)| {
            let (values, share) = curve(arm, GREY_STEPS);
            Curve { values, share, name, color: PALE, width: 1.0, dash: None }
        });
        let bright = named.into_iter().map(|(name, arm)| {
            let (values, share) = curve(arm, STEPS);
            Curve { values, share, color: styles.color(&name), dash: styles.dash(&name), name, width: 2.0 }
        });
        Panel { title: panel_title(load, &note), curves: pale.chain(bright).collect() }
    };
    let panels: Vec<Panel> = loads.iter().map(panel).collect();
    let named = panels.iter().flat_map(|p| &p.curves).filter(|c| c.color != PALE).map(|c| c.name.as_str());
    let entries = styles.legend(&names_of(named), true);
    distributions(("Time to first token", "share of all counted requests"), &entries, &panels)
}

/// The time to first token of all seeds of an arm, and the share of its counted requests that had one.
pub(super) fn ttft_and_share<'a>(seeds: impl Iterator<Item = &'a Point>) -> (Digest, f64) {
    let (digest, counted) = seeds.fold((Digest::default(), 0), |(digest, counted), point| {
        (digest.merge(&point.latency.ttft), counted + point.counts.requests)
    });
    let share = if counted == 0 { 1.0 } else { digest.samples() as f64 / counted as f64 };
    (digest, share)
}

/// Cumulative distributions of samples of the time to first token, one for each (label, samples).
pub(super) fn cdf_of(samples: &[(String, Digest)]) -> Option<Sheet> {
    let entry = |(i, (label, _)): (usize, &(String, Digest))| Entry {
        label: label.clone(),
        color: color(i),
        dash: dash(i),
        line: true,
    };
    let curve = |(i, (name, digest)): (usize, &(String, Digest))| Curve {
        name: name.clone(),
        values: digest.quantiles(&levels(STEPS)),
        share: 1.0,
        color: color(i),
        width: 2.0,
        dash: dash(i),
    };
    let entries: Vec<Entry> = samples.iter().enumerate().map(entry).collect();
    let panel = Panel { title: String::new(), curves: samples.iter().enumerate().map(curve).collect() };
    distributions(("Time to first token", ANSWERED), &entries, &[panel])
}

/// Cumulative distributions of the time to first token of two sources, a panel for each (arm, measured, simulated).
pub(super) fn cdf_of_two(arms: &[(String, Digest, Digest)]) -> Option<Sheet> {
    let sources = ["measured", "simulated"];
    let entry =
        |(i, label): (usize, &str)| Entry { label: label.to_owned(), color: color(i), dash: dash(i), line: true };
    let entries: Vec<Entry> = sources.into_iter().enumerate().map(entry).collect();
    let panel = |(arm, measured, simulated): &(String, Digest, Digest)| {
        let curve = |(i, digest): (usize, &Digest)| Curve {
            name: sources[i].to_owned(),
            values: digest.quantiles(&levels(STEPS)),
            share: 1.0,
            color: color(i),
            width: 2.0,
            dash: dash(i),
        };
        Panel { title: arm.clone(), curves: [measured, simulated].into_iter().enumerate().map(curve).collect() }
    };
    let panels: Vec<Panel> = arms.iter().map(panel).collect();
    distributions(("Time to first token, measured and simulated", ANSWERED), &entries, &panels)
}

fn distributions((title, shares): (&str, &str), entries: &[Entry], panels: &[Panel]) -> Option<Sheet> {
    let curves = || panels.iter().flat_map(|panel| &panel.curves).map(|curve| &curve.values);
    // A tenth of a millisecond is below any network; it keeps the logarithm off zero.
    let low = curves().filter_map(|c| c.first()).fold(f64::INFINITY, |a, &b| a.min(b)).max(0.1);
    let high = curves().filter_map(|c| c.last()).fold(0.0, |a: f64, &b| a.max(b));
    if !low.is_finite() {
        return None;
    }
    let top = head_height(entries);
    let tall = if panels.len() == 1 { 420.0 } else { 300.0 };
    let mut sheet = Sheet::new(WIDTH, top + tall * panels.len() as f64 + EDGE);
    head(&mut sheet, title, entries);
    for (i, panel) in panels.iter().enumerate() {
        let from = top + tall * i as f64;
        let start = panel_head(&mut sheet, from, &panel.title);
        // One scale for all panels, so that they compare.
        let x = Axis::log("time to first token at the user (ms, logarithmic)", low, high.max(low * 1.1));
        let y = Axis::linear(shares, 0.0, 1.0, 5);
        let frame = Frame::draw(&mut sheet, (EDGE, start), (WIDTH - EDGE, from + tall), x, y);
        for curve in &panel.curves {
            let steps = levels(curve.values.len().saturating_sub(1).max(1));
            let line: Vec<(f64, f64)> =
                curve.values.iter().zip(&steps).map(|(&ms, &level)| frame.at((ms, level * curve.share))).collect();
            sheet.hover(curve.name.clone(), |sheet| sheet.line(line, curve.color, curve.width, curve.dash));
        }
    }
    Some(sheet)
}

/// The title of a panel; returns where the panel begins.
fn panel_head(sheet: &mut Sheet, from: f64, title: &str) -> f64 {
    if title.is_empty() {
        return from;
    }
    sheet.text(shorten(title, MEDIUM, WIDTH - 2.0 * EDGE), (EDGE, from + MEDIUM), MEDIUM, INK, Anchor::Left);
    from + 2.0 * MEDIUM
}

/// Bars of p50, p95 and p99 of one latency, with interval whiskers.
pub(super) fn bars(
    loads: &[Load<'_>],
    styles: &Styles,
    title: &str,
    axis: &str,
    pick: fn(&ArmSummary) -> Option<Spread>,
) -> Option<Sheet> {
    let panels: Vec<_> = loads.iter().map(|load| (load, rows(load))).collect();
    if !panels.iter().any(|(_, (arms, _))| arms.iter().any(|(_, arm)| pick(arm).is_some())) {
        return None;
    }
    let named = panels.iter().flat_map(|(_, (arms, _))| arms).map(|(name, _)| name.as_str());
    let entries = styles.legend(&names_of(named), false);
    let top = head_height(&entries);
    let tall = 270.0;
    let mut sheet = Sheet::new(WIDTH, top + tall * panels.len() as f64 + EDGE);
    head(&mut sheet, &format!("{title}: mean over seeds, whiskers 95 % interval"), &entries);
    for (i, (load, (arms, note))) in panels.iter().enumerate() {
        let from = top + i as f64 * tall;
        let start = panel_head(&mut sheet, from, &panel_title(load, note));
        let bars: Vec<_> = arms.iter().map(|(name, arm)| (name.as_str(), pick(arm))).collect();
        bar_panel(&mut sheet, (start, from + tall - 14.0), axis, &bars, styles);
    }
    Some(sheet)
}

type Bars<'a> = [(&'a str, Option<Spread>)];

fn bar_panel(sheet: &mut Sheet, (top, bottom): (f64, f64), title: &str, arms: &Bars<'_>, styles: &Styles) {
    type Pick = fn(&Spread) -> Estimate;
    let statistics: [(&str, Pick); 3] = [("p50", |s| s.p50), ("p95", |s| s.p95), ("p99", |s| s.p99)];
    let known = arms.iter().filter_map(|(_, spread)| spread.as_ref());
    let highest = known.flat_map(|s| statistics.map(|(_, pick)| pick(s).range().1)).fold(0.0, f64::max);
    let label_room = MEDIUM + 6.0;
    let y = Axis::linear(title, 0.0, highest.max(1e-3), 5);
    // The free line on top is for the numbers over the highest bars.
    let frame = Frame::draw(sheet, (EDGE, top + SMALL), (WIDTH - EDGE, bottom - label_room), Axis::places("", 3), y);
    let group = (frame.right - frame.left) / 3.0;
    let width = (group * 0.86 / arms.len() as f64).min(90.0);
    for (g, (statistic, pick)) in statistics.into_iter().enumerate() {
        let middle = frame.x(g as f64 + 0.5);
        sheet.text(statistic, (middle, frame.bottom + 4.0 + MEDIUM / 2.0), MEDIUM, INK, Anchor::Centre);
        for (a, (name, estimate)) in
            arms.iter().enumerate().filter_map(|(a, (n, s))| Some((a, (*n, pick(s.as_ref()?)))))
        {
            let left = middle + (a as f64 - arms.len() as f64 / 2.0) * width;
            let half = estimate.ci95.map_or_else(String::new, |half| format!(" ± {}", number(half)));
            let said = format!("{name}, {statistic}: {}{half} ms", number(estimate.value));
            sheet.hover(said, |sheet| bar(sheet, &frame, (left, width), estimate, styles.area(name)));
        }
    }
}

fn bar(sheet: &mut Sheet, frame: &Frame, (left, width): (f64, f64), estimate: Estimate, color: Paint) {
    let (from, to) = (left + width * 0.06, left + width * 0.94);
    let centre = (from + to) / 2.0;
    sheet.fill((from, frame.y(estimate.value)), (to, frame.bottom), color);
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
