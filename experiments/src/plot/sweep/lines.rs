//! A sweep of one setting as lines: two panels (mean and p95) for each load.

use super::{MAX_PANELS, file_part, knob, rest_of_load, series};
use crate::plot::Figure;
use crate::plot::arms::{Styles, names_of};
use crate::plot::charts::{Chart, ChartLine};
use crate::plot::frame::{Axis, EDGE, Entry, Frame, MEDIUM, WIDTH, head, head_height, number};
use crate::plot::sheet::{Anchor, DISTINCT, INK, Paint, Sheet, faint, shorten};
use crate::stats::Estimate;
use crate::summary::ArmSummary;

struct Line {
    name: String,
    /// Value of the setting; mean and p95.
    points: Vec<(f64, [Estimate; 2])>,
    /// An arm that does not have the setting.
    level: bool,
    color: Paint,
    dash: Option<f64>,
}

struct Panel {
    title: String,
    lines: Vec<Line>,
}

/// The lines of all arms over `x`; none when there are more lines than can be told apart, or less than two values.
pub(super) fn figures(arms: &[ArmSummary], x: &str, styles: &Styles) -> Vec<Figure> {
    let mut panels = panels(arms, x, styles);
    let all = panels.len();
    panels.truncate(MAX_PANELS);
    let cut = if all > MAX_PANELS { format!(" The first {MAX_PANELS} of {all} loads.") } else { String::new() };
    if panels.iter().any(|panel| panel.lines.len() > DISTINCT) {
        return Vec::new();
    }
    let figure = |(i, panels): (usize, &[Panel])| {
        let name = format!("sweep-{}", file_part(x));
        let name = if i == 0 { name } else { format!("{name}-{}", i + 1) };
        let caption = format!(
            "Time to first token against {x}: mean over seeds, bands are 95 % intervals, cut at the frame, the large dot of a line marks its lowest point; arms without this setting are drawn as level lines.{cut}"
        );
        Some(Figure { name, caption, sheet: sheet(panels, x)?, charted: true })
    };
    panels.chunks(3).enumerate().filter_map(figure).collect()
}

/// The same lines as charts: mean and p95 of each panel.
pub(super) fn charts(arms: &[ArmSummary], x: &str, styles: &Styles) -> Vec<Chart> {
    let panels = panels(arms, x, styles);
    if panels.iter().any(|panel| panel.lines.len() > DISTINCT) {
        return Vec::new();
    }
    let mut charts = Vec::new();
    for panel in panels.iter().take(MAX_PANELS) {
        let mut xs: Vec<f64> =
            panel.lines.iter().filter(|l| !l.level).flat_map(|l| l.points.iter().map(|p| p.0)).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        if xs.len() < 2 {
            continue;
        }
        for (i, statistic) in ["Mean", "p95"].into_iter().enumerate() {
            let value = |line: &Line, x: f64| {
                let found = line.points.iter().find(|p| line.level || p.0 == x);
                found.map(|p| p.1[i])
            };
            let line =
                |line: &Line| ChartLine::of(line.name.clone(), &xs.iter().map(|&x| value(line, x)).collect::<Vec<_>>());
            let rest = if panel.title.is_empty() { String::new() } else { format!(", {}", panel.title) };
            charts.push(Chart {
                title: format!("{statistic} time to first token over {x}{rest}"),
                x: x.to_owned(),
                y: format!("{statistic} TTFT (ms)"),
                unit: "ms",
                log: xs[0] > 0.0 && xs[xs.len() - 1] / xs[0] > 20.0,
                lines: panel.lines.iter().map(line).collect(),
                xs: xs.clone(),
            });
        }
    }
    charts
}

fn panels(arms: &[ArmSummary], x: &str, styles: &Styles) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for arm in arms {
        let Some(ttft) = &arm.ttft_ms else { continue };
        let (title, name, value) = (rest_of_load(arm, &[x]), series(arm, &[x]), knob(arm, x));
        let level = value.is_none();
        let at = panels.iter().position(|panel| panel.title == title).unwrap_or_else(|| {
            panels.push(Panel { title, lines: Vec::new() });
            panels.len() - 1
        });
        let lines = &mut panels[at].lines;
        let point = (value.unwrap_or(0.0), [ttft.mean, ttft.p95]);
        match lines.iter_mut().find(|line| line.name == name && line.level == level) {
            Some(line) => line.points.push(point),
            None => {
                let (color, dash) = styles.of_line(&name);
                lines.push(Line { name, points: vec![point], level, color, dash });
            }
        }
    }
    for line in panels.iter_mut().flat_map(|panel| &mut panel.lines) {
        line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    panels
}

fn sheet(panels: &[Panel], key: &str) -> Option<Sheet> {
    let lines = || panels.iter().flat_map(|panel| &panel.lines);
    let xs = lines().filter(|l| !l.level).flat_map(|l| l.points.iter().map(|p| p.0));
    let (low, high) = xs.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    if low >= high {
        return None;
    }
    let entry = |name: &str| {
        let line = lines().find(|line| line.name == name)?;
        Some(Entry { label: name.to_owned(), color: line.color, dash: line.dash, line: true })
    };
    let entries: Vec<Entry> = names_of(lines().map(|line| line.name.as_str())).into_iter().filter_map(entry).collect();
    let top = head_height(&entries);
    let tall = 270.0;
    let mut sheet = Sheet::new(WIDTH, top + 2.0 * tall * panels.len() as f64 + EDGE);
    // A picture stands without its caption, too.
    let bands = lines().flat_map(|line| &line.points).any(|point| point.1[0].ci95.is_some());
    let marks = if bands { "band: 95 % interval, large dot: lowest" } else { "large dot: lowest" };
    head(&mut sheet, &format!("Time to first token against {key} ({marks})"), &entries);
    for (p, panel) in panels.iter().enumerate() {
        for (i, title) in ["mean TTFT (ms)", "p95 TTFT (ms)"].into_iter().enumerate() {
            // Wide intervals must not press the lines together: they may take as much room again as the lines.
            let most = |of: fn(Estimate) -> f64| {
                panel.lines.iter().flat_map(|l| &l.points).map(|(_, e)| of(e[i])).fold(0.0, f64::max)
            };
            let highest = most(|e| e.range().1).min(1.6 * most(|e| e.value));
            let x = if low > 0.0 && high / low > 20.0 {
                Axis::log(&format!("{key} (logarithmic)"), low, high)
            } else {
                Axis::tight(key, low, high, 8)
            };
            let from = top + (2 * p + i) as f64 * tall;
            let mut start = from;
            if i == 0 && !panel.title.is_empty() {
                let title = shorten(&panel.title, MEDIUM, WIDTH - 2.0 * EDGE);
                sheet.text(title, (EDGE, from + MEDIUM / 2.0), MEDIUM, INK, Anchor::Left);
                start += 1.5 * MEDIUM;
            }
            let to = (WIDTH - EDGE - 8.0, from + tall - 14.0);
            let frame = Frame::draw(&mut sheet, (EDGE, start), to, x, Axis::linear(title, 0.0, highest, 5));
            panel.lines.iter().for_each(|line| draw_line(&mut sheet, &frame, line, i, (low, high)));
        }
    }
    Some(sheet)
}

fn draw_line(sheet: &mut Sheet, frame: &Frame, line: &Line, statistic: usize, (low, high): (f64, f64)) {
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
        sheet.area(band, faint(line.color, 0.18));
    }
    let drawn = points.iter().map(|&(x, e)| frame.at((x, e.value))).collect();
    sheet.hover(line.name.clone(), |sheet| sheet.line(drawn, line.color, 2.0, line.dash));
    let lowest = points.iter().min_by(|a, b| a.1.value.total_cmp(&b.1.value)).map(|lowest| lowest.0);
    for &(x, e) in points.iter().filter(|_| !line.level) {
        let half = e.ci95.map_or_else(String::new, |half| format!(" ± {}", number(half)));
        let said = format!("{} at {}: {}{half} ms", line.name, number(x), number(e.value));
        let radius = if lowest == Some(x) { 5.0 } else { 2.5 };
        sheet.hover(said, |sheet| sheet.dot(frame.at((x, e.value)), radius, line.color));
    }
}
