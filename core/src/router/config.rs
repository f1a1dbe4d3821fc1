//! The router's settings, shared by experiment files, the router's own file and the admin API.

use crate::egress::EgressConfig;
use crate::fleet::{BreakerConfig, Gates};
use crate::range::{DURATION_MS, OutOfRange, check_ranges};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When the index learns that a replica holds a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LearnAt {
    /// At dispatch: optimistic by queueing and prefill time.
    Dispatch,
    /// At the first token, when the engine really has it.
    #[default]
    FirstToken,
}

/// Whether requests are refused that cannot meet their deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Admission {
    /// Never: they wait until their deadline ends them.
    #[default]
    Off,
    /// At once, when the least predicted time to first token of all replicas that may answer exceeds the time left until
    /// the request's deadline.
    Predicted,
}

/// Settings of a router, except its policy. Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouterConfig {
    /// Capacity gates.
    pub gates: Gates,
    /// Most requests in the router's queue; 0 turns the queue off.
    pub queue_limit: usize,
    /// How long a request may wait there, ms.
    pub queue_timeout_ms: f64,
    /// How long a request may wait there while every replica is down or draining, ms: room comes back by itself, a dead
    /// fleet may not.
    #[serde(alias = "down_timeout")]
    pub down_timeout_ms: f64,
    /// Most dispatches of one request.
    pub max_attempts: u8,
    /// Retries allowed per arrival on average, so that a sick fleet is not buried in retries.
    pub retry_ratio: f64,
    /// Retries that may be made at once beyond the average.
    pub retry_burst: f64,
    /// Longest pause that a replica may ask for with `Retry-After`, ms.
    pub max_rest_ms: f64,
    /// Times a request may be forwarded between routers.
    pub max_hops: u8,
    /// Probes or scrapes failed in a row that bring a replica down.
    pub unhealthy_after: u32,
    /// Circuit breaker.
    pub breaker: BreakerConfig,
    /// When the index learns.
    pub learn_at: LearnAt,
    /// Whether rates of replicas are learned from requests; false freezes those in force.
    pub learn_rates: bool,
    /// Whether the rates that a peer learned of its own engine are believed for requests forwarded to it; false takes those
    /// of this router's own engines.
    pub peer_rates: bool,
    /// Whether the load in a peer's report grows by what other routers are expected to have sent since it was made.
    pub age_loads: bool,
    /// After this time a peer's digest of its prefixes counts for half, ms; 0: for nothing. A replica of 400,000 tokens that
    /// computes 7,500 tokens a second (10 prompts with 3 kB of new text each) has replaced its cache after 53 s, so about
    /// half of what a digest told is gone after 30 s.
    pub digest_half_life_ms: f64,
    /// Whether the index learns answers too.
    pub learn_answers: bool,
    /// Whether `cached_tokens` in the usage corrects the index.
    pub correct_index: bool,
    /// Tokens the index may hold for a replica whose KV capacity is unknown.
    pub index_tokens: u64,
    /// Bytes the whole index may use.
    pub index_bytes: usize,
    /// Whether routers that tell this one nothing send to the same replicas: then the requests that an engine reports
    /// beyond those known count as load, each as a typical one of this router.
    pub shared_replicas: bool,
    /// Share of decisions, 0 to 1, that are made at random among the replicas that may be chosen, with their odds in the
    /// decision log: `gorgo evaluate` tells from it what another policy would have reached.
    pub explore: f64,
    /// Whether a request is refused at once that is predicted to miss its deadline; such a deadline is the client's, or
    /// `timeouts.first_token_ms` of a live router.
    pub admission: Admission,
    /// Region of this router, for egress prices; the driver knows it.
    #[serde(skip)]
    pub region: String,
    /// Prices of data between regions, a term of the policies `gorgo` and `predictive`.
    pub egress: EgressConfig,
    /// Emit an [`Action::Decided`](super::Action::Decided) for each decision; the driver knows whether it reads them.
    #[serde(skip)]
    pub record_decisions: bool,
}

impl RouterConfig {
    /// Checks the numbers that a type does not bound.
    ///
    /// # Errors
    /// The first one out of bounds.
    pub fn check(&self) -> Result<(), OutOfRange> {
        self.egress.check().map_err(|error| error.within("egress"))?;
        check_ranges([
            ("queue_timeout_ms", self.queue_timeout_ms, DURATION_MS),
            ("down_timeout_ms", self.down_timeout_ms, DURATION_MS),
            ("retry_ratio", self.retry_ratio, 0.0..=1e9),
            ("retry_burst", self.retry_burst, 0.0..=1e9),
            ("gates.max_running", self.gates.max_running.map_or(1.0, f64::from), 1.0..=1e9),
            ("gates.max_engine_queue", self.gates.max_engine_queue.map_or(1.0, f64::from), 1.0..=1e9),
            ("gates.max_kv_use", self.gates.max_kv_use, 0.0..=1.0),
            ("gates.slow_start_ms", self.gates.slow_start_ms, DURATION_MS),
            ("max_attempts", f64::from(self.max_attempts), 1.0..=255.0),
            ("unhealthy_after", f64::from(self.unhealthy_after), 1.0..=1e9),
            ("breaker.failures", f64::from(self.breaker.failures), 1.0..=1e9),
            ("breaker.open_ms", self.breaker.open_ms, DURATION_MS),
            // Below the first time it would be the only one.
            ("breaker.max_open_ms", self.breaker.max_open_ms, self.breaker.open_ms..=*DURATION_MS.end()),
            ("breaker.key_refused_ms", self.breaker.key_refused_ms, DURATION_MS),
            ("max_rest_ms", self.max_rest_ms, DURATION_MS),
            ("digest_half_life_ms", self.digest_half_life_ms, DURATION_MS),
            ("explore", self.explore, 0.0..=1.0),
        ])
    }
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            gates: Gates::default(),
            queue_limit: 10_000,
            queue_timeout_ms: 60_000.0,
            down_timeout_ms: 2_000.0,
            max_attempts: 5,
            retry_ratio: 0.2,
            retry_burst: 1_000.0,
            max_rest_ms: 30_000.0,
            max_hops: 1,
            unhealthy_after: 3,
            breaker: BreakerConfig::default(),
            learn_at: LearnAt::FirstToken,
            learn_rates: true,
            peer_rates: false,
            age_loads: false,
            digest_half_life_ms: 30_000.0,
            learn_answers: true,
            correct_index: true,
            index_tokens: 400_000,
            index_bytes: 64 << 20,
            shared_replicas: false,
            explore: 0.0,
            admission: Admission::Off,
            region: String::new(),
            egress: EgressConfig::default(),
            record_decisions: false,
        }
    }
}
