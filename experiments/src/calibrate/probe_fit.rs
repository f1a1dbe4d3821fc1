//! Fits engine settings to the measurements of a probe.
//!
//! ```text
//! TTFT = rtt + receive + max(floor, fixed + hypot(weights, p tokens))   one request at a time, no two with a common prefix
//! step = fixed + weights + row padded(batch) + context                  time of a token of `batch` answers at once
//! ```
//!
//! One reading of the weights takes the same time in both, so `weights` comes from the steps. What a short prompt takes
//! beyond that is the floor of SGLang's prefill, which launches steps of its own; vLLM prefills in the steps of decodes,
//! so there it is `receive`. What a token of context adds is the slope of single answers behind prompts of all lengths.
//!
//! A fit is that of the medians over the repetitions, its interval that of repetitions drawn again.

use super::Parameter;
use super::least::robust;
use super::probe::Probed;
use crate::stats::blocks::central;
use gorgo_core::rng;
use gorgo_sim::engine::{EngineConfig, EngineKind, PrefillTimes};
use rand::RngExt;

/// Samples of the repetitions, drawn with replacement, that an interval is taken from.
const REPLICATES: usize = 200;

/// What a decode step takes for a token of context.
const CONTEXT: &str = "decode.ms_per_context_token";

/// Engine settings from what was measured; `engine` is believed in where nothing was.
pub fn fit_probe(probed: &Probed, engine: &EngineConfig) -> Vec<Parameter> {
    let lengths = probed.prefills.iter().flatten().map(|p| p.0);
    let (short, long) = lengths.fold((f64::INFINITY, 0.0f64), |(a, b), v| (a.min(v), b.max(v)));
    let batches = probed.steps.iter().flatten().map(|s| s.0).fold(0.0f64, f64::max);
    let runs = probed.prefills.len().max(probed.steps.len());
    let mut draw = rng::stream(0, "probe", 0);
    let replicates: Vec<Vec<Fitted>> = (0..REPLICATES)
        .map(|_| {
            let drawn: Vec<usize> = (0..runs).map(|_| draw.random_range(0..runs)).collect();
            fit(probed, &drawn, engine)
        })
        .collect();
    let parameter = |fitted: Fitted| {
        let same =
            |replicate: &Vec<Fitted>| replicate.iter().find(|other| other.key == fitted.key).and_then(|f| f.value);
        let values: Vec<f64> = replicates.iter().filter_map(same).collect();
        let interval = (fitted.value.is_some() && values.len() > REPLICATES / 2).then(|| central(values)).flatten();
        // What these measurements do not tell keeps the value from before.
        let value = fitted.value.unwrap_or(fitted.prior);
        let wide = 1.5 * fitted.prior.abs().max(value.abs()).max(1e-6);
        let narrow = interval.is_some_and(|(low, high)| high - low < wide / 2.0);
        let is_batch =
            fitted.key != CONTEXT && (fitted.key.starts_with("decode") || fitted.key.ends_with("weights_ms"));
        let visited = match is_batch {
            true => format!("batch 1 to {batches:.0}"),
            false => format!("prompt tokens {short:.0} to {long:.0}"),
        };
        let (key, prior) = (fitted.key.to_owned(), Some(fitted.prior));
        Parameter { key, prior, value, interval, visited, identified: value >= 0.0 && narrow }
    };
    fit(probed, &(0..runs).collect::<Vec<_>>(), engine).into_iter().map(parameter).collect()
}

/// One setting.
struct Fitted {
    key: &'static str,
    prior: f64,
    /// `None`: these measurements do not tell it.
    value: Option<f64>,
}

/// The settings by the median of each length and each batch over these repetitions.
fn fit(probed: &Probed, runs: &[usize], engine: &EngineConfig) -> Vec<Fitted> {
    let fixed = engine.decode.fixed_ms;
    let steps = step(&medians(&probed.steps, runs), engine);
    let weights = steps.map(|(constant, _)| (constant - fixed).max(0.0));
    let reading = weights.unwrap_or(engine.prefill.weights_ms);
    let seen = PrefillTimes { weights_ms: reading, floor_ms: 0.0, ..engine.prefill };
    let outside = probed.rtt_ms + engine.output_ms + engine.tokenizer_fixed_ms;
    let points = medians(&probed.prefills, runs);
    let mut found = Vec::new();
    let mut add = |key, prior, value: Option<f64>| found.push(Fitted { key, prior, value });
    if engine.kind == EngineKind::Vllm {
        let all = rate_pairs_and_rest(&points, engine, &seen);
        add("receive_ms", engine.receive_ms, all.map(|all| all[2] - outside));
        add("prefill.ms_per_token", engine.prefill.ms_per_token, all.map(|all| all[0]));
        add("prefill.ms_per_pair", engine.prefill.ms_per_pair, all.map(|all| all[1]));
    } else {
        let both = rate_and_floor(&points, outside + engine.receive_ms, engine);
        add("prefill.floor_ms", engine.prefill.ms(1, 0.0), both.map(|both| both.1));
        add("prefill.ms_per_token", engine.prefill.ms_per_token, both.map(|both| both.0));
    }
    add("prefill.weights_ms", engine.prefill.weights_ms, weights);
    add("decode.weights_ms", engine.decode.weights_ms, weights);
    add("decode.ms_per_row", engine.decode.ms_per_row, steps.map(|(_, row)| row));
    let context = context(&medians(&probed.contexts, runs));
    add(CONTEXT, engine.decode.ms_per_context_token, context);
    found
}

/// The medians over these repetitions, point by point. What else the machine does only adds, and seldom to most of them.
fn medians(repetitions: &[Vec<(f64, f64)>], runs: &[usize]) -> Vec<(f64, f64)> {
    let drawn: Vec<_> = runs.iter().filter_map(|&run| repetitions.get(run)).collect();
    let points = drawn.iter().map(|points| points.len()).min().unwrap_or_default();
    let median = |i: usize| {
        let mut values: Vec<(f64, f64)> = drawn.iter().map(|points| points[i]).collect();
        values.sort_by(|a, b| a.1.total_cmp(&b.1));
        let middle = values.len() / 2;
        let ms = if values.len() % 2 == 1 {
            values[middle].1
        } else {
            f64::midpoint(values[middle - 1].1, values[middle].1)
        };
        (values[middle].0, ms)
    };
    (0..points).map(median).collect()
}

/// Rate and least step.
fn rate_and_floor(points: &[(f64, f64)], outside: f64, engine: &EngineConfig) -> Option<(f64, f64)> {
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

/// Rate, cost of a pair and what each request takes besides. Errors count in proportion to the time.
fn rate_pairs_and_rest(points: &[(f64, f64)], engine: &EngineConfig, seen: &PrefillTimes) -> Option<[f64; 3]> {
    let (short, long) = points.iter().fold((f64::INFINITY, 0.0f64), |(a, b), p| (a.min(p.0), b.max(p.0)));
    if points.len() < 4 || long < 2.0 * short {
        return None;
    }
    let chunk = f64::from(engine.max_num_batched_tokens.max(1));
    let fit = |known: Option<f64>| {
        let mut rate = points.iter().map(|p| p.1 / p.0.max(1.0)).fold(f64::INFINITY, f64::min).max(1e-9);
        let mut found = None;
        // The reading of the weights bends the line, which the rate before tells well enough to fit the next one.
        for _ in 0..8 {
            let rows: Vec<_> = points
                .iter()
                .map(|&(tokens, ms)| {
                    let (whole, rest) = ((tokens / chunk).floor(), tokens % chunk);
                    let bent = |tokens: f64| seen.weights_ms.hypot(rate * tokens);
                    let steps = whole + f64::from(u8::from(rest > 0.0));
                    let linear = whole * bent(chunk) + if rest > 0.0 { bent(rest) } else { 0.0 };
                    let pairs = tokens * tokens / 2.0;
                    let outside = steps * seen.fixed_ms
                        + engine.tokenizer_ms_per_token * tokens
                        + known.map_or(0.0, |cost| cost * pairs);
                    let mut row = vec![1.0, linear / rate];
                    row.extend(known.is_none().then_some(pairs));
                    (row, ms - outside, 1.0 / (ms * ms).max(1e-9))
                })
                .collect();
            let solved = robust(&rows)?;
            rate = solved[1].max(1e-9);
            found = Some([rate, known.unwrap_or_else(|| solved[2]), solved[0]]);
        }
        found
    };
    // An attention that costs less than nothing is one that these lengths do not show.
    fit(None).filter(|found| found[1] >= 0.0).or_else(|| fit(Some(seen.ms_per_pair)))
}

/// Constant part of a decode step and what a request adds.
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

/// What a decode step takes for each token of context. Below 0 it is noise: contexts of these lengths take no time that
/// shows.
fn context(points: &[(f64, f64)]) -> Option<f64> {
    let (short, long) = points.iter().fold((f64::INFINITY, 0.0f64), |(a, b), p| (a.min(p.0), b.max(p.0)));
    if long < 2.0 * short {
        return None;
    }
    let rows: Vec<_> = points.iter().map(|&(tokens, ms)| (vec![1.0, tokens], ms, 1.0)).collect();
    Some(robust(&rows)?[1].max(0.0))
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
            engine.decode.ms_per_context_token = 0.002;
            engine
        };
        let outside = 20.0 + truth.receive_ms + truth.output_ms + truth.tokenizer_fixed_ms;
        let repeat = |noise: f64| {
            let prefill = |tokens: u32| {
                let step = truth.prefill.ms(u64::from(tokens), f64::from(tokens).powi(2) / 2.0);
                (f64::from(tokens), outside + step + truth.tokenizer_ms_per_token * f64::from(tokens) + noise)
            };
            let steps = [1, 2, 4, 8, 16].map(|batch| (f64::from(batch), truth.decode.ms(batch, 0) + noise * 0.1));
            let context = |tokens: u32| (f64::from(tokens), truth.decode.ms(1, tokens.into()) + noise * 0.1);
            let lengths = [16, 512, 2048, 4096];
            (lengths.map(prefill).to_vec(), (steps.to_vec(), lengths.map(context).to_vec()))
        };
        let (prefills, (steps, contexts)) = [0.0, 0.4, -0.3, 0.2].map(repeat).into_iter().unzip();
        let found = fit_probe(&Probed { rtt_ms: 20.0, prefills, steps, contexts }, &EngineConfig::default());
        let of = |key: &str| found.iter().find(|p| p.key == key).unwrap();
        for (key, truth, off) in [
            ("prefill.ms_per_token", 0.12, 0.05),
            ("prefill.floor_ms", 30.0, 0.05),
            ("decode.weights_ms", 14.0, 0.02),
            ("decode.ms_per_row", 0.5, 0.02),
            ("decode.ms_per_context_token", 0.002, 0.02),
        ] {
            let p = of(key);
            assert!((p.value / truth - 1.0).abs() < off && p.identified, "{truth}: {p:?}");
        }
    }

    /// A fast vLLM, fitted from a preset whose weights alone take longer than its prefill of a short prompt.
    #[test]
    fn an_engine_faster_than_the_preset_is_measured_as_it_is() {
        let preset =
            EngineConfig { max_num_batched_tokens: 8192, ..EngineConfig::preset("vllm-llama-3.1-8b-rtx4090").unwrap() };
        let truth = {
            let mut engine = preset.clone();
            (engine.prefill.weights_ms, engine.prefill.ms_per_token, engine.receive_ms) = (4.0, 0.02, 9.0);
            engine.prefill.ms_per_pair = 2e-5;
            (engine.decode.weights_ms, engine.decode.ms_per_row) = (4.0, 0.3);
            engine
        };
        let repeat = |noise: f64| {
            let prefill = |tokens: u32| {
                let step = truth.prefill.ms(u64::from(tokens), f64::from(tokens).powi(2) / 2.0);
                (f64::from(tokens), 0.5 + truth.receive_ms + step + noise)
            };
            let steps = [1, 2, 4, 8].map(|batch| (f64::from(batch), truth.decode.ms(batch, 0) + noise * 0.1));
            ([16, 128, 512, 1024, 2048, 3500].map(prefill).to_vec(), steps.to_vec())
        };
        let (mut prefills, mut steps): (Vec<_>, Vec<_>) = [0.0, 0.4, -0.3, 0.2, 0.1].map(repeat).into_iter().unzip();
        // Two repetitions met something else on the machine.
        prefills[1].iter_mut().for_each(|point| point.1 *= 2.0);
        steps[3].iter_mut().for_each(|point| point.1 *= 3.0);
        let found = fit_probe(&Probed { rtt_ms: 0.5, prefills, steps, contexts: Vec::new() }, &preset);
        let of = |key: &str| found.iter().find(|p| p.key == key).unwrap().value;
        let mut fitted = preset;
        (fitted.prefill.weights_ms, fitted.prefill.ms_per_token) =
            (of("prefill.weights_ms"), of("prefill.ms_per_token"));
        fitted.prefill.ms_per_pair = of("prefill.ms_per_pair");
        let (receive, decode) = (of("receive_ms"), of("decode.weights_ms"));
        for tokens in [16, 300, 3000] {
            let first = |engine: &EngineConfig, receive: f64| {
                receive + engine.prefill.ms(tokens, (tokens as f64).powi(2) / 2.0)
            };
            let (found, truth) = (first(&fitted, receive), first(&truth, 9.0));
            assert!((found / truth - 1.0).abs() < 0.03, "{tokens} tokens: {found} ms, true {truth} ms");
        }
        assert!((decode / 4.0 - 1.0).abs() < 0.02 && (receive / 9.0 - 1.0).abs() < 0.05, "{decode} {receive}");
    }

    /// A busy server, whose shortest prompt took as long as its longest, tells no rate; the table says so in a row.
    #[test]
    fn a_setting_that_the_measurements_do_not_tell_is_not_identified() {
        let probed = Probed { rtt_ms: 1.0, prefills: vec![vec![(16.0, 90.0), (4096.0, 95.0)]; 3], ..Probed::default() };
        for kind in [EngineKind::Sglang, EngineKind::Vllm] {
            let engine = EngineConfig { kind, ..EngineConfig::default() };
            let found = fit_probe(&probed, &engine);
            let rate = found.iter().find(|p| p.key == "prefill.ms_per_token").unwrap();
            assert!(
                rate.value == engine.prefill.ms_per_token && !rate.identified && rate.interval.is_none(),
                "{rate:?}"
            );
            assert!(
                found.iter().any(|p| p.key == "decode.weights_ms") && found.iter().all(|p| !p.identified),
                "{found:?}"
            );
        }
    }
}
