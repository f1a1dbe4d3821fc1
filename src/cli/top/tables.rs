//! The tables: regions, replicas, decisions. Narrow screens have fewer columns.

use super::app::App;
use super::text::{age, count, hit, ms, percent, rate, word};
use super::view::Theme;
use crate::cli::output::cut;
use crate::cli::router::{array, telling_error};
use gorgo_experiments::table::shorten;
use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Cell, Row, Table, TableState};
use serde_json::Value;

/// Width from which on all columns are shown.
const WIDE: u16 = 110;

/// A column: title, width, whether it is a figure, whether it is for wide screens only, and what it shows of a row.
struct Column(&'static str, u16, bool, bool, fn(&Value) -> String);

fn note(row: &Value) -> String {
    telling_error(row).map_or_else(String::new, |(why, age_ms)| format!("{why} ({} ago)", age(age_ms / 1e3)))
}

const REGIONS: [Column; 7] = [
    Column("region", 0, false, false, |row| row["region"].as_str().unwrap_or("(no region)").to_owned()),
    Column("up", 7, true, false, |row| format!("{}/{}", count(&row["available"]), count(&row["replicas"]))),
    Column("req/s", 5, true, false, |row| rate(&row["requests_per_second"])),
    Column("RTT", 6, true, false, |row| ms(&row["rtt_ms"])),
    Column("wait/run", 9, true, false, |row| format!("{}/{}", count(&row["waiting"]), count(&row["running"]))),
    Column("TTFT p50", 8, true, false, |row| ms(&row["ttft"]["p50"]["ttft_ms"])),
    Column("hits", 5, true, false, |row| percent(hit(row))),
];

const REPLICAS: [Column; 11] = [
    Column("replica", 0, false, false, |row| word(&row["id"]).to_owned()),
    Column("region", 18, false, true, |row| word(&row["region"]).to_owned()),
    Column("state", 12, false, false, |row| word(&row["state"]).to_owned()),
    Column("req/s", 5, true, false, |row| rate(&row["requests_per_second"])),
    Column("RTT", 6, true, false, |row| ms(&row["latency_ms"])),
    Column("wait/run", 8, true, false, |row| {
        format!("{}/{}", count(&row["load"]["waiting_requests"]), count(&row["load"]["running_requests"]))
    }),
    Column("engine", 8, true, false, |row| format!("{}/{}", count(&row["waiting_reqs"]), count(&row["running_reqs"]))),
    Column("KV", 4, true, false, |row| percent(row["gpu_cache_usage"].as_f64())),
    Column("hits", 4, true, false, |row| percent(hit(row))),
    Column("TTFT p50", 8, true, true, |row| ms(&row["ttft"]["p50"]["ttft_ms"])),
    Column("note", 24, false, true, note),
];

const DECISIONS: [Column; 9] = [
    Column("request", 20, false, true, |row| word(&row["request_id"]).to_owned()),
    Column("chosen", 0, false, false, |row| word(&row["decision"]["chosen"]).to_owned()),
    Column("runner-up", 16, false, false, |row| word(&row["decision"]["deciding"]["runner_up"]).to_owned()),
    Column("decided by", 16, false, false, |row| {
        let deciding = &row["decision"]["deciding"];
        match (deciding["deciding_term"].as_str(), row["decision"]["reason"].as_str()) {
            (_, Some(reason)) => reason.to_owned(),
            (Some(term), None) => format!("{term} {:.0}", deciding["ahead_by"].as_f64().unwrap_or(0.0)),
            (None, None) => "-".to_owned(),
        }
    }),
    Column("regret", 6, true, false, |row| ms(&row["decision"]["deciding"]["regret_ms"])),
    Column("expected", 8, true, true, |row| ms(&row["predicted_ttft_ms"])),
    Column("TTFT", 6, true, false, |row| ms(&row["actual_ttft_ms"])),
    Column("hit/prompt", 11, true, false, |row| {
        let hit = row["actual_cached_tokens"].as_u64().or(row["predicted_cached_tokens"].as_u64());
        format!("{}/{}", hit.map_or("-".to_owned(), |hit| count(&hit.into())), count(&row["decision"]["prompt_tokens"]))
    }),
    Column("end", 9, false, true, |row| word(&row["status"]).to_owned()),
];

/// How many rows have no room below title and head.
fn more(area: Rect, rows: usize) -> String {
    match rows.saturating_sub(usize::from(area.height).saturating_sub(2)) {
        0 => String::new(),
        hidden => format!(" (+{hidden} more)"),
    }
}

pub(super) fn regions(frame: &mut Frame<'_>, area: Rect, overview: &Value, theme: Theme) {
    let rows: Vec<&Value> = array(&overview["regions"]).iter().collect();
    let title = format!("regions{}", more(area, rows.len()));
    table(frame, area, &title, &REGIONS, &rows, None, theme);
}

pub(super) fn replicas(frame: &mut Frame<'_>, area: Rect, app: &App, theme: Theme) {
    let rows = app.replicas();
    let all = app.overview.as_ref().and_then(|overview| overview["replicas"].as_array()).map_or(0, Vec::len);
    let mut title = format!("replicas {}", rows.len());
    if rows.len() < all {
        title.push_str(&format!(" of {all} with \"{}\"", app.filter));
    }
    title.push_str(&more(area, rows.len()));
    title.push_str(&format!(" by {}{}", app.sort.name(), if app.reversed { ", reversed" } else { "" }));
    table(frame, area, &title, &REPLICAS, &rows, Some(app.selected_row()), theme);
}

pub(super) fn decisions(frame: &mut Frame<'_>, area: Rect, overview: &Value, theme: Theme) {
    let rows: Vec<&Value> = array(&overview["decisions"]).iter().collect();
    table(frame, area, "last decisions", &DECISIONS, &rows, None, theme);
}

fn table(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &str,
    columns: &[Column],
    rows: &[&Value],
    selected: Option<usize>,
    theme: Theme,
) {
    let columns: Vec<&Column> = columns.iter().filter(|column| area.width >= WIDE || !column.3).collect();
    let fixed: u16 = columns.iter().map(|column| column.1 + 1).sum();
    let first = area.width.saturating_sub(fixed).max(8);
    let width = |column: &Column| if column.1 == 0 { first } else { column.1 };
    let cell = |column: &&Column, text: &str, style: Style| {
        let room = usize::from(width(column));
        // Names of pods differ at their ends.
        let text = Text::from(if column.1 == 0 { shorten(text, room.max(2)) } else { cut(text, room) });
        Cell::from(if column.2 { text.right_aligned() } else { text }).style(style)
    };
    let head = Row::new(columns.iter().map(|column| cell(column, column.0, theme.faint())));
    let body = rows.iter().map(|row| {
        Row::new(columns.iter().map(|column| {
            let text = (column.4)(row);
            let style = if column.0 == "state" { theme.state(&text) } else { Style::new() };
            cell(column, &text, style)
        }))
    });
    let widths: Vec<Constraint> = columns.iter().map(|column| Constraint::Length(width(column))).collect();
    let table = Table::new(body, widths)
        .header(head)
        .block(Block::new().title(Line::styled(title.to_owned(), theme.title())))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(selected.filter(|_| !rows.is_empty()));
    frame.render_stateful_widget(table, area, &mut state);
}
