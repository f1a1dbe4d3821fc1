//! The result files `benchmarks.json` and `benchmarks.csv`.

use super::report::{Metrics, Report};
use std::io::{self, Write};

/// Writes the report as JSON.
///
/// # Errors
/// The errors of `out`.
pub fn json(out: impl Write, report: &Report) -> io::Result<()> {
    serde_json::to_writer_pretty(out, report).map_err(io::Error::from)
}

/// Writes the report as CSV, one row per strategy.
///
/// # Errors
/// The errors of `out`.
pub fn csv(out: impl Write, report: &Report) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    let mut header: Vec<String> = [
        "profile",
        "rate",
        "streams",
        "duration",
        "valid",
        "lateness_p99_ms",
        "achieved_rate",
        "successful",
        "errored",
        "incomplete",
        "requests_per_second",
        "request_concurrency",
        "output_tokens_per_second",
        "tokens_per_second",
        "cache_hit_rate",
        "goodput_share",
    ]
    .map(str::to_owned)
    .to_vec();
    for (name, _) in Metrics::default().distributions() {
        header.extend(["mean", "median", "p90", "p95", "p99", "max"].map(|p| format!("{name}_{p}")));
    }
    csv.write_record(&header)?;
    for b in &report.benchmarks {
        let (m, t, s) = (&b.metrics, &b.request_totals, &b.schedule);
        let mut row = vec![
            b.strategy.type_.to_owned(),
            b.strategy.rate.map_or_else(String::new, |r| r.to_string()),
            b.strategy.streams.map_or_else(String::new, |n| n.to_string()),
            b.duration.to_string(),
            s.valid.to_string(),
            s.lateness_ms.percentiles.p99.to_string(),
            s.achieved_rate.to_string(),
            t.successful.to_string(),
            t.errored.to_string(),
            t.incomplete.to_string(),
            m.requests_per_second.to_string(),
            m.request_concurrency.to_string(),
            m.output_tokens_per_second.to_string(),
            m.tokens_per_second.to_string(),
            b.cache_hit_rate.to_string(),
            b.goodput.as_ref().map_or_else(String::new, |g| g.share.to_string()),
        ];
        for (_, d) in m.distributions() {
            let p = &d.percentiles;
            row.extend([d.mean, d.median, p.p90, p.p95, p.p99, d.max].map(|v| v.to_string()));
        }
        csv.write_record(&row)?;
    }
    csv.flush()
}
