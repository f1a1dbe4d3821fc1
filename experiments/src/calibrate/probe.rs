//! Measures a live server: cold prompts of several lengths with one token of answer, then answers in batches of several
//! sizes, and single answers behind prompts of each length.
//!
//! The round trip is the least time of a small request over a kept connection.

use gorgo_benchmark::load::client::{Client, Outcome, served_models};
use gorgo_benchmark::load::source::{Api, Output, Source, SourceOptions};
use gorgo_benchmark::load::target::Target;
use gorgo_core::Time;
use gorgo_core::record::Status;
use gorgo_core::request::TraceRequest;
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
    /// (batch, ms a step) of each repetition, behind short prompts.
    pub steps: Vec<Vec<(f64, f64)>>,
    /// (tokens of context, ms a step) of each repetition, one answer at a time.
    pub contexts: Vec<Vec<(f64, f64)>>,
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
            let mut each = Vec::new();
            for outcome in &outcomes {
                answered(outcome, url, 32)?;
                each.extend(step_ms(&outcome.gaps_ms, outcome.counts.output));
            }
            each.sort_by(f64::total_cmp);
            steps.extend(each.get(each.len() / 2).map(|&step| (f64::from(batch), step)));
        }
        let mut contexts = Vec::new();
        for &tokens in &options.lengths {
            let outcome = chat.send(body(tokens, options.output), "probe").await;
            answered(&outcome, url, tokens)?;
            let context = outcome.counts.prompt.map_or(f64::from(tokens), f64::from) + f64::from(options.output) / 2.0;
            contexts.extend(step_ms(&outcome.gaps_ms, outcome.counts.output).map(|step| (context, step)));
        }
        probed.contexts.push(contexts);
        probed.prefills.push(prefills);
        probed.steps.push(steps);
    }
    Ok(probed)
}

/// Mean time of a token in the middle half of an answer, when all answers of the batch run. Servers flush several events at
/// once, so that most gaps are next to nothing, and put several tokens into one event.
fn step_ms(gaps_ms: &[f32], tokens: Option<u32>) -> Option<f64> {
    let n = gaps_ms.len();
    let middle = &gaps_ms[n / 4..n - n / 4];
    if middle.is_empty() {
        return None;
    }
    let mean = middle.iter().copied().map(f64::from).sum::<f64>() / middle.len() as f64;
    let tokens_an_event = tokens.map_or(1.0, |tokens| (f64::from(tokens.max(2)) - 1.0) / n as f64);
    Some(mean / tokens_an_event.max(1.0))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_seen_through_events_that_come_at_once_and_hold_several_tokens() {
        // A token every 10 ms, read by the client four at a time.
        let flushed: Vec<f32> = (0..48).map(|i| if i % 4 == 3 { 39.97 } else { 0.01 }).collect();
        assert!((step_ms(&flushed, Some(49)).unwrap() - 10.0).abs() < 0.01);
        assert!((step_ms(&[20.0; 24], Some(49)).unwrap() - 10.0).abs() < 1e-9, "two tokens an event");
        assert!((step_ms(&[10.0; 24], None).unwrap() - 10.0).abs() < 1e-9, "a server that counts none");
        // The first gaps hold the prefills of the other answers of the batch.
        let late: Vec<f32> = (0..48).map(|i| if i < 8 { 500.0 } else { 10.0 }).collect();
        assert_eq!((step_ms(&late, Some(49)), step_ms(&[], Some(1))), (Some(10.0), None));
    }
}
