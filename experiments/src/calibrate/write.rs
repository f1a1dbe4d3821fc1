//! A calibration as a table and as TOML for an experiment file.

use super::{Calibration, Parameter, Tuned};
use crate::table::ms;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use std::fmt::Write;

fn short(value: f64) -> String {
    match value.abs() {
        v if v == 0.0 || v >= 100.0 => ms(value),
        v if v >= 1.0 => format!("{value:.2}"),
        v if v >= 0.001 => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}

const HEADER: [&str; 6] = ["setting", "before", "fit", "95 %", "visited", ""];
/// The least room of a setting's name.
const NAME_ROOM: usize = 16;

fn empty() -> Table {
    let mut table = Table::new();
    let style = TableStyle::new().header_separator(LineStyle::none().fill('─'));
    table.load_style(style).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn range(interval: Option<(f64, f64)>) -> String {
    interval.map_or_else(|| "-".to_owned(), |(low, high)| format!("{} .. {}", short(low), short(high)))
}

fn rows(section: &str, parameters: &[Parameter]) -> Vec<[String; 6]> {
    let row = |p: &Parameter| {
        let mark = if p.identified { "" } else { "not identified" };
        let (key, prior) = (format!("{section}{}", p.key), p.prior.map_or_else(|| "-".to_owned(), short));
        [key, prior, short(p.value), range(p.interval), p.visited.clone(), mark.to_owned()]
    };
    parameters.iter().map(row).collect()
}

/// The table in `width` columns: where it does not fit, without what the records visited, and with folded names.
fn lines(rows: &[[String; 6]], width: usize) -> String {
    let needs = |c: usize| {
        let cells = rows.iter().map(|row| row[c].chars().count());
        cells.max().unwrap_or(0).max(HEADER[c].chars().count()) + 2
    };
    let whole = (0..6).map(needs).sum::<usize>() <= width;
    let shown: &[usize] = if whole { &[0, 1, 2, 3, 4, 5] } else { &[0, 1, 2, 3, 5] };
    let others: usize = shown[1..].iter().map(|&c| needs(c)).sum();
    let room = width.saturating_sub(others + 2).max(NAME_ROOM);
    let mut table = empty();
    table.set_header(shown.iter().map(|&c| HEADER[c]));
    for row in rows {
        let name = crate::table::fold(&row[0], room).join("\n");
        let cells = shown[1..].iter().map(|&c| row[c].clone());
        table.add_row(std::iter::once(name).chain(cells));
    }
    for column in table.column_iter_mut().skip(1).take(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n");
    if !whole {
        let left = format!("left out at {width} columns: what the records visited; it is in --json");
        text.push('\n');
        text.push_str(&crate::table::fold(&left, width).join("\n"));
    }
    text
}

/// Parameters with prior, fit, interval and visited range, in `width` columns.
pub fn parameters(parameters: &[Parameter], width: usize) -> String {
    lines(&rows("", parameters), width)
}

/// All parameters of a calibration, and those found by simulation, in `width` columns.
pub fn table(c: &Calibration, tuned: &[Tuned], width: usize) -> String {
    let mut all = Vec::new();
    for (section, parameters) in [("", &c.rtt), ("engine ", &c.engine), ("network ", &c.network), ("gorgo ", &c.policy)]
    {
        all.extend(rows(section, parameters));
    }
    for t in tuned {
        let mark = if t.identified { "by simulation" } else { "by simulation, not identified" };
        let searched = format!("searched {} to {}", short(t.low), short(t.high));
        let (before, value) = (short(t.before), short(t.value));
        all.push([t.key.clone(), before, value, range(t.interval), searched, mark.to_owned()]);
    }
    let apart = c.explained_apart.map_or_else(String::new, |r| format!(", {r:.2} of the part that was kept to judge"));
    let (arm, requests, explained) = (&c.arm, c.requests, c.explained);
    let said = format!("{arm}: {requests} requests; the fit explains {explained:.2} of the variance of TTFT{apart}");
    let notes = c.notes.iter().map(|note| format!("note: {note}"));
    let below = std::iter::once(said).chain(notes).flat_map(|text| crate::table::fold(&text, width));
    std::iter::once(lines(&all, width)).chain(below).collect::<Vec<_>>().join("\n")
}

/// Settings of one section; what is not identified is a comment.
fn section(out: &mut String, name: &str, parameters: &[&Parameter], nested: bool) {
    // Tables within a section come after its plain keys.
    let mut groups: Vec<(&str, Vec<(&str, &Parameter)>)> = vec![("", Vec::new())];
    for &p in parameters.iter().filter(|p| !p.key.starts_with('(')) {
        let (group, key) = p.key.split_once('.').filter(|_| nested).unwrap_or(("", p.key.as_str()));
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, members)) => members.push((key, p)),
            None => groups.push((group, vec![(key, p)])),
        }
    }
    for (group, members) in groups.into_iter().filter(|(group, members)| group.is_empty() || !members.is_empty()) {
        if group.is_empty() && members.is_empty() {
            continue;
        }
        let header = if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") };
        let _ = writeln!(out, "[{header}]");
        for (key, p) in members {
            let interval =
                p.interval.map_or_else(String::new, |(low, high)| format!(", 95 %: {} to {}", short(low), short(high)));
            let before = p.prior.map_or_else(String::new, |prior| format!("before {}", short(prior)));
            let note = format!("# {before}{interval}; {}", p.visited);
            let value = format!("{key} = {}", number(p.value));
            let _ = if p.identified {
                writeln!(out, "{value} {note}")
            } else {
                writeln!(out, "# not identified: {value} {note}")
            };
        }
    }
}

/// A TOML float with six digits.
fn number(value: f64) -> String {
    let rounded: f64 = format!("{value:.5e}").parse().unwrap_or(value);
    toml::Value::Float(rounded).to_string()
}

fn head(c: &Calibration, what: &str) -> String {
    format!("# {what}, fitted by gorgo calibrate on arm {} ({} requests).\n", c.arm.replace('\n', " "), c.requests)
}

/// `[fleet.settings]` of an experiment.
pub fn engine_toml(c: &Calibration) -> String {
    let mut out = head(c, "Engine settings");
    section(&mut out, "fleet.settings", &c.engine.iter().collect::<Vec<_>>(), true);
    for p in c.engine.iter().filter(|p| p.key.starts_with('(')) {
        let _ = writeln!(out, "# {} = {}", p.key, short(p.value));
    }
    out
}

/// `[fleet.settings]` of an experiment from a probe of the server at `url`.
pub fn probe_toml(url: &str, fitted: &[Parameter]) -> String {
    let mut out = format!("# Engine settings, measured by gorgo calibrate --probe {}.\n", url.replace('\n', " "));
    section(&mut out, "fleet.settings", &fitted.iter().collect::<Vec<_>>(), true);
    out
}

/// `[network]` of an experiment, with the round trip to each replica.
pub fn network_toml(c: &Calibration) -> String {
    let mut out = head(c, "Network settings");
    section(&mut out, "network", &c.network.iter().collect::<Vec<_>>(), false);
    for p in &c.rtt {
        let interval =
            p.interval.map_or_else(String::new, |(low, high)| format!(", 95 %: {} to {}", short(low), short(high)));
        let _ = writeln!(out, "# {} = {}{interval}; {}", p.key, short(p.value), p.visited);
    }
    out
}

/// `[policy]` of an experiment: weights of `gorgo` that predict the time to first token.
pub fn policy_toml(c: &Calibration) -> String {
    let mut out = head(c, "Weights of the policy gorgo");
    let _ = writeln!(out, "[policy]\nname = \"gorgo\"\npreset = \"physical\"");
    let mut body = String::new();
    section(&mut body, "policy", &c.policy.iter().collect::<Vec<_>>(), false);
    out + body.strip_prefix("[policy]\n").unwrap_or(&body)
}
