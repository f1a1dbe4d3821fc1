//! Reads the load that engines report: SGLang's and vLLM's metrics, and SGLang's `/v1/loads`.

use crate::signals::prom_text::{Sample, samples};
use gorgo_core::fleet::EngineReport;
use serde::Deserialize;

/// A page of metrics, read.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Page {
    /// The load; `None` if the page has no gauge of a known engine.
    pub report: Option<EngineReport>,
    /// Whether it is SGLang's.
    pub sglang: bool,
    /// Start time of the process, if reported, s since 1970.
    pub started: Option<f64>,
    /// Requests since the start: a smaller number than before means a restart.
    pub requests: Option<f64>,
}

/// Reads a page. Data-parallel ranks are summed; of tensor and pipeline ranks only the first counts, since all
/// report the same requests.
pub(crate) fn metrics(text: &str) -> Page {
    let mut page = Page::default();
    let mut report = EngineReport::default();
    let (mut known, mut blocks, mut block_size, mut use_share, mut shares) = (false, 0.0, 0.0, 0.0, 0.0);
    for sample in samples(text) {
        if !sample.value.is_finite() || sample.value < 0.0 || !first_rank(&sample) {
            continue;
        }
        let value = sample.value;
        match sample.name {
            "sglang:num_running_reqs" | "vllm:num_requests_running" => {
                known = true;
                report.running = add(report.running, value);
            }
            "sglang:num_queue_reqs" | "vllm:num_requests_waiting" => {
                known = true;
                report.queued = add(report.queued, value);
            }
            "sglang:num_used_tokens" => report.used_tokens += value as u64,
            "sglang:max_total_num_tokens" => report.kv_tokens += value as u64,
            "vllm:kv_cache_usage_perc" | "vllm:gpu_cache_usage_perc" => {
                use_share += value;
                shares += 1.0;
            }
            "vllm:cache_config_info" => {
                let number = |name| sample.label(name).and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0);
                blocks += number("num_gpu_blocks");
                block_size = number("block_size");
            }
            "sglang:num_requests_total" | "vllm:request_success_total" => *page.requests.get_or_insert(0.0) += value,
            "process_start_time_seconds" => page.started = Some(page.started.map_or(value, |v| v.max(value))),
            _ => {}
        }
        page.sglang |= sample.name.starts_with("sglang:");
    }
    if blocks > 0.0 {
        report.kv_tokens = (blocks * block_size) as u64;
        report.used_tokens = (use_share / f64::max(shares, 1.0) * blocks * block_size) as u64;
    }
    page.report = known.then_some(report);
    page
}

fn add(sum: u32, value: f64) -> u32 {
    sum.saturating_add(value as u32)
}

fn first_rank(sample: &Sample<'_>) -> bool {
    ["tp_rank", "pp_rank"].iter().all(|name| sample.label(name).is_none_or(|rank| rank == "0"))
}

#[derive(Deserialize)]
struct Loads {
    loads: Vec<Load>,
}

#[derive(Deserialize)]
struct Load {
    #[serde(default)]
    num_running_reqs: u32,
    #[serde(default)]
    num_waiting_reqs: u32,
    #[serde(default)]
    num_used_tokens: u64,
    #[serde(default)]
    max_total_num_tokens: u64,
}

/// Reads `/v1/loads`; `None` if it is something else.
pub(crate) fn loads(body: &[u8]) -> Option<EngineReport> {
    let loads: Loads = serde_json::from_slice(body).ok()?;
    (!loads.loads.is_empty()).then(|| {
        loads.loads.iter().fold(EngineReport::default(), |sum, load| EngineReport {
            running: sum.running.saturating_add(load.num_running_reqs),
            queued: sum.queued.saturating_add(load.num_waiting_reqs),
            used_tokens: sum.used_tokens.saturating_add(load.num_used_tokens),
            kv_tokens: sum.kv_tokens.saturating_add(load.max_total_num_tokens),
        })
    })
}

/// Finds restarts: the start time changed or the count of requests fell.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Restarts {
    started: Option<f64>,
    requests: Option<f64>,
}

impl Restarts {
    /// Whether the engine restarted since the previous page.
    pub(crate) fn restarted(&mut self, page: &Page) -> bool {
        let moved = matches!((self.started, page.started), (Some(a), Some(b)) if (a - b).abs() > 0.5);
        let fell = matches!((self.requests, page.requests), (Some(a), Some(b)) if b < a);
        *self = Self { started: page.started.or(self.started), requests: page.requests.or(self.requests) };
        moved || fell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SGLANG: &str = "# TYPE sglang:num_running_reqs gauge\n\
        sglang:num_running_reqs{engine_type=\"unified\",model_name=\"m\",pp_rank=\"0\",tp_rank=\"0\",dp_rank=\"0\"} 3.0\n\
        sglang:num_running_reqs{engine_type=\"unified\",model_name=\"m\",pp_rank=\"0\",tp_rank=\"0\",dp_rank=\"1\"} 2.0\n\
        sglang:num_running_reqs{engine_type=\"unified\",model_name=\"m\",pp_rank=\"0\",tp_rank=\"1\",dp_rank=\"0\"} 3.0\n\
        sglang:num_queue_reqs{tp_rank=\"0\"} 4.0\nsglang:num_used_tokens 48000.0\nsglang:max_total_num_tokens 466000.0\n\
        sglang:num_requests_total{model_name=\"m\"} 17.0\n";

    #[test]
    fn sglang_by_its_real_names() {
        let page = metrics(SGLANG);
        let report = EngineReport { running: 5, queued: 4, used_tokens: 48_000, kv_tokens: 466_000 };
        assert_eq!((page.report, page.sglang, page.requests), (Some(report), true, Some(17.0)));
    }

    #[test]
    fn vllm_by_its_real_names() {
        let page = metrics(
            "vllm:num_requests_running{engine=\"0\"} 2.0\nvllm:num_requests_waiting 1.0\nvllm:kv_cache_usage_perc 0.25\n\
             vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"1000\"} 1.0\nprocess_start_time_seconds 5.0\n",
        );
        let report = EngineReport { running: 2, queued: 1, used_tokens: 4_000, kv_tokens: 16_000 };
        assert_eq!((page.report, page.sglang, page.started), (Some(report), false, Some(5.0)));
    }

    #[test]
    fn pages_of_other_things_report_nothing() {
        for text in ["", "<html>", "up 1\n", "sglang:num_running_reqs NaN\n"] {
            assert_eq!(metrics(text).report, None, "{text}");
        }
    }

    #[test]
    fn loads_are_summed_over_ranks() {
        let body = br#"{"timestamp":"t","loads":[{"dp_rank":0,"num_running_reqs":1,"num_waiting_reqs":2,"num_used_tokens":3,"max_total_num_tokens":4},{"num_running_reqs":1}]}"#;
        assert_eq!(loads(body), Some(EngineReport { running: 2, queued: 2, used_tokens: 3, kv_tokens: 4 }));
        assert_eq!((loads(b"{}"), loads(b"[]"), loads(b"{\"loads\":[]}")), (None, None, None));
    }

    #[test]
    fn restarts_are_seen_by_start_time_or_falling_counts() {
        let page = |started, requests| Page { started, requests, ..Page::default() };
        let mut restarts = Restarts::default();
        assert!(!restarts.restarted(&page(Some(10.0), Some(5.0))));
        assert!(!restarts.restarted(&page(None, Some(9.0))));
        assert!(restarts.restarted(&page(None, Some(1.0))));
        assert!(restarts.restarted(&page(Some(99.0), Some(2.0))));
        assert!(!restarts.restarted(&page(Some(99.0), Some(2.0))));
    }
}
