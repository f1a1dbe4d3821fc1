//! Plots of load balance: requests per replica, and queues over time.

use super::arms::{Named, panel_title, rows as shown};
use super::frame::{Axis, EDGE, Entry, Frame, MEDIUM, SMALL, WIDTH, head, head_height};
use super::sheet::{Anchor, GREY, INK, Paint, Sheet, color, dash, ink_on, shorten, text_width};
use super::sweep::ramp;
use crate::results::Point;
use crate::summary::ArmSummary;
use crate::summary::loads::{Load, short_names};

/// Replicas with colours of their own; more get shades in order, and queues are drawn as mean and fullest.
const MAX_REPLICAS: usize = 7;
/// Widest name beside a bar.
const LABELS: f64 = 240.0;

fn shade(i: usize, of: usize) -> Paint {
    if of <= MAX_REPLICAS { color(i) } else { ramp(i as f64 / (of - 1) as f64) }
}

/// One stacked bar per arm: shares of the replicas.
pub(super) fn shares(loads: &[Load<'_>]) -> Option<Sheet> {
    let answered = |arm: &ArmSummary| arm.share.iter().any(|s| s.share > 0.0);
    let mut panels: Vec<(String, Vec<Named<'_>>)> = Vec::new();
    for load in loads {
        let (mut arms, note) = shown(load);
        arms.retain(|(_, arm)| answered(arm));
        if !arms.is_empty() {
            panels.push((panel_title(load, &note), arms));
        }
    }
    let replicas = &panels.first()?.1[0].1.share;
    let n = replicas.len();
    let entry = |i: usize| Entry { label: replicas[i].replica.clone(), color: shade(i, n), dash: None, line: false };
    // Shades in between explain themselves.
    let entries: Vec<Entry> = if n <= 16 { (0..n).map(entry).collect() } else { vec![entry(0), entry(n - 1)] };
    let wanted = |names: &[&str]| names.iter().map(|name| text_width(name, SMALL)).fold(0.0, f64::max);
    let full: Vec<&str> = panels.iter().flat_map(|(_, arms)| arms).map(|(name, _)| name.as_str()).collect();
    let short = short_names(&full);
    let short: Vec<&str> = short.iter().map(String::as_str).collect();
    let names = if wanted(&full) > LABELS { short } else { full };
    let room = wanted(&names).min(LABELS);
    let top = head_height(&entries);
    let row = 34.0;
    let title_room = |title: &str| if title.is_empty() { 0.0 } else { 2.0 * MEDIUM };
    let below = SMALL + MEDIUM + 34.0;
    let tall = |(title, arms): &(String, Vec<Named<'_>>)| title_room(title) + row * arms.len() as f64 + below;
    let mut sheet = Sheet::new(WIDTH, top + panels.iter().map(tall).sum::<f64>() + EDGE);
    head(&mut sheet, "Share of requests by replica", &entries);
    let left = EDGE + room + 8.0;
    let (mut from, mut names) = (top, names.into_iter());
    for panel in &panels {
        let (title, arms) = panel;
        sheet.text(shorten(title, MEDIUM, WIDTH - 2.0 * EDGE), (EDGE, from + MEDIUM), MEDIUM, INK, Anchor::Left);
        let start = from + title_room(title);
        from += tall(panel);
        let x = Axis::linear("share of requests (%)", 0.0, 100.0, 5);
        let y = Axis::places("", arms.len());
        let frame = Frame::draw(&mut sheet, (left - 8.0, start), (WIDTH - EDGE - 14.0, from - 12.0), x, y);
        for (i, ((_, arm), name)) in arms.iter().zip(names.by_ref()).enumerate() {
            let middle = start + (i as f64 + 0.5) * (frame.bottom - start) / arms.len() as f64;
            sheet.text(shorten(name, SMALL, room), (left - 8.0, middle), SMALL, INK, Anchor::Right);
            share_row(&mut sheet, &frame, (middle, row), name, arm);
        }
    }
    Some(sheet)
}

fn share_row(sheet: &mut Sheet, frame: &Frame, (middle, row): (f64, f64), name: &str, arm: &ArmSummary) {
    let mut sum = 0.0;
    for (r, share) in arm.share.iter().enumerate() {
        let (from, to) = (frame.x(sum), frame.x(sum + 100.0 * share.share));
        sum += 100.0 * share.share;
        let paint = shade(r, arm.share.len());
        let label = format!("{:.0}", 100.0 * share.share);
        sheet.hover(format!("{name}: {:.1} % at {}", 100.0 * share.share, share.replica), |sheet| {
            sheet.fill((from, middle - row * 0.36), (to, middle + row * 0.36), paint);
            if text_width(&label, SMALL) + 8.0 < to - from {
                sheet.text(label, ((from + to) / 2.0, middle), SMALL, ink_on(paint), Anchor::Centre);
            }
        });
    }
}

/// Waiting requests over time: one panel per arm, one line per replica, dashed for the fullest router.
pub(super) fn queues(loads: &[Load<'_>], points: &[Point]) -> Option<Sheet> {
    let first = |arm: &ArmSummary| points.iter().find(|p| p.arm == arm.arm).filter(|p| p.queues.at_ms.len() > 1);
    let (arms, note) = loads.first().map(shown)?;
    let panels: Vec<&Point> = arms.iter().filter_map(|(_, arm)| first(arm)).collect();
    let names = &panels.first()?.names.replicas;
    let many = names.len() > MAX_REPLICAS;
    let labels: Vec<String> =
        if many { vec!["fullest replica".to_owned(), "mean of replicas".to_owned()] } else { names.clone() };
    let mut entries: Vec<Entry> = labels
        .into_iter()
        .enumerate()
        .map(|(i, label)| Entry { label, color: color(i), dash: None, line: true })
        .collect();
    entries.push(Entry { label: "held at the fullest router".to_owned(), color: GREY, dash: dash(7), line: true });
    let top = head_height(&entries);
    let panel = 130.0;
    let mut sheet = Sheet::new(WIDTH, top + panel * panels.len() as f64 + MEDIUM + 4.0 + EDGE);
    let load = loads.first().map(|load| panel_title(load, &note)).filter(|title| !title.is_empty());
    let title = load.map_or_else(|| "Queues over time".to_owned(), |load| format!("Queues over time, {load}"));
    head(&mut sheet, &title, &entries);
    // One scale for all panels, so that they compare.
    let highest = panels.iter().map(|p| p.queues.max_waiting.max(p.queues.max_router)).max().unwrap_or(0);
    let until = panels.iter().filter_map(|p| p.queues.at_ms.last()).max().copied().unwrap_or(0) as f64 / 1e3;
    for (i, point) in panels.iter().enumerate() {
        let from = top + panel * i as f64;
        let last = i + 1 == panels.len();
        let title = format!("{} (seed {})", point.arm, point.seed);
        sheet.text(shorten(&title, SMALL, WIDTH - 80.0), (WIDTH - EDGE, from + SMALL / 2.0), SMALL, INK, Anchor::Right);
        let x = Axis::tight(if last { "time since start (s)" } else { "" }, 0.0, until, 8);
        let y = Axis::linear("waiting", 0.0, f64::from(highest.max(4)), 3);
        // All but the last panel need no room for the title of the time axis.
        let to = from + panel + if last { MEDIUM + 4.0 } else { 0.0 };
        let frame = Frame::draw(&mut sheet, (EDGE, from + SMALL + 6.0), (WIDTH - EDGE, to), x, y);
        let mut line = |row: &[f64], color: Paint, dash: Option<f64>| {
            let line = point.queues.at_ms.iter().zip(row).map(|(&ms, &n)| frame.at((ms as f64 / 1e3, n))).collect();
            sheet.line(line, color, 1.5, dash);
        };
        for (r, row) in rows(point, many).iter().enumerate() {
            line(row, color(r), None);
        }
        let router: Vec<f64> = point.queues.router.iter().map(|&n| f64::from(n)).collect();
        line(&router, GREY, dash(7));
    }
    Some(sheet)
}

fn rows(point: &Point, many: bool) -> Vec<Vec<f64>> {
    let all: Vec<Vec<f64>> =
        point.queues.waiting.iter().map(|row| row.iter().map(|&n| f64::from(n)).collect()).collect();
    if !many {
        return all;
    }
    let slots = point.queues.at_ms.len();
    let column = |slot: usize| all.iter().filter_map(move |row| row.get(slot).copied());
    let fullest = (0..slots).map(|s| column(s).fold(0.0, f64::max)).collect();
    let mean = (0..slots).map(|s| column(s).sum::<f64>() / all.len().max(1) as f64).collect();
    vec![fullest, mean]
}
