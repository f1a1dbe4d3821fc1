//! Tables and curves of a comparison request by request.

use super::rows::{Agreement, ArmRows, RowComparison, RowFigure};
use crate::plot::{self, Figure};
use crate::stats::Digest;
use crate::table::fold;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use gorgo_core::Span;

/// Panels of a picture at most.
const PANELS: usize = 12;

/// The least room of a table's first column.
const NAME_ROOM: usize = 10;

/// The room that a table has for a column beside the others; each has a blank on both sides.
pub(super) fn room_of(column: usize, header: &[&str], rows: &[Vec<String>], width: usize) -> usize {
    let needs = |c: usize| {
        let cells = rows.iter().map(|row| row[c].chars().count());
        cells.max().unwrap_or(0).max(header[c].chars().count()) + 2
    };
    let others: usize = (0..header.len()).filter(|&c| c != column).map(needs).sum();
    width.saturating_sub(others + 2).max(NAME_ROOM)
}

/// A table whose first column is folded so that it fits `width`.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>, width: usize) -> String {
    let mut rows: Vec<Vec<String>> = rows.into_iter().collect();
    let room = room_of(0, header, &rows, width);
    rows.iter_mut().for_each(|row| row[0] = fold(&row[0], room).join("\n"));
    let mut table = Table::new();
    let style = TableStyle::new().header_separator(LineStyle::none().fill('─'));
    table.load_style(style).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn number(figure: &RowFigure, value: f64) -> String {
    if figure.name.ends_with("correlation") { format!("{value:.3}") } else { crate::table::ms(value) }
}

/// An error or a bound in its unit.
fn signed(figure: &RowFigure, value: f64) -> String {
    let unit = if figure.name.ends_with(", %") { "pt" } else { "%" };
    format!("{value:+.1} {unit}")
}

fn cells(figure: &RowFigure) -> Vec<String> {
    let dash = || "-".to_owned();
    vec![
        figure.name.clone(),
        figure.measured.map_or_else(dash, |value| number(figure, value)),
        number(figure, figure.simulated),
        figure.error.map_or_else(dash, |error| signed(figure, error)),
        figure.noise.map_or_else(dash, |(low, high)| format!("{low:+.1} .. {high:+.1}")),
        figure.agreement.map_or_else(dash, |agreement| agreement.as_str().to_owned()),
    ]
}

fn arm_title(arm: &ArmRows) -> String {
    let other = if arm.arm == arm.simulated { String::new() } else { format!(" (simulated: {})", arm.simulated) };
    format!("{}{other}: {} of {} answered requests compared", arm.arm, arm.compared, arm.answered)
}

/// The comparison as text in `width` columns: a table for each arm, its classes if `by_class`, and the order of the arms.
pub fn rows_table(comparison: &RowComparison, by_class: bool, width: usize) -> String {
    let mut parts = Vec::new();
    for arm in &comparison.arms {
        let header = ["figure", "measured", "simulated", "error", "noise, 95 %", ""];
        let figures = table(&header, arm.figures.iter().map(cells), width);
        let notes = arm.notes.iter().flat_map(|note| fold(&format!("note: {note}"), width));
        let lines: Vec<String> = [arm_title(arm), figures].into_iter().chain(notes).collect();
        parts.push(lines.join("\n"));
        if by_class && !arm.classes.is_empty() {
            parts.push(classes(arm, width));
        }
    }
    if !comparison.order.is_empty() {
        let rows = comparison.order.iter().map(|pair| {
            let sign = if pair.agrees { "yes" } else { "no" };
            let (measured, simulated) = (format!("{:.0}", pair.measured), format!("{:+.0}", pair.simulated));
            vec![pair.figure.clone(), format!("{} < {}", pair.better, pair.worse), measured, simulated, sign.to_owned()]
        });
        let header = ["arms told apart by", "order", "by, ms", "simulated", "agrees"];
        parts.push(table(&header, rows, width));
    } else if comparison.arms.len() > 1 {
        parts.push("The recording tells no two of its arms apart beyond its noise.".to_owned());
    }
    if !comparison.extra.is_empty() {
        let extra = format!("Simulated arms without a recording: {}.", comparison.extra.join(", "));
        parts.push(fold(&extra, width).join("\n"));
    }
    parts.join("\n\n")
}

fn classes(arm: &ArmRows, width: usize) -> String {
    let mut header =
        vec!["class", "requests", "TTFT mean", "error", "p50", "error", "p95", "error", "E2E p50", "error"];
    let rows = arm.classes.iter().map(|class| {
        let mut row = vec![class.name.clone(), class.requests.to_string()];
        for name in ["TTFT mean, ms", "TTFT p50, ms", "TTFT p95, ms", "E2E p50, ms"] {
            let figure = class.figures.iter().find(|figure| figure.name == name);
            let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), crate::table::ms);
            row.push(shown(figure.and_then(|f| f.measured)));
            let mark = |f: &RowFigure| if f.agreement == Some(Agreement::Beyond) { "!" } else { "" };
            let error = figure.and_then(|f| Some(format!("{:+.0} %{}", f.error?, mark(f))));
            row.push(error.unwrap_or_else(|| "-".to_owned()));
        }
        row
    });
    let mut rows: Vec<Vec<String>> = rows.collect();
    let name = rows.iter().map(|row| row[0].chars().count()).max().unwrap_or(0);
    let mut note = "";
    if room_of(0, &header, &rows, width) < name {
        header.truncate(header.len() - 2);
        rows.iter_mut().for_each(|row| row.truncate(header.len()));
        note = "; E2E left out, it is in --json";
    }
    let title = format!("{} by class (measured, error; ! is beyond the noise{note})", arm.arm);
    format!("{}\n{}", fold(&title, width).join("\n"), table(&header, rows, width))
}

/// The distributions of both sources, a panel an arm; `None` without samples.
pub fn curves(comparison: &RowComparison) -> Option<Figure> {
    let digest = |values: &[f64]| Digest::of(values.iter().map(|&ms| Span::from_ms(ms)));
    let known = comparison.arms.iter().filter(|arm| !arm.measured_ttft.is_empty() && !arm.simulated_ttft.is_empty());
    let panels =
        known.take(PANELS).map(|arm| (arm.arm.clone(), digest(&arm.measured_ttft), digest(&arm.simulated_ttft)));
    plot::two_distributions(&panels.collect::<Vec<_>>())
}
