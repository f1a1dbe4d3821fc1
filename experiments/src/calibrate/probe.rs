//! Measures a live server: cold prompts of several lengths with one token of answer, then answers in batches of several
//! sizes.
//!
//! ```text
//! TTFT = rtt + overhead + max(floor, fixed + p tokens)        one request at a time, no two with a common prefix
//! step = fixed + weights + row padded(batch)                  median gap between tokens of `batch` answers at once
//! ```
//!
//! The round trip is the least time of a small request over a kept connection. Each repetition gives one fit; an interval
//! is Student's over the repetitions.

use super::Parameter;
use super::least::robust;
use crate::stats::Estimate;
use gorgo_benchmark::load::client::{Client, Outcome, served_models};
use gorgo_benchmark::load::source::{Api, Output, Source, SourceOptions};
use gorgo_benchmark::load::target::Target;
use gorgo_core::Time;
use gorgo_core::record::Status;
use gorgo_core::request::TraceRequest;
use gorgo_sim::engine::EngineConfig;
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is sent.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// The server.
    pub target: Target,
    /// Bearer token.
    pub key: Option<String>,
    /// Prompt lengths, tokens.
    pub lengths: Vec<u32>,
    /// Batch sizes.
    pub batches: Vec<u32>,
    /// Tokens of an answer in the batches.
    pub output: u32,
    /// Repetitions, at least 3.
    pub repeats: u32,
    /// Prompts of two probes with different salts share no prefix.
    pub salt: u64,
    /// Longest wait for one answer.
    pub timeout: Duration,
}

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Probed {
    /// Least round trip, ms.
    pub rtt_ms: f64,
    /// (prompt tokens, TTFT ms) of each repetition.
    pub prefills: Vec<Vec<(f64, f64)>>,
    /// (batch, ms a step) of each repetition.
    pub steps: Vec<Vec<(f64, f64)>>,
}

/// Why a server could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// It cannot be reached.
    #[error("`{url}` cannot be probed: {why}; check that the server is up and ready")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        why: String,
    },
    /// A request failed.
    #[error("a prompt of {tokens} tokens failed at `{url}`: {why}; give shorter --lengths or fewer --batches")]
    Request {
        /// Where.
        url: String,
        /// Its length.
        tokens: u32,
        /// Why.
        why: String,
    },
}

/// Measures the server. It must be idle: other load counts as its own.
///
/// # Errors
/// When it cannot be reached or a request fails.
pub async fn probe(options: &ProbeOptions) -> Result<Probed, ProbeError> {
    let url = &options.target.url;
    let fail = |why: String| ProbeError::Unreachable { url: url.clone(), why };
    let client = |path: &str| {
        Client::new(&options.target, path, options.key.as_deref(), options.timeout, None)
            .map_err(|wrong| fail(wrong.into_text()))
    };
    let (chat, flush) = (client(Api::Completions.path())?, client("/flush_cache")?);
    let mut probed = Probed { rtt_ms: f64::INFINITY, ..Probed::default() };
    let models = served_models(&options.target, options.key.as_deref(), None).await.map_err(fail)?;
    let model = models.first().cloned().unwrap_or_default();
    let mut sent = 0;
    let mut body = |tokens: u32, output: u32| {
        sent += 1;
        let salt = options.salt.wrapping_add(sent);
        let blocks: Vec<u64> =
            (0..u64::from(tokens.div_ceil(16))).map(|i| salt.wrapping_mul(1 << 20).wrapping_add(i)).collect();
        let row = TraceRequest::lone(sent, Time::ZERO, tokens, output, 16, blocks.into());
        let source = SourceOptions { api: Api::Completions, output: Output::Exact, model: model.clone(), salt };
        let targets: Arc<[Target]> = Arc::from([options.target.clone()]);
        Source::new(Arc::from([row]), targets, source).next().map(|prepared| prepared.body).unwrap_or_default()
    };
    // The first requests of a server compile kernels and open the connection.
    for _ in 0..2 {
        let warm = chat.send(body(32, 1), "probe").await;
        answered(&warm, url, 32)?;
    }
    for _ in 0..options.repeats.max(3) {
        for _ in 0..3 {
            let begin = Instant::now();
            // Answers 404 at once where there is no such path: a round trip all the same.
            let _ = flush.send(Default::default(), "probe").await;
            probed.rtt_ms = probed.rtt_ms.min(begin.elapsed().as_secs_f64() * 1e3);
        }
        let mut prefills = Vec::new();
        for &tokens in &options.lengths {
            let outcome = chat.send(body(tokens, 1), "probe").await;
            let first = answered(&outcome, url, tokens)?;
            let counted = outcome.counts.prompt.map_or(f64::from(tokens), f64::from);
            prefills.push((counted, (first - outcome.sent).as_secs_f64() * 1e3));
        }
        let mut steps = Vec::new();
        for &batch in &options.batches {
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..batch {
                let (chat, body) = (chat.clone(), body(32, options.output));
                all.spawn(async move { chat.send(body, "probe").await });
            }
            let outcomes = all.join_all().await;
            let mut gaps = Vec::new();
            for outcome in &outcomes {
                answered(outcome, url, 32)?;
                // The middle of the answers: all of them run.
                let n = outcome.gaps_ms.len();
                gaps.extend(outcome.gaps_ms[n / 4..n - n / 4].iter().map(|&ms| f64::from(ms)));
            }
            gaps.sort_by(f64::total_cmp);
            steps.extend(gaps.get(gaps.len() / 2).map(|&step| (f64::from(batch), step)));
        }
        probed.prefills.push(prefills);
        probed.steps.push(steps);
    }
    Ok(probed)
}

fn answered(outcome: &Outcome, url: &str, tokens: u32) -> Result<Instant, ProbeError> {
    match (outcome.status, outcome.first) {
        (Status::Finished, Some(first)) => Ok(first),
        _ => {
            let why = outcome.error.clone().unwrap_or_else(|| "no token came".to_owned());
            Err(ProbeError::Request { url: url.to_owned(), tokens, why })
        }
    }
}

/// Engine settings from what was measured; `engine` is believed in where nothing was.
pub fn fit_probe(probed: &Probed, engine: &EngineConfig) -> Vec<Parameter> {
    let outside = probed.rtt_ms + engine.receive_ms + engine.output_ms + engine.tokenizer_fixed_ms;
    let prefills: Vec<(f64, f64)> =
        probed.prefills.iter().filter_map(|points| prefill(points, outside, engine)).collect();
    let steps: Vec<(f64, f64)> = probed.steps.iter().filter_map(|points| step(points, engine)).collect();
    let lengths = probed.prefills.iter().flatten().map(|p| p.0);
    let (short, long) = lengths.fold((f64::INFINITY, 0.0f64), |(a, b), v| (a.min(v), b.max(v)));
    let prompts = format!("prompt tokens {short:.0} to {long:.0}");
    let batches = probed.steps.iter().flatten().map(|s| s.0).fold(0.0f64, f64::max);
    let batches = format!("batch 1 to {batches:.0}");
    let of = |key: &str, prior: f64, values: Vec<f64>, visited: &str| {
        let estimate = Estimate::over(values)?;
        let half = estimate.ci95;
        let wide = 1.5 * prior.abs().max(estimate.value.abs()).max(1e-6);
        let identified = estimate.value >= 0.0 && half.is_some_and(|half| 2.0 * half < wide / 2.0);
        let interval = half.map(|half| (estimate.value - half, estimate.value + half));
        let (key, visited) = (key.to_owned(), visited.to_owned());
        Some(Parameter { key, prior: Some(prior), value: estimate.value, interval, visited, identified })
    };
    let fixed = engine.decode.fixed_ms;
    [
        of("prefill.ms_per_token", engine.prefill.ms_per_token, prefills.iter().map(|p| p.0).collect(), &prompts),
        of("prefill.floor_ms", engine.prefill.ms(1, 0.0), prefills.iter().map(|p| p.1).collect(), &prompts),
        of(
            "decode.weights_ms",
            engine.decode.weights_ms,
            steps.iter().map(|s| (s.0 - fixed).max(0.0)).collect(),
            &batches,
        ),
        of("decode.ms_per_row", engine.decode.ms_per_row, steps.iter().map(|s| s.1).collect(), &batches),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Rate and least step of one repetition.
fn prefill(points: &[(f64, f64)], outside: f64, engine: &EngineConfig) -> Option<(f64, f64)> {
    let least = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let floor = (least - outside).max(0.1);
    // Longer prompts than those that take the least step: twice its time at least.
    let long: Vec<_> = points
        .iter()
        .filter(|p| p.1 - outside > 2.0 * floor)
        .map(|&(tokens, ms)| {
            let attention = engine.prefill.ms_per_pair * tokens * tokens / 2.0;
            let known = outside + engine.prefill.fixed_ms + attention + engine.tokenizer_ms_per_token * tokens;
            (tokens, ms - known)
        })
        .collect();
    let (sum, weight) = long.iter().fold((0.0, 0.0), |(sum, weight), (n, ms)| (sum + ms, weight + n));
    (weight > 0.0).then(|| (sum / weight, floor))
}

/// Constant part of a decode step and what a request adds, of one repetition.
fn step(points: &[(f64, f64)], engine: &EngineConfig) -> Option<(f64, f64)> {
    let graphs = &engine.decode;
    let rows: Vec<_> = points
        .iter()
        .filter(|(batch, _)| *batch <= f64::from(graphs.cuda_graph_max_bs))
        .map(|&(batch, ms)| (vec![1.0, f64::from(graphs.padded(batch as u32))], ms, 1.0))
        .collect();
    let found = robust(&rows)?;
    Some((found[0], found[1].max(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measured_server_gives_the_settings_it_runs_with() {
        let truth = {
            let mut engine = EngineConfig::default();
            (engine.prefill.ms_per_token, engine.prefill.floor_ms) = (0.12, 30.0);
            (engine.decode.weights_ms, engine.decode.ms_per_row, engine.decode.row_compute_ms) = (14.0, 0.5, 0.0);
            engine
        };
        let outside = 20.0 + truth.receive_ms + truth.output_ms + truth.tokenizer_fixed_ms;
        let repeat = |noise: f64| {
            let prefill = |tokens: u32| {
                let step = truth.prefill.ms(u64::from(tokens), f64::from(tokens).powi(2) / 2.0);
                (f64::from(tokens), outside + step + truth.tokenizer_ms_per_token * f64::from(tokens) + noise)
            };
            let steps = [1, 2, 4, 8, 16].map(|batch| (f64::from(batch), truth.decode.ms(batch, 0) + noise * 0.1));
            ([16, 512, 2048, 4096].map(prefill).to_vec(), steps.to_vec())
        };
        let (prefills, steps) = [0.0, 0.4, -0.3, 0.2].map(repeat).into_iter().unzip();
        let found = fit_probe(&Probed { rtt_ms: 20.0, prefills, steps }, &EngineConfig::default());
        let of = |key: &str| found.iter().find(|p| p.key == key).unwrap();
        for (key, truth, off) in [
            ("prefill.ms_per_token", 0.12, 0.05),
            ("prefill.floor_ms", 30.0, 0.05),
            ("decode.weights_ms", 14.0, 0.02),
            ("decode.ms_per_row", 0.5, 0.02),
        ] {
            let p = of(key);
            assert!((p.value / truth - 1.0).abs() < off && p.identified, "{truth}: {p:?}");
        }
    }

    #[test]
    fn too_few_points_give_no_setting() {
        let probed = Probed { rtt_ms: 1.0, prefills: vec![vec![(16.0, 9.0)]; 3], steps: vec![Vec::new(); 3] };
        assert!(fit_probe(&probed, &EngineConfig::default()).is_empty());
    }
}
