//! `report.html`: one self-contained page, light or dark by the system's setting, usable on a phone. It loads no
//! external resources; its one script is embedded and allowed by its hash (Content-Security-Policy), so that no other
//! script can run. With scripts disabled the page shows the same tables and pictures.
//!
//! `html` (the frame, tables, figures), `sections` (the parts of the page), `tables` (their tables). `bench` makes
//! `benchmarks.html`, the page of `gorgo bench`, from the same parts.

mod bench;
mod html;
mod sections;
mod tables;

pub use bench::html as bench_html;

/// The chart library of the pages, uPlot 1.6.32 (MIT, Leon Sorokin): its script.
pub const CHARTS_SCRIPT: &str = include_str!("../assets/uPlot.iife.min.js");
/// Its style sheet.
pub const CHARTS_STYLE: &str = include_str!("../assets/uPlot.min.css");

use crate::markup::escape;
use crate::results::{ResultError, Results};
use crate::summary::loads::loads;
use html::Section;
use std::fmt::Write;

/// Arms in the tables of the page; a larger sweep is read in its plots and `summary.csv`.
const MAX_ARMS: usize = 100;

/// The page.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn html(results: &Results) -> Result<String, ResultError> {
    let arms = &results.summary[..results.summary.len().min(MAX_ARMS)];
    let cut = if arms.len() < results.summary.len() {
        format!("<p>The first {MAX_ARMS} of {} arms; all are in summary.csv.</p>\n", results.summary.len())
    } else {
        String::new()
    };
    let of_arms = |table: String| table + &cut;
    let (main, queues) = sections::plots(results)?;
    let mut parts = vec![Section::open("Verdict", sections::verdict(results))];
    let (plots, comparison) = (Section::open("Plots", main), of_arms(tables::comparison(arms)));
    match sections::best(results) {
        // A long table would stand between the reader and the picture.
        Some(best) => parts.extend([Section::open("Ten best", best), plots, Section::closed("Comparison", comparison)]),
        None => parts.extend([Section::open("Comparison", comparison), plots]),
    }
    parts.extend([
        Section::closed("Queues over time", queues),
        Section::closed("Latency", of_arms(tables::latency(arms))),
        Section::closed("Against the baseline", of_arms(tables::against(arms))),
        Section::closed("Ends, throughput and balance", of_arms(tables::ends(arms))),
        Section::closed("What the router expected and what came", of_arms(tables::prediction(arms))),
        Section::closed("Time to first token by origin", tables::origins(&results.points)),
        Section::closed("Runs", tables::runs(&results.points)),
        Section::closed("How the figures are made", include_str!("report/method.html").to_owned()),
        Section::closed(
            "Experiment",
            format!(
                "<p>Resolved, with seeds and version.</p>\n<pre class=\"scroll\">{}</pre>\n",
                escape(&results.spec)
            ),
        ),
    ]);
    parts.retain(|part| !part.is_empty());
    Ok(html::page(&text_of(&results.spec, "title"), &lead(results), &parts))
}

/// A text of the experiment's file; for `title` also its `name`, and a word if it has none.
fn text_of(spec: &str, key: &str) -> String {
    let table: toml::Table = spec.parse().unwrap_or_default();
    let value = |key: &str| table.get(key).and_then(toml::Value::as_str).filter(|text| !text.is_empty());
    let text = match key {
        "title" => value("title").or_else(|| value("name")).unwrap_or("Experiment"),
        other => value(other).unwrap_or_default(),
    };
    text.chars().take(500).collect()
}

/// The opening paragraphs: question, expectation, how much was run, how many requests did not finish.
fn lead(results: &Results) -> String {
    let arms = &results.summary;
    let mut text = String::new();
    for (name, key) in [("Question", "question"), ("Expected", "expect")] {
        let said = text_of(&results.spec, key);
        if !said.is_empty() {
            let _ = writeln!(text, "<p><b>{name}:</b> {}</p>", escape(&said));
        }
    }
    let sum = |count: fn(&crate::summary::ArmSummary) -> u64| arms.iter().map(count).sum::<u64>();
    let (requests, finished, lost) = (sum(|a| a.counts.requests), sum(|a| a.counts.finished), sum(|a| a.counts.lost));
    let seeds = arms.iter().map(|a| a.seeds.len()).max().unwrap_or(0);
    let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let _ = write!(text, "<p class=\"lead\">{} ", plural(arms.len(), "arm"));
    let all = loads(arms).len();
    if all > 1 {
        let _ = write!(text, "(one for each policy and load, {all} loads) ");
    }
    let _ = write!(text, "with {}, {requests} requests in all", plural(seeds, "seed"));
    let undone = requests.saturating_sub(finished + lost);
    if undone > 0 {
        let percent = 100.0 * undone as f64 / requests as f64;
        let _ = write!(text, ", {undone} did not finish ({percent:.1} %: refused, timed out, failed or cancelled)");
    }
    text += &if lost == 0 {
        ", none lost.".to_owned()
    } else {
        format!(", <strong>{lost} without an end: this is a fault of the run</strong>.")
    };
    if let Some(gap) = results.gap() {
        let _ = write!(text, " <strong>{}</strong>.", escape(&gap));
    }
    text.push_str("</p>\n");
    text
}

#[cfg(test)]
mod tests;
