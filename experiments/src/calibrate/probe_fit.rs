//! Engine settings from what a probe measured.
//!
//! ```text
//! TTFT = rtt + receive + max(floor, fixed + hypot(weights, p tokens))   one request at a time, no two with a common prefix
//! step = fixed + weights + row padded(batch)                            time of a token of `batch` answers at once
//! ```
//!
//! One reading of the weights takes the same time in both, so `weights` comes from the steps. What a short prompt takes
//! beyond that is the floor of SGLang's prefill, which launches steps of its own; vLLM prefills in the steps of decodes,
//! so there it is `receive`.
//!
//! Each repetition gives one fit; an interval is Student's over the repetitions.

use super::Parameter;
use super::least::robust;
use super::probe::Probed;
use crate::stats::Estimate;
use gorgo_sim::engine::{EngineConfig, EngineKind, PrefillTimes};

/// Engine settings from what was measured; `engine` is believed in where nothing was.
pub fn fit_probe(probed: &Probed, engine: &EngineConfig) -> Vec<Parameter> {
    let fixed = engine.decode.fixed_ms;
    let steps: Vec<(f64, f64)> = probed.steps.iter().filter_map(|points| step(points, engine)).collect();
    let weights: Vec<f64> = steps.iter().map(|s| (s.0 - fixed).max(0.0)).collect();
    let reading = Estimate::over(weights.clone()).map_or(engine.prefill.weights_ms, |estimate| estimate.value);
    let seen = PrefillTimes { weights_ms: reading, floor_ms: 0.0, ..engine.prefill };
    let outside = probed.rtt_ms + engine.output_ms + engine.tokenizer_fixed_ms;
    let vllm = engine.kind == EngineKind::Vllm;
    let prefills = probed.prefills.iter();
    let prefills: Vec<(f64, f64)> = if vllm {
        prefills.filter_map(|points| rate_and_rest(points, engine, &seen)).map(|(p, a)| (p, a - outside)).collect()
    } else {
        prefills.filter_map(|points| rate_and_floor(points, outside + engine.receive_ms, engine)).collect()
    };
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
    let rest: Vec<f64> = prefills.iter().map(|p| p.1).collect();
    let rest = match vllm {
        true => of("receive_ms", engine.receive_ms, rest, &prompts),
        false => of("prefill.floor_ms", engine.prefill.ms(1, 0.0), rest, &prompts),
    };
    [
        rest,
        of("prefill.ms_per_token", engine.prefill.ms_per_token, prefills.iter().map(|p| p.0).collect(), &prompts),
        of("prefill.weights_ms", engine.prefill.weights_ms, weights.clone(), &batches),
        of("decode.weights_ms", engine.decode.weights_ms, weights, &batches),
        of("decode.ms_per_row", engine.decode.ms_per_row, steps.iter().map(|s| s.1).collect(), &batches),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Rate and least step of one repetition.
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

/// Rate of one repetition, and what each request takes besides: the rate with the least sum of absolute errors around
/// their median, by golden section.
fn rate_and_rest(points: &[(f64, f64)], engine: &EngineConfig, seen: &PrefillTimes) -> Option<(f64, f64)> {
    let (short, long) = points.iter().fold((f64::INFINITY, 0.0f64), |(a, b), p| (a.min(p.0), b.max(p.0)));
    if points.len() < 3 || long < 2.0 * short {
        return None;
    }
    let fit = |ms_per_token: f64| {
        let times = PrefillTimes { ms_per_token, ..*seen };
        let mut rests: Vec<f64> = points
            .iter()
            .map(|&(tokens, ms)| {
                let step = times.ms(tokens as u64, tokens * tokens / 2.0);
                ms - step - engine.tokenizer_ms_per_token * tokens
            })
            .collect();
        rests.sort_by(f64::total_cmp);
        let median = rests[rests.len() / 2];
        (rests.iter().map(|rest| (rest - median).abs()).sum::<f64>(), median)
    };
    let most = points.iter().map(|p| p.1 / p.0.max(1.0)).fold(0.0, f64::max);
    let (mut low, mut high) = (0.0, most);
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    for _ in 0..80 {
        let width = golden * (high - low);
        let (left, right) = (high - width, low + width);
        if fit(left).0 < fit(right).0 {
            high = right;
        } else {
            low = left;
        }
    }
    let rate = f64::midpoint(low, high);
    Some((rate, fit(rate).1))
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

    /// A fast vLLM, fitted from a preset whose weights alone take longer than its prefill of a short prompt.
    #[test]
    fn an_engine_faster_than_the_preset_is_measured_as_it_is() {
        let preset = EngineConfig::preset("vllm-llama-3.1-8b-rtx4090").unwrap();
        let truth = {
            let mut engine = preset.clone();
            (engine.prefill.weights_ms, engine.prefill.ms_per_token, engine.receive_ms) = (4.0, 0.02, 9.0);
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
        let (prefills, steps) = [0.0, 0.4, -0.3, 0.2].map(repeat).into_iter().unzip();
        let found = fit_probe(&Probed { rtt_ms: 0.5, prefills, steps }, &preset);
        let of = |key: &str| found.iter().find(|p| p.key == key).unwrap().value;
        let mut fitted = preset;
        (fitted.prefill.weights_ms, fitted.prefill.ms_per_token) =
            (of("prefill.weights_ms"), of("prefill.ms_per_token"));
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

    #[test]
    fn too_few_points_give_no_setting() {
        let probed = Probed { rtt_ms: 1.0, prefills: vec![vec![(16.0, 9.0)]; 3], steps: vec![Vec::new(); 3] };
        assert!(fit_probe(&probed, &EngineConfig::default()).is_empty());
    }
}
