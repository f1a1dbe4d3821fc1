//! What a swept setting does: a line for one knob, a heat map for two.

use super::Figure;
use super::frame::{Axis, EDGE, Entry, Frame, MEDIUM, SMALL, WIDTH, head, head_height, number};
use super::sheet::{Anchor, GREY, INK, Paint, Sheet, WHITE_PAPER, color, dash, faint, shorten, text_width};
use crate::stats::Estimate;
use crate::summary::ArmSummary;
use plotters::style::RGBAColor;
use std::collections::BTreeMap;

/// Series of a line plot and heat maps of one sweep.
const MAX_SERIES: usize = 12;
/// Columns and rows of a heat map whose cells carry their value.
const MAX_LABELLED: usize = 12;

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

/// What tells an arm from others apart from the swept settings.
fn series(arm: &ArmSummary, knobs: &[String]) -> String {
    let rest = arm.settings.iter().filter(|(k, _)| !knobs.contains(k)).map(|(k, v)| format!(" {k}={v}"));
    format!("{} {}{}", arm.policy, arm.topology, rest.collect::<String>()).trim().to_owned()
}

/// The plots of a sweep over one or two settings; none for other results.
pub(super) fn figures(arms: &[ArmSummary]) -> Vec<Figure> {
    let knobs = knobs(arms);
    match knobs.as_slice() {
        [x] => lines(arms, x)
            .map(|sheet| Figure {
                name: format!("sweep-{}", file_part(x)),
                caption: format!(
                    "Time to first token against {x}: mean over seeds, bands are 95 % intervals, dots mark the lowest point; arms without this setting are drawn as level lines."
                ),
                sheet,
            })
            .into_iter()
            .collect(),
        [x, y] => heat_maps(arms, x, y),
        _ => Vec::new(),
    }
}

fn file_part(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

struct Line {
    label: String,
    points: Vec<(f64, [Estimate; 2])>,
    level: bool,
}

fn lines(arms: &[ArmSummary], key: &str) -> Option<Sheet> {
    let keys = [key.to_owned()];
    let mut lines: Vec<Line> = Vec::new();
    for arm in arms {
        let Some(ttft) = &arm.ttft_ms else { continue };
        let (label, value) = (series(arm, &keys), knob(arm, key));
        let level = value.is_none();
        let label = if level { arm.arm.clone() } else { label };
        let point = (value.unwrap_or(0.0), [ttft.mean, ttft.p95]);
        match lines.iter_mut().find(|line| line.label == label && line.level == level) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { label, points: vec![point], level }),
        }
    }
    lines.truncate(MAX_SERIES);
    lines.iter_mut().for_each(|line| line.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    let xs: Vec<f64> = lines.iter().filter(|l| !l.level).flat_map(|l| l.points.iter().map(|p| p.0)).collect();
    let (low, high) = xs.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
    if low >= high {
        return None;
    }
    let entries: Vec<Entry> = lines
        .iter()
        .enumerate()
        .map(|(i, line)| Entry { label: line.label.clone(), color: color(i), dash: style(line, i), line: true })
        .collect();
    let top = head_height(&entries);
    let panel = 260.0;
    let mut sheet = Sheet::new(WIDTH, top + 2.0 * panel + EDGE);
    head(&mut sheet, &format!("Time to first token against {key}"), &entries);
    for (i, title) in ["mean TTFT (ms)", "p95 TTFT (ms)"].into_iter().enumerate() {
        let highest = lines.iter().flat_map(|l| l.points.iter().map(|p| p.1[i].range().1)).fold(0.0, f64::max);
        let x = if low > 0.0 && high / low > 20.0 {
            Axis::log(&format!("{key} (logarithmic)"), low, high)
        } else {
            Axis::tight(key, low, high, 8)
        };
        let from = (EDGE, top + i as f64 * panel);
        let to = (WIDTH - EDGE - 8.0, top + (i as f64 + 1.0) * panel - 14.0);
        let frame = Frame::draw(&mut sheet, from, to, x, Axis::linear(title, 0.0, highest, 5));
        for (s, line) in lines.iter().enumerate() {
            draw_line(&mut sheet, &frame, line, i, s, (low, high));
        }
    }
    Some(sheet)
}

fn style(line: &Line, i: usize) -> Option<f64> {
    if line.level { Some(5.0) } else { dash(i) }
}

fn draw_line(sheet: &mut Sheet, frame: &Frame, line: &Line, statistic: usize, s: usize, (low, high): (f64, f64)) {
    let points: Vec<(f64, Estimate)> = match line.points.as_slice() {
        [(_, only), ..] if line.level => vec![(low, only[statistic]), (high, only[statistic])],
        points => points.iter().map(|p| (p.0, p.1[statistic])).collect(),
    };
    if points.iter().any(|p| p.1.ci95.is_some()) {
        let edge = |upper: bool| {
            let pick = move |e: Estimate| if upper { e.range().1 } else { e.range().0.max(0.0) };
            points.iter().map(move |&(x, e)| (x, pick(e)))
        };
        let band = edge(true).chain(edge(false).rev()).map(|p| frame.at(p)).collect();
        sheet.area(band, faint(color(s), 0.18));
    }
    sheet.line(points.iter().map(|&(x, e)| frame.at((x, e.value))).collect(), color(s), 2.0, style(line, s));
    let lowest = points.iter().min_by(|a, b| a.1.value.total_cmp(&b.1.value));
    if let (Some(&(x, e)), false) = (lowest, line.level) {
        sheet.dot(frame.at((x, e.value)), 4.5, color(s));
    }
}

/// One heat map for each series that has a grid.
fn heat_maps(arms: &[ArmSummary], x: &str, y: &str) -> Vec<Figure> {
    let keys = [x.to_owned(), y.to_owned()];
    let mut grids: Vec<(String, Vec<Cell>)> = Vec::new();
    for arm in arms {
        let (Some(a), Some(b)) = (knob(arm, x), knob(arm, y)) else { continue };
        let cell = Cell { x: a, y: b, value: arm.ttft_ms.map(|t| t.mean.value) };
        let name = series(arm, &keys);
        match grids.iter_mut().find(|(label, _)| *label == name) {
            Some((_, cells)) => cells.push(cell),
            None => grids.push((name, vec![cell])),
        }
    }
    grids.truncate(MAX_SERIES);
    let caption = format!(
        "Mean time to first token (ms) over {x} and {y}; the framed cell is the lowest, empty cells were not run."
    );
    let figure = |(i, (name, cells)): (usize, (String, Vec<Cell>))| {
        let sheet = heat_map(&name, &cells, x, y)?;
        let name = format!("sweep-{}-{}-{}", file_part(x), file_part(y), i + 1);
        Some(Figure { name, caption: caption.clone(), sheet })
    };
    grids.into_iter().enumerate().filter_map(figure).collect()
}

struct Cell {
    x: f64,
    y: f64,
    value: Option<f64>,
}

fn distinct(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}

fn heat_map(name: &str, cells: &[Cell], x: &str, y: &str) -> Option<Sheet> {
    let (xs, ys) = (distinct(cells.iter().map(|c| c.x)), distinct(cells.iter().map(|c| c.y)));
    let known = cells.iter().filter_map(|c| c.value);
    let (low, high) = (known.clone().fold(f64::INFINITY, f64::min), known.fold(f64::NEG_INFINITY, f64::max));
    if xs.len() < 2 || ys.len() < 2 || !low.is_finite() {
        return None;
    }
    let top = head_height(&[]);
    let labels = ys.iter().map(|&v| text_width(&number(v), SMALL)).fold(0.0, f64::max);
    let left = EDGE + MEDIUM + 10.0 + labels + 8.0;
    let bar = 90.0;
    let width = (WIDTH - left - EDGE - bar) / xs.len() as f64;
    let tall = (420.0 / ys.len() as f64).clamp(3.0, 44.0);
    let bottom = top + tall * ys.len() as f64;
    let mut sheet = Sheet::new(WIDTH, bottom + SMALL + MEDIUM + 26.0 + EDGE);
    head(&mut sheet, &format!("Mean time to first token (ms): {name}"), &[]);
    let part = |value: f64| if high > low { (value - low) / (high - low) } else { 0.0 };
    let labelled = xs.len() <= MAX_LABELLED && ys.len() <= MAX_LABELLED;
    let place = |all: &[f64], v: f64| all.partition_point(|&known| known < v) as f64;
    // Small values lie at the bottom, as on any axis.
    let corner = |cell: &Cell| (left + place(&xs, cell.x) * width, bottom - (place(&ys, cell.y) + 1.0) * tall);
    for cell in cells {
        let Some(value) = cell.value else { continue };
        let (from, gap) = (corner(cell), if labelled { 0.5 } else { 0.0 });
        sheet.fill((from.0 + gap, from.1 + gap), (from.0 + width - gap, from.1 + tall - gap), ramp(part(value)));
        let label = number(value);
        if labelled && text_width(&label, SMALL) + 4.0 < width {
            let ink = if part(value) > 0.55 { INK } else { WHITE_PAPER };
            sheet.text(label, (from.0 + width / 2.0, from.1 + tall / 2.0), SMALL, ink, Anchor::Centre);
        }
    }
    if let Some(best) = cells.iter().find(|c| c.value == Some(low)) {
        let from = corner(best);
        sheet.outline(
            (from.0 + 1.5, from.1 + 1.5),
            (from.0 + width - 1.5, from.1 + tall - 1.5),
            RGBAColor(213, 94, 0, 1.0),
            3.0,
        );
    }
    ticks(
        &mut sheet,
        &xs,
        |i| left + (i as f64 + 0.5) * width,
        |sheet, at, label| {
            sheet.text(label, (at, bottom + 12.0), SMALL, GREY, Anchor::Centre);
        },
        |label| text_width(label, SMALL),
    );
    ticks(
        &mut sheet,
        &ys,
        |i| bottom - (i as f64 + 0.5) * tall,
        |sheet, at, label| {
            sheet.text(label, (left - 6.0, at), SMALL, GREY, Anchor::Right);
        },
        |_| SMALL,
    );
    let right = left + width * xs.len() as f64;
    let title = shorten(x, MEDIUM, right - left);
    sheet.text(title, ((left + right) / 2.0, bottom + SMALL + 14.0 + MEDIUM / 2.0), MEDIUM, INK, Anchor::Centre);
    sheet.text(
        shorten(y, MEDIUM, bottom - top),
        (EDGE + MEDIUM / 2.0, (top + bottom) / 2.0),
        MEDIUM,
        INK,
        Anchor::Upwards,
    );
    color_bar(&mut sheet, (right + 20.0, top), bottom, (low, high));
    Some(sheet)
}

/// Labels of rows or columns, as many as fit beside each other.
fn ticks(
    sheet: &mut Sheet,
    values: &[f64],
    at: impl Fn(usize) -> f64,
    draw: impl Fn(&mut Sheet, f64, String),
    size: impl Fn(&str) -> f64,
) {
    let mut last: Option<f64> = None;
    for (i, &value) in values.iter().enumerate() {
        let (place, label) = (at(i), number(value));
        let needed = size(&label) + 4.0;
        if last.is_none_or(|last| (place - last).abs() >= needed) {
            draw(sheet, place, label);
            last = Some(place);
        }
    }
}

fn color_bar(sheet: &mut Sheet, (left, top): (f64, f64), bottom: f64, (low, high): (f64, f64)) {
    let steps = 64;
    let tall = (bottom - top) / f64::from(steps);
    for i in 0..steps {
        let from = bottom - tall * f64::from(i + 1);
        sheet.fill((left, from), (left + 14.0, from + tall + 0.5), ramp(f64::from(i) / f64::from(steps - 1)));
    }
    for (value, at) in [(low, bottom - SMALL / 2.0), (high, top + SMALL / 2.0)] {
        sheet.text(number(value), (left + 20.0, at), SMALL, GREY, Anchor::Left);
    }
}
