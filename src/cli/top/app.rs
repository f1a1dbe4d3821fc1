//! The state of the screen, and the actions of the keys.

use super::text::hit;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::Value;
use std::time::Instant;

/// What a key asks of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    /// Drain a replica, or send it requests again.
    Drain {
        id: String,
        draining: bool,
    },
}

/// What keys are for now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Mode {
    #[default]
    Watch,
    /// A filter is being typed.
    Filter,
    Help,
    /// A wish waits for `y`.
    Confirm(Wish),
}

/// The order of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sort {
    /// The router's own.
    #[default]
    Fleet,
    Name,
    State,
    Rate,
    Rtt,
    Queue,
    Kv,
    Hit,
}

impl Sort {
    const ALL: [Self; 8] =
        [Self::Fleet, Self::Name, Self::State, Self::Rate, Self::Rtt, Self::Queue, Self::Kv, Self::Hit];

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    pub(super) fn name(self) -> &'static str {
        ["fleet", "name", "state", "requests", "RTT", "queue", "KV", "hits"][self as usize]
    }

    /// The figure to sort by, the greatest first; `None` for text.
    fn figure(self, row: &Value) -> Option<f64> {
        match self {
            Self::Fleet | Self::Name | Self::State => None,
            Self::Rate => row["requests_per_second"].as_f64(),
            Self::Rtt => row["latency_ms"].as_f64(),
            Self::Queue => row["load"]["waiting_requests"].as_f64(),
            Self::Kv => row["gpu_cache_usage"].as_f64(),
            Self::Hit => hit(row),
        }
    }
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct App {
    pub(super) router: String,
    pub(super) colours: bool,
    pub(super) mode: Mode,
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    pub(super) filter: String,
    pub(super) frozen: bool,
    /// The replica that `d` and `u` concern.
    pub(super) selected: Option<String>,
    /// The last `/overview` of the router, and when it arrived.
    pub(super) overview: Option<Value>,
    pub(super) told_at: Option<Instant>,
    /// Why the router gives no overview.
    pub(super) trouble: Option<String>,
    /// How the last command ended.
    pub(super) note: Option<String>,
}

impl App {
    pub(super) fn new(router: String, colours: bool) -> Self {
        Self {
            router,
            colours,
            mode: Mode::Watch,
            sort: Sort::Fleet,
            reversed: false,
            filter: String::new(),
            frozen: false,
            selected: None,
            overview: None,
            told_at: None,
            trouble: None,
            note: None,
        }
    }

    /// Takes a new overview, unless the screen is frozen.
    pub(super) fn show(&mut self, overview: Value) {
        self.trouble = None;
        if !self.frozen || self.overview.is_none() {
            (self.overview, self.told_at) = (Some(overview), Some(Instant::now()));
        }
    }

    pub(super) fn silent(&mut self, why: String) {
        self.trouble = Some(why);
    }

    pub(super) fn note(&mut self, what: String) {
        self.note = Some(what);
    }

    /// The replicas that pass the filter, in order.
    pub(super) fn replicas(&self) -> Vec<&Value> {
        let rows = self.overview.as_ref().and_then(|overview| overview["replicas"].as_array());
        let wanted = self.filter.to_lowercase();
        let passes = |row: &&Value| {
            ["id", "region", "state"].iter().any(|key| {
                row[*key].as_str().is_some_and(|text| text.to_lowercase().contains(&wanted)) || wanted.is_empty()
            })
        };
        let mut rows: Vec<&Value> = rows.map_or(&[][..], Vec::as_slice).iter().filter(passes).collect();
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        match self.sort {
            Sort::Fleet => {}
            Sort::Name => rows.sort_by_cached_key(|row| text(row, "id")),
            Sort::State => rows.sort_by_cached_key(|row| text(row, "state")),
            // What is not known comes last.
            sort => rows.sort_by(|a, b| {
                let figure = |row: &Value| sort.figure(row).unwrap_or(f64::NEG_INFINITY);
                figure(b).total_cmp(&figure(a))
            }),
        }
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// The place of the selected replica among those shown; the first when it is not shown.
    pub(super) fn selected_row(&self) -> usize {
        let at = |id: &String| self.replicas().iter().position(|row| row["id"] == id.as_str());
        self.selected.as_ref().and_then(at).unwrap_or(0)
    }

    fn select(&mut self, step: isize) {
        let rows = self.replicas();
        let last = rows.len().saturating_sub(1);
        let at = self.selected_row().saturating_add_signed(step).min(last);
        self.selected = rows.get(at).and_then(|row| row["id"].as_str()).map(str::to_owned);
    }

    fn confirm(&mut self, draining: bool) {
        let id = self.replicas().get(self.selected_row()).and_then(|row| row["id"].as_str()).map(str::to_owned);
        match id {
            Some(id) => self.mode = Mode::Confirm(Wish::Drain { id, draining }),
            None => self.note = Some("no replica is selected".to_owned()),
        }
    }

    /// What a key does.
    pub(super) fn key(&mut self, key: KeyEvent) -> Option<Wish> {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Some(Wish::Quit);
        }
        match std::mem::take(&mut self.mode) {
            Mode::Confirm(wish) => return (key.code == KeyCode::Char('y')).then_some(wish),
            Mode::Help => return None, // any key closes it
            Mode::Filter => {
                match key.code {
                    KeyCode::Enter => return None,
                    KeyCode::Esc => {
                        self.filter.clear();
                        return None;
                    }
                    KeyCode::Backspace => {
                        self.filter.pop();
                    }
                    KeyCode::Char(c) if self.filter.len() < 64 => self.filter.push(c),
                    _ => {}
                }
                self.mode = Mode::Filter;
                return None;
            }
            Mode::Watch => {}
        }
        self.note = None;
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Wish::Quit),
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('f' | ' ') => self.frozen = !self.frozen,
            KeyCode::Char('j') | KeyCode::Down => self.select(1),
            KeyCode::Char('k') | KeyCode::Up => self.select(-1),
            KeyCode::Char('d') => self.confirm(true),
            KeyCode::Char('u') => self.confirm(false),
            _ => {}
        }
        None
    }
}
