//! The report as a table for the terminal.

use super::report::{Benchmark, Report};
use std::fmt::Write as _;

/// A column: its head in two lines, the order in which columns are left out (0: never), its cell.
type Column = ([&'static str; 2], u8, fn(&Benchmark) -> String);

const COLUMNS: [Column; 14] = [
    (["profile", ""], 0, |b| b.strategy.type_.to_owned()),
    (["rate", ""], 0, |b| match (b.strategy.rate, b.strategy.streams) {
        (Some(rate), _) => format!("{rate:.2}"),
        (None, Some(n)) => format!("x{n}"),
        (None, None) => "-".to_owned(),
    }),
    (["sent", "/s"], 5, |b| {
        let rate = b.schedule.achieved_rate;
        if rate > 0.0 { format!("{rate:.2}") } else { "-".to_owned() }
    }),
    (["ok", ""], 0, |b| b.request_totals.successful.to_string()),
    (["failed", ""], 0, |b| (b.request_totals.errored + b.request_totals.incomplete).to_string()),
    (["TTFT p50", "ms"], 0, |b| known(b, b.metrics.time_to_first_token_ms.percentiles.p50, 1)),
    (["TTFT p95", "ms"], 0, |b| known(b, b.metrics.time_to_first_token_ms.percentiles.p95, 1)),
    (["TTFT p99", "ms"], 4, |b| known(b, b.metrics.time_to_first_token_ms.percentiles.p99, 1)),
    (["ITL p50", "ms"], 3, |b| known(b, b.metrics.inter_token_latency_ms.median, 2)),
    (["E2E p50", "s"], 7, |b| known(b, b.metrics.request_latency.percentiles.p50, 2)),
    (["E2E p99", "s"], 8, |b| known(b, b.metrics.request_latency.percentiles.p99, 2)),
    (["out tokens", "/s"], 2, |b| known(b, b.metrics.output_tokens_per_second, 1)),
    (["hit", "%"], 6, |b| known(b, 100.0 * b.cache_hit_rate, 1)),
    (["late p99", "ms"], 1, |b| {
        let late = if b.schedule.valid { "" } else { " LATE" };
        format!("{:.3}{late}", b.schedule.lateness_ms.percentiles.p99)
    }),
];

/// A latency; a run without an answer has none.
fn known(b: &Benchmark, value: f64, digits: usize) -> String {
    if b.request_totals.successful > 0 { format!("{value:.digits$}") } else { "-".to_owned() }
}

/// One line per strategy in `width` columns, followed by its goodput, its targets if there are several, and its errors.
/// Columns that do not fit are left out, and named in the last line; that of lateness stays where it matters.
pub fn table(report: &Report, width: usize) -> String {
    let late = report.benchmarks.iter().any(|b| !b.schedule.valid);
    let cells: Vec<Vec<String>> =
        report.benchmarks.iter().map(|b| COLUMNS.iter().map(|(_, _, cell)| cell(b)).collect()).collect();
    let long = |c: usize| {
        let head = COLUMNS[c].0.iter().map(|line| line.len()).max().unwrap_or(0);
        cells.iter().map(|row| row[c].len()).max().unwrap_or(0).max(head)
    };
    let mut shown: Vec<usize> = (0..COLUMNS.len()).collect();
    for order in 1..=8 {
        if shown.iter().map(|&c| long(c) + 2).sum::<usize>() <= width + 2 {
            break;
        }
        shown.retain(|&c| COLUMNS[c].1 != order || (late && order == 1));
    }
    let line = |cell: &dyn Fn(usize) -> String| -> String {
        let padded = |&c: &usize| match c {
            0 => format!("{:<1$}", cell(c), long(c)),
            _ => format!("{:>1$}", cell(c), long(c)),
        };
        shown.iter().map(padded).collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut out = line(&|c| COLUMNS[c].0[0].to_owned()) + &line(&|c| COLUMNS[c].0[1].to_owned());
    for (b, cells) in report.benchmarks.iter().zip(&cells) {
        out += &line(&|c| cells[c].clone());
        if let Some(g) = &b.goodput {
            let _ = writeln!(
                out,
                "  goodput: {} requests ({:.1} %), {:.2}/s",
                g.requests,
                100.0 * g.share,
                g.requests_per_second
            );
        }
        for r in b.by_region.iter().filter(|_| b.by_region.len() > 1) {
            let [_, p50, p95, p99] = r.time_to_first_token_ms;
            let _ = writeln!(
                out,
                "  {:28} {:>6} requests, TTFT p50 {p50:.1}, p95 {p95:.1}, p99 {p99:.1} ms",
                r.region, r.requests
            );
        }
        for (error, count) in b.errors.iter().take(3) {
            let _ = writeln!(out, "  {count} x {error}");
        }
    }
    let gone: Vec<&str> = (0..COLUMNS.len()).filter(|c| !shown.contains(c)).map(|c| COLUMNS[c].0[0]).collect();
    if !gone.is_empty() {
        let _ = writeln!(out, "left out at {width} columns: {}", gone.join(", "));
    }
    out.truncate(out.trim_end().len());
    out
}
