//! Reads the load that engines report: SGLang's and vLLM's metrics, and SGLang's `/v1/loads`.

use crate::signals::prom_text::{Sample, samples};
use gorgo_core::fleet::EngineReport;
use serde::Deserialize;

/// A page of metrics, read.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Page {
    /// The load; `None` if the page lacks a gauge of it that known engines have.
    pub report: Option<EngineReport>,
    /// Whether it is SGLang's.
    pub sglang: bool,
    /// Whether it is vLLM's.
    pub vllm: bool,
    /// Start time of the process, if reported, s since 1970.
    pub started: Option<f64>,
    /// Requests since the start: a smaller number than before means a restart.
    pub requests: Option<f64>,
}

/// A gauge or counter of the engine, and what its labels say of who reports it.
struct Series<'a> {
    /// Data-parallel rank.
    group: &'a str,
    /// Tensor and pipeline rank within it.
    rank: (u32, u32),
    /// The class of requests that it counts; empty for all classes together.
    priority: &'a str,
    value: f64,
}

/// The samples of one metric.
#[derive(Default)]
struct Metric<'a>(Vec<Series<'a>>);

impl<'a> Metric<'a> {
    fn add(&mut self, sample: &Sample<'a>) {
        let number = |name| sample.label(name).and_then(|rank| rank.parse().ok()).unwrap_or(0);
        self.0.push(Series {
            group: sample.label("dp_rank").unwrap_or_default(),
            rank: (number("pp_rank"), number("tp_rank")),
            priority: sample.label("priority").unwrap_or_default(),
            value: sample.value,
        });
    }

    /// The samples that count: of each data-parallel rank the first tensor and pipeline rank, since all of them report
    /// the same requests; and either the classes of requests or their sum, not both. With DP attention the tensor rank
    /// runs on over the data-parallel ranks, so the first rank of a group need not be 0.
    fn counted(&mut self) -> impl Iterator<Item = f64> + '_ {
        if self.0.iter().any(|series| series.priority.is_empty()) {
            self.0.retain(|series| series.priority.is_empty());
        }
        self.0.sort_by(|a, b| (a.group, a.rank).cmp(&(b.group, b.rank)));
        let mut first = None;
        self.0.iter().filter_map(move |series| {
            let (group, rank) = *first.get_or_insert((series.group, series.rank));
            if group != series.group {
                first = Some((series.group, series.rank));
            }
            (group != series.group || rank == series.rank).then_some(series.value)
        })
    }

    fn sum(&mut self) -> f64 {
        self.counted().sum()
    }

    /// The sum; `None` without a sample.
    fn known(&mut self) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.sum())
    }

    /// The mean of the samples that count; `None` without one.
    fn mean(&mut self) -> Option<f64> {
        let sum = self.known()?;
        Some(sum / self.counted().count() as f64)
    }
}

/// Reads a page. Data-parallel ranks are summed; of tensor and pipeline ranks only the first counts.
pub(crate) fn metrics(text: &str) -> Page {
    let mut page = Page::default();
    let [mut running, mut queued, mut used, mut most, mut shares, mut requests] = [const { Metric(Vec::new()) }; 6];
    let (mut blocks, mut block_size) = (0.0, 0.0);
    for sample in samples(text) {
        if !sample.value.is_finite() || sample.value < 0.0 {
            continue;
        }
        let value = sample.value;
        match sample.name {
            "sglang:num_running_reqs" | "vllm:num_requests_running" => running.add(&sample),
            "sglang:num_queue_reqs" | "vllm:num_requests_waiting" => queued.add(&sample),
            "sglang:num_used_tokens" => used.add(&sample),
            "sglang:max_total_num_tokens" => most.add(&sample),
            "sglang:token_usage" | "vllm:kv_cache_usage_perc" | "vllm:gpu_cache_usage_perc" => shares.add(&sample),
            "vllm:cache_config_info" => {
                let number = |name| sample.label(name).and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0);
                blocks += number("num_gpu_blocks");
                block_size = number("block_size");
            }
            "sglang:num_requests_total" | "vllm:request_success_total" => requests.add(&sample),
            "process_start_time_seconds" => page.started = Some(page.started.map_or(value, |v| v.max(value))),
            _ => {}
        }
        page.sglang |= sample.name.starts_with("sglang:");
        page.vllm |= sample.name.starts_with("vllm:");
    }
    let share = shares.mean();
    let most = Some(blocks * block_size).filter(|tokens| *tokens > 0.0).or_else(|| most.known());
    let used = used.known().or_else(|| Some(share? * most?));
    // A capacity of which the use is not known would look empty.
    let (used, most) = used.zip(most).unwrap_or_default();
    page.requests = requests.known();
    page.report = running.known().zip(queued.known()).map(|(running, queued)| EngineReport {
        running: running as u32,
        queued: queued as u32,
        used_tokens: used as u64,
        kv_tokens: most as u64,
        kv_share: share.filter(|_| most == 0.0),
    });
    page
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
            kv_share: None,
        })
    })
}

/// What a page shows of the process that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The same process as before, as far as can be seen.
    Same,
    /// The process was restarted, so its cache is empty.
    Restarted,
    /// Pages of several processes come in turn: several engines stand behind one name.
    Several,
}

/// Start times that are remembered.
const STARTS: usize = 8;
/// Pages without a change after which several processes are taken for one again.
const CALM: u32 = 300;

/// Finds restarts: the start time is later than any before, or the count of requests fell. A start time that was seen
/// before, or an earlier one, is no restart: then several processes answer in turn.
#[derive(Debug, Clone, Default)]
pub(crate) struct Restarts {
    /// Start times seen, the last one at the end.
    started: Vec<f64>,
    requests: Option<f64>,
    /// The count before it fell last.
    fell_from: Option<f64>,
    /// Times that the count was back above where it fell from.
    bounces: u32,
    /// Pages since the process last seemed to change, while several are known.
    calm: Option<u32>,
}

impl Restarts {
    /// Looks at the next page.
    pub(crate) fn look(&mut self, page: &Page) -> Seen {
        let by_start = page.started.map_or(Seen::Same, |started| self.start_time(started));
        let by_count = page.requests.map_or(Seen::Same, |requests| self.count(requests));
        // The start time tells more than the count.
        let seen = if self.started.is_empty() { by_count } else { by_start };
        if seen == Seen::Several {
            self.calm = Some(0);
        }
        match &mut self.calm {
            None => seen,
            Some(_) if seen == Seen::Several => seen,
            Some(pages) if seen == Seen::Same => {
                *pages += 1;
                if *pages >= CALM {
                    *self = Self {
                        requests: self.requests,
                        started: self.started.pop().into_iter().collect(),
                        ..Self::default()
                    };
                }
                Seen::Same
            }
            // One more process in turn, or a restart of one of them: the index holds what all of them hold together.
            Some(pages) => {
                *pages = 0;
                Seen::Several
            }
        }
    }

    fn start_time(&mut self, started: f64) -> Seen {
        let is_same = |known: &f64| (known - started).abs() <= 0.5;
        let Some(last) = self.started.last() else {
            self.started.push(started);
            return Seen::Same;
        };
        if is_same(last) {
            return Seen::Same;
        }
        let is_later = self.started.iter().all(|known| started > *known);
        self.started.retain(|known| !is_same(known));
        if self.started.len() >= STARTS {
            self.started.remove(0);
        }
        self.started.push(started);
        if is_later { Seen::Restarted } else { Seen::Several }
    }

    fn count(&mut self, requests: f64) -> Seen {
        let before = self.requests.replace(requests);
        if before.is_some_and(|before| requests < before) {
            self.fell_from = before;
            return if self.bounces > 1 { Seen::Several } else { Seen::Restarted };
        }
        // A restarted engine does not regain all of its count at once, again and again.
        if self.fell_from.is_some_and(|from| requests >= from) {
            self.fell_from = None;
            self.bounces += 1;
        }
        Seen::Same
    }
}

#[cfg(test)]
mod tests;
