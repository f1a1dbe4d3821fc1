use super::super::steps::pairs;
use super::*;

fn prefill_ms(name: &str, tokens: u32) -> f64 {
    EngineConfig::preset(name).unwrap().prefill.ms(u64::from(tokens), pairs(0, tokens))
}

fn decode_ms(name: &str, rows: u32, context: u64) -> f64 {
    EngineConfig::preset(name).unwrap().decode.ms(rows, context * u64::from(rows))
}

fn assert_near(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got / want - 1.0).abs() <= tolerance, "{what}: {got:.2} ms, published {want} ms");
}

#[test]
fn every_preset_is_valid_and_an_unknown_one_names_the_nearest() {
    for name in EngineConfig::preset_names() {
        EngineConfig::preset(name).unwrap().validate().unwrap();
    }
    let error = EngineConfig::preset("mistral-7b-h10").unwrap_err().to_string();
    assert!(error.contains("did you mean `mistral-7b-h100`?"), "{error}");
    assert_eq!(EngineConfig::preset("mistral-7b-a100-80").unwrap(), EngineConfig::default());
}

/// No dense 7B step beats its GPU: 2 FLOP a parameter and token at peak (bf16, dense), and one reading of 14.5 GB.
#[test]
fn no_preset_is_faster_than_physics() {
    const PARAMETERS: f64 = 7.0e9;
    const WEIGHT_GB: f64 = 14.5;
    for (gpu, tflops, tb_s) in
        [("a100-80", 312.0, 2.04), ("a100-40", 312.0, 1.555), ("h100", 989.5, 3.35), ("l40s", 362.0, 0.864)]
    {
        for name in EngineConfig::preset_names().filter(|name| name.starts_with(&format!("mistral-7b-{gpu}"))) {
            for tokens in [1, 16, 128, 512, 2048, 8192, 32_768] {
                let compute = 2.0 * PARAMETERS * f64::from(tokens) / (tflops * 1e9);
                let read = WEIGHT_GB / tb_s;
                let least = compute.max(read);
                assert!(prefill_ms(name, tokens) > least, "{name}: {tokens} tokens in less than {least:.1} ms");
            }
            // A context of 1 M tokens is 131 GB of KV.
            let decode = EngineConfig::preset(name).unwrap().decode;
            assert!(decode.ms(1, 1) > WEIGHT_GB / tb_s, "{name}");
            assert!(decode.ms_per_context_token > 131_072.0 / (tb_s * 1e9), "{name}");
        }
    }
}

#[test]
fn plain_presets_meet_published_single_gpu_results() {
    assert_near("A100-40 SGLang 28,650-token prompt", prefill_ms("mistral-7b-a100-40", 28_650), 2988.0, 0.05);
    assert_near("H100 28,650-token prompt", prefill_ms("mistral-7b-h100", 28_650), 1077.0, 0.05);
    assert_near("A100-80 TPOT", decode_ms("mistral-7b-a100-80", 1, 512), 10.77, 0.06);
    assert_near("A100-40 TPOT at 28.7k", decode_ms("mistral-7b-a100-40", 1, 28_700), 15.65, 0.05);
    assert_near("H100 TPOT", decode_ms("mistral-7b-h100", 1, 512), 6.48, 0.05);
}

#[test]
fn operator_presets_meet_their_tables() {
    for (name, tolerance, table, decode) in [
        ("mistral-7b-a100-80-op", 0.01, [36.0, 125.2, 557.0, 1315.0], [11.8, 19.1, 34.5]),
        ("mistral-7b-h100-op", 0.03, [12.0, 43.5, 199.7, 440.0], [6.17, 9.63, 18.1]),
        ("mistral-7b-l40s-op", 0.09, [38.3, 144.9, 700.0, 1615.0], [22.0, 38.1, 74.8]),
    ] {
        for (tokens, ms) in [512, 2048, 8192, 16_384].into_iter().zip(table) {
            assert_near(name, prefill_ms(name, tokens), ms, tolerance);
        }
        let times = DecodeTimes { cuda_graph_max_bs: 256, ..EngineConfig::preset(name).unwrap().decode };
        for ((rows, context), ms) in [(1, 512), (32, 2048), (128, 2048)].into_iter().zip(decode) {
            assert_near(name, times.ms(rows, context * u64::from(rows)), ms, 0.09);
        }
    }
}

#[test]
fn recorded_fleet_presets_meet_the_recordings() {
    for (rows, ms) in [(1, 7.24), (4, 11.0), (8, 14.5), (16, 21.5)] {
        assert_near("L40S:2", decode_ms("l40s-2-qwen3.5", rows, 2000), ms, 0.12);
    }
    for (rows, ms) in [(1, 5.2), (8, 9.2), (16, 10.7)] {
        assert_near("H100:1", decode_ms("h100-qwen3.5", rows, 2000), ms, 0.25);
    }
    let cliff = decode_ms("l40s-2-qwen3.5", 21, 2000) / decode_ms("l40s-2-qwen3.5", 20, 2000);
    assert!(cliff > 2.5, "no cliff above the captured size: {cliff}");
    let slope = (prefill_ms("l40s-2-qwen3.5", 4000) - prefill_ms("l40s-2-qwen3.5", 1000)) / 3000.0;
    assert!((0.056..0.063).contains(&slope), "{slope}");
}

#[test]
fn recorded_presets_have_the_recorded_floor_and_the_rate_beyond_it() {
    for (name, plain, floor) in [
        ("l40s-2-qwen3.5-recorded", "l40s-2-qwen3.5", 63.0..=68.0),
        ("h100-qwen3.5-recorded", "h100-qwen3.5", 105.0..=109.0),
    ] {
        assert!(floor.contains(&prefill_ms(name, 18)) && prefill_ms(plain, 18) < 10.0, "{name}");
        assert_eq!(prefill_ms(name, 8000), prefill_ms(plain, 8000), "{name}: a long prompt outlasts the launches");
    }
    for (rows, ms) in [(1, 7.5), (4, 10.05), (8, 13.45), (16, 20.25)] {
        assert_near("L40S:2 decode", decode_ms("l40s-2-qwen3.5-recorded", rows, 500), ms, 0.01);
    }
}

/// 8.03 G parameters in bf16 and 128 KiB of KV a token, against the cards' peaks (bf16, dense).
#[test]
fn vllm_presets_are_not_faster_than_their_cards() {
    for (gpu, tflops, gb_s) in [("rtx4090", 165.2, 1_008.0), ("rtxpro6000", 503.8, 1_792.0)] {
        let config = EngineConfig::preset(&format!("vllm-llama-3.1-8b-{gpu}")).unwrap();
        assert!(config.prefill.ms(2048, 0.0) > 2.0 * 8.03 * 2048.0 / tflops, "{gpu}: prefill");
        assert!(config.decode.ms(1, 1) > 16.06 / gb_s * 1e3, "{gpu}: weights");
        assert!(config.decode.ms_per_context_token > 131_072.0 / (gb_s * 1e6), "{gpu}: KV");
    }
}

#[test]
fn a_preset_names_its_model() {
    for (preset, model) in [
        ("vllm-llama-3.1-8b-rtx4090", "meta-llama/Llama-3.1-8B-Instruct"),
        ("h100-qwen3.5-recorded", "Qwen/Qwen3.5-35B"),
        ("mistral-7b-l40s", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("gotoni", "mistralai/Mistral-7B-Instruct-v0.3"),
    ] {
        assert_eq!(EngineConfig::preset_model(preset), model, "{preset}");
    }
}

#[test]
fn gotonis_preset_is_flat_and_read_under_its_old_name() {
    assert_eq!(EngineConfig::preset("seed").unwrap(), EngineConfig::preset("gotoni").unwrap());
    assert!((prefill_ms("gotoni", 1000) - 94.0).abs() < 1e-9);
    assert!((prefill_ms("gotoni", 20_000) - 1880.0).abs() < 1e-9);
    assert!((EngineConfig::preset("gotoni").unwrap().ms_per_token() - 0.094).abs() < 1e-12);
}

#[test]
fn policies_get_an_effective_rate() {
    for (name, rate) in [("mistral-7b-a100-80", 0.070), ("mistral-7b-h100", 0.023), ("mistral-7b-l40s", 0.134)] {
        assert_near(name, EngineConfig::preset(name).unwrap().ms_per_token(), rate, 0.06);
    }
}
