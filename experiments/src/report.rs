//! `report.html`: one self-contained page without scripts and external requests, light or dark as the reader's system
//! is set, usable on a phone. `bench` makes `benchmarks.html`, the page of `gorgo bench`, from the same parts.

mod bench;
mod html;
mod tables;

pub use bench::html as bench_html;

use crate::plot;
use crate::results::{ResultError, Results};
use html::escape;
use std::fmt::Write;

/// Arms in the tables of the page; a larger sweep is read in its plots and `summary.csv`.
const MAX_ARMS: usize = 100;

/// The page.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn html(results: &Results) -> Result<String, ResultError> {
    let mut page = lead(results);
    let arms = &results.summary[..results.summary.len().min(MAX_ARMS)];
    page.push_str("<h2>Comparison</h2>\n");
    page.push_str(&tables::comparison(arms));
    if arms.len() < results.summary.len() {
        let all = results.summary.len();
        let _ = writeln!(page, "<p>The first {MAX_ARMS} of {all} arms; all are in summary.csv.</p>");
    }
    let figures = plot::figures(results);
    if !figures.is_empty() {
        page.push_str("<h2>Plots</h2>\n");
    }
    for figure in figures {
        page.push_str(&html::figure(&figure)?);
    }
    page.push_str("<h2>Latency</h2>\n");
    page.push_str(&tables::latency(arms));
    page.push_str("<h2>Against the baseline</h2>\n");
    page.push_str(&tables::against(arms));
    page.push_str("<h2>Ends, throughput and balance</h2>\n");
    page.push_str(&tables::ends(arms));
    page.push_str("<h2>What the router expected and what came</h2>\n");
    page.push_str(&tables::prediction(arms));
    page.push_str("<h2>Time to first token by origin</h2>\n");
    page.push_str(&tables::origins(&results.points));
    page.push_str("<h2>Runs</h2>\n");
    page.push_str(&tables::runs(&results.points));
    page.push_str("<h2>How the figures are made</h2>\n");
    page.push_str(include_str!("report/method.html"));
    page.push_str("<h2>Experiment</h2>\n<p>Resolved, with seeds and version.</p>\n<pre class=\"scroll\">");
    page.push_str(&escape(&results.spec));
    page.push_str("</pre>\n");
    Ok(html::page(&title(&results.spec), &page))
}

/// The `title` or `name` in the experiment's file.
fn title(spec: &str) -> String {
    let table: toml::Table = spec.parse().unwrap_or_default();
    let value = |key: &str| table.get(key).and_then(toml::Value::as_str).filter(|text| !text.is_empty());
    let name = value("title").or_else(|| value("name")).unwrap_or("Experiment");
    name.chars().take(120).collect()
}

/// The opening paragraph: how much was run, whether all requests ended, which arm was best.
fn lead(results: &Results) -> String {
    let arms = &results.summary;
    let requests: u64 = arms.iter().map(|a| a.counts.requests).sum();
    let lost: u64 = arms.iter().map(|a| a.counts.lost).sum();
    let seeds = arms.iter().map(|a| a.seeds.len()).max().unwrap_or(0);
    let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let mut text = format!(
        "<p class=\"lead\">{} with {}, {requests} requests in all",
        plural(arms.len(), "arm"),
        plural(seeds, "seed")
    );
    let _ = if lost == 0 {
        write!(text, ", none lost.")
    } else {
        write!(text, ", <strong>{lost} without an end: this is a fault of the run</strong>.")
    };
    let lowest = |pick: fn(&crate::summary::Spread) -> f64| {
        let known = arms.iter().filter_map(|a| Some((a.arm.as_str(), pick(a.ttft_ms.as_ref()?))));
        known.min_by(|a, b| a.1.total_cmp(&b.1))
    };
    let unequal = crate::summary::unequal(arms);
    if let Some(sentence) = &unequal {
        let best = crate::summary::by_goodput(arms).into_iter().next();
        let _ = write!(text, " <strong>{}</strong>.", escape(sentence));
        if let Some((arm, rate)) = best.and_then(|arm| Some((arm, arm.goodput_per_second?))) {
            let slo =
                arm.slo.as_ref().map_or_else(|| "finished requests".to_owned(), |slo| format!("requests with {slo}"));
            let _ = write!(
                text,
                " Most goodput: <strong>{}</strong> ({:.2} {} a second).",
                escape(&arm.arm),
                rate.value,
                escape(&slo)
            );
        }
    } else if let (Some((mean_arm, mean)), Some((tail_arm, tail))) = (lowest(|s| s.mean.value), lowest(|s| s.p99.value))
    {
        let _ = write!(
            text,
            " Lowest mean time to first token: <strong>{}</strong> ({} ms); lowest 99th percentile: <strong>{}</strong> ({} ms).",
            escape(mean_arm),
            crate::table::ms(mean),
            escape(tail_arm),
            crate::table::ms(tail)
        );
    }
    if let Some(gap) = results.gap() {
        let _ = write!(text, " <strong>{}</strong>.", escape(&gap));
    }
    text.push_str("</p>\n");
    text
}

#[cfg(test)]
mod tests;
