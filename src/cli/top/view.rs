//! The screen: head, regions with a map where there is room, replicas, decisions, keys.

use super::app::{App, Mode, Wish};
use super::tables;
use super::text::{age, count, ms, percent, rate, share_of, word};
use crate::cli::router::array;
use gorgo_experiments::table::shorten;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::canvas::{Canvas, Circle, Map, MapResolution};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};
use serde_json::Value;

/// Width and height from which on a map is drawn.
const MAP: (u16, u16) = (110, 34);

/// The colours, or none of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme(pub(super) bool);

impl Theme {
    fn colour(self, colour: Color) -> Style {
        if self.0 { Style::new().fg(colour) } else { Style::new() }
    }

    pub(super) fn title(self) -> Style {
        self.colour(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    pub(super) fn faint(self) -> Style {
        self.colour(Color::DarkGray)
    }

    pub(super) fn bad(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// The style of a replica's state.
    pub(super) fn state(self, state: &str) -> Style {
        match state {
            "up" => self.colour(Color::Green),
            "down" | "breaker open" => self.bad(),
            _ => self.colour(Color::Yellow),
        }
    }
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let theme = Theme(app.colours);
    let area = frame.area();
    let (told, style) = foot(app, theme);
    let lines = told.chars().count().div_ceil(usize::from(area.width).max(1)) + usize::from(told.len() > 80);
    let lines = u16::try_from(lines).unwrap_or(u16::MAX).clamp(1, (area.height / 3).max(1));
    let [head, body, last] =
        Layout::vertical([Constraint::Length(5), Constraint::Min(0), Constraint::Length(lines)]).areas(area);
    match &app.overview {
        Some(overview) => {
            draw_head(frame, head, app, overview, theme);
            draw_body(frame, body, app, overview, theme);
        }
        None => {
            let what = app.trouble.as_deref().unwrap_or("waiting for the router's first answer");
            let lines = vec![
                Line::styled(format!("gorgo top  {}", app.router), theme.title()),
                Line::default(),
                Line::styled(what, if app.trouble.is_some() { theme.bad() } else { Style::new() }),
                Line::styled("It is asked again each second.", theme.faint()),
            ];
            let room = Rect { height: area.height.saturating_sub(1), ..area };
            frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), room);
        }
    }
    frame.render_widget(Paragraph::new(Line::styled(told, style)).wrap(Wrap { trim: true }), last);
    match &app.mode {
        Mode::Help => draw_help(frame, theme),
        Mode::Confirm(Wish::Drain { id, draining }) => {
            let what = if *draining { "no new requests" } else { "requests again" };
            let room = usize::from(frame.area().width).saturating_sub(56).max(12);
            let line = format!("Send {} {what}?  y: yes, any other key: no", shorten(id, room));
            draw_window(frame, " confirm ", &[line], theme);
        }
        _ => {}
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, app: &App, overview: &Value, theme: Theme) {
    let requests = &overview["requests"];
    let mut first = vec![
        Span::styled(format!("gorgo top  {}", app.router), theme.title()),
        Span::raw(format!(
            "  {}  up {}  {}",
            word(&overview["policy"]),
            age(overview["uptime_seconds"].as_f64().unwrap_or(0.0)),
            word(&overview["phase"]),
        )),
    ];
    if app.frozen {
        first.push(Span::styled("  FROZEN", theme.bad()));
    }
    if let (Some(_), Some(at)) = (&app.trouble, app.told_at) {
        first.push(Span::styled(format!("  {} OLD", age(at.elapsed().as_secs_f64())), theme.bad()));
    }
    let second = format!(
        "{} req/s  {} in flight  queue {}/{}  failed {}  refused {}  retried {}  cancelled {}",
        rate(&requests["per_second"]),
        count(&requests["in_flight"]),
        count(&requests["queue"]),
        count(&requests["queue_limit"]),
        count(&requests["failed"]),
        count(&requests["rejected"]),
        count(&requests["retried"]),
        count(&requests["cancelled"]),
    );
    let share = |kind| percent(share_of(&overview["hits"], kind));
    let third = format!(
        "hit tokens: best anywhere {}  expected {}  delivered {}",
        share("best_anywhere"),
        share("expected"),
        share("delivered"),
    );
    let quantile = |at: &str| {
        let row = &overview["ttft"][at];
        let (network, queue, prefill) = (ms(&row["network_ms"]), ms(&row["queue_ms"]), ms(&row["prefill_ms"]));
        Line::raw(format!("TTFT {at} {}: network {network}  queue {queue}  prefill {prefill}", ms(&row["ttft_ms"])))
    };
    let lines = vec![Line::from(first), Line::raw(second), Line::raw(third), quantile("p50"), quantile("p99")];
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_body(frame: &mut Frame<'_>, area: Rect, app: &App, overview: &Value, theme: Theme) {
    let regions = overview["regions"].as_array().map_or(0, Vec::len);
    let has_map = area.width >= MAP.0 && frame.area().height >= MAP.1;
    let top = if has_map { 15 } else { u16::try_from(regions + 2).unwrap_or(u16::MAX).min((area.height / 4).max(3)) };
    let decisions = (area.height / 3).max(4);
    let [top, replicas, decisions] =
        Layout::vertical([Constraint::Length(top), Constraint::Min(3), Constraint::Length(decisions)]).areas(area);
    if has_map {
        let [left, right] = Layout::horizontal([Constraint::Length(66), Constraint::Min(0)]).areas(top);
        tables::regions(frame, left, overview, theme);
        draw_map(frame, right, overview, theme);
    } else {
        tables::regions(frame, top, overview, theme);
    }
    tables::replicas(frame, replicas, app, theme);
    tables::decisions(frame, decisions, overview, theme);
}

/// The regions on the globe; the size of a circle is the region's share of the traffic.
fn draw_map(frame: &mut Frame<'_>, area: Rect, overview: &Value, theme: Theme) {
    let place = |row: &Value| Some((row["place"][1].as_f64()?, row["place"][0].as_f64()?));
    let rows = array(&overview["regions"]);
    let all: f64 = rows.iter().filter_map(|row| row["requests_per_second"].as_f64()).sum();
    let colour = |colour| if theme.0 { colour } else { Color::Reset };
    let canvas = Canvas::default()
        .block(Block::new().title(Line::styled("traffic by region, @ this router", theme.title())))
        .marker(Marker::Braille)
        .x_bounds([-180.0, 180.0])
        .y_bounds([-58.0, 80.0])
        .paint(|canvas| {
            canvas.draw(&Map { color: colour(Color::DarkGray), resolution: MapResolution::Low });
            canvas.layer();
            for row in rows {
                if let Some((x, y)) = place(row) {
                    let share = row["requests_per_second"].as_f64().unwrap_or(0.0) / all.max(1e-9);
                    let tint = if row["available"] == 0 { Color::Red } else { Color::Green };
                    canvas.draw(&Circle { x, y, radius: 4.0 + 12.0 * share.sqrt(), color: colour(tint) });
                    canvas.print(x, y, Line::styled(format!("{:.0}%", share * 1e2), theme.title()));
                }
            }
            if let Some((x, y)) = place(overview) {
                canvas.print(x, y - 8.0, Line::styled("@", theme.bad()));
            }
        });
    frame.render_widget(canvas, area);
}

/// The last line: a message, or the keys. Its end may be what helps, so that it is never cut.
fn foot(app: &App, theme: Theme) -> (String, Style) {
    match (&app.mode, &app.note, &app.trouble) {
        (Mode::Filter, ..) => (format!("filter: {}_  Enter: keep, Esc: clear", app.filter), theme.title()),
        (_, Some(note), _) => (note.clone(), theme.title()),
        (_, None, Some(trouble)) if app.overview.is_some() => (trouble.clone(), theme.bad()),
        (Mode::Watch, None, None) if stale(app).is_some() => (stale(app).unwrap_or_default(), theme.bad()),
        _ => {
            let keys = "q quit  ? help  s sort  r reverse  / filter  f freeze  d drain  u undrain";
            (keys.to_owned(), theme.faint())
        }
    }
}

/// A source of discovery that does not answer.
fn stale(app: &App) -> Option<String> {
    let sources = app.overview.as_ref()?["discovery"].as_array()?;
    let stale = |source: &Value| {
        let name = source["source"].as_str()?;
        Some(format!("discovery from {name} is stale: {}", source["error"].as_str()?))
    };
    sources.iter().find_map(stale)
}

fn draw_help(frame: &mut Frame<'_>, theme: Theme) {
    let lines = [
        "q, Esc      quit",
        "j k, arrows select a replica",
        "s r         sort by the next column, reverse",
        "/           show only replicas whose name, region or state has a text",
        "f, space    freeze and go on",
        "d u         drain the selected replica, send it requests again",
        "",
        "Figures of requests are of the last minute. TTFT is split into round",
        "trips (network), uncached tokens at the learned rate (prefill), and the",
        "rest (queue, here and in the engine).",
        "Regret: expected TTFT at the chosen replica beyond the least of all.",
    ];
    draw_window(frame, " keys ", &lines.map(str::to_owned), theme);
}

/// A window over the middle of the screen.
fn draw_window(frame: &mut Frame<'_>, title: &str, lines: &[String], theme: Theme) {
    let area = frame.area();
    let wide = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0) + 4;
    let width = u16::try_from(wide).unwrap_or(u16::MAX).min(area.width);
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let window = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, window);
    let lines: Vec<Line<'_>> = lines.iter().map(|line| Line::raw(format!(" {line}"))).collect();
    let block = Block::bordered().title(Line::styled(title.to_owned(), theme.title()));
    frame.render_widget(Paragraph::new(lines).block(block), window);
}
