//! The comparison table of the terminal: one row per arm, as wide as the terminal. What does not fit is left out column
//! by column, and said.

use crate::stats::{Difference, Estimate, Verdict};
use crate::summary::loads::short_names;
use crate::summary::{ArmSummary, by_goodput, fenced_sentences, finishes_less, regret, unequal};
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

/// The width of a table that goes to no terminal.
pub const WIDTH: usize = 120;
/// The least width: arm, mean and difference.
const LEAST: usize = 56;
/// Columns that are left out where the width does not do, first to last; counts only while every request finished.
const LEFT_OUT: [usize; 9] = [TPOT, P99, HIT, P50, E2E, GOODPUT, NOT_DONE, REQUESTS, P95];
const REQUESTS: usize = 1;
const NOT_DONE: usize = 2;
const P50: usize = 4;
const P95: usize = 5;
const P99: usize = 6;
const E2E: usize = 7;
const TPOT: usize = 8;
const HIT: usize = 9;
const GOODPUT: usize = 10;
/// Room that an arm's name has before columns are left out, at most.
const NAME_ROOM: usize = 24;

const HEADER: [&str; 12] = [
    "arm",
    "reqs",
    "not done\n/ lost",
    "TTFT mean\nms ± 95 %",
    "p50\nms",
    "p95\nms",
    "p99\nms",
    "E2E p95\nms",
    "TPOT\nms",
    "hit\n%",
    "good\n/s",
    "TTFT mean\nvs baseline",
];

/// The table in `width` columns; each line ends without blanks.
pub fn comparison(arms: &[ArmSummary], width: usize) -> String {
    let width = width.max(LEAST);
    let rows: Vec<[String; 12]> = arms.iter().map(|arm| row(arm, arms)).collect();
    let needs = |c: usize| {
        let head = HEADER[c].lines().map(|l| l.chars().count()).max().unwrap_or(0);
        rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0).max(head) + 2
    };
    let longest = rows.iter().map(|row| row[0].chars().count()).max().unwrap_or(0).min(NAME_ROOM);
    let all_finished = arms.iter().all(|arm| arm.counts.requests == arm.counts.finished);
    let mut shown: Vec<usize> = (1..HEADER.len()).collect();
    for column in LEFT_OUT {
        if shown.iter().map(|&c| needs(c)).sum::<usize>() + longest + 2 <= width {
            break;
        }
        if column != NOT_DONE || all_finished {
            shown.retain(|&c| c != column);
        }
    }
    // The arm's name takes what the figures leave.
    let room = width.saturating_sub(shown.iter().map(|&c| needs(c)).sum::<usize>() + 2).max(8);
    let mut table = Table::new();
    let style = TableStyle::new().header_separator(LineStyle::none().fill('─'));
    table.load_style(style).set_content_arrangement(ContentArrangement::Disabled);
    let head: Vec<&str> = [0].iter().chain(&shown).map(|&c| HEADER[c]).collect();
    table.set_header(head);
    let names: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    let fits = names.iter().all(|name| name.chars().count() <= room);
    let names = if fits { names.into_iter().map(str::to_owned).collect() } else { short_names(&names) };
    for (row, name) in rows.iter().zip(names) {
        let cells = shown.iter().map(|&c| row[c].clone());
        table.add_row(std::iter::once(wrap(&name, room)).chain(cells).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    if let Some(sentence) = unequal(arms) {
        let ranked: Vec<String> = by_goodput(arms)
            .into_iter()
            .take(RANKED)
            .map(|arm| format!("{} {:.2}/s", plain(&arm.arm), arm.goodput_per_second.map_or(0.0, |e| e.value)))
            .collect();
        lines.extend(fold(&format!("{}. Goodput: {}", plain(&sentence), ranked.join(", ")), width));
    }
    let gone: Vec<String> =
        (1..HEADER.len()).filter(|c| !shown.contains(c)).map(|c| HEADER[c].replace('\n', " ")).collect();
    if !gone.is_empty() {
        lines.extend(fold(&format!("left out at {width} columns: {}; all are in summary.csv", gone.join(", ")), width));
    }
    for sentence in fenced_sentences(arms) {
        lines.extend(fold(&plain(&sentence), width));
    }
    for sentence in regret::sentences(arms) {
        lines.extend(fold(&plain(&sentence), width));
    }
    lines.join("\n")
}

/// Arms that a ranking names.
const RANKED: usize = 6;

/// The difference from the baseline; an arm that finishes less of its requests is never called better.
pub(crate) fn verdict(arm: &ArmSummary, all: &[ArmSummary], d: Difference) -> String {
    let name = arm.against_baseline.as_ref().map_or("", |against| against.baseline.as_str());
    let fewer = all.iter().find(|other| other.arm == name).is_some_and(|baseline| finishes_less(arm, baseline));
    match d.verdict {
        Some(Verdict::Better) if fewer => against(Difference { verdict: None, ..d }) + " of fewer",
        _ => against(d),
    }
}

fn row(arm: &ArmSummary, all: &[ArmSummary]) -> [String; 12] {
    let ttft = |pick: fn(&crate::summary::Spread) -> Estimate| arm.ttft_ms.as_ref().map(pick);
    let value = |e: Option<Estimate>| e.map_or_else(none, |e| ms(e.value));
    let difference = arm.against_baseline.as_ref().and_then(|a| a.ttft.mean);
    [
        plain(&arm.arm),
        arm.counts.requests.to_string(),
        // Refused, timed out, failed or cancelled; and without any end, which would be a bug.
        format!("{} / {}", arm.counts.requests - arm.counts.finished - arm.counts.lost, arm.counts.lost),
        ttft(|s| s.mean).map_or_else(none, with_interval),
        value(ttft(|s| s.p50)),
        value(ttft(|s| s.p95)),
        value(ttft(|s| s.p99)),
        value(arm.e2e_ms.map(|s| s.p95)),
        value(arm.tpot_ms.map(|s| s.mean)),
        arm.hit_rate.map_or_else(none, |e| format!("{:.1}", 100.0 * e.value)),
        arm.goodput_per_second.map_or_else(none, |e| format!("{:.2}", e.value)),
        difference.map_or_else(none, |d| verdict(arm, all, d)),
    ]
}

fn none() -> String {
    "-".to_owned()
}

/// Milliseconds with one decimal below 1,000.
pub(crate) fn ms(value: f64) -> String {
    if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// A value and its interval with the same number of decimals.
pub(crate) fn with_interval(e: Estimate) -> String {
    match e.ci95 {
        Some(half) if e.value.abs() >= 1000.0 => format!("{} ± {half:.0}", ms(e.value)),
        Some(half) => format!("{} ± {half:.1}", ms(e.value)),
        None => ms(e.value),
    }
}

/// For example `-12.3 % better`, `+0.4 % same`; without a verdict (one seed) only the figure.
pub(crate) fn against(d: Difference) -> String {
    let percent = d.percent.map_or_else(|| format!("{:+.1} ms", d.value), |p| format!("{p:+.1} %"));
    match d.verdict {
        Some(verdict) => format!("{percent} {}", Verdict::as_str(verdict)),
        None => percent,
    }
}

/// Control characters would break the table or the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A sentence in lines of `width`.
pub fn fold(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else if let Some(last) = lines.last_mut() {
            if line > 0 {
                last.push(' ');
            }
            *last += &shorten(word, width);
        }
    }
    lines
}

/// Breaks a name between words; a word longer than a line loses its middle.
fn wrap(text: &str, room: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').map(|word| shorten(word, room - 1)) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => *line += &format!(" {word}"),
            Some(_) => lines.push(format!(" {word}")), // a later line is set in
            None => lines.push(word),
        }
    }
    lines.join("\n")
}

/// `text` in at most `room` characters, at least 2: its middle is left out.
pub fn shorten(text: &str, room: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= room {
        return text.to_owned();
    }
    let keep = room - 1;
    let head: String = letters[..keep.div_ceil(2)].iter().collect();
    let tail: String = letters[letters.len() - keep / 2..].iter().collect();
    format!("{head}…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::test_data::points;
    use crate::summary::summarize;

    #[test]
    fn the_table_is_aligned() {
        insta::assert_snapshot!(comparison(
            &summarize(&points(&["least-load", "prefix-tree", "gorgo"], 3, 400)),
            WIDTH
        ));
    }

    #[test]
    fn long_names_and_large_figures_stay_within_the_width() {
        let long = "gorgo running_cost_factor=0.525 ms_per_token=0.094 waiting_cost_factor=1.25 topology=proxy";
        let mut arms = summarize(&points(&["least-load", long, "nothing"], 3, 400));
        arms[1].counts.requests = 1_234_567;
        arms[1].counts.lost = 12_345;
        arms[1].counts.finished = 1_222_222;
        let arm = &mut arms[1];
        for spread in [&mut arm.ttft_ms, &mut arm.e2e_ms].into_iter().flatten() {
            spread.mean = Estimate { value: 123_456.7, ci95: Some(12_345.6) };
            spread.p95.value = 999_999.0;
        }
        arms[2].ttft_ms = None;
        let table = comparison(&arms, WIDTH);
        let widest = table.lines().map(|l| l.chars().count()).max().unwrap();
        assert!(widest <= WIDTH, "{widest}\n{table}");
        assert!(table.contains("gorgo"), "{table}");
        // Only the name takes more lines.
        let figures = table.lines().skip(3).filter(|l| l.contains(" / ") && !l.contains("finish"));
        assert_eq!(figures.count(), arms.len(), "{table}");
    }

    #[test]
    fn a_narrow_terminal_gets_fewer_columns_and_is_told_which() {
        let arms = summarize(&points(&["least-load", "prefix-tree rate=5", "gorgo rate=5"], 3, 400));
        for width in [56, 64, 80, 100] {
            let table = comparison(&arms, width);
            let widest = table.lines().map(|l| l.chars().count()).max().unwrap();
            assert!(widest <= width, "{widest} at {width}\n{table}");
            assert!(table.contains("TTFT mean") && table.contains("vs baseline"), "{table}");
            assert!(table.contains(&format!("left out at {width} columns: ")), "{table}");
        }
        assert!(!comparison(&arms, 400).contains("left out"));
    }

    #[test]
    fn no_arms_make_a_table_of_headers_and_control_characters_are_blanked() {
        assert!(comparison(&[], WIDTH).contains("reqs"));
        let arms = summarize(&points(&["a\u{1b}[31m\nb"], 1, 3));
        assert!(comparison(&arms, WIDTH).contains("a [31m b"));
    }
}
