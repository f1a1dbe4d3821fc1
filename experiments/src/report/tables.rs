//! The tables of the report.

use super::html::HtmlTable;
use crate::results::Point;
use crate::stats::{Difference, Estimate};
use crate::summary::{ArmSummary, Spread};
use crate::table::{ms, verdict, with_interval};

fn dash() -> String {
    "–".to_owned()
}

fn or_dash(value: Option<Estimate>, show: impl Fn(Estimate) -> String) -> String {
    value.map_or_else(dash, show)
}

/// The short table, as on the terminal.
pub(super) fn comparison(arms: &[ArmSummary]) -> String {
    let mut table = HtmlTable::new(&[
        "arm",
        "requests",
        "not finished",
        "lost",
        "TTFT mean, ms",
        "TTFT p50",
        "TTFT p95",
        "TTFT p99",
        "E2E p95, ms",
        "TPOT, ms",
        "hit rate, %",
        "goodput, /s",
        "busiest / mean",
        "TTFT mean vs baseline",
    ]);
    for arm in arms {
        let ttft = |pick: fn(&Spread) -> Estimate| or_dash(arm.ttft_ms.as_ref().map(pick), |e| ms(e.value));
        let difference = arm.against_baseline.as_ref().and_then(|a| a.ttft.mean);
        table.row(&[
            arm.arm.clone(),
            arm.counts.requests.to_string(),
            arm.undone().saturating_sub(arm.counts.lost).to_string(),
            arm.counts.lost.to_string(),
            or_dash(arm.ttft_ms.map(|s| s.mean), with_interval),
            ttft(|s| s.p50),
            ttft(|s| s.p95),
            ttft(|s| s.p99),
            or_dash(arm.e2e_ms.map(|s| s.p95), |e| ms(e.value)),
            or_dash(arm.tpot_ms.map(|s| s.mean), |e| ms(e.value)),
            or_dash(arm.hit_rate, |e| format!("{:.1}", 100.0 * e.value)),
            or_dash(arm.goodput_per_second, |e| format!("{:.2}", e.value)),
            or_dash(arm.busiest_over_mean, |e| format!("{:.2}", e.value)),
            difference.map_or_else(dash, |d| verdict(arm, arms, d)),
        ]);
    }
    table.finish("No arm was run.")
}

/// Every latency with its intervals.
pub(super) fn latency(arms: &[ArmSummary]) -> String {
    let mut table = HtmlTable::new(&["arm", "latency, ms", "samples", "mean", "p50", "p90", "p95", "p99", "max"]);
    for arm in arms {
        for (name, spread) in [
            ("TTFT at the user", &arm.ttft_ms),
            ("TTFT at the router", &arm.router_ttft_ms),
            ("E2E", &arm.e2e_ms),
            ("ITL", &arm.itl_ms),
            ("TPOT", &arm.tpot_ms),
            ("queue wait", &arm.queue_wait_ms),
        ] {
            let Some(s) = spread else { continue };
            let mut cells = vec![arm.arm.clone(), name.to_owned(), s.samples.to_string()];
            cells.extend([s.mean, s.p50, s.p90, s.p95, s.p99].map(with_interval));
            cells.push(ms(s.max));
            table.row(&cells);
        }
    }
    table.finish("No request reached its first token.")
}

/// Paired differences with their intervals.
pub(super) fn against(arms: &[ArmSummary]) -> String {
    let mut table = HtmlTable::new(&["arm", "baseline", "seeds", "statistic", "difference, ms", "in %", "verdict"]);
    for arm in arms {
        let Some(against) = &arm.against_baseline else { continue };
        for (name, d) in [
            ("TTFT mean", against.ttft.mean),
            ("TTFT p50", against.ttft.p50),
            ("TTFT p95", against.ttft.p95),
            ("TTFT p99", against.ttft.p99),
            ("E2E mean", against.e2e.mean),
            ("E2E p50", against.e2e.p50),
            ("E2E p95", against.e2e.p95),
            ("E2E p99", against.e2e.p99),
        ] {
            let Some(d) = d else { continue };
            table.row(&[
                arm.arm.clone(),
                against.baseline.clone(),
                d.seeds.to_string(),
                name.to_owned(),
                signed(d.value, d.ci95),
                percent(d),
                d.verdict.map_or("needs two seeds", |v| v.as_str()).to_owned(),
            ]);
        }
    }
    table.finish("There is only one arm, or no seed in common.")
}

fn signed(value: f64, ci95: Option<f64>) -> String {
    ci95.map_or_else(|| format!("{value:+.1}"), |half| format!("{value:+.1} ± {half:.1}"))
}

fn percent(d: Difference) -> String {
    d.percent.map_or_else(dash, |p| signed(p, d.percent_ci95))
}

/// How requests ended, throughput, and load balance.
pub(super) fn ends(arms: &[ArmSummary]) -> String {
    let mut table = HtmlTable::new(&[
        "arm",
        "finished",
        "rejected",
        "timed out",
        "failed",
        "cancelled",
        "lost",
        "reasons",
        "forwarded",
        "retries",
        "requests/s",
        "output tokens/s",
        "most waiting, engine",
        "most held, router",
        "share by replica, %",
    ]);
    for arm in arms {
        let c = &arm.counts;
        let mut cells = vec![arm.arm.clone()];
        cells.extend([c.finished, c.rejected, c.timed_out, c.failed, c.cancelled, c.lost].map(|n| n.to_string()));
        cells.push(arm.reasons_in_words());
        cells.extend([c.forwarded, c.retries].map(|n| n.to_string()));
        cells.push(or_dash(arm.requests_per_second, |e| format!("{:.2}", e.value)));
        cells.push(or_dash(arm.output_tokens_per_second, |e| format!("{:.1}", e.value)));
        cells.push(arm.max_waiting.to_string());
        cells.push(arm.max_router_queue.to_string());
        let mut shares: Vec<String> =
            arm.share.iter().take(12).map(|s| format!("{} {:.1}", s.replica, 100.0 * s.share)).collect();
        if arm.share.len() > shares.len() {
            shares.push(format!("and {} more", arm.share.len() - shares.len()));
        }
        cells.push(shares.join(", "));
        table.row(&cells);
    }
    table.finish("No arm was run.")
}

/// Expected against actual.
pub(super) fn prediction(arms: &[ArmSummary]) -> String {
    let mut table = HtmlTable::new(&[
        "arm",
        "cached tokens: mean error",
        "bias",
        "TTFT from dispatch, ms: mean error",
        "median error",
        "p95 error",
        "bias",
    ]);
    for arm in arms {
        let p = &arm.prediction;
        let show = |v: Option<f64>| v.map_or_else(dash, |v| format!("{v:.1}"));
        let bias = |v: Option<f64>| v.map_or_else(dash, |v| format!("{v:+.1}"));
        table.row(&[
            arm.arm.clone(),
            show(p.cache_mean_abs_tokens),
            bias(p.cache_bias_tokens),
            show(p.ttft_mean_abs_ms),
            show(p.ttft_p50_abs_ms),
            show(p.ttft_p95_abs_ms),
            bias(p.ttft_bias_ms),
        ]);
    }
    table.finish("No arm was run.")
}

/// Time to first token per origin, first seed of each arm.
pub(super) fn origins(points: &[Point]) -> String {
    let mut table = HtmlTable::new(&["origin", "arm", "seed", "requests", "TTFT mean, ms", "p50", "p95"]);
    let mut firsts: Vec<&Point> = Vec::new();
    for point in points {
        if firsts.last().is_none_or(|last| last.arm != point.arm) {
            firsts.push(point);
        }
    }
    firsts.truncate(12);
    let mut names: Vec<&str> = Vec::new();
    for point in &firsts {
        for origin in point.origins.iter().take(12) {
            if !names.contains(&origin.origin.as_str()) && names.len() < 12 {
                names.push(&origin.origin);
            }
        }
    }
    for name in names {
        for point in &firsts {
            for o in point.origins.iter().filter(|o| o.origin == name) {
                table.row(&[
                    o.origin.clone(),
                    point.arm.clone(),
                    point.seed.to_string(),
                    o.samples.to_string(),
                    ms(o.mean_ms),
                    ms(o.p50_ms),
                    ms(o.p95_ms),
                ]);
            }
        }
    }
    table.finish("No request reached its first token.")
}

/// What identifies each run.
pub(super) fn runs(points: &[Point]) -> String {
    const SHOWN: usize = 200;
    let mut table =
        HtmlTable::new(&["arm", "topology", "seed", "requests", "length, s", "events", "event hash", "version"]);
    for p in points.iter().take(SHOWN) {
        table.row(&[
            p.arm.clone(),
            p.topology.clone(),
            p.seed.to_string(),
            p.counts.requests.to_string(),
            format!("{:.1}", p.span_ns as f64 / 1e9),
            p.events.to_string(),
            p.event_hash.clone(),
            p.version.clone(),
        ]);
    }
    let mut text = table.finish("No arm was run.");
    if points.len() > SHOWN {
        text.push_str(&format!("<p>The first {SHOWN} of {} runs; all are in points/.</p>\n", points.len()));
    }
    text
}
