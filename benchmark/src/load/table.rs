//! The report as a table for the terminal.

use super::report::Report;
use std::fmt::Write as _;

/// One line per strategy, followed by its goodput, its targets if there are several, and its errors.
pub fn table(report: &Report) -> String {
    let mut out = String::from(
        "profile          rate   sent/s     ok  failed  TTFT p50     p95     p99 ms   ITL p50 ms  E2E p50     p99 s  out tok/s  hit %  late p99 ms\n",
    );
    for b in &report.benchmarks {
        let (m, t) = (&b.metrics, &b.request_totals);
        let asked = match (b.strategy.rate, b.strategy.streams) {
            (Some(rate), _) => format!("{rate:.2}"),
            (None, Some(n)) => format!("x{n}"),
            (None, None) => "-".to_owned(),
        };
        // A run without an answer has no latencies.
        let known = |value: f64, digits: usize| {
            if t.successful > 0 { format!("{value:.digits$}") } else { "-".to_owned() }
        };
        let (ttft, e2e) = (&m.time_to_first_token_ms.percentiles, &m.request_latency.percentiles);
        let _ = writeln!(
            out,
            "{:12} {asked:>8} {:>8.2} {:>6} {:>7} {:>9} {:>7} {:>10} {:>12} {:>8} {:>9} {:>10} {:>6} {:>12.3}{}",
            b.strategy.type_,
            b.schedule.achieved_rate,
            t.successful,
            t.errored + t.incomplete,
            known(ttft.p50, 1),
            known(ttft.p95, 1),
            known(ttft.p99, 1),
            known(m.inter_token_latency_ms.median, 2),
            known(e2e.p50, 2),
            known(e2e.p99, 2),
            known(m.output_tokens_per_second, 1),
            known(100.0 * b.cache_hit_rate, 1),
            b.schedule.lateness_ms.percentiles.p99,
            if b.schedule.valid { "" } else { "  LATE" },
        );
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
    out.truncate(out.trim_end().len());
    out
}
