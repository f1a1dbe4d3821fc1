//! `gorgo engine`: an emulated SGLang or vLLM server.

use super::output::{print_line, print_note};
use super::process::StopSignal;
use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use gorgo_benchmark::emulator::{Emulator, EmulatorConfig, KvEventsConfig};
use gorgo_core::settings::{current_preset_name, parse_assignment, set_key};
use gorgo_core::suggest::in_words;
use gorgo_sim::engine::{EngineConfig, EngineKind};
use std::net::SocketAddr;
use std::time::Duration;

#[derive(Debug, ClapArgs)]
pub(crate) struct EngineArgs {
    /// Model name to serve; the preset's when absent
    #[arg(long, visible_alias = "model-path")]
    model: Option<String>,
    /// Server to emulate: sglang or vllm; the preset's when absent
    #[arg(long, value_parser = kind)]
    kind: Option<EngineKind>,
    /// GPU to emulate with a 7B model: a100-80, a100-40, h100, l40s
    #[arg(long, default_value = "a100-80")]
    gpu: String,
    /// Engine preset by its full name, in place of --gpu
    #[arg(long)]
    preset: Option<String>,
    /// Override an engine setting, for example max_running_requests=10
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Round trip added to every request, ms
    #[arg(long, default_value_t = 0.0)]
    rtt_ms: f64,
    /// Seconds of engine time a real second
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Seed of the step noise
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Bytes of prompt per token
    #[arg(long, default_value_t = 4)]
    bytes_per_token: u32,
    /// Start with loading the weights, as after a restart
    #[arg(long)]
    cold: bool,
    /// Leave cached tokens out of the usage, as SGLang does without --enable-cache-report and vLLM without
    /// --enable-prompt-tokens-details
    #[arg(long)]
    no_cache_report: bool,
    /// Answer /health after this long, ms; 0 is at once. SGLang takes 1000, vLLM 0
    #[arg(long)]
    health_ms: Option<f64>,
    /// Publish KV events at this address, as vLLM 0.24 does with --kv-events-config; --kind vllm only
    #[arg(long, value_name = "ADDR")]
    kv_events: Option<SocketAddr>,
    /// Answer requests for earlier batches of KV events at this address
    #[arg(long, value_name = "ADDR", requires = "kv_events")]
    kv_events_replay: Option<SocketAddr>,
    /// Require this bearer token
    #[arg(long, env = "GORGO_ENGINE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// On SIGTERM, wait this long for running requests, s
    #[arg(long, default_value_t = 60)]
    drain_s: u64,
}

fn kind(text: &str) -> Result<EngineKind, String> {
    [EngineKind::Sglang, EngineKind::Vllm]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| "give sglang or vllm".to_owned())
}

pub(super) fn run(args: &EngineArgs) -> anyhow::Result<()> {
    let config = config(args)?;
    let mut published = args.kv_events.iter().chain(&args.kv_events_replay);
    if let Some(address) = published.find(|address| !address.ip().is_loopback()) {
        bail!("{address} can be reached from outside, and KV events ask for no key: listen on 127.0.0.1");
    }
    if !args.listen.ip().is_loopback() && args.api_key.is_none() {
        bail!("{} can be reached from outside: give --api-key, or listen on 127.0.0.1", args.listen);
    }
    let name = match config.engine.kind {
        EngineKind::Sglang => "SGLang",
        EngineKind::Vllm => "vLLM",
    };
    let files = super::process::raise_file_limit();
    if files < config.max_connections as u64 {
        eprintln!(
            "this process may open {files} files, fewer than the {} connections allowed; raise `ulimit -n`",
            config.max_connections
        );
    }
    super::process::runtime()?.block_on(async {
        let mut stop = StopSignal::install()?; // before the address is printed
        let model = config.model.clone();
        let server = Emulator::start(config, args.listen).await?;
        print_line(format_args!("emulated {name} on {} ({model})", server.url()))?;
        stop.recv().await;
        eprintln!("finishing {} running requests, at most {} s", server.in_flight(), args.drain_s);
        server.drain(Duration::from_secs(args.drain_s)).await;
        Ok(())
    })
}

fn config(args: &EngineArgs) -> anyhow::Result<EmulatorConfig> {
    let preset = args.preset.clone().unwrap_or_else(|| format!("mistral-7b-{}", args.gpu));
    let named = current_preset_name(&preset);
    if named != preset {
        print_note(format_args!("--preset {preset} is called {named} now; the old name is still read"));
    }
    let base = EngineConfig::preset(&preset)?;
    let kind = args.kind.unwrap_or(base.kind);
    let mut settings = toml::Table::try_from(base.with_kind(kind)).context("engine preset")?;
    for set in &args.sets {
        let (key, value) = parse_assignment(set)?;
        set_key(&mut settings, &key, value)?;
    }
    let engine: EngineConfig = toml::Value::Table(settings)
        .try_into()
        .map_err(|e: toml::de::Error| anyhow::anyhow!("--set: {}", in_words(e.message())))?;
    engine.kind.check_read(args.sets.iter().filter_map(|set| set.split(['=', '.']).next())).context("--set")?;
    let of_kind = EmulatorConfig::of_engine(engine);
    Ok(EmulatorConfig {
        model: args.model.clone().unwrap_or_else(|| EngineConfig::preset_model(&preset).to_owned()),
        seed: args.seed,
        speed: args.speed,
        bytes_per_token: args.bytes_per_token,
        rtt_ms: args.rtt_ms,
        cache_report: !args.no_cache_report,
        health_ms: args.health_ms.unwrap_or(of_kind.health_ms),
        api_key: args.api_key.clone(),
        cold: args.cold,
        kv_events: args.kv_events.map(|listen| KvEventsConfig { listen, replay: args.kv_events_replay }),
        ..of_kind
    })
}
