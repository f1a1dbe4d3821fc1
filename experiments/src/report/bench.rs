//! `benchmarks.html`: the report of `gorgo bench` as one page.

use super::html::{HtmlTable, Section, figure, page};
use crate::markup::escape;
use crate::plot;
use crate::results::ResultError;
use crate::stats::Digest;
use gorgo_benchmark::load::report::{Benchmark, Report};
use gorgo_benchmark::load::run::{RequestResult, Run};
use gorgo_core::Span;
use std::fmt::Write;

/// The page for a report and the runs it was made from.
///
/// # Errors
/// When the plot cannot be drawn.
pub fn html(report: &Report, runs: &[Run]) -> Result<String, ResultError> {
    let m = &report.metadata;
    let lead = format!(
        "<pre class=\"scroll\">{}</pre>\n<p>Trace {}, seed {}, salt {}. Latencies count from the scheduled time.</p>\n",
        escape(&m.command),
        escape(&m.data),
        m.seed,
        m.salt
    );
    let mut parts = Vec::new();
    if report.benchmarks.len() > 1 {
        parts.push(Section::open("Comparison", comparison(report)));
    }
    let steps: Vec<plot::Step> = report
        .benchmarks
        .iter()
        .map(|b| {
            let ttft = &b.metrics.time_to_first_token_ms.percentiles;
            (label(b), b.metrics.requests_per_second, [ttft.p50, ttft.p95])
        })
        .collect();
    if let Some(plot) = plot::latency_throughput(&steps) {
        parts.push(Section::open("Latency against throughput", figure(&plot)?));
    }
    for benchmark in &report.benchmarks {
        let body = summary(benchmark) + &metrics(benchmark) + &targets(benchmark) + &errors(benchmark);
        parts.push(Section::open(label(benchmark), body));
    }
    let ttft = |run: &Run| {
        let answered = run.rows.iter().filter(|r| !r.warmup && r.is_successful());
        Digest::of(answered.filter_map(RequestResult::ttft_ms).map(Span::from_ms))
    };
    let samples: Vec<(String, Digest)> =
        report.benchmarks.iter().zip(runs).map(|(benchmark, run)| (label(benchmark), ttft(run))).collect();
    if let Some(plot) = plot::ttft_distribution(&samples) {
        parts.push(Section::open("Time to first token", figure(&plot)?));
    }
    Ok(page("gorgo bench", &lead, &parts))
}

/// The profile of a strategy with its rate or its number of workers.
fn label(b: &Benchmark) -> String {
    match (b.strategy.rate, b.strategy.streams) {
        (Some(rate), _) => format!("{} at {rate:.2}/s", b.strategy.type_),
        (None, Some(workers)) => format!("{}, {workers} at a time", b.strategy.type_),
        (None, None) => b.strategy.type_.to_owned(),
    }
}

/// All runs side by side; goodput where an objective was given.
fn comparison(report: &Report) -> String {
    let goodput = report.benchmarks.iter().any(|b| b.goodput.is_some());
    let mut head = vec!["run", "sent /s", "answered /s", "not answered", "TTFT p50 ms", "TTFT p95 ms", "TTFT p99 ms"];
    head.extend(["ITL p50 ms", "E2E p50 s", "E2E p99 s", "output tokens /s", "hit %", "late p99 ms"]);
    head.extend(goodput.then_some("goodput /s"));
    let mut table = HtmlTable::new(&head);
    for b in &report.benchmarks {
        let (m, totals) = (&b.metrics, &b.request_totals);
        let (ttft, e2e) = (&m.time_to_first_token_ms.percentiles, &m.request_latency.percentiles);
        let mut values = vec![
            b.schedule.achieved_rate,
            m.requests_per_second,
            (totals.errored + totals.incomplete) as f64,
            ttft.p50,
            ttft.p95,
            ttft.p99,
            m.inter_token_latency_ms.median,
            e2e.p50,
            e2e.p99,
            m.output_tokens_per_second,
            100.0 * b.cache_hit_rate,
            b.schedule.lateness_ms.percentiles.p99,
        ];
        values.extend(goodput.then(|| b.goodput.as_ref().map_or(0.0, |g| g.requests_per_second)));
        table.row(&row(&label(b), &values));
    }
    table.finish("No run.")
}

fn summary(b: &Benchmark) -> String {
    let (totals, schedule) = (&b.request_totals, &b.schedule);
    let mut text = String::new();
    if !schedule.valid {
        let _ = writeln!(
            text,
            "<p class=\"worse\">Invalid: 1 % of the requests were sent more than {:.2} ms late, {} were dropped. The client was the limit.</p>",
            schedule.lateness_ms.percentiles.p99, schedule.dropped
        );
    }
    let _ = writeln!(
        text,
        "<p>{} of {} requests answered ({} failed, {} incomplete), {:.2}/s, {:.1} output tokens/s, {:.1} in flight on average, {:.1} % of prompt tokens cached.</p>",
        totals.successful,
        totals.total,
        totals.errored,
        totals.incomplete,
        b.metrics.requests_per_second,
        b.metrics.output_tokens_per_second,
        b.metrics.request_concurrency,
        100.0 * b.cache_hit_rate
    );
    if let Some(goodput) = &b.goodput {
        let _ = writeln!(
            text,
            "<p>Objective met by {} requests ({:.1} %), {:.2}/s.</p>",
            goodput.requests,
            100.0 * goodput.share,
            goodput.requests_per_second
        );
    }
    text
}

fn metrics(b: &Benchmark) -> String {
    let mut table = HtmlTable::new(&["metric", "mean", "p50", "p90", "p95", "p99", "max"]);
    let lateness = [("lateness_ms", &b.schedule.lateness_ms)];
    for (name, d) in b.metrics.distributions().into_iter().chain(lateness) {
        let p = &d.percentiles;
        table.row(&row(&words(name), &[d.mean, p.p50, p.p90, p.p95, p.p99, d.max]));
    }
    table.finish("No metric.")
}

/// The name of a metric in words, so that it breaks between them on a narrow screen, with its unit.
fn words(name: &str) -> String {
    let (name, unit) = match name.strip_suffix("_ms") {
        Some(name) => (name, ", ms"),
        None if name.ends_with("latency") => (name, ", s"),
        None => (name, ""),
    };
    name.replace('_', " ") + unit
}

fn targets(b: &Benchmark) -> String {
    let mut table = HtmlTable::new(&["target", "requests", "TTFT mean ms", "p50", "p95", "p99"]);
    for target in &b.by_region {
        let [mean, p50, p95, p99] = target.time_to_first_token_ms;
        table.row(&row(&target.region, &[target.requests as f64, mean, p50, p95, p99]));
    }
    table.finish("No target.")
}

fn errors(b: &Benchmark) -> String {
    let items: String =
        b.errors.iter().map(|(error, count)| format!("<li>{count} × {}</li>\n", escape(error))).collect();
    if items.is_empty() { items } else { format!("<ul class=\"worse\">\n{items}</ul>\n") }
}

fn row(name: &str, values: &[f64]) -> Vec<String> {
    [name.to_owned()].into_iter().chain(values.iter().map(|&v| number(v))).collect()
}

fn number(v: f64) -> String {
    match v.abs() {
        a if a >= 1000.0 || v.fract() == 0.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_benchmark::load::distribution::Distribution;
    use gorgo_benchmark::load::report::{Goodput, Metadata, Metrics, Region, Schedule, StrategyInfo, Totals};
    use gorgo_core::Time;
    use gorgo_core::record::{RequestRecord, Status};
    use gorgo_core::request::TraceRequest;
    use std::collections::BTreeMap;

    fn result(n: u64) -> RequestResult {
        let request = TraceRequest::lone(0, Time::ZERO, 1, 1, 16, [1].into());
        let mut record = RequestRecord::scheduled(n, &request, Time::ZERO, 0);
        (record.status, record.first_token, record.done) =
            (Status::Finished, Time::from_ms(100.0 + n as f64).into(), Time::from_ms(500.0).into());
        RequestResult::new(record, false)
    }

    fn report(error: &str) -> Report {
        let metadata = Metadata {
            version: 1,
            gorgo_version: "0",
            command: format!("gorgo bench {error}"),
            data: "t".to_owned(),
            targets: vec![error.to_owned()],
            seed: 1,
            salt: 0,
        };
        let region = Region {
            region: error.to_owned(),
            requests: 7,
            successful: 7,
            time_to_first_token_ms: [1.0; 4],
            request_latency: [1.0; 4],
        };
        let benchmark = Benchmark {
            strategy: StrategyInfo { type_: "poisson", rate: Some(5.0), streams: None },
            duration: 1.0,
            warmup_duration: 0.0,
            request_totals: Totals { successful: 7, errored: 1, incomplete: 0, total: 8 },
            schedule: Schedule {
                allowed_lateness_ms: 1.0,
                valid: false,
                lateness_ms: Distribution::of([1234.0]),
                achieved_rate: 5.0,
                dropped: 1,
            },
            metrics: Metrics::default(),
            cache_hit_rate: 0.5,
            goodput: None,
            by_region: vec![region],
            by_replica: BTreeMap::new(),
            errors: vec![(error.to_owned(), 1)],
        };
        Report { metadata, benchmarks: vec![benchmark] }
    }

    #[test]
    fn a_sweep_has_a_comparison_with_goodput_and_its_curve() {
        let mut report = report("x");
        let mut fast = report.benchmarks[0].clone();
        for (b, rate, ms) in [(&mut report.benchmarks[0], 2.0, 50.0), (&mut fast, 8.0, 400.0)] {
            b.metrics.requests_per_second = rate;
            b.metrics.time_to_first_token_ms = Distribution::of([ms, ms]);
            let slo = gorgo_benchmark::load::slo::Slo::parse("ttft=100").unwrap();
            b.goodput = Some(Goodput { slo, requests: 3, share: 0.5, requests_per_second: 1.25 });
        }
        fast.strategy.rate = Some(8.0);
        report.benchmarks.push(fast);
        let page = html(&report, &[]).unwrap();
        for part in
            ["Comparison", "goodput /s", "<td>1.250</td>", "Latency against throughput", "poisson at 8.00/s: 400 ms"]
        {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn the_page_has_the_figures_the_plot_and_no_foreign_markup() {
        let run = Run {
            name: "poisson",
            rate: Some(5.0),
            workers: None,
            rows: (0..20).map(result).collect(),
            gaps: Default::default(),
            span: Span::ZERO,
            replicas: Vec::new(),
        };
        let evil = "<script>alert('x')</script>";
        let page = html(&report(evil), &[run]).unwrap();
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
        for part in [
            "7 of 8 requests answered",
            "Invalid: ",
            "<th scope=\"row\">request latency, s</th>",
            "<th scope=\"row\">lateness, ms</th><td>1234</td>",
            "<figure>",
            "<svg ",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("<script>alert") && page.contains("&lt;script&gt;"));
    }
}
