//! `gorgo proxy start`, `gorgo lb start`: a router as a process.

use super::admin::RouterAddress;
use super::dashboard;
use super::log;
use super::pid_file::{self, PidFile};
use crate::cli::output::{check_writable, print_line};
use crate::cli::process;
use anyhow::bail;
use clap::Args as ClapArgs;
use gorgo_core::policy::PolicyConfig;
use gorgo_core::settings::{parse_assignment, renamed_presets, set_key};
use gorgo_core::url::url_and_region;
use gorgo_live::config::{Config, ConfigError, Role};
use gorgo_live::{ConfigSource, Presence, Signals};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// Options of `start`. They override the configuration file.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct StartArgs {
    /// Configuration file
    #[arg(long)]
    config: Option<PathBuf>,
    /// Address to listen on; beyond loopback an API key and an admin key are needed
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Policy, in place of the file's; `predictive` when neither names one
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
    /// Keep changes over the admin API (policy, engines, settings) in this file, so that they survive a restart
    #[arg(long)]
    state: Option<PathBuf>,
    /// Check the configuration and end
    #[arg(long)]
    check: bool,
}

impl StartArgs {
    /// The checked configuration from file, options and environment; `replicas` and `peers` are URL[@REGION].
    fn read_config(&self, role: Role, replicas: &[String], peers: &[String]) -> Result<Config, ConfigError> {
        let mut settings = toml::Table::new();
        if let Some(path) = &self.config {
            settings = Config::table(path)?;
        }
        let role = if role == Role::Edge { "edge" } else { "proxy" };
        settings.insert("role".to_owned(), toml::Value::String(role.to_owned()));
        if let Some(listen) = self.listen {
            settings.insert("listen".to_owned(), toml::Value::String(listen.to_string()));
        }
        if let Some(state) = &self.state {
            settings.insert("state".to_owned(), toml::Value::String(state.display().to_string()));
        }
        if let Some(policy) = &self.policy {
            settings.insert("policy".to_owned(), toml::Value::String(policy.clone()));
        }
        if self.tls_insecure {
            set_key(&mut settings, "tls.insecure", toml::Value::Boolean(true))?;
        }
        for (key, urls) in [("replicas", replicas), ("peers", peers)] {
            if !urls.is_empty() {
                let list = urls.iter().map(|url| toml::Value::Table(replica_table(url))).collect();
                settings.insert(key.to_owned(), toml::Value::Array(list));
            }
        }
        let sets: Vec<_> = self.sets.iter().map(|set| parse_assignment(set)).collect::<Result<_, _>>()?;
        // Weights can be set without naming their policy.
        let mut weights = sets.iter().filter_map(|(key, _)| key.strip_prefix("policy.")).peekable();
        if weights.peek().is_some() && !settings.contains_key("policy") {
            let name = PolicyConfig::with_keys(weights).name().to_owned();
            settings.insert("policy".to_owned(), toml::Value::String(name));
        }
        for (key, value) in sets {
            set_key(&mut settings, &key, value)?;
        }
        renamed_presets(&settings).iter().for_each(|note| tracing::warn!("{note}"));
        let mut config = Config::from_table(settings)?;
        gorgo_live::keys_from_environment(&mut config);
        config.check()?;
        Ok(config)
    }

    /// Takes over --port, the only option for reaching a router that also applies to starting one.
    pub(in crate::cli) fn listen_at(mut self, address: &RouterAddress) -> anyhow::Result<Self> {
        if let Some(host) = address.host.iter().find(|host| *host != "localhost") {
            bail!("--host {host} names a running router; set the address of this one with --listen ADDRESS:PORT");
        }
        if let (None, Some(port)) = (self.listen, address.port) {
            self.listen = Some((std::net::Ipv4Addr::LOCALHOST, port).into());
        }
        Ok(self)
    }

    /// Whether a configuration file is given.
    pub(in crate::cli) fn has_config(&self) -> bool {
        self.config.is_some()
    }

    /// Runs the router until SIGTERM or SIGINT.
    pub(in crate::cli) fn run(self, role: Role, replicas: Vec<String>, peers: Vec<String>) -> anyhow::Result<()> {
        let ended = self.run_router(role, replicas, peers);
        if let Err(error) = &ended {
            gorgo_live::upgrade_failed(&format!("{error:#}"));
        }
        ended
    }

    fn run_router(self, role: Role, replicas: Vec<String>, peers: Vec<String>) -> anyhow::Result<()> {
        log::start(self.log_json)?;
        let config = self.read_config(role, &replicas, &peers)?;
        if self.check {
            gorgo_live::check_files(&config)?;
            let logs = [&config.access_log, &config.explain.log].into_iter().flatten().map(|log| &log.path);
            let kept = [&config.snapshot.file, &config.state].into_iter().flatten();
            logs.chain(kept).try_for_each(|path| check_writable(path))?;
            let (replicas, peers) = (config.replicas.len(), config.peers.len());
            return Ok(print_line(format_args!("the configuration is fine: {replicas} replicas, {peers} peers"))?);
        }
        let kind = if role == Role::Edge { "lb" } else { "proxy" };
        let (pid_path, again) = (self.pid_file.clone(), self);
        let source = ConfigSource::new(move || again.read_config(role, &replicas, &peers));
        // Outlives the runtime: its lock is held until all threads have ended.
        let station = Arc::new(Station { kind, path: pid_path, held: Mutex::default() });
        let cut = process::runtime()?.block_on(async {
            // Before the pid file: a process that reads the file may send a signal at once.
            let signals = Signals::install()?;
            if let Some(path) = station.path.as_deref().filter(|_| !gorgo_live::is_successor()) {
                *station.held.lock() = Some(PidFile::take(path)?);
            }
            process::raise_file_limit(); // the router tells when it is too low
            let presence = Arc::clone(&station);
            anyhow::Ok(gorgo_live::run(config, Some(source), Some(dashboard::page()), signals, presence).await?)
        })?;
        if cut > 0 {
            bail!("{cut} connections were cut because draining took too long");
        }
        Ok(())
    }
}

/// The pid file of this process, by which `stop` and `upgrade` find it.
struct Station {
    kind: &'static str,
    path: Option<PathBuf>,
    held: Mutex<Option<PidFile>>,
}

impl Presence for Station {
    fn appear(&self, at: SocketAddr, lock: Option<OwnedFd>) -> Result<Option<PathBuf>, String> {
        let mut held = self.held.lock();
        if held.is_none() {
            let path = self.path.clone().unwrap_or_else(|| pid_file::default_path(self.kind, at.port()));
            let taken = match lock {
                Some(lock) => PidFile::take_over(&path, lock),
                None => PidFile::take(&path),
            };
            match taken {
                Ok(taken) => *held = Some(taken),
                Err(error) if self.path.is_some() => return Err(format!("{error:#}")),
                Err(error) => tracing::warn!("`gorgo {} stop` will not find this router: {error:#}", self.kind),
            }
        }
        let _ = print_line(format_args!("listening on {at}"));
        Ok(held.as_ref().map(PidFile::control_path))
    }

    fn lock(&self) -> Option<OwnedFd> {
        self.held.lock().as_ref().and_then(PidFile::lock)
    }

    fn pass_on(&self) {
        if let Some(held) = self.held.lock().take() {
            held.pass_on();
        }
    }

    fn take_back(&self) {
        let mut held = self.held.lock();
        if let Some(before) = held.take() {
            match before.take_back() {
                Ok(again) => *held = Some(again),
                Err(error) => tracing::warn!("`gorgo {} stop` will not find this router: {error:#}", self.kind),
            }
        }
    }
}

/// The `[[replicas]]` or `[[peers]]` table of `URL[@REGION]`.
fn replica_table(text: &str) -> toml::Table {
    // With a name and password the URL is refused for them, in words that do not repeat it.
    let (url, region) = url_and_region(text).unwrap_or((text, None));
    let keys = [("url", Some(url)), ("region", region)];
    keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), toml::Value::String(value?.to_owned())))).collect()
}

#[cfg(test)]
mod tests;
