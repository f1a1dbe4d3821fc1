//! Registry of policies: each line names a policy, its settings and its constructor; parsing and listing derive from
//! it.

use super::settings::{Settings, strict};
use super::{NoSettings, Policy};
use super::{
    bounded_hash, cache_aware, dualmap, gorgo, kv_cost, least_load, least_load_seconds, least_request, llm_d, lmetric,
    nearest, oracle, power_of_two, preble, predictive, prefix_cache, prefix_tree, random, round_robin,
    session_affinity, simple_session_affinity, skywalker, smetric, smg_cache_aware, stargate,
};
use crate::settings::field_names;
use crate::suggest::did_you_mean;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;
use thiserror::Error;

/// Errors in the configuration of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// The name is not in the registry.
    #[error("unknown policy `{given}`; {}", did_you_mean(given, NAMES.iter().copied()))]
    Unknown {
        /// The name as given.
        given: String,
    },
    /// A key is unknown, or its value is of the wrong type or out of range.
    #[error("policy `{policy}`: {message}")]
    Setting {
        /// The policy.
        policy: &'static str,
        /// The key, its value and what would be right.
        message: String,
    },
    /// An oracle outside a simulation.
    #[error("policy `{policy}` knows the future of the engines, which only a simulation has; choose one of {}", PolicyConfig::live_names().join(", "))]
    Oracle {
        /// The policy.
        policy: &'static str,
    },
    /// The table has no `name`.
    #[error("a policy needs a `name`, one of {}", PolicyConfig::names().join(", "))]
    Nameless,
}

macro_rules! registry {
    ($(#[doc = $doc:literal] $variant:ident($settings:ty) = $name:literal => $policy:path,)*) => {
        /// A policy and its settings as written in every configuration: a name, or a table with `name` and any of that
        /// policy's keys. Unknown keys are errors; every key has a default.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "name", try_from = "Spec")]
        pub enum PolicyConfig {
            $(#[doc = $doc] #[serde(rename = $name)] $variant($settings),)*
        }

        const NAMES: &[&str] = &[$($name),*];

        impl PolicyConfig {
            /// The policy's name.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            /// Creates the policy in its initial state.
            pub fn build(&self) -> Box<dyn Policy> {
                match self { $(Self::$variant(settings) => Box::new(<$policy>::new(settings)),)* }
            }

            /// What the policy `name` does, in a few words; empty for an unknown name.
            pub fn summary(name: &str) -> &'static str {
                match Self::canonical(name) {
                    $(Ok($name) => $doc.trim(),)*
                    _ => "",
                }
            }

            /// The keys that the policy `name` reads; none for an unknown name.
            pub fn keys(name: &str) -> &'static [&'static str] {
                match Self::canonical(name) {
                    $(Ok($name) => field_names::<$settings>(),)*
                    _ => &[],
                }
            }

            /// The schema of each policy's table, with its name first.
            fn tables(generator: &mut SchemaGenerator) -> Vec<Schema> {
                vec![$(table($name, $doc.trim(), <$settings>::json_schema(generator)),)*]
            }

            fn read(name: &'static str, settings: Map<String, Value>) -> Result<Self, String> {
                match name {
                    $($name => {
                        let settings: $settings = strict(settings).map_err(|fault| match fault.key {
                            Some(key) => format!("`{key}`: {}", fault.message),
                            None => fault.message,
                        })?;
                        settings.check()?;
                        Ok(Self::$variant(settings))
                    })*
                    _ => Err("is not in the registry".to_owned()),
                }
            }
        }
    };
}

registry! {
    /// Least expected time to first token.
    Gorgo(gorgo::GorgoConfig) = "gorgo" => gorgo::Gorgo,
    /// Least expected time to first token plus harm to others, with learned rates.
    Predictive(predictive::PredictiveConfig) = "predictive" => predictive::Predictive,
    /// Longest cached prefix.
    PrefixTree(prefix_tree::PrefixTreeConfig) = "prefix-tree" => prefix_tree::PrefixTree,
    /// Least load.
    LeastLoad(least_load::LeastLoadConfig) = "least-load" => least_load::LeastLoad,
    /// Uniformly random.
    Random(NoSettings) = "random" => random::Random,
    /// Each in turn.
    RoundRobin(NoSettings) = "round-robin" => round_robin::RoundRobin,
    /// Least round trip.
    Nearest(NoSettings) = "nearest" => nearest::Nearest,
    /// Fewest requests.
    LeastRequest(NoSettings) = "least-request" => least_request::LeastRequest,
    /// The less loaded of two drawn at random.
    PowerOfTwo(power_of_two::PowerOfTwoConfig) = "power-of-two" => power_of_two::PowerOfTwo,
    /// Rendezvous hash of the session.
    SessionAffinity(NoSettings) = "session-affinity" => session_affinity::SessionAffinity,
    /// Hash of the prompt's first 256 tokens.
    SimpleSessionAffinity(NoSettings) = "simple-session-affinity" => simple_session_affinity::SimpleSessionAffinity,
    /// AIBrix prefix-cache.
    PrefixCache(prefix_cache::PrefixCacheConfig) = "prefix-cache" => prefix_cache::PrefixCache,
    /// SGLang router cache_aware.
    CacheAware(cache_aware::CacheAwareConfig) = "cache-aware" => cache_aware::CacheAware,
    /// Dynamo KV router.
    KvCost(kv_cost::KvCostConfig) = "kv-cost" => kv_cost::KvCost,
    /// LMetric: new prefill work times batch size.
    LMetric(NoSettings) = "lmetric" => lmetric::LMetric,
    /// Consistent hashing with bounded loads.
    BoundedHash(bounded_hash::BoundedHashConfig) = "bounded-hash" => bounded_hash::BoundedHash,
    /// vLLM router smetric: a conversation stays while its replica meets a TTFT objective.
    SMetric(smetric::SMetricConfig) = "smetric" => smetric::SMetric,
    /// SMG least_load: least time to drain the queue.
    LeastLoadSeconds(least_load_seconds::LeastLoadSecondsConfig) = "least-load-seconds" => least_load_seconds::LeastLoadSeconds,
    /// SMG 1.13 cache_aware: the longest prefix unless its holder is far busier than the mean.
    SmgCacheAware(smg_cache_aware::SmgCacheAwareConfig) = "smg-cache-aware" => smg_cache_aware::SmgCacheAware,
    /// llm-d endpoint picker: weighted scorers of prefix, queue and KV.
    LlmD(llm_d::LlmDConfig) = "llm-d" => llm_d::LlmD,
    /// SkyWalker: selective pushing, near replicas first.
    SkyWalker(skywalker::SkyWalkerConfig) = "skywalker" => skywalker::SkyWalker,
    /// DualMap: two replicas a prompt, cache until an objective, load beyond.
    DualMap(dualmap::DualMapConfig) = "dualmap" => dualmap::DualMap,
    /// Preble E2: exploit a cached majority, else explore.
    Preble(preble::PrebleConfig) = "preble" => preble::Preble,
    /// NVIDIA Stargate: wait-and-widen by RTT, queue and prefill.
    Stargate(stargate::StargateConfig) = "stargate" => stargate::Stargate,
    /// Least true time to first token; simulation only.
    OracleTtft(NoSettings) = "oracle-ttft" => oracle::OracleTtft,
    /// Least true time to first token plus true harm to others; simulation only.
    OracleSum(oracle::OracleSumConfig) = "oracle-sum" => oracle::OracleSum,
    /// Least log cost of all requests in flight and the next arrivals, in a copy of the world; small simulations only.
    OracleRollout(oracle::OracleRolloutConfig) = "oracle-rollout" => oracle::OracleRollout,
}

/// Other names of gotoni and its papers, spelt without hyphens.
const ALIASES: &[(&str, &str)] = &[
    ("leastloaded", "least-load"),
    ("prefix", "prefix-tree"),
    ("p2c", "power-of-two"),
    ("ssa", "simple-session-affinity"),
];

/// Policies whose choice depends on [`crate::fleet::Learned`].
const READ_LEARNED: &[&str] =
    &["predictive", "smetric", "dualmap", "preble", "stargate", "oracle-ttft", "oracle-sum", "oracle-rollout"];

impl PolicyConfig {
    /// Whether the policy `name` reads learned rates; a log of others' decisions need not hold them.
    pub fn reads_learned(name: &str) -> bool {
        READ_LEARNED.contains(&name)
    }

    /// Whether its scores hold the price of data between regions.
    pub fn prices_egress(&self) -> bool {
        matches!(self, Self::Gorgo(_) | Self::Predictive(_))
    }

    /// The names of all policies, in the order of the documentation.
    pub fn names() -> &'static [&'static str] {
        NAMES
    }

    /// Whether it is an oracle, for simulations only.
    pub fn is_oracle(&self) -> bool {
        matches!(self, Self::OracleTtft(_) | Self::OracleSum(_) | Self::OracleRollout(_))
    }

    /// The names of the policies that a live router can use.
    pub fn live_names() -> Vec<&'static str> {
        NAMES.iter().copied().filter(|name| !name.starts_with("oracle-")).collect()
    }

    /// The default policy of a live router: the one with the least sum of excesses and the least worst case in
    /// docs/policies.md.
    pub fn of_routers() -> Self {
        Self::Predictive(predictive::PredictiveConfig::default())
    }

    /// The policy to which settings belong that are given without its name: a live router's own, or else `gorgo`.
    pub fn with_keys<'a>(mut keys: impl Iterator<Item = &'a str>) -> Self {
        let own = Self::of_routers();
        let known = Self::keys(own.name());
        if keys.all(|key| known.contains(&key)) { own } else { Self::default() }
    }

    /// Checks that a live router can use it.
    ///
    /// # Errors
    /// [`PolicyError::Oracle`].
    pub fn check_live(&self) -> Result<(), PolicyError> {
        if self.is_oracle() { Err(PolicyError::Oracle { policy: self.name() }) } else { Ok(()) }
    }

    /// The registry's spelling of `name`: case, hyphens and underscores do not matter, and gotoni's names work.
    ///
    /// # Errors
    /// [`PolicyError::Unknown`] with the nearest known name.
    pub fn canonical(name: &str) -> Result<&'static str, PolicyError> {
        let plain = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
        let given = plain(name.trim());
        let own = NAMES.iter().find(|known| plain(known) == given).copied();
        let alias = || ALIASES.iter().find(|(alias, _)| *alias == given).map(|&(_, known)| known);
        own.or_else(alias).ok_or_else(|| PolicyError::Unknown { given: name.to_owned() })
    }

    /// The policy `name` with `settings`; keys that are absent have their defaults.
    ///
    /// # Errors
    /// An unknown name or key (with the nearest known one), a value of the wrong type or out of range.
    pub fn parse(name: &str, settings: Map<String, Value>) -> Result<Self, PolicyError> {
        let policy = Self::canonical(name)?;
        // NaN and infinity of a TOML file arrive here as null, which an optional key would take for "not given".
        if let Some((key, _)) = settings.iter().find(|(_, value)| value.is_null()) {
            let message = format!("`{key}` is null, NaN or infinite; give a number or leave the key out");
            return Err(PolicyError::Setting { policy, message });
        }
        Self::read(policy, settings).map_err(|message| PolicyError::Setting { policy, message })
    }

    /// This configuration with one key set: what `tune key=value` does.
    ///
    /// # Errors
    /// As [`PolicyConfig::parse`].
    pub fn with(&self, key: &str, value: Value) -> Result<Self, PolicyError> {
        let mut settings = self.settings();
        settings.insert(key.to_owned(), value);
        Self::parse(self.name(), settings)
    }

    /// The keys and values of this configuration, without the name.
    pub fn settings(&self) -> Map<String, Value> {
        let Ok(Value::Object(mut map)) = serde_json::to_value(self) else { return Map::new() };
        map.remove("name");
        map
    }
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self::Gorgo(gorgo::GorgoConfig::default())
    }
}

impl JsonSchema for PolicyConfig {
    fn schema_name() -> Cow<'static, str> {
        "Policy".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut forms = vec![json_schema!({"description": "A policy with its defaults.", "enum": NAMES})];
        forms.extend(Self::tables(generator));
        json_schema!({
            "description": "A policy's name, or a table with `name` and any of that policy's keys.",
            "anyOf": forms,
        })
    }
}

/// The schema of a policy's table: its settings and its name.
fn table(name: &str, summary: &str, mut settings: Schema) -> Schema {
    let object = settings.ensure_object();
    object.insert("title".to_owned(), name.into());
    object.insert("description".to_owned(), summary.into());
    object.insert("required".to_owned(), serde_json::json!(["name"]));
    let properties = object.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(properties) = properties {
        properties.insert("name".to_owned(), serde_json::json!({"const": name}));
    }
    settings
}

/// What a configuration file may write for a policy.
enum Spec {
    Name(String),
    Table(Map<String, Value>),
}

impl<'de> Deserialize<'de> for Spec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Spec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a policy's name, or a table with `name` and its settings")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Spec, E> {
                Ok(Spec::Name(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Spec, A::Error> {
                Map::deserialize(MapAccessDeserializer::new(map)).map(Spec::Table)
            }
        }

        from.deserialize_any(Read)
    }
}

impl TryFrom<Spec> for PolicyConfig {
    type Error = PolicyError;

    fn try_from(spec: Spec) -> Result<Self, PolicyError> {
        match spec {
            Spec::Name(name) => Self::parse(&name, Map::new()),
            Spec::Table(mut table) => match table.remove("name") {
                Some(Value::String(name)) => Self::parse(&name, table),
                _ => Err(PolicyError::Nameless),
            },
        }
    }
}

#[cfg(test)]
mod tests;
