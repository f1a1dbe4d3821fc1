//! The router's configuration: one strict serde type for TOML, command line and admin API.

use gorgo_core::policy::PolicyConfig;
use gorgo_core::router::RouterConfig;
use gorgo_core::settings::{bad_duration, durations_in_table, durations_in_text};
use gorgo_core::suggest::in_words;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use thiserror::Error;

mod check;
mod discovery;
mod keys_in_force;
mod kubernetes;
mod kv_events;
pub(crate) mod replica_name;
mod residency;
mod secret;
mod sections;
mod sharing;
pub(crate) mod shown;
mod snapshot;
mod tune;
mod upstream;
pub use discovery::Discovery;
pub use kubernetes::{KubernetesService, ServicePort};
pub(crate) use kv_events::KvSource;
pub use kv_events::{KvEvents, KvEventsOf};
pub use residency::{Residency, ResidencyRule};
pub use secret::Secret;
pub use sections::{
    Cors, Explain, Limits, LogFile, PeerConfig, Probes, ReplicaConfig, Security, Shadow, Timeouts, Tls, is_same_address,
};
pub use sharing::Sharing;
pub use snapshot::Snapshots;
pub use tune::Tune;
pub use upstream::{CongestionControl, Upstreams};

/// Where the router runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Central: all replicas are remote.
    #[default]
    Proxy,
    /// Next to one replica. Other edges are its peers, and a request is forwarded at most once.
    Edge,
}

/// The configuration of a router. Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Proxy or edge.
    pub role: Role,
    /// Name in records and traces; the listening address when empty.
    pub name: String,
    /// Region where this router runs, named as the replicas' are: on a map, traffic begins there. An edge without it is
    /// where its engine is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Seed of random ties and of the shadow policies.
    pub seed: u64,
    /// A `tokenizer.json` that counts prompts' tokens; else they are estimated. Needs the feature `tokenizer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// The routing policy.
    pub policy: PolicyConfig,
    /// Gates, queue, retries, breaker, index.
    pub router: RouterConfig,
    /// Engines; an edge has exactly one.
    pub replicas: Vec<ReplicaConfig>,
    /// Other edges.
    pub peers: Vec<PeerConfig>,
    /// Sources of engines, or of an edge's peers, besides these lists.
    pub discovery: Discovery,
    /// Which requests must stay where.
    pub residency: Residency,
    /// Other routers of the same replicas.
    pub sharing: Sharing,
    /// What engines publish of their KV caches.
    pub kv_events: KvEvents,
    /// Probes and scrapes.
    pub probes: Probes,
    /// Limits on what clients can use.
    pub limits: Limits,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Connections to replicas and peers.
    pub upstream: Upstreams,
    /// Keys.
    pub security: Security,
    /// What pages of other sites may do.
    pub cors: Cors,
    /// Certificates.
    pub tls: Tls,
    /// How many decisions and requests are kept.
    pub explain: Explain,
    /// A file that keeps changes over the admin API across restarts; they last until the router ends when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<PathBuf>,
    /// What the router has learned, kept for its next start.
    pub snapshot: Snapshots,
    /// A JSON line for each request that ended; none when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<LogFile>,
    /// Policies that decide without dispatching.
    pub shadow: Shadow,
    /// The search for better weights of the policy on the router's own requests.
    pub tune: Tune,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            role: Role::Proxy,
            name: String::new(),
            region: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            seed: 1,
            tokenizer: None,
            policy: PolicyConfig::of_routers(),
            router: RouterConfig::default(),
            replicas: Vec::new(),
            peers: Vec::new(),
            discovery: Discovery::default(),
            residency: Residency::default(),
            sharing: Sharing::default(),
            kv_events: KvEvents::default(),
            probes: Probes::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            upstream: Upstreams::default(),
            security: Security::default(),
            cors: Cors::default(),
            tls: Tls::default(),
            explain: Explain::default(),
            state: None,
            snapshot: Snapshots::default(),
            access_log: None,
            shadow: Shadow::default(),
            tune: Tune::default(),
        }
    }
}

/// A configuration that cannot be used, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read `{path}`: {why}")]
    Read {
        /// The file.
        path: String,
        /// The system's reason.
        why: String,
    },
    /// The text is not TOML, or a key or type is wrong.
    #[error("{file}{message}")]
    Text {
        /// The file and a colon, or nothing.
        file: String,
        /// Line, key and what is wrong.
        message: String,
    },
    /// A setting of the command line cannot be set.
    #[error(transparent)]
    Set(#[from] gorgo_core::settings::SettingsError),
    /// A value is out of range or contradicts another.
    #[error("`{key}` is {value}; {advice}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What would be right.
        advice: String,
    },
}

impl Config {
    /// Reads TOML text.
    ///
    /// # Errors
    /// The line and key that are wrong, or the value that is out of range.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config = Self::parse_unchecked(text)?;
        config.check()?;
        Ok(config)
    }

    /// Reads TOML text whose keys may be left out or be placeholders.
    ///
    /// # Errors
    /// The line and key that are wrong.
    pub(crate) fn parse_unchecked(text: &str) -> Result<Self, ConfigError> {
        typed(text)
    }

    /// A file as a table on which a command line can lay its settings. Keys and types are checked here, where the
    /// lines are known; values by [`Config::from_table`].
    ///
    /// # Errors
    /// As [`Config::parse`], with the file's name.
    pub fn table(path: &Path) -> Result<toml::Table, ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: file.clone(), why: error.to_string() })?;
        let table = typed::<Self>(&text).and_then(|_| typed::<toml::Table>(&text));
        table.map_err(|error| match error {
            ConfigError::Text { message, .. } => ConfigError::Text { file: format!("{file}: "), message },
            other => other,
        })
    }

    /// Reads a table.
    ///
    /// # Errors
    /// As [`Config::parse`], without lines.
    pub fn from_table(mut table: toml::Table) -> Result<Self, ConfigError> {
        durations_in_table(&mut table);
        let secrets = shown::secrets(&table);
        serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|error| {
            let message = at_key(&error.path().to_string(), &in_words(error.inner().message()));
            ConfigError::Text { file: String::new(), message: shown::without(&message, &secrets) }
        })
    }

    /// The settings of the core's router.
    pub(crate) fn core_router(&self) -> RouterConfig {
        let region = self.region.clone().unwrap_or_default();
        RouterConfig { record_decisions: true, region, ..self.router.clone() }
    }

    /// Checks ranges and contradictions.
    ///
    /// # Errors
    /// The first value out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        check::check(self)
    }

    /// The configuration as TOML: a placeholder for each key that is set, nothing for settings without a value.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// The router's name in records, traces and the admin API.
    pub fn shown_name(&self) -> String {
        if self.name.is_empty() { self.listen.to_string() } else { self.name.clone() }
    }

    /// Reads a secret: the first line of a file.
    ///
    /// # Errors
    /// When it cannot be read, or its first line is no key.
    pub fn secret(path: &Path) -> Result<String, ConfigError> {
        secret::from_file(path).map_err(|why| ConfigError::Read { path: path.display().to_string(), why })
    }
}

fn typed<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, ConfigError> {
    let text = &*durations_in_text(text);
    let read = toml::de::Deserializer::parse(text).map_err(|error| (String::new(), error));
    let read = read.and_then(|table| {
        serde_path_to_error::deserialize(table).map_err(|error| {
            let key = error.path().to_string();
            let is_about_key = |message: &String| message.starts_with(&format!("{key} is "));
            let duration = text.parse().ok().as_ref().and_then(bad_duration).filter(is_about_key);
            let message = duration.unwrap_or_else(|| at_key(&key, &in_words(error.inner().message())));
            (message, error.into_inner())
        })
    });
    read.map_err(|(message, error)| {
        let message = if message.is_empty() { in_words(error.message()) } else { message };
        let place = line_of(text, &error).map_or(String::new(), |line| format!("line {line}: "));
        let secrets = text.parse().map(|table| shown::secrets(&table)).unwrap_or_default();
        let message = format!("{place}{}", shown::without(&message, &secrets));
        ConfigError::Text { file: String::new(), message }
    })
}

/// A message with the key that it is about; one about an unknown key names it already.
pub(crate) fn at_key(key: &str, message: &str) -> String {
    let is_named = key.is_empty() || key == "." || message.starts_with("unknown field");
    if is_named { message.to_owned() } else { format!("`{key}`: {message}") }
}

/// The line of a TOML text that an error is about.
pub(crate) fn line_of(text: &str, error: &toml::de::Error) -> Option<usize> {
    error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1)
}

/// Entry point of the fuzzer: any text is read or refused, and what is read survives writing.
#[cfg(any(test, feature = "testkit"))]
pub fn fuzz(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(config) = Config::parse(text)
    {
        let _ = config.to_toml();
    }
}

#[cfg(test)]
mod tests;
