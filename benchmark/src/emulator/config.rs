//! Settings of an emulated server, and their validation.

use super::kv_events::KvEventsConfig;
use crate::input_error::InputError;
use gorgo_sim::engine::{EngineConfig, EngineKind};

/// Settings of one emulated server.
#[derive(Debug, Clone, PartialEq)]
pub struct EmulatorConfig {
    /// The engine model.
    pub engine: EngineConfig,
    /// Model name in `/v1/models`; requests for other names are served too.
    pub model: String,
    /// Seed of the engine's step noise.
    pub seed: u64,
    /// Seconds of engine time per real second; 1 is real time.
    pub speed: f64,
    /// Bytes of rendered prompt that count as one token.
    pub bytes_per_token: u32,
    /// Delay of every request before it is handled, ms; emulates a client at this round-trip time.
    pub rtt_ms: f64,
    /// `--enable-cache-report`: fill `usage.prompt_tokens_details`.
    pub cache_report: bool,
    /// `--enable-metrics`: serve `/metrics`.
    pub metrics: bool,
    /// `/health` answers after this long, ms; SGLang polls once a second. 0: at once and without the scheduler
    /// (`SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION=0`).
    pub health_ms: f64,
    /// A scheduler that does not answer for this long is unhealthy, ms.
    pub health_timeout_ms: f64,
    /// A stream whose client disconnected is aborted after this long, ms.
    pub abort_stream_ms: f64,
    /// A request without streaming whose client disconnected is aborted after this long, ms.
    pub abort_unary_ms: f64,
    /// Bearer token that generating and admin paths require.
    pub api_key: Option<String>,
    /// Requests in flight beyond which new ones are answered like a full queue; bounds memory.
    pub max_in_flight: usize,
    /// Largest request body, bytes.
    pub max_body_bytes: usize,
    /// Open connections; further ones wait in the listen backlog.
    pub max_connections: usize,
    /// Start like a restarted engine: load the weights first (`cold_start_s` of the engine).
    pub cold: bool,
    /// Publish KV events there (vLLM only); none without.
    pub kv_events: Option<KvEventsConfig>,
}

impl Default for EmulatorConfig {
    fn default() -> Self {
        Self {
            engine: EngineConfig::default(),
            model: "mistralai/Mistral-7B-Instruct-v0.3".to_owned(),
            seed: 1,
            speed: 1.0,
            bytes_per_token: 4,
            rtt_ms: 0.0,
            cache_report: true,
            metrics: true,
            health_ms: 1000.0,
            health_timeout_ms: 20_000.0,
            abort_stream_ms: 2000.0,
            abort_unary_ms: 4000.0,
            api_key: None,
            max_in_flight: 16_384,
            max_body_bytes: 32 << 20,
            max_connections: 8192,
            cold: false,
            kv_events: None,
        }
    }
}

impl EmulatorConfig {
    /// The settings of a server with this engine: vLLM answers `/health` at once and aborts a request as soon as its
    /// client disconnects.
    pub fn of_engine(engine: EngineConfig) -> Self {
        let default = Self::default();
        match engine.kind {
            EngineKind::Sglang => Self { engine, ..default },
            EngineKind::Vllm => Self { engine, health_ms: 0.0, abort_stream_ms: 0.0, abort_unary_ms: 0.0, ..default },
        }
    }

    /// Checks every setting except the engine's, which the engine's constructor checks.
    ///
    /// # Errors
    /// One sentence that names the setting, its value and what to give.
    pub fn validate(&self) -> Result<(), InputError> {
        for (key, ms) in [
            ("rtt_ms", self.rtt_ms),
            ("health_ms", self.health_ms),
            ("health_timeout_ms", self.health_timeout_ms),
            ("abort_stream_ms", self.abort_stream_ms),
            ("abort_unary_ms", self.abort_unary_ms),
        ] {
            if !(0.0..=600_000.0).contains(&ms) {
                return Err(format!("{key} is {ms}: give milliseconds from 0 to 600,000").into());
            }
        }
        if !(0.001..=1000.0).contains(&self.speed) {
            return Err(format!("speed is {}: give a factor from 0.001 to 1000; 1 is real time", self.speed).into());
        }
        if !(1..=64).contains(&self.bytes_per_token) {
            return Err(format!("bytes_per_token is {}: give 1 to 64; 4 is usual", self.bytes_per_token).into());
        }
        if self.kv_events.is_some() && self.engine.kind != EngineKind::Vllm {
            return Err("kv_events is set: only the emulated vLLM publishes them; choose the kind vllm".into());
        }
        if self.max_in_flight == 0 || self.max_connections == 0 || self.max_body_bytes == 0 {
            return Err("max_in_flight, max_connections and max_body_bytes must be at least 1".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_value_is_named() {
        let error =
            EmulatorConfig { rtt_ms: f64::NAN, ..EmulatorConfig::default() }.validate().unwrap_err().to_string();
        assert_eq!(error, "rtt_ms is NaN: give milliseconds from 0 to 600,000");
        assert!(
            EmulatorConfig { speed: 0.0, ..EmulatorConfig::default() }
                .validate()
                .unwrap_err()
                .to_string()
                .contains("speed")
        );
        EmulatorConfig::default().validate().unwrap();
    }
}
