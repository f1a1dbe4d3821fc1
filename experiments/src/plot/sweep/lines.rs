//! One knob: lines.

use super::{MAX_SERIES, knob, series};
use crate::plot::frame::{Axis, EDGE, Entry, Frame, WIDTH, head, head_height};
use crate::plot::sheet::{Sheet, color, dash, faint};
use crate::stats::Estimate;
use crate::summary::ArmSummary;

struct Line {
    label: String,
    points: Vec<(f64, [Estimate; 2])>,
    level: bool,
}

pub(super) fn lines(arms: &[ArmSummary], key: &str) -> Option<Sheet> {
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
