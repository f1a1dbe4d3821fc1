//! Calls to the admin API of running routers.

use super::show::{
    cleared, explanation, fields, policy, policy_changed, prefix_index_shape, round_trips, shadows, tuner,
};
use super::status;
use super::stop::{self, StopArgs};
use super::upgrade::{self, UpgradeArgs};
use crate::cli::output::print_line;
use anyhow::Context;
use clap::{Args as ClapArgs, Subcommand};
use gorgo_core::settings::parse_assignment;
use gorgo_live::AdminClient;
use gorgo_live::config::{Secret, Tls};
use http::Method;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Options that select the routers to call. The key is taken from `GORGO_ADMIN_KEY`, or `GORGO_READ_KEY` to read only.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct RouterAddress {
    /// Host, or several with commas
    #[arg(long, default_value = "localhost", value_delimiter = ',', global = true)]
    pub(in crate::cli) host: Vec<String>,
    /// Port; 8000 when absent. `start` listens there, on loopback, unless --listen is given
    #[arg(long, global = true)]
    pub(in crate::cli) port: Option<u16>,
    /// Use TLS
    #[arg(long, global = true)]
    pub(in crate::cli) tls: bool,
    /// Root certificates (PEM) to trust with --tls
    #[arg(long, global = true)]
    pub(in crate::cli) ca: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(in crate::cli) json: bool,
    /// Key in place of the environment's.
    #[arg(skip)]
    pub(in crate::cli) key: Option<Secret>,
}

impl RouterAddress {
    pub(in crate::cli) fn port(&self) -> u16 {
        self.port.unwrap_or(8000)
    }

    /// One client for each host.
    pub(in crate::cli) fn clients(&self) -> anyhow::Result<Vec<AdminClient>> {
        let scheme = if self.tls { "https" } else { "http" };
        let url = |host: &String| {
            let ported = host
                .rsplit_once(':')
                .is_some_and(|(before, port)| !before.contains(':') && port.parse::<u16>().is_ok());
            if ported { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{}", self.port()) }
        };
        self.host.iter().map(|host| self.client(&url(host))).collect()
    }

    /// A client of the router at `url`.
    pub(in crate::cli) fn client(&self, url: &str) -> anyhow::Result<AdminClient> {
        let key = |name| std::env::var(name).ok().filter(|key| !key.is_empty());
        let given = self.key.as_ref().map(|key| key.expose().to_owned());
        let key = given.or_else(|| key("GORGO_ADMIN_KEY")).or_else(|| key("GORGO_READ_KEY"));
        let tls = Tls { upstream_ca: self.ca.clone(), ..Tls::default() };
        Ok(AdminClient::new(url, key.as_deref(), &tls)?.of_router())
    }

    /// Calls every host and prints each answer with `show`, or as JSON.
    pub(in crate::cli) fn call(
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
                    print_line(format_args!("{}:", client.name()))?;
                }
                print_line(if self.json { serde_json::to_string_pretty(&value)? } else { show(&value) })?;
            }
            Ok(())
        })
    }
}

/// Runs `work` on a runtime of one thread.
pub(in crate::cli) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?.block_on(work)
}

/// Commands that call a running router; `proxy` and `lb` share them.
#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Show the state of the router and of each replica: why it is down, its load, the age of each figure
    #[command(
        after_help = "Examples:\n  gorgo proxy status\n  gorgo proxy status --watch\n  gorgo proxy status --json"
    )]
    Status {
        /// Refresh every so many seconds
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
        watch: Option<f64>,
    },
    /// Show the policy, or switch to another one
    Policy {
        /// Its name
        name: Option<String>,
    },
    /// Change settings of the policy
    #[command(after_help = "Example:\n  gorgo proxy tune ms_per_token=0.058 running_cost_factor=0.25")]
    Tune {
        /// key=value
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Show the search for better weights on this router's requests (`tune.enabled`), or freeze it
    #[command(after_help = "Examples:\n  gorgo proxy tuner\n  gorgo proxy tuner --freeze")]
    Tuner {
        /// Keep the best weights so far in force
        #[arg(long, conflicts_with = "resume")]
        freeze: bool,
        /// Resume the search
        #[arg(long)]
        resume: bool,
    },
    /// Empty the prefix index
    ClearCache {
        /// Flush the engines' KV caches too
        #[arg(long)]
        engines: bool,
    },
    /// Show the shape of the prefix index
    PrefixStats,
    /// Show round trips to replicas
    Latency,
    /// Show what the shadow policies would have chosen
    Shadow,
    /// Explain why a request went to its replica
    #[command(
        after_help = "Examples:\n  gorgo proxy explain 0f3a-1   # the answer's X-Request-ID\n  gorgo proxy explain          # the latest request\n  gorgo proxy explain --worst  # the one whose time to first token was predicted worst"
    )]
    Explain {
        /// X-Request-ID; the latest request when absent
        id: Option<String>,
        /// The kept request with the longest time to first token
        #[arg(long, conflicts_with = "id")]
        slowest: bool,
        /// The kept request whose time to first token was predicted worst
        #[arg(long, conflicts_with_all = ["id", "slowest"])]
        worst: bool,
    },
    /// Read the configuration file again
    Reload,
    /// Stop the router on this machine: it finishes open requests first
    #[command(
        after_help = "Examples:\n  gorgo proxy stop\n  gorgo proxy stop --port 8001 --wait 30\n  gorgo proxy stop --force"
    )]
    Stop(StopArgs),
    /// Replace the program of the router on this machine while it serves: no request is lost, nothing learned is forgotten
    #[command(
        after_help = "Examples:\n  gorgo proxy upgrade                        # its own file, replaced by the new program\n  gorgo proxy upgrade --binary ./gorgo-new --port 8001"
    )]
    Upgrade(UpgradeArgs),
    /// Export, summarize, clear or switch the request log
    Metrics {
        #[command(subcommand)]
        command: MetricsCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MetricsCommand {
    /// Export it as CSV, to a file or to standard output
    Export {
        /// File to write
        file: Option<PathBuf>,
    },
    /// Show means and quantiles
    Summary,
    /// Delete all rows
    Clear,
    /// Switch the request log on or off
    Enable {
        /// true or false
        #[arg(action = clap::ArgAction::Set)]
        enabled: bool,
    },
}

/// Runs one command; `prefix` is `/proxy` or `/lb`.
pub(in crate::cli) fn run_admin_command(
    command: AdminCommand,
    address: &RouterAddress,
    prefix: &str,
) -> anyhow::Result<()> {
    let get = |path: &str, show| address.call(&Method::GET, &format!("{prefix}{path}"), None, show);
    let change =
        |path: &str, body: Value, show| address.call(&Method::POST, &format!("{prefix}{path}"), Some(&body), show);
    let post = |path: &str, body: Value| change(path, body, fields);
    match command {
        AdminCommand::Status { watch } => status::run(address, prefix, watch),
        AdminCommand::Policy { name: None } => get("/policy", policy),
        AdminCommand::Policy { name: Some(name) } => change("/policy", json!({"policy": name}), policy_changed),
        AdminCommand::Tune { keys } => {
            let mut body = Map::new();
            for key in keys {
                let (key, value) = parse_assignment(&key)?;
                body.insert(key, serde_json::to_value(value)?);
            }
            post("/tune", Value::Object(body))
        }
        AdminCommand::Tuner { freeze: false, resume: false } => get("/tuner", tuner),
        AdminCommand::Tuner { freeze, .. } => change("/tuner", json!({"frozen": freeze}), tuner),
        AdminCommand::ClearCache { engines } => change("/cache/clear", json!({"engines": engines}), cleared),
        AdminCommand::PrefixStats => get("/prefix/stats", prefix_index_shape),
        AdminCommand::Latency => get("/latency", round_trips),
        AdminCommand::Shadow => get("/shadow", shadows),
        AdminCommand::Explain { id, slowest, worst } => {
            let path = match (id, slowest, worst) {
                (Some(id), ..) => format!("/explain/{id}"),
                (None, true, _) => "/explain?order=slowest".to_owned(),
                (None, _, true) => "/explain?order=worst".to_owned(),
                (None, false, false) => "/explain?order=latest".to_owned(),
            };
            address.call(&Method::GET, &path, None, explanation)
        }
        AdminCommand::Reload => post("/reload", Value::Null),
        AdminCommand::Stop(args) => stop::run(&args, address, prefix.trim_start_matches('/')),
        AdminCommand::Upgrade(args) => upgrade::run(&args, address.port(), prefix.trim_start_matches('/')),
        AdminCommand::Metrics { command: MetricsCommand::Summary } => get("/metrics/summary", fields),
        AdminCommand::Metrics { command: MetricsCommand::Clear } => post("/metrics/clear", Value::Null),
        AdminCommand::Metrics { command: MetricsCommand::Enable { enabled } } => {
            post("/metrics/enable", json!({"enabled": enabled}))
        }
        AdminCommand::Metrics { command: MetricsCommand::Export { file } } => {
            let client = address.clients()?.remove(0);
            let csv =
                block_on(async { Ok(client.bytes(Method::GET, &format!("{prefix}/metrics/export"), None).await?) })?;
            match file {
                Some(path) => std::fs::write(&path, &csv).with_context(|| format!("cannot write `{}`", path.display())),
                None => Ok(print_line(String::from_utf8_lossy(&csv).trim_end())?),
            }
        }
    }
}
