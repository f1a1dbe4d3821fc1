//! Histograms and counters of requests, with the bucket bounds of SGLang or vLLM.

use gorgo_sim::engine::EngineKind;

const TTFT: [f64; 18] =
    [0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0, 200.0, 400.0];
const ITL: [f64; 23] = [
    0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0,
    2.0, 4.0, 6.0, 8.0,
];
const E2E: [f64; 22] = [
    0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0, 200.0, 400.0, 600.0, 1200.0,
    1800.0, 2400.0,
];
const QUEUE: [f64; 19] =
    [0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3000.0];
const RETRACTIONS: [f64; 7] = [0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0];

const VLLM_TTFT: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const VLLM_ITL: [f64; 19] =
    [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const VLLM_REQUEST: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];

/// A Prometheus histogram.
#[derive(Debug, Clone)]
pub struct Histogram {
    pub(super) bounds: &'static [f64],
    pub(super) counts: Vec<u64>,
    pub(super) sum: f64,
    pub(super) total: u64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len()], sum: 0.0, total: 0 }
    }

    /// Counts a value.
    pub fn observe(&mut self, value: f64) {
        let slot = self.bounds.partition_point(|&bound| bound < value);
        if let Some(count) = self.counts.get_mut(slot) {
            *count += 1;
        }
        self.sum += value;
        self.total += 1;
    }
}

/// What the API process counts about requests. Values are in seconds.
#[derive(Debug, Clone)]
pub struct Histograms {
    /// Time to first token.
    pub ttft: Histogram,
    /// Inter-token latency.
    pub itl: Histogram,
    /// End-to-end latency.
    pub e2e: Histogram,
    /// Time from acceptance to the first prefill step.
    pub queue: Histogram,
    pub(super) retractions: Histogram,
    pub(super) prompt_tokens: u64,
    pub(super) generation_tokens: u64,
    pub(super) requests: u64,
    /// Requests that ended at their `max_tokens`.
    pub(super) by_length: u64,
    /// Requests that ended without a complete answer.
    pub aborted: u64,
}

impl Default for Histograms {
    fn default() -> Self {
        Self::of(EngineKind::Sglang)
    }
}

impl Histograms {
    /// Empty histograms with the bounds of an engine's kind.
    pub fn of(kind: EngineKind) -> Self {
        let [ttft, itl, e2e, queue]: [&'static [f64]; 4] = match kind {
            EngineKind::Sglang => [&TTFT, &ITL, &E2E, &QUEUE],
            EngineKind::Vllm => [&VLLM_TTFT, &VLLM_ITL, &VLLM_REQUEST, &VLLM_REQUEST],
        };
        Self {
            ttft: Histogram::new(ttft),
            itl: Histogram::new(itl),
            e2e: Histogram::new(e2e),
            queue: Histogram::new(queue),
            retractions: Histogram::new(&RETRACTIONS),
            prompt_tokens: 0,
            generation_tokens: 0,
            requests: 0,
            by_length: 0,
            aborted: 0,
        }
    }

    /// Counts a request that was answered in full.
    pub fn finished(&mut self, e2e_s: f64, prompt_tokens: u32, output_tokens: u32, retractions: u32) {
        self.e2e.observe(e2e_s);
        self.retractions.observe(f64::from(retractions));
        self.prompt_tokens += u64::from(prompt_tokens);
        self.generation_tokens += u64::from(output_tokens);
        self.requests += 1;
    }
}
/// A number as Python prints a float.
pub(super) fn float(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e16 { format!("{value:.1}") } else { value.to_string() }
}
