//! The parts of the page that are more than one table: verdict, plots, the best arms of a large sweep.

use super::html::{escape_json, figure};
use super::tables;
use crate::markup::escape;
use crate::plot::{self, charts::charts};
use crate::results::{ResultError, Results};
use crate::summary::loads::loads;
use crate::verdict::{Finding, verdicts};
use std::fmt::Write;

/// Arms of a load from which on its best ones have a table.
const MANY: usize = 12;
/// Loads with such a table.
const MAX_LOADS: usize = 24;

/// The best arm of each load and objective.
pub(super) fn verdict(results: &Results) -> String {
    let mut text = String::new();
    for verdict in verdicts(&results.points) {
        if verdict.findings.is_empty() {
            continue;
        }
        if !verdict.load.is_empty() {
            let _ = writeln!(text, "<h3>{}</h3>", escape(&verdict.load));
        }
        text.push_str("<dl class=\"verdict\">\n");
        for finding in &verdict.findings {
            let _ = writeln!(text, "<dt>{}</dt><dd>{}</dd>", finding.objective, sentence(finding));
        }
        text.push_str("</dl>\n");
        if let Some(shares) = verdict.shares_text() {
            let _ = writeln!(text, "<p class=\"worse\">{}</p>", escape(&shares));
        }
    }
    if text.is_empty() {
        return "<p>No request was answered, so there is nothing to compare.</p>\n".to_owned();
    }
    text + "<p class=\"hint\">The best arm is the one of the lowest value; ± is the 95 % interval of the difference, seed \
            by seed. The best of many arms is partly luck: run its rivals again with other seeds before you act on a \
            small difference.</p>\n"
}

/// The finding, its arm in bold where a difference is shown.
fn sentence(finding: &Finding) -> String {
    let text = escape(&finding.text());
    match text.strip_prefix(&escape(&finding.best)) {
        Some(rest) => format!("<b class=\"better\">{}</b>{rest}", escape(&finding.best)),
        None => text,
    }
}

/// The ten best arms of every load that has many; `None` where none has.
pub(super) fn best(results: &Results) -> Option<String> {
    let many: Vec<_> = loads(&results.summary).into_iter().filter(|load| load.arms.len() > MANY).collect();
    let mut text = String::new();
    for load in many.iter().take(MAX_LOADS) {
        if !load.name.is_empty() {
            let _ = writeln!(text, "<h3>{}</h3>", escape(&load.name));
        }
        text += &tables::best(load);
        let _ = writeln!(text, "<p>The ten of the lowest mean TTFT, of {}.</p>", load.arms.len());
    }
    if many.len() > MAX_LOADS {
        let _ = writeln!(text, "<p>The first {MAX_LOADS} of {} loads; all are in summary.csv.</p>", many.len());
    }
    (!many.is_empty()).then_some(text)
}

/// Interactive charts with pictures for readers without scripts, then the pictures that have no chart; and those of
/// queues.
pub(super) fn plots(results: &Results) -> Result<(String, String), ResultError> {
    let charts = charts(results);
    let (mut main, mut charted, mut queues) = (String::new(), String::new(), String::new());
    for plot in plot::figures(results) {
        let html = figure(&plot)?;
        let has_chart = plot.has_chart() && !charts.is_empty();
        match plot.name.as_str() {
            name if name.starts_with("queues") => queues += &html,
            _ if has_chart => charted += &html,
            _ => main += &html,
        }
    }
    let mut text = String::new();
    if !charts.is_empty() {
        let data = escape_json(&serde_json::to_string(&charts).unwrap_or_default());
        let _ = writeln!(
            text,
            "<div id=\"charts\"></div>\n<script type=\"application/json\" id=\"chart-data\">{data}</script>"
        );
        let _ = writeln!(text, "<noscript>\n{charted}</noscript>");
    }
    Ok((text + &main, queues))
}
