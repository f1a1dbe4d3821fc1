//! `summary.csv`: the same figures as `summary.json`, flat. Units are in the column names.

use super::{ArmSummary, Differences, Spread};
use crate::stats::{Difference, Estimate};
use gorgo_core::csv::text_cell;
use std::collections::BTreeSet;
use std::io::{self, Write};

/// Writes a header and one row per arm; absent figures are empty cells. The last columns are the varied settings.
///
/// # Errors
/// Those of `out`.
pub fn write_csv(out: impl Write, arms: &[ArmSummary]) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    let has_regret = arms.iter().any(|arm| arm.regret.is_some());
    let has_shared = arms.iter().any(|arm| arm.shared_messages_per_second.is_some());
    let varied: BTreeSet<&String> = arms.iter().flat_map(|arm| arm.settings.keys()).collect();
    for (i, arm) in arms.iter().enumerate() {
        let mut cells = cells(arm);
        if has_regret {
            regret(&mut cells, arm);
        }
        if has_shared {
            estimate(&mut cells, "shared_messages_per_second", arm.shared_messages_per_second);
            estimate(&mut cells, "shared_bytes_per_second", arm.shared_bytes_per_second);
        }
        let value = |key: &String| arm.settings.get(key).map_or_else(String::new, |v| text_cell(v).into_owned());
        cells.extend(varied.iter().map(|&key| (key.clone(), value(key))));
        if i == 0 {
            csv.write_record(cells.iter().map(|(name, _)| name))?;
        }
        csv.write_record(cells.iter().map(|(_, cell)| cell))?;
    }
    csv.flush()
}

type Cells = Vec<(String, String)>;

fn cells(arm: &ArmSummary) -> Cells {
    let mut cells = Cells::new();
    let mut text = |name: &str, value: String| cells.push((name.to_owned(), text_cell(&value).into_owned()));
    text("arm", arm.arm.clone());
    text("policy", arm.policy.clone());
    text("topology", arm.topology.clone());
    text("settings", arm.settings.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "));
    text("seeds", arm.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(" "));
    let c = &arm.counts;
    for (name, count) in [
        ("requests", c.requests),
        ("finished", c.finished),
        ("rejected", c.rejected),
        ("timed_out", c.timed_out),
        ("failed", c.failed),
        ("cancelled", c.cancelled),
        ("lost", c.lost),
        ("forwarded", c.forwarded),
        ("retries", c.retries),
        ("prompt_tokens", c.prompt_tokens),
        ("cached_tokens", c.cached_tokens),
        ("output_tokens", c.output_tokens),
    ] {
        text(name, count.to_string());
    }
    for (name, latency) in [
        ("ttft", &arm.ttft_ms),
        ("router_ttft", &arm.router_ttft_ms),
        ("e2e", &arm.e2e_ms),
        ("itl", &arm.itl_ms),
        ("tpot", &arm.tpot_ms),
        ("queue_wait", &arm.queue_wait_ms),
    ] {
        spread(&mut cells, name, latency.as_ref());
    }
    cells.push(("reasons".to_owned(), arm.reasons_in_words()));
    estimate(&mut cells, "finished_share", arm.finished_share);
    cells.push(("slo".to_owned(), arm.slo.clone().unwrap_or_default()));
    estimate(&mut cells, "goodput_per_second", arm.goodput_per_second);
    estimate(&mut cells, "requests_per_second", arm.requests_per_second);
    estimate(&mut cells, "output_tokens_per_second", arm.output_tokens_per_second);
    estimate(&mut cells, "hit_rate", arm.hit_rate);
    estimate(&mut cells, "busiest_over_mean", arm.busiest_over_mean);
    let p = &arm.prediction;
    for (name, value) in [
        ("cache_error_mean_abs_tokens", p.cache_mean_abs_tokens),
        ("cache_error_bias_tokens", p.cache_bias_tokens),
        ("ttft_error_mean_abs_ms", p.ttft_mean_abs_ms),
        ("ttft_error_p50_abs_ms", p.ttft_p50_abs_ms),
        ("ttft_error_p95_abs_ms", p.ttft_p95_abs_ms),
        ("ttft_error_bias_ms", p.ttft_bias_ms),
    ] {
        cells.push((name.to_owned(), number(value)));
    }
    let share: Vec<String> = arm.share.iter().map(|s| format!("{}={}", s.replica, number(Some(s.share)))).collect();
    cells.push(("share".to_owned(), text_cell(&share.join(" ")).into_owned()));
    cells.push(("max_waiting".to_owned(), arm.max_waiting.to_string()));
    cells.push(("max_router_queue".to_owned(), arm.max_router_queue.to_string()));
    let against = arm.against_baseline.as_ref();
    let baseline = against.map_or("", |a| &a.baseline);
    cells.push(("baseline".to_owned(), text_cell(baseline).into_owned()));
    differences(&mut cells, "ttft", against.map(|a| a.ttft).unwrap_or_default());
    differences(&mut cells, "e2e", against.map(|a| a.e2e).unwrap_or_default());
    cells.push(("event_hashes".to_owned(), arm.event_hashes.join(" ")));
    cells
}

/// Six decimals at most: nanoseconds of a millisecond.
fn number(value: Option<f64>) -> String {
    let Some(value) = value else { return String::new() };
    let text = format!("{value:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

fn estimate(cells: &mut Cells, name: &str, estimate: Option<Estimate>) {
    cells.push((name.to_owned(), number(estimate.map(|e| e.value))));
    cells.push((format!("{name}_ci95"), number(estimate.and_then(|e| e.ci95))));
}

fn spread(cells: &mut Cells, name: &str, spread: Option<&Spread>) {
    let pick = |value: fn(&Spread) -> Estimate| spread.map(value);
    for (statistic, value) in [
        ("mean", pick(|s| s.mean)),
        ("p50", pick(|s| s.p50)),
        ("p90", pick(|s| s.p90)),
        ("p95", pick(|s| s.p95)),
        ("p99", pick(|s| s.p99)),
    ] {
        estimate(cells, &format!("{name}_{statistic}_ms"), value);
    }
    cells.push((format!("{name}_max_ms"), number(spread.map(|s| s.max))));
}

fn regret(cells: &mut Cells, arm: &ArmSummary) {
    let regret = arm.regret.as_ref();
    cells.push(("oracle".to_owned(), text_cell(regret.map_or("", |r| &r.oracle)).into_owned()));
    for (name, difference) in [("ttft", regret.and_then(|r| r.ttft)), ("e2e", regret.and_then(|r| r.e2e))] {
        cells.push((format!("{name}_mean_regret_ms"), number(difference.map(|d| d.value))));
        cells.push((format!("{name}_mean_regret_ms_ci95"), number(difference.and_then(|d| d.ci95))));
    }
}

fn differences(cells: &mut Cells, name: &str, of: Differences) {
    for (statistic, difference) in [("mean", of.mean), ("p50", of.p50), ("p95", of.p95), ("p99", of.p99)] {
        let name = format!("{name}_{statistic}_vs_baseline");
        let pick = |value: fn(Difference) -> Option<f64>| number(difference.and_then(value));
        cells.push((format!("{name}_ms"), pick(|d| Some(d.value))));
        cells.push((format!("{name}_ms_ci95"), pick(|d| d.ci95)));
        cells.push((format!("{name}_percent"), pick(|d| d.percent)));
        let verdict = difference.and_then(|d| d.verdict).map_or("", |v| v.as_str());
        cells.push((name, verdict.to_owned()));
    }
}
