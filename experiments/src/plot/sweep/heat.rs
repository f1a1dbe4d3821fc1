//! A sweep of two settings as heat maps.

use super::{MAX_PANELS, file_part, knob, ramp, rest_of_load, series};
use crate::plot::Figure;
use crate::plot::frame::{EDGE, Entry, MEDIUM, SMALL, WIDTH, head, head_height, number};
use crate::plot::sheet::{Anchor, GREY, INK, PALE, Paint, Sheet, ink_on, shorten, text_width};
use crate::summary::ArmSummary;
use crate::verdict::SHARE_SLACK;
use gorgo_core::policy::gorgo::Preset;
use plotters::style::RGBAColor;

/// The frame of the lowest cell, and the cross at the published point.
const BEST: Paint = RGBAColor(213, 94, 0, 1.0);
const PUBLISHED: Paint = RGBAColor(204, 121, 167, 1.0);

/// Columns and rows of a heat map whose cells carry their value.
const MAX_LABELLED: usize = 12;

/// One heat map for each series that has a grid.
pub(super) fn heat_maps(arms: &[ArmSummary], x: &str, y: &str) -> Vec<Figure> {
    let mut grids: Vec<(String, Vec<Cell>)> = Vec::new();
    let mut published = None;
    for arm in arms {
        let (Some(a), Some(b)) = (knob(arm, x), knob(arm, y)) else { continue };
        let share = arm.counts.finished as f64 / arm.counts.requests.max(1) as f64;
        let cell = Cell { x: a, y: b, value: arm.ttft_ms.map(|t| t.mean.value), share };
        let name = [series(arm, &[x, y]), rest_of_load(arm, &[x, y])].join(" ").trim().to_owned();
        published = published.or_else(|| Some((published_value(&arm.policy, x)?, published_value(&arm.policy, y)?)));
        match grids.iter_mut().find(|(label, _)| *label == name) {
            Some((_, cells)) => cells.push(cell),
            None => grids.push((name, vec![cell])),
        }
    }
    let all = grids.len();
    grids.truncate(MAX_PANELS);
    let cut = if all > MAX_PANELS { format!(" The first {MAX_PANELS} of {all} heat maps.") } else { String::new() };
    let cross = published.map_or_else(String::new, |(a, b)| {
        format!(
            " The cross is the published point ({} and {}); outside the axes it is not drawn.",
            number(a),
            number(b)
        )
    });
    let caption = format!(
        "Mean time to first token (ms) over {x} and {y}; the framed cell is the lowest of those that finish as many requests as any, within {:.0} points. Grey cells answered no request, empty cells were not run.{cross}{cut}",
        100.0 * SHARE_SLACK
    );
    let figure = |(i, (name, cells)): (usize, (String, Vec<Cell>))| {
        let sheet = heat_map(&name, &cells, (x, y), published)?;
        let name = format!("sweep-{}-{}-{}", file_part(x), file_part(y), i + 1);
        Some(Figure { name, caption: caption.clone(), sheet, charted: false })
    };
    grids.into_iter().enumerate().filter_map(figure).collect()
}

struct Cell {
    x: f64,
    y: f64,
    /// `None` without any answer.
    value: Option<f64>,
    /// Share of its requests that finished.
    share: f64,
}

/// The cell of the lowest value among those that finish as many of their requests as any.
fn lowest(cells: &[Cell]) -> Option<(&Cell, f64)> {
    let most = cells.iter().map(|cell| cell.share).fold(0.0, f64::max);
    let ranked = cells.iter().filter(|cell| cell.share >= most - SHARE_SLACK);
    ranked.filter_map(|cell| Some((cell, cell.value?))).min_by(|a, b| a.1.total_cmp(&b.1))
}

/// The value of `policy`'s setting `key` as gotoni published it; `None` for policies without published weights.
fn published_value(policy: &str, key: &str) -> Option<f64> {
    let weights = serde_json::to_value(Preset::Gotoni.weights()).ok()?;
    if policy == "gorgo" { weights.get(key.strip_prefix("policy.")?)?.as_f64() } else { None }
}

/// The place of `value` among the ascending `all`, in cells from the first one's middle; `None` outside.
fn between(all: &[f64], value: f64) -> Option<f64> {
    let above = all.partition_point(|&known| known < value);
    let (low, high) = (*all.get(above.saturating_sub(1))?, *all.get(above)?);
    match above {
        0 => (high == value).then_some(0.0),
        _ => Some((above - 1) as f64 + (value - low) / (high - low)),
    }
}

fn distinct(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}

fn heat_map(name: &str, cells: &[Cell], (x, y): (&str, &str), published: Option<(f64, f64)>) -> Option<Sheet> {
    let (xs, ys) = (distinct(cells.iter().map(|c| c.x)), distinct(cells.iter().map(|c| c.y)));
    let known = cells.iter().filter_map(|c| c.value);
    let (low, high) = (known.clone().fold(f64::INFINITY, f64::min), known.fold(f64::NEG_INFINITY, f64::max));
    if xs.len() < 2 || ys.len() < 2 || !low.is_finite() {
        return None;
    }
    let best = lowest(cells);
    let published = published.and_then(|(a, b)| Some((between(&xs, a)?, between(&ys, b)?)));
    let entry = |label: &str, color| Entry { label: label.to_owned(), color, dash: None, line: false };
    let mut entries: Vec<Entry> =
        best.iter().map(|(_, value)| entry(&format!("lowest: {} ms", number(*value)), BEST)).collect();
    entries.extend(published.map(|_| entry("published point", PUBLISHED)));
    let top = head_height(&entries);
    let labels = ys.iter().map(|&v| text_width(&number(v), SMALL)).fold(0.0, f64::max);
    let left = EDGE + MEDIUM + 10.0 + labels + 8.0;
    let marks: [f64; 5] = std::array::from_fn(|i| low + (high - low) * i as f64 / 4.0);
    let bar = 40.0 + marks.iter().map(|&v| text_width(&number(v), SMALL)).fold(0.0, f64::max);
    let width = (WIDTH - left - EDGE - bar) / xs.len() as f64;
    let tall = (420.0 / ys.len() as f64).clamp(3.0, 44.0);
    let bottom = top + tall * ys.len() as f64;
    let mut sheet = Sheet::new(WIDTH, bottom + SMALL + MEDIUM + 26.0 + EDGE);
    head(&mut sheet, &format!("Mean time to first token (ms): {name}"), &entries);
    let part = |value: f64| if high > low { (value - low) / (high - low) } else { 0.0 };
    let labelled = xs.len() <= MAX_LABELLED && ys.len() <= MAX_LABELLED;
    let place = |all: &[f64], v: f64| all.partition_point(|&known| known < v) as f64;
    // Small values lie at the bottom, as on any axis.
    let corner = |cell: &Cell| (left + place(&xs, cell.x) * width, bottom - (place(&ys, cell.y) + 1.0) * tall);
    for cell in cells {
        // Cells without labels overlap a little: a viewer would show seams between them.
        let (from, gap) = (corner(cell), if labelled { 0.5 } else { -0.3 });
        let Some(value) = cell.value else {
            sheet.hover(format!("{x}={}, {y}={}: no request was answered", cell.x, cell.y), |sheet| {
                sheet.fill((from.0 + gap, from.1 + gap), (from.0 + width - gap, from.1 + tall - gap), PALE);
            });
            continue;
        };
        let label = number(value);
        let finished = if cell.share < 1.0 { format!(", {:.1} % finished", 100.0 * cell.share) } else { String::new() };
        sheet.hover(format!("{x}={}, {y}={}: {label} ms{finished}", cell.x, cell.y), |sheet| {
            sheet.fill((from.0 + gap, from.1 + gap), (from.0 + width - gap, from.1 + tall - gap), ramp(part(value)));
            if labelled && text_width(&label, SMALL) + 4.0 < width {
                let ink = ink_on(ramp(part(value)));
                sheet.text(label, (from.0 + width / 2.0, from.1 + tall / 2.0), SMALL, ink, Anchor::Centre);
            }
        });
    }
    if let Some((best, _)) = best {
        let from = corner(best);
        sheet.outline((from.0 + 1.5, from.1 + 1.5), (from.0 + width - 1.5, from.1 + tall - 1.5), BEST, 3.0);
    }
    if let Some((column, row)) = published {
        let (a, b, arm) = (left + (column + 0.5) * width, bottom - (row + 0.5) * tall, 7.0);
        for (da, db) in [(arm, arm), (arm, -arm)] {
            let ends = || vec![(a - da, b - db), (a + da, b + db)];
            sheet.line(ends(), INK, 5.0, None);
            sheet.line(ends(), PUBLISHED, 2.5, None);
        }
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
    color_bar(&mut sheet, (right + 20.0, top), bottom, &marks);
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

fn color_bar(sheet: &mut Sheet, (left, top): (f64, f64), bottom: f64, marks: &[f64; 5]) {
    let steps = 64;
    let tall = (bottom - top) / f64::from(steps);
    for i in 0..steps {
        let from = bottom - tall * f64::from(i + 1);
        sheet.fill((left, from), (left + 14.0, from + tall + 0.5), ramp(f64::from(i) / f64::from(steps - 1)));
    }
    for (i, &mark) in marks.iter().enumerate() {
        let at = bottom - SMALL / 2.0 - i as f64 / 4.0 * (bottom - top - SMALL);
        sheet.text(number(mark), (left + 20.0, at), SMALL, GREY, Anchor::Left);
    }
}
