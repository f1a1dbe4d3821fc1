//! Engine presets: model and GPU, with the sources of their step times.
//!
//! Two independent sets of coefficients exist for the dense 7-8B models. The plain names take linear layers from
//! Vidur's per-layer profiles and attention and bandwidth from single-GPU end-to-end results (AccelMark); the names
//! with `-op` are fitted to the operator tables of NVIDIA's AIConfigurator 0.12 (Llama-3.1-8B, the same body as
//! Mistral-7B, vLLM, bf16). They differ by more than 15 % in the decode floor of A100 (10.2 and 12.3 ms), the context
//! cost of H100 (5.2e-5 and 4.1e-5 ms a token) and the prefill of L40S (0.134 and 0.071 ms a token), so both are kept:
//! a result that holds under one only is not a result.

use super::config::{ConfigError, EngineConfig, EngineKind};
use super::steps::{DecodeTimes, PrefillTimes};
use gorgo_core::settings::current_preset_name;
use gorgo_core::suggest::did_you_mean;

type Preset = (&'static str, fn() -> EngineConfig);

/// All presets, in the order of the documentation.
const PRESETS: [Preset; 14] = [
    ("mistral-7b-a100-80", mistral_7b_a100_80),
    ("mistral-7b-a100-40", mistral_7b_a100_40),
    ("mistral-7b-h100", mistral_7b_h100),
    ("mistral-7b-l40s", mistral_7b_l40s),
    ("mistral-7b-a100-80-op", mistral_7b_a100_80_op),
    ("mistral-7b-h100-op", mistral_7b_h100_op),
    ("mistral-7b-l40s-op", mistral_7b_l40s_op),
    ("gotoni", gotoni),
    ("l40s-2-qwen3.5", l40s_2_qwen35),
    ("h100-qwen3.5", h100_qwen35),
    ("l40s-2-qwen3.5-recorded", l40s_2_qwen35_recorded),
    ("h100-qwen3.5-recorded", h100_qwen35_recorded),
    ("vllm-llama-3.1-8b-rtx4090", vllm_rtx4090),
    ("vllm-llama-3.1-8b-rtxpro6000", vllm_rtxpro6000),
];

impl EngineConfig {
    /// The model that the preset called `name` was measured or computed with, as its repository is called.
    pub fn preset_model(name: &str) -> &'static str {
        match current_preset_name(name) {
            name if name.contains("llama-3.1-8b") => "meta-llama/Llama-3.1-8B-Instruct",
            name if name.contains("qwen3.5") => "Qwen/Qwen3.5-35B",
            _ => "mistralai/Mistral-7B-Instruct-v0.3",
        }
    }

    /// The preset called `name`.
    ///
    /// # Errors
    /// The name is not known; the error names the nearest one and all.
    pub fn preset(name: &str) -> Result<Self, ConfigError> {
        if let Some((_, make)) = PRESETS.iter().find(|(known, _)| *known == current_preset_name(name)) {
            return Ok(make());
        }
        Err(ConfigError::UnknownPreset {
            name: name.to_owned(),
            hint: did_you_mean(name, PRESETS.iter().map(|&(name, _)| name)),
        })
    }

    /// The names [`Self::preset`] knows.
    pub fn preset_names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|&(name, _)| name)
    }
}

/// One A100 with 80 GB. Weights at 70 % of 2.04 TB/s, GEMM at 67 % of 312 TFLOPS, attention 215 TFLOPS, KV at 80 % of
/// bandwidth; the pool is 83 % of the card less the weights at 128 KiB a token.
pub(super) fn mistral_7b_a100_80() -> EngineConfig {
    EngineConfig {
        kind: EngineKind::Sglang,
        prefill: PrefillTimes {
            fixed_ms: 1.5,
            weights_ms: 9.96,
            ms_per_token: 0.0671,
            ms_per_pair: 2.44e-6,
            floor_ms: 0.0,
        },
        decode: DecodeTimes {
            fixed_ms: 0.2,
            weights_ms: 9.96,
            row_compute_ms: 0.0671,
            ms_per_row: 0.0,
            ms_per_context_token: 8.0e-5,
            eager_ms: 25.0, // no direct measurement; 36-41 ms were seen under load on a 40 GB card
            cuda_graph_max_bs: 256,
        },
        step_noise: 0.01,
        kv_tokens: 428_000,
        context_len: 32_768,
        chunked_prefill_size: 8192,
        max_prefill_tokens: 16_384,
        max_num_batched_tokens: 8192,
        reserve_full_prompt: true,
        max_running_requests: 4096,
        max_queued_requests: None,
        schedule_conservativeness: 1.0,
        init_new_token_ratio: 0.7,
        min_new_token_ratio_factor: 0.14,
        new_token_ratio_decay_steps: 600,
        overlap: true,
        radix_cache: true,
        resume_tokens: 1,
        tokenizer_fixed_ms: 0.5,
        tokenizer_ms_per_token: 0.003,
        receive_ms: 3.0,
        output_ms: 0.75,
        decode_log_interval: 40,
        idle_publish_s: 30.0,
        cold_start_s: 60.0,
        cold_start_sigma: 0.2,
        first_step_extra_ms: 1000.0,
        warm_up_s: 0.0,
        warm_up_extra_ms: 0.0,
        cold_at_start: false,
        stream_tokens: false,
    }
}

/// One A100 with 40 GB: less bandwidth (1.555 TB/s), half the chunk, and graphs captured up to 32 requests only.
fn mistral_7b_a100_40() -> EngineConfig {
    let mut config = mistral_7b_a100_80();
    config.prefill.weights_ms = 12.0;
    (config.decode.weights_ms, config.decode.ms_per_context_token) = (12.0, 9.7e-5);
    small_card(config, 154_000, 2406)
}

/// One H100 SXM. Its context cost assumes 75 % of bandwidth; the one published point (an old vLLM) is 2.8 times higher.
fn mistral_7b_h100() -> EngineConfig {
    let mut config = mistral_7b_a100_80();
    config.prefill =
        PrefillTimes { fixed_ms: 1.5, weights_ms: 6.06, ms_per_token: 0.0221, ms_per_pair: 1.07e-6, floor_ms: 0.0 };
    (config.decode.weights_ms, config.decode.row_compute_ms) = (6.06, 0.0221);
    config.decode.ms_per_context_token = 5.2e-5;
    EngineConfig { kv_tokens: 426_000, ..config }
}

/// One L40S, from an RTX 6000 Ada (same chip): the split of linear layers and attention is uncertain by 15 %.
fn mistral_7b_l40s() -> EngineConfig {
    let mut config = mistral_7b_a100_80();
    config.prefill =
        PrefillTimes { fixed_ms: 1.5, weights_ms: 20.3, ms_per_token: 0.128, ms_per_pair: 5.2e-6, floor_ms: 0.0 };
    (config.decode.weights_ms, config.decode.row_compute_ms) = (20.3, 0.128);
    config.decode.ms_per_context_token = 1.9e-4;
    small_card(config, 195_000, 3046)
}

fn small_card(mut config: EngineConfig, kv_tokens: u32, max_running_requests: u32) -> EngineConfig {
    config.decode.cuda_graph_max_bs = 32;
    EngineConfig { kv_tokens, max_running_requests, chunked_prefill_size: 4096, ..config }
}

/// A100 by operator tables. Prefill refitted to the formula here: within 1 % of 36.0, 125.2, 557 and 1315 ms at 512,
/// 2048, 8192 and 16,384 tokens.
fn mistral_7b_a100_80_op() -> EngineConfig {
    let prefill =
        PrefillTimes { fixed_ms: 5.0, weights_ms: 12.257, ms_per_token: 0.0554, ms_per_pair: 2.92e-6, floor_ms: 0.0 };
    operator(&mistral_7b_a100_80(), prefill, 0.00711, 8.589e-5)
}

/// H100 by operator tables: within 3 % of 12.0, 43.5, 199.7 and 440 ms.
fn mistral_7b_h100_op() -> EngineConfig {
    let prefill =
        PrefillTimes { fixed_ms: 0.0, weights_ms: 6.399, ms_per_token: 0.020_18, ms_per_pair: 8.88e-7, floor_ms: 0.0 };
    operator(&mistral_7b_h100(), prefill, 0.010_84, 4.089e-5)
}

/// L40S by operator tables: within 9 % of 38.3, 144.9, 700 and 1615 ms.
fn mistral_7b_l40s_op() -> EngineConfig {
    let prefill = PrefillTimes {
        fixed_ms: 2.5,
        weights_ms: 22.963,
        ms_per_token: 0.060_14,
        ms_per_pair: 4.356e-6,
        floor_ms: 0.0,
    };
    operator(&mistral_7b_l40s(), prefill, 0.041_36, 1.817e-4)
}

fn operator(config: &EngineConfig, prefill: PrefillTimes, ms_per_row: f64, ms_per_context_token: f64) -> EngineConfig {
    let weights_ms = prefill.weights_ms;
    let decode = DecodeTimes {
        fixed_ms: 0.0,
        weights_ms,
        row_compute_ms: 0.0,
        ms_per_row,
        ms_per_context_token,
        ..config.decode
    };
    EngineConfig { prefill, decode, ..config.clone() }
}

/// gotoni's own constant, 0.094 ms a prompt token whatever the batch ("cold-start prefill rate on 8xA100 with
/// Mistral-7B"), with its limit of 10 running requests. It is not physics (a real A100 needs 0.07); for reproduction.
fn gotoni() -> EngineConfig {
    let mut config = mistral_7b_a100_80();
    config.prefill =
        PrefillTimes { fixed_ms: 0.0, weights_ms: 0.0, ms_per_token: 0.094, ms_per_pair: 0.0, floor_ms: 0.0 };
    config.decode =
        DecodeTimes { fixed_ms: 0.0, weights_ms: 10.2, row_compute_ms: 0.0, ms_per_row: 0.025, ..config.decode };
    EngineConfig { max_running_requests: 10, ..config }
}

/// Two L40S under Qwen3.5-35B-A3B-FP8, as GORGO's fleet recorded them: 0.056-0.063 ms an uncached token over 8 ms,
/// decode steps of 7.2, 8.9, 12.1, 15.4 and 20.4 ms at 1, 2.5, 5, 9 and 15 requests, graphs captured up to 20.
/// Above 20 the recorded steps (95-150 ms) include interleaved prefills; 75 ms is what the same model takes there on an
/// H100 with little prefill, launch-bound and so much the same. The model keeps recurrent state besides KV, which
/// limits running requests to 75 and, unmodelled here, what the cache can hold.
fn l40s_2_qwen35() -> EngineConfig {
    let config = mistral_7b_a100_80();
    EngineConfig {
        prefill: PrefillTimes {
            fixed_ms: 2.0,
            weights_ms: 6.0,
            ms_per_token: 0.057,
            ms_per_pair: 1.0e-7,
            floor_ms: 0.0,
        },
        decode: DecodeTimes {
            fixed_ms: 0.5,
            weights_ms: 5.7,
            row_compute_ms: 0.0,
            ms_per_row: 0.95,
            ms_per_context_token: 1.0e-5,
            eager_ms: 75.0,
            cuda_graph_max_bs: 20,
        },
        kv_tokens: 983_549,
        chunked_prefill_size: 4096,
        max_running_requests: 75,
        decode_log_interval: 100,
        ..config
    }
}

/// One H100 under the same model: 0.04 ms an uncached token when idle, decode 5.2 ms at 1 and 9-11 ms at 8 to 20
/// requests, 69-90 ms above.
fn h100_qwen35() -> EngineConfig {
    let mut config = l40s_2_qwen35();
    config.prefill =
        PrefillTimes { fixed_ms: 1.5, weights_ms: 4.5, ms_per_token: 0.038, ms_per_pair: 6.0e-8, floor_ms: 0.0 };
    (config.decode.weights_ms, config.decode.ms_per_row, config.decode.ms_per_context_token) = (4.4, 0.3, 5.0e-6);
    EngineConfig { kv_tokens: 788_766, chunked_prefill_size: 8192, ..config }
}

/// `l40s-2-qwen3.5` with what GORGO's recorded fleet shows beside the medians it was made from: each prefill step takes
/// at least 65 ms (16,239 answers: a decode step is 7.5 ms and 0.85 for each further request, and each tiny prompt that
/// arrives stops it for 63 to 68), and a cold engine compiles kernels for about 15 s (read off the first answers of one
/// run, not fitted; it shows only with `cold_at_start`). Not measured: where the hybrid model resumes a cached prefix
/// (`resume_tokens` 4,096 fits the records together but not each of them), and how many recurrent states it keeps.
fn l40s_2_qwen35_recorded() -> EngineConfig {
    let mut config = l40s_2_qwen35();
    config.prefill.floor_ms = 65.0;
    (config.decode.weights_ms, config.decode.ms_per_row) = (6.15, 0.85);
    EngineConfig { first_step_extra_ms: 800.0, warm_up_s: 15.0, warm_up_extra_ms: 500.0, ..config }
}

/// `h100-qwen3.5` with the prefill floor of the recorded single-replica runs (105 to 109 ms). Its other numbers are those
/// of that preset; cold start and resume points were not measured there.
fn h100_qwen35_recorded() -> EngineConfig {
    let mut config = h100_qwen35();
    config.prefill.floor_ms = 107.0;
    config
}

/// vLLM 0.19 with Llama-3.1-8B (bf16) on one RTX 4090, from a recorded run of 300 ShareGPT prompts in deep overload. Pool
/// (2,588 blocks) and limits are the recorded engine's own; the step times were fitted on its first 150 requests, by
/// coordinate search over seven numbers on the errors of TTFT, TPOT and E2E. They agree with the card: 160 TFLOPS of
/// prefill, 97 % of bandwidth for weights and 82 % for KV. Not measured: HTTP, tokenizer and detokenizer (0.5 ms in
/// all), cold start, prefix reuse.
fn vllm_rtx4090() -> EngineConfig {
    let prefill =
        PrefillTimes { fixed_ms: 1.99, weights_ms: 16.6, ms_per_token: 0.1007, ms_per_pair: 1.89e-6, floor_ms: 0.0 };
    vllm_llama(prefill, 0.45, 0.0308, 1.594e-4, 41_408, 256)
}

/// The same on one RTX PRO 6000, whose limit of 128 requests binds before its KV; fitted likewise on the first half of
/// its run. The recorded pool is not known; 530,000 tokens are 90 % of the card less the weights.
fn vllm_rtxpro6000() -> EngineConfig {
    let prefill =
        PrefillTimes { fixed_ms: 1.10, weights_ms: 9.866, ms_per_token: 0.045_88, ms_per_pair: 1.31e-6, floor_ms: 0.0 };
    vllm_llama(prefill, 0.95, 0.0362, 9.084e-5, 530_000, 128)
}

/// vLLM's defaults around step times, pool and limit of requests.
fn vllm_llama(
    prefill: PrefillTimes,
    fixed_ms: f64,
    ms_per_row: f64,
    ms_per_context_token: f64,
    kv_tokens: u32,
    max_running_requests: u32,
) -> EngineConfig {
    EngineConfig {
        kind: EngineKind::Vllm,
        prefill,
        decode: DecodeTimes {
            fixed_ms,
            weights_ms: prefill.weights_ms,
            row_compute_ms: 0.0,
            ms_per_row,
            ms_per_context_token,
            eager_ms: 0.0,
            cuda_graph_max_bs: 512,
        },
        kv_tokens,
        max_num_batched_tokens: 2048,
        max_running_requests,
        tokenizer_fixed_ms: 0.0,
        tokenizer_ms_per_token: 0.0,
        receive_ms: 0.5,
        output_ms: 0.0,
        ..mistral_7b_a100_80()
    }
}

#[cfg(test)]
mod tests;
