//! The result files: `benchmarks.json`, `benchmarks.csv`, `benchmarks.html`, and the table of the terminal.

use super::distribution::Distribution;
use super::report::{Benchmark, Report};
use super::run::{Row, Run};
use gorgo_core::Time;
use gorgo_core::record::Status;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Writes the report as JSON.
///
/// # Errors
/// Those of `out`.
pub fn json(out: impl Write, report: &Report) -> io::Result<()> {
    serde_json::to_writer_pretty(out, report).map_err(io::Error::from)
}

const SPREADS: [&str; 8] = [
    "request_latency",
    "time_to_first_token_ms",
    "time_per_output_token_ms",
    "inter_token_latency_ms",
    "prompt_token_count",
    "output_token_count",
    "service_request_latency",
    "service_time_to_first_token_ms",
];

fn spreads(b: &Benchmark) -> [&Distribution; 8] {
    let m = &b.metrics;
    [
        &m.request_latency,
        &m.time_to_first_token_ms,
        &m.time_per_output_token_ms,
        &m.inter_token_latency_ms,
        &m.prompt_token_count,
        &m.output_token_count,
        &m.service_request_latency,
        &m.service_time_to_first_token_ms,
    ]
}

/// Writes one row a strategy.
///
/// # Errors
/// Those of `out`.
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
    for name in SPREADS {
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
        for d in spreads(b) {
            let p = &d.percentiles;
            row.extend([d.mean, d.median, p.p90, p.p95, p.p99, d.max].map(|v| v.to_string()));
        }
        csv.write_record(&row)?;
    }
    csv.flush()
}

/// The table of the terminal: a line a strategy, then one a region where there are several.
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
        let (ttft, e2e) = (&m.time_to_first_token_ms.percentiles, &m.request_latency.percentiles);
        let _ = writeln!(
            out,
            "{:12} {asked:>8} {:>8.2} {:>6} {:>7} {:>9.1} {:>7.1} {:>10.1} {:>12.2} {:>8.2} {:>9.2} {:>10.1} {:>6.1} {:>12.3}{}",
            b.strategy.type_,
            b.schedule.achieved_rate,
            t.successful,
            t.errored + t.incomplete,
            ttft.p50,
            ttft.p95,
            ttft.p99,
            m.inter_token_latency_ms.median,
            e2e.p50,
            e2e.p99,
            m.output_tokens_per_second,
            100.0 * b.cache_hit_rate,
            b.schedule.lateness_ms.percentiles.p99,
            if b.schedule.valid { "" } else { "  INVALID" },
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

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#1d2733;background:#fff}\
table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #d8dee6}\
th:first-child{text-align:left}.bad{color:#b3261e;font-weight:600}code{background:#f2f4f7;padding:.1rem .3rem}\
@media(prefers-color-scheme:dark){body{color:#e4e9ef;background:#14191f}th,td{border-color:#37414d}code{background:#232b34}}";

/// Writes one self-contained page.
///
/// # Errors
/// Those of `out`.
pub fn html(mut out: impl Write, report: &Report, runs: &[Run]) -> io::Result<()> {
    let m = &report.metadata;
    write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>gorgo bench: {data}</title><style>{STYLE}</style></head><body><h1>gorgo bench</h1>\
         <p><code>{command}</code></p><p>Trace {data}, seed {seed}, salt {salt}, gorgo {version}. Latencies count from the \
         scheduled instant.</p>",
        data = escape(&m.data),
        command = escape(&m.command),
        seed = m.seed,
        salt = m.salt,
        version = m.gorgo_version,
    )?;
    for (b, run) in report.benchmarks.iter().zip(runs) {
        let rate = b.strategy.rate.map_or_else(String::new, |r| format!(" at {r:.2}/s"));
        let streams = b.strategy.streams.map_or_else(String::new, |n| format!(", {n} at a time"));
        write!(out, "<h2>{}{rate}{streams}</h2>", b.strategy.type_)?;
        let (t, s) = (&b.request_totals, &b.schedule);
        if !s.valid {
            let late = s.lateness_ms.percentiles.p99;
            write!(
                out,
                "<p class=\"bad\">Invalid: 1 % of the requests were sent more than {late:.2} ms late, {} were dropped. The client was the limit.</p>",
                s.dropped
            )?;
        }
        write!(
            out,
            "<p>{} of {} requests answered ({} failed, {} incomplete), {:.2}/s, {:.1} output tokens/s, {:.1} in flight on average, {:.1} % of prompt tokens cached.</p>",
            t.successful,
            t.total,
            t.errored,
            t.incomplete,
            b.metrics.requests_per_second,
            b.metrics.output_tokens_per_second,
            b.metrics.request_concurrency,
            100.0 * b.cache_hit_rate
        )?;
        let rows: Vec<(String, Vec<f64>)> = SPREADS
            .iter()
            .zip(spreads(b))
            .map(|(name, d)| {
                let p = &d.percentiles;
                ((*name).to_owned(), vec![d.mean, p.p50, p.p90, p.p95, p.p99, d.max])
            })
            .chain([("lateness_ms".to_owned(), {
                let d = &s.lateness_ms;
                let p = &d.percentiles;
                vec![d.mean, p.p50, p.p90, p.p95, p.p99, d.max]
            })])
            .collect();
        html_table(&mut out, &["metric", "mean", "p50", "p90", "p95", "p99", "max"], &rows)?;
        let regions: Vec<(String, Vec<f64>)> = b
            .by_region
            .iter()
            .map(|r| (r.region.clone(), [r.requests as f64].into_iter().chain(r.time_to_first_token_ms).collect()))
            .collect();
        html_table(&mut out, &["entry", "requests", "TTFT mean ms", "p50", "p95", "p99"], &regions)?;
        let good = |r: &&Row| !r.warmup && r.record.status == Status::Finished && r.record.first_token != Time::NEVER;
        let ttft = run.rows.iter().filter(good).map(|r| (r.record.first_token - r.record.scheduled).ms()).collect();
        write!(out, "{}", curve("Share of requests with a first token within … ms", ttft))?;
        let errors: String = b.errors.iter().map(|(e, n)| format!("<li>{n} × {}</li>", escape(e))).collect();
        if !errors.is_empty() {
            write!(out, "<ul class=\"bad\">{errors}</ul>")?;
        }
    }
    write!(out, "</body></html>")
}

fn html_table(out: &mut impl Write, header: &[&str], rows: &[(String, Vec<f64>)]) -> io::Result<()> {
    let cells: String = header.iter().map(|h| format!("<th>{h}</th>")).collect();
    write!(out, "<table><tr>{cells}</tr>")?;
    for (name, values) in rows {
        let cells: String = values.iter().map(|v| format!("<td>{}</td>", figure(*v))).collect();
        write!(out, "<tr><th>{}</th>{cells}</tr>", escape(name))?;
    }
    write!(out, "</table>")
}

fn figure(v: f64) -> String {
    match v.abs() {
        a if a >= 1000.0 || v.fract() == 0.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.3}"),
    }
}

/// A cumulative distribution as SVG, on a logarithmic axis.
fn curve(title: &str, mut values: Vec<f64>) -> String {
    values.retain(|v| *v > 0.0);
    values.sort_by(f64::total_cmp);
    let (Some(&low), Some(&high)) = (values.first(), values.last()) else { return String::new() };
    let (low, high) = (low.log10().floor(), high.log10().ceil().max(low.log10().floor() + 1.0));
    let x = |v: f64| 50.0 + 620.0 * (v.log10() - low) / (high - low);
    let y = |share: f64| 210.0 - 180.0 * share;
    let points: String = (0..=200)
        .map(|i| f64::from(i) / 200.0)
        .map(|share| {
            let v = super::distribution::quantile(&values, share);
            format!("{:.1},{:.1} ", x(v), y(share))
        })
        .collect();
    let mut marks = String::new();
    for decade in low as i32..=high as i32 {
        let (at, label) = (x(10f64.powi(decade)), 10f64.powi(decade));
        let _ = write!(
            marks,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"30\" y2=\"210\" stroke=\"#8886\"/><text x=\"{at:.1}\" y=\"228\" text-anchor=\"middle\">{label}</text>"
        );
    }
    for share in [0.0, 0.5, 0.95, 1.0] {
        let at = y(share);
        let _ = write!(
            marks,
            "<line x1=\"50\" x2=\"670\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#8886\"/><text x=\"44\" y=\"{at:.1}\" text-anchor=\"end\">{share}</text>"
        );
    }
    format!(
        "<svg viewBox=\"0 0 700 240\" width=\"700\" font-size=\"11\" fill=\"currentColor\"><text x=\"50\" y=\"18\" font-size=\"13\">{title}</text>{marks}<polyline points=\"{points}\" fill=\"none\" stroke=\"#0b6bcb\" stroke-width=\"2\"/></svg>"
    )
}
