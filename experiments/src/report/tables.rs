//! The tables of the report.

use super::html::HtmlTable;
use crate::results::Point;
use crate::results::point::OriginTtft;
use crate::stats::{Difference, Estimate};
use crate::summary::loads::{Load, arm_name};
use crate::summary::{ArmSummary, Spread};
use crate::table::{against as versus, ms, verdict, with_interval};
use std::collections::BTreeMap;

fn dash() -> String {
    "–".to_owned()
}

fn or_dash(value: Option<Estimate>, show: impl Fn(Estimate) -> String) -> String {
    value.map_or_else(dash, show)
}

fn name(arm: &ArmSummary) -> String {
    arm_name(&arm.arm, &arm.settings)
}

/// The ten arms of a load with the lowest mean TTFT.
pub(super) fn best(load: &Load<'_>) -> String {
    let mut table = HtmlTable::new(&["arm", "TTFT mean, ms", "TTFT p95, ms", "E2E p95, ms", "TTFT mean vs baseline"]);
    let arms = load.by_ttft().into_iter().filter_map(|(name, arm)| Some((name, arm, arm.ttft_ms?)));
    for (name, arm, ttft) in arms.take(10) {
        let difference = arm.against_baseline.as_ref().and_then(|a| a.ttft.mean);
        table.row(&[
            name.clone(),
            with_interval(ttft.mean),
            with_interval(ttft.p95),
            or_dash(arm.e2e_ms.map(|s| s.p95), with_interval),
            difference.map_or_else(dash, versus),
        ]);
    }
    table.finish("No request reached its first token.")
}

/// The short table, as on the terminal.
pub(super) fn comparison(arms: &[ArmSummary]) -> String {
    let mut table = HtmlTable::new(&[
        "arm",
        "requests",
        "not finished",
        "lost",
        "TTFT mean, ms",
        "TTFT p50, ms",
        "TTFT p95, ms",
        "TTFT p99, ms",
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
        table.row_of(
            &name(arm),
            &[
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
            ],
        );
    }
    table.finish("No arm was run.")
}

/// Every latency with its intervals.
pub(super) fn latency(arms: &[ArmSummary]) -> String {
    let mut table = HtmlTable::new(&["arm", "latency, ms", "samples", "mean", "p50", "p90", "p95", "p99", "max"]);
    for arm in arms {
        for (latency, spread) in [
            ("TTFT at the user", &arm.ttft_ms),
            ("TTFT at the router", &arm.router_ttft_ms),
            ("E2E", &arm.e2e_ms),
            ("ITL", &arm.itl_ms),
            ("TPOT", &arm.tpot_ms),
            ("queue wait", &arm.queue_wait_ms),
        ] {
            let Some(s) = spread else { continue };
            let mut cells = vec![arm.arm.clone(), latency.to_owned(), s.samples.to_string()];
            cells.extend([s.mean, s.p50, s.p90, s.p95, s.p99].map(with_interval));
            cells.push(ms(s.max));
            table.row_of(&name(arm), &cells);
        }
    }
    table.finish("No request reached its first token.")
}

/// Paired differences with their intervals.
pub(super) fn against(arms: &[ArmSummary]) -> String {
    let mut table = HtmlTable::new(&["arm", "baseline", "seeds", "statistic", "difference, ms", "in %", "verdict"]);
    for arm in arms {
        let Some(against) = &arm.against_baseline else { continue };
        for (statistic, d) in [
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
            table.row_of(
                &name(arm),
                &[
                    arm.arm.clone(),
                    against.baseline.clone(),
                    d.seeds.to_string(),
                    statistic.to_owned(),
                    signed(d.value, d.ci95),
                    percent(d),
                    d.verdict.map_or("needs two seeds", |v| v.as_str()).to_owned(),
                ],
            );
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
        table.row_of(&name(arm), &cells);
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

/// Time to first token per origin and arm over seeds, the origins of most requests first.
pub(super) fn origins(points: &[Point]) -> String {
    const ORIGINS: usize = 12;
    const ARMS: usize = 100;
    let mut table = HtmlTable::new(&["origin", "arm", "seeds", "requests", "TTFT mean, ms", "p50, ms", "p95, ms"]);
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for origin in points.iter().flat_map(|p| &p.origins) {
        *sums.entry(&origin.origin).or_default() += origin.samples;
    }
    let mut names: Vec<(&str, u64)> = sums.into_iter().collect();
    names.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let arms: Vec<&[Point]> = points.chunk_by(|a, b| a.arm == b.arm).collect();
    for (name, _) in names.iter().take(ORIGINS) {
        for seeds in arms.iter().take(ARMS) {
            let found: Vec<_> = seeds.iter().flat_map(|p| &p.origins).filter(|o| o.origin == *name).collect();
            let over =
                |pick: fn(&OriginTtft) -> f64| or_dash(Estimate::over(found.iter().map(|o| pick(o))), with_interval);
            if !found.is_empty() {
                let arm = &seeds[0];
                table.row_of(
                    &arm_name(&arm.arm, &arm.settings),
                    &[
                        (*name).to_owned(),
                        arm.arm.clone(),
                        found.len().to_string(),
                        found.iter().map(|o| o.samples).sum::<u64>().to_string(),
                        over(|o| o.mean_ms),
                        over(|o| o.p50_ms),
                        over(|o| o.p95_ms),
                    ],
                );
            }
        }
    }
    let mut text = table.finish("No request reached its first token.");
    for (shown, all, what) in [(ORIGINS, names.len(), "origins"), (ARMS, arms.len(), "arms")] {
        if all > shown {
            text += &format!("<p>The first {shown} of {all} {what}; requests.csv holds all.</p>\n");
        }
    }
    text
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
