//! What `proxy`, `lb` and `trace` share: starting a router, and talking to one.

use super::say;
use super::stop::{self, PidFile, StopArgs};
use anyhow::{Context, bail};
use clap::{Args as ClapArgs, Subcommand};
use gorgo_core::settings::{parse_assignment, renamed_presets, set_key};
use gorgo_live::client::Admin;
use gorgo_live::config::{Config, ConfigError, Role, Tls};
use gorgo_live::{ConfigSource, Signals};
use http::Method;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;

/// How a router is started. What the command line says lies over what the file says.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct StartArgs {
    /// Configuration file
    #[arg(long)]
    config: Option<PathBuf>,
    /// Address to listen on; beyond loopback an API key and an admin key are needed
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Policy
    #[arg(long)]
    policy: Option<String>,
    /// Override any setting, for example router.gates.max_running=10
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Do not check certificates of https replicas
    #[arg(long)]
    tls_insecure: bool,
    /// Log as JSON lines
    #[arg(long)]
    log_json: bool,
    /// File for its process id, which `stop` reads; by port in the runtime directory when absent
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Check the configuration and end
    #[arg(long)]
    check: bool,
}

impl StartArgs {
    /// Reads everything; `urls` are `replicas` and `peers` of the command line as URL[@region].
    fn read(&self, role: Role, replicas: &[String], peers: &[String]) -> Result<Config, ConfigError> {
        let text = |message: String| ConfigError::Text { file: String::new(), message };
        let mut settings = toml::Table::new();
        if let Some(path) = &self.config {
            settings = Config::table(path)?;
        }
        let word = if role == Role::Edge { "edge" } else { "proxy" };
        settings.insert("role".to_owned(), toml::Value::String(word.to_owned()));
        if let Some(listen) = self.listen {
            settings.insert("listen".to_owned(), toml::Value::String(listen.to_string()));
        }
        if let Some(policy) = &self.policy {
            settings.insert("policy".to_owned(), toml::Value::String(policy.clone()));
        }
        if self.tls_insecure {
            set_key(&mut settings, "tls.insecure", toml::Value::Boolean(true)).map_err(text)?;
        }
        for (key, urls) in [("replicas", replicas), ("peers", peers)] {
            if !urls.is_empty() {
                let list = urls.iter().map(|url| toml::Value::Table(address(url))).collect();
                settings.insert(key.to_owned(), toml::Value::Array(list));
            }
        }
        for set in &self.sets {
            let (key, value) = parse_assignment(set).map_err(text)?;
            // A weight of the default policy can be set without naming that policy.
            if key.starts_with("policy.") && !settings.contains_key("policy") {
                let name = Config::default().policy.name().to_owned();
                settings.insert("policy".to_owned(), toml::Value::String(name));
            }
            set_key(&mut settings, &key, value).map_err(text)?;
        }
        renamed_presets(&settings).iter().for_each(|note| tracing::warn!("{note}"));
        let mut config = Config::from_table(settings)?;
        gorgo_live::keys_from_environment(&mut config);
        config.check()?;
        Ok(config)
    }

    /// With the common options that mean something to a start.
    pub(super) fn at(mut self, target: &Target) -> anyhow::Result<Self> {
        if let Some(host) = target.host.iter().find(|host| *host != "localhost") {
            bail!("--host {host} names a router that runs; say where this one listens with --listen ADDRESS:PORT");
        }
        if let (None, Some(port)) = (self.listen, target.port) {
            self.listen = Some((std::net::Ipv4Addr::LOCALHOST, port).into());
        }
        Ok(self)
    }

    pub(super) fn has_config(&self) -> bool {
        self.config.is_some()
    }

    /// Serves until told to stop.
    pub(super) fn start(self, role: Role, replicas: Vec<String>, peers: Vec<String>) -> anyhow::Result<()> {
        let filter = tracing_subscriber::EnvFilter::try_from_env("GORGO_LOG").unwrap_or_else(|_| "info".into());
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        if self.log_json {
            log.json().init();
        } else {
            log.init();
        }
        let config = self.read(role, &replicas, &peers)?;
        if self.check {
            say(format_args!(
                "the configuration is fine: {} replicas, {} peers",
                config.replicas.len(),
                config.peers.len()
            ))?;
            return Ok(());
        }
        super::raise_file_limit(config.limits.connections);
        let kind = if role == Role::Edge { "lb" } else { "proxy" };
        let again = self.clone();
        let source = ConfigSource::new(move || again.read(role, &replicas, &peers));
        let given_pid_file = self.pid_file;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
        let cut = runtime.block_on(async {
            // Before the pid file: a program that reads that may send SIGTERM at once.
            let signals = Signals::install()?;
            let mut pid_file = given_pid_file.as_deref().map(PidFile::take).transpose()?;
            let ready = |at: SocketAddr| {
                if pid_file.is_none() {
                    match PidFile::take(&stop::default_path(kind, at.port())) {
                        Ok(taken) => pid_file = Some(taken),
                        Err(error) => tracing::warn!("`gorgo {kind} stop` will not find this router: {error:#}"),
                    }
                }
                let _ = say(format_args!("listening on {at}"));
            };
            anyhow::Ok(gorgo_live::run(config, Some(source), signals, ready).await?)
        })?;
        if cut > 0 {
            bail!("{cut} connections were cut because draining took too long");
        }
        Ok(())
    }
}

/// `URL[@region]`
fn address(text: &str) -> toml::Table {
    let (url, region) = text.rsplit_once('@').map_or((text, None), |(url, region)| (url, Some(region)));
    let mut row = toml::Table::new();
    row.insert("url".to_owned(), toml::Value::String(url.to_owned()));
    if let Some(region) = region {
        row.insert("region".to_owned(), toml::Value::String(region.to_owned()));
    }
    row
}

/// Which router is talked to.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Target {
    /// Host, or several with commas
    #[arg(long, default_value = "localhost", value_delimiter = ',', global = true)]
    pub(super) host: Vec<String>,
    /// Port; 8000 when absent. `start` listens there, on loopback, unless --listen tells
    #[arg(long, global = true)]
    pub(super) port: Option<u16>,
    /// Talk TLS
    #[arg(long, global = true)]
    pub(super) tls: bool,
    /// PEM roots to trust with --tls
    #[arg(long, global = true)]
    pub(super) ca: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
}

impl Target {
    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(8000)
    }

    pub(super) fn clients(&self) -> anyhow::Result<Vec<Admin>> {
        let key = std::env::var("GORGO_ADMIN_KEY").ok().filter(|key| !key.is_empty());
        let tls = Tls { upstream_ca: self.ca.clone(), ..Tls::default() };
        let scheme = if self.tls { "https" } else { "http" };
        let url = |host: &String| {
            let ported = host
                .rsplit_once(':')
                .is_some_and(|(before, port)| !before.contains(':') && port.parse::<u16>().is_ok());
            if ported { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{}", self.port()) }
        };
        let clients: Result<Vec<_>, _> =
            self.host.iter().map(|host| Admin::new(&url(host), key.as_deref(), &tls)).collect();
        Ok(clients?)
    }

    /// Calls every host and shows what each says.
    pub(super) fn call(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        show: fn(&Value) -> String,
    ) -> anyhow::Result<()> {
        let clients = self.clients()?;
        block_on(async {
            for client in &clients {
                let value = client.call(method.clone(), path, body).await?;
                if clients.len() > 1 && !self.json {
                    say(format_args!("{}:", client.name()))?;
                }
                say(if self.json { serde_json::to_string_pretty(&value)? } else { show(&value) })?;
            }
            Ok(())
        })
    }
}

pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?.block_on(work)
}

/// Verbs that proxy and edge share.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// What the router is doing
    Status,
    /// Show the policy, or switch to another
    Policy {
        /// Its name
        name: Option<String>,
    },
    /// Change keys of the policy
    #[command(after_help = "Example:\n  gorgo proxy tune ms_per_token=0.058 running_cost_factor=0.25")]
    Tune {
        /// key=value
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Empty the prefix index
    ClearCache {
        /// Flush the engines' KV caches too
        #[arg(long)]
        engines: bool,
    },
    /// Shape of the prefix index
    PrefixStats,
    /// Round trips to replicas
    Latency,
    /// What shadow policies would have done
    Shadow,
    /// Why a request went where it went
    #[command(after_help = "Example:\n  gorgo proxy explain 0f3a-1   # the answer's X-Request-ID")]
    Explain {
        /// X-Request-ID
        id: String,
    },
    /// Read the configuration file again
    Reload,
    /// Stop the router on this machine: it finishes open requests first
    #[command(
        after_help = "Examples:\n  gorgo proxy stop\n  gorgo proxy stop --port 8001 --wait 30\n  gorgo proxy stop --force"
    )]
    Stop(StopArgs),
    /// The table of requests
    Metrics {
        #[command(subcommand)]
        command: MetricsVerb,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MetricsVerb {
    /// As CSV, to a file or to standard output
    Export {
        /// The file
        file: Option<PathBuf>,
    },
    /// Means and quantiles
    Summary,
    /// Forget all rows
    Clear,
    /// Collect rows or not
    Enable {
        /// true or false
        #[arg(action = clap::ArgAction::Set)]
        enabled: bool,
    },
}

pub(super) fn verb(verb: Verb, target: &Target, prefix: &str) -> anyhow::Result<()> {
    let get = |path: &str, show| target.call(&Method::GET, &format!("{prefix}{path}"), None, show);
    let post = |path: &str, body: Value| target.call(&Method::POST, &format!("{prefix}{path}"), Some(&body), lines);
    match verb {
        Verb::Status => get("/status", lines),
        Verb::Policy { name: None } => get("/policy", lines),
        Verb::Policy { name: Some(name) } => post("/policy", json!({"policy": name})),
        Verb::Tune { keys } => {
            let mut body = Map::new();
            for key in keys {
                let (key, value) = parse_assignment(&key).map_err(anyhow::Error::msg)?;
                body.insert(key, serde_json::to_value(value)?);
            }
            post("/tune", Value::Object(body))
        }
        Verb::ClearCache { engines } => post("/cache/clear", json!({"engines": engines})),
        Verb::PrefixStats => get("/prefix/stats", prefix_stats),
        Verb::Latency => get("/latency", lines),
        Verb::Shadow => get("/shadow", lines),
        Verb::Explain { id } => target.call(&Method::GET, &format!("/explain/{id}"), None, explained),
        Verb::Reload => post("/reload", Value::Null),
        Verb::Stop(args) => stop::stop(&args, target, prefix.trim_start_matches('/')),
        Verb::Metrics { command: MetricsVerb::Summary } => get("/metrics/summary", lines),
        Verb::Metrics { command: MetricsVerb::Clear } => post("/metrics/clear", Value::Null),
        Verb::Metrics { command: MetricsVerb::Enable { enabled } } => {
            post("/metrics/enable", json!({"enabled": enabled}))
        }
        Verb::Metrics { command: MetricsVerb::Export { file } } => {
            let client = target.clients()?.remove(0);
            let csv =
                block_on(async { Ok(client.bytes(Method::GET, &format!("{prefix}/metrics/export"), None).await?) })?;
            match file {
                Some(path) => std::fs::write(&path, &csv).with_context(|| format!("cannot write `{}`", path.display())),
                None => Ok(say(String::from_utf8_lossy(&csv).trim_end())?),
            }
        }
    }
}

/// The index's shape in the eight lines that gotoni prints.
fn prefix_stats(value: &Value) -> String {
    let rows = [
        ("Nodes", "nodes"),
        ("Leaves", "leaves"),
        ("Max depth", "max_depth"),
        ("Avg depth", "avg_depth"),
        ("Avg branching", "avg_branching"),
        ("Avg prefix length", "avg_prefix_len"),
        ("Total server refs", "total_server_refs"),
        ("Unique servers", "unique_server_count"),
    ];
    let mut out = "Prefix Tree Stats:".to_owned();
    for (label, key) in rows {
        let shown = match &value[key] {
            Value::Number(n) if n.is_f64() => format!("{:.2}", n.as_f64().unwrap_or(0.0)),
            other => other.to_string(),
        };
        out.push_str(&format!("\n  {label}: {shown}"));
    }
    out
}

/// A request's outcome, then each decision with a row a candidate.
fn explained(value: &Value) -> String {
    let mut value = value.clone();
    let decisions = value.as_object_mut().and_then(|map| map.remove("decisions")).unwrap_or_default();
    let mut out = lines(&value);
    for decision in decisions.as_array().into_iter().flatten() {
        let shown = |key: &str| plain(&decision[key]);
        out.push_str(&format!(
            "\n\n{} chose {} at {} ms for {} prompt tokens",
            shown("policy"),
            shown("chosen"),
            shown("at_ms"),
            shown("prompt_tokens")
        ));
        if let Some(reason) = decision["reason"].as_str() {
            out.push_str(&format!(" (fallback: {reason})"));
        }
        out.push('\n');
        let columns = [
            "id",
            "total_ms",
            "network_ms",
            "prefill_ms",
            "waiting_ms",
            "running_ms",
            "cached_tokens",
            "waiting_requests",
            "running_requests",
            "rtt_age_ms",
            "excluded",
        ];
        let rows = decision["candidates"].as_array().map_or(&[][..], Vec::as_slice);
        columns_table(&mut out, rows, &columns, "  ");
    }
    out.trim_end().to_owned()
}

/// The engines or peers of a router, the columns people look for.
pub(super) fn fleet(value: &Value) -> String {
    let rows = value.as_array().or(value["peers"].as_array()).map_or(&[][..], Vec::as_slice);
    let columns = [
        "id",
        "region",
        "health",
        "available",
        "draining",
        "latency_ms",
        "proxy_tracked_running",
        "running_reqs",
        "waiting_reqs",
        "gpu_cache",
        "dispatched",
        "index_tokens",
    ];
    let mut out = String::new();
    columns_table(&mut out, rows, &columns, "");
    out.trim_end().to_owned()
}

/// Any JSON as indented lines; lists of objects as aligned tables of their plain fields.
pub(super) fn lines(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, 0);
    out.trim_end().to_owned()
}

fn write(out: &mut String, value: &Value, indent: usize) {
    let pad = "  ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::Object(inner) if !inner.is_empty() => {
                        out.push_str(&format!("{pad}{key}:\n"));
                        write(out, value, indent + 1);
                    }
                    Value::Array(rows) if rows.iter().any(Value::is_object) => {
                        out.push_str(&format!("{pad}{key}:\n"));
                        write(out, value, indent + 1);
                    }
                    _ => out.push_str(&format!("{pad}{key}: {}\n", plain(value))),
                }
            }
        }
        Value::Array(rows) if rows.iter().any(Value::is_object) => rows_table(out, rows, &pad),
        other => out.push_str(&format!("{pad}{}\n", plain(other))),
    }
}

fn rows_table(out: &mut String, rows: &[Value], pad: &str) {
    let mut keys: Vec<&String> = Vec::new();
    for row in rows.iter().filter_map(Value::as_object) {
        for (key, value) in row {
            let simple = !value.is_object() && !value.is_array() && !value.is_null();
            if simple && !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    let keys: Vec<&str> = keys.iter().map(|key| key.as_str()).collect();
    columns_table(out, rows, &keys, pad);
}

fn columns_table(out: &mut String, rows: &[Value], keys: &[&str], pad: &str) {
    let mut cells: Vec<Vec<String>> = vec![keys.iter().map(ToString::to_string).collect()];
    cells.extend(rows.iter().map(|row| keys.iter().map(|key| plain(&row[*key])).collect()));
    let widths: Vec<usize> =
        (0..keys.len()).map(|i| cells.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    for row in cells {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        out.push_str(&format!("{pad}{}\n", line.join("  ").trim_end()));
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Number(n) if n.is_f64() => format!("{:.3}", n.as_f64().unwrap_or(0.0)),
        Value::Array(all) => all.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
