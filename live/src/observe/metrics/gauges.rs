//! Gauges that a scrape sets: the state of the router and of each replica.

use super::levels::Levels;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

type Level = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReplicaLabel {
    pub(super) replica: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SettingLabel {
    setting: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabel {
    policy: String,
}

/// The gauges.
#[derive(Debug)]
pub(super) struct Gauges {
    queued: Level,
    in_flight: Level,
    index_bytes: Level,
    index_nodes: Level,
    usable: Family<ReplicaLabel, Level>,
    draining: Family<ReplicaLabel, Level>,
    breaker: Family<ReplicaLabel, Level>,
    rtt: Family<ReplicaLabel, Level>,
    rtt_p95: Family<ReplicaLabel, Level>,
    waiting: Family<ReplicaLabel, Level>,
    running: Family<ReplicaLabel, Level>,
    waiting_tokens: Family<ReplicaLabel, Level>,
    running_tokens: Family<ReplicaLabel, Level>,
    index_tokens: Family<ReplicaLabel, Level>,
    rtt_age: Family<ReplicaLabel, Level>,
    engine_running: Family<ReplicaLabel, Level>,
    engine_queued: Family<ReplicaLabel, Level>,
    engine_used: Family<ReplicaLabel, Level>,
    engine_capacity: Family<ReplicaLabel, Level>,
    engine_age: Family<ReplicaLabel, Level>,
    learned: [Family<ReplicaLabel, Level>; 8],
    kv: [Family<ReplicaLabel, Level>; 5],
    digest: [Family<ReplicaLabel, Level>; 2],
    limits: Family<LimitLabel, Level>,
    limits_used: Family<LimitLabel, Level>,
    policy: Family<PolicyLabel, Level>,
    source_endpoints: Family<SourceLabel, Level>,
    source_stale: Family<SourceLabel, Level>,
    source_left_out: Family<SourceLabel, Level>,
    digest_keys: Level,
    unknown_replicas: Level,
    tuner_weights: Family<SettingLabel, Level>,
    shadow_hits: Family<PolicyLabel, Level>,
    shadow_busiest: Family<PolicyLabel, Level>,
    shadow_ttft: Family<PolicyLabel, Level>,
}

impl Gauges {
    /// Registers the gauges.
    pub(super) fn new(registry: &mut Registry) -> Self {
        macro_rules! add {
            ($value:expr, $name:literal, $help:literal) => {{
                let metric = $value;
                registry.register($name, $help, metric.clone());
                metric
            }};
            ($value:expr, $name:literal, $help:literal, $unit:expr) => {{
                let metric = $value;
                registry.register_with_unit($name, $help, $unit, metric.clone());
                metric
            }};
        }
        Self {
            queued: add!(Level::default(), "queue_requests", "Requests waiting in the router"),
            in_flight: add!(Level::default(), "in_flight_requests", "Requests not over"),
            index_bytes: add!(Level::default(), "index", "Memory of the prefix index", Unit::Bytes),
            index_nodes: add!(Level::default(), "index_nodes", "Nodes of the prefix index"),
            usable: add!(Family::default(), "replica_usable", "1 if the replica may be used"),
            draining: add!(Family::default(), "replica_draining", "1 if it is drained and gets no new requests"),
            breaker: add!(Family::default(), "replica_breaker_open", "1 if its circuit breaker is not closed"),
            rtt: add!(Family::default(), "replica_rtt", "Smoothed round trip", Unit::Seconds),
            rtt_p95: add!(
                Family::default(),
                "replica_rtt_p95",
                "95th percentile of the last round trips",
                Unit::Seconds
            ),
            waiting: add!(Family::default(), "replica_waiting_requests", "Our requests there without a first token"),
            running: add!(Family::default(), "replica_running_requests", "Our requests there past their first token"),
            waiting_tokens: add!(Family::default(), "replica_waiting_tokens", "Prompt tokens of our waiting requests"),
            running_tokens: add!(Family::default(), "replica_running_tokens", "Prompt tokens of our running requests"),
            index_tokens: add!(Family::default(), "replica_index_tokens", "Tokens the index holds for it"),
            rtt_age: add!(Family::default(), "replica_rtt_age", "Age of its smoothed round trip", Unit::Seconds),
            engine_running: add!(
                Family::default(),
                "replica_engine_running_requests",
                "Running, by the engine's report"
            ),
            engine_queued: add!(Family::default(), "replica_engine_queued_requests", "Queued, by the engine's report"),
            engine_used: add!(
                Family::default(),
                "replica_engine_used_tokens",
                "KV tokens in use, by the engine's report"
            ),
            engine_capacity: add!(
                Family::default(),
                "replica_engine_kv_tokens",
                "KV tokens the engine has, if reported"
            ),
            engine_age: add!(
                Family::default(),
                "replica_engine_report_age",
                "Age of the engine's report",
                Unit::Seconds
            ),
            learned: [
                add!(
                    Family::default(),
                    "replica_learned_prefill_per_token",
                    "Learned time to prefill a token",
                    Unit::Seconds
                ),
                add!(
                    Family::default(),
                    "replica_learned_prefill_per_token_sd",
                    "Standard deviation of the same",
                    Unit::Seconds
                ),
                add!(
                    Family::default(),
                    "replica_learned_offset",
                    "Learned time to first token beyond network and rates",
                    Unit::Seconds
                ),
                add!(Family::default(), "replica_learned_offset_sd", "Standard deviation of the same", Unit::Seconds),
                add!(Family::default(), "replica_learned_step", "Learned decode step of one request", Unit::Seconds),
                add!(
                    Family::default(),
                    "replica_learned_step_per_running",
                    "What each further request adds to a decode step",
                    Unit::Seconds
                ),
                add!(
                    Family::default(),
                    "replica_learned_ttft_p95_ratio",
                    "95th percentile of times to first token over their predictions"
                ),
                add!(Family::default(), "replica_learned_kappa", "Learned price of a millisecond of other requests"),
            ],
            kv: [
                add!(Family::default(), "replica_kv_events_up", "1 if its KV events are read"),
                add!(Family::default(), "replica_kv_events_age", "Age of the last batch of KV events", Unit::Seconds),
                add!(Family::default(), "replica_kv_resident_tokens", "Tokens its KV events show as cached"),
                add!(Family::default(), "replica_kv_measured_tokens", "Tokens that fit into its cache, as measured"),
                add!(
                    Family::default(),
                    "replica_kv_residence",
                    "Mean time from storing a block to its removal",
                    Unit::Seconds
                ),
            ],
            digest: [
                add!(Family::default(), "replica_digest_keys", "Keys in the digest of a peer, one per kilobyte"),
                add!(Family::default(), "replica_digest_age", "Age of that digest", Unit::Seconds),
            ],
            limits: add!(Family::default(), "limit", "A limit of this router"),
            limits_used: add!(Family::default(), "limit_used", "How much of a limit is in use"),
            policy: add!(Family::default(), "policy_info", "The policy in force"),
            source_endpoints: add!(
                Family::default(),
                "discovery_endpoints",
                "Replicas in the fleet that a source of discovery lists"
            ),
            source_stale: add!(
                Family::default(),
                "discovery_stale",
                "1 if a source of discovery fails or lists nothing, and its last set is kept"
            ),
            source_left_out: add!(
                Family::default(),
                "discovery_left_out",
                "Endpoints that a source of discovery lists and that are not used: no room in the fleet, or a wrong entry"
            ),
            digest_keys: add!(
                Level::default(),
                "digest_keys",
                "Keys of the digest that edges may request from this router"
            ),
            unknown_replicas: add!(
                Level::default(),
                "sharing_unknown_replicas",
                "Replicas that peers name and this router lacks now"
            ),
            tuner_weights: add!(Family::default(), "tuner_weight", "A weight in force, where the tuner searches"),
            shadow_hits: add!(
                Family::default(),
                "shadow_hit_ratio",
                "Share of prompt tokens a shadow policy would have hit"
            ),
            shadow_busiest: add!(
                Family::default(),
                "shadow_busiest_ratio",
                "Largest share of a replica times their number"
            ),
            shadow_ttft: add!(
                Family::default(),
                "shadow_predicted_ttft",
                "Mean predicted time to first token",
                Unit::Seconds
            ),
        }
    }

    /// Sets all gauges.
    pub(super) fn set(&self, levels: &Levels) {
        self.queued.set(levels.queued);
        self.in_flight.set(levels.in_flight);
        self.index_bytes.set(levels.index_bytes);
        self.index_nodes.set(levels.index_nodes);
        for level in &levels.sources {
            let label = SourceLabel { source: level.source.clone() };
            self.source_endpoints.get_or_create(&label).set(level.endpoints as f64);
            self.source_stale.get_or_create(&label).set(f64::from(level.error.is_some()));
            self.source_left_out.get_or_create(&label).set(level.left_out as f64);
        }
        self.digest_keys.set(levels.digest_keys as f64);
        self.unknown_replicas.set(levels.sharing.as_ref().map_or(0, |sharing| sharing.unknown_replicas) as f64);
        self.policy.clear();
        self.policy.get_or_create(&PolicyLabel { policy: levels.policy.clone() }).set(1.0);
        for (limit, most, used) in &levels.limits {
            let label = LimitLabel { limit: (*limit).to_owned() };
            self.limits.get_or_create(&label).set(*most);
            self.limits_used.get_or_create(&label).set(*used);
        }
        let families = [
            &self.usable,
            &self.draining,
            &self.breaker,
            &self.rtt,
            &self.rtt_p95,
            &self.waiting,
            &self.running,
            &self.waiting_tokens,
            &self.running_tokens,
            &self.index_tokens,
        ];
        families.iter().for_each(|family| family.clear());
        let beliefs = [
            &self.rtt_age,
            &self.engine_running,
            &self.engine_queued,
            &self.engine_used,
            &self.engine_capacity,
            &self.engine_age,
        ];
        beliefs.iter().for_each(|family| family.clear());
        for r in &levels.replicas {
            let values = [
                r.usable,
                r.draining,
                r.breaker_open,
                r.rtt_s,
                r.rtt_p95_s,
                f64::from(r.load.waiting_requests),
                f64::from(r.load.running_requests),
                r.load.waiting_tokens as f64,
                r.load.running_tokens as f64,
                r.index_tokens,
            ];
            for (family, value) in families.iter().zip(values) {
                family.get_or_create(&ReplicaLabel { replica: r.name.clone() }).set(value);
            }
        }
        // What is not known has no value, rather than 0.
        for r in &levels.replicas {
            let report = r.engine.map(|(report, _)| report);
            let values = [
                r.rtt_age_s,
                report.map(|report| f64::from(report.running)),
                report.map(|report| f64::from(report.queued)),
                report.filter(|report| report.kv_tokens > 0).map(|report| report.used_tokens as f64),
                report.filter(|report| report.kv_tokens > 0).map(|report| report.kv_tokens as f64),
                r.engine.map(|(_, age)| age),
            ];
            for (family, value) in beliefs.iter().zip(values) {
                if let Some(value) = value {
                    family.get_or_create(&ReplicaLabel { replica: r.name.clone() }).set(value);
                }
            }
        }
        self.learned.iter().for_each(Family::clear);
        for r in &levels.replicas {
            let (rate_sd, offset_sd) = r.learned_sd.unzip();
            let values = [
                Some(r.learned.ms_per_token / 1e3),
                rate_sd.map(|ms| ms / 1e3),
                Some(r.learned.offset_ms / 1e3),
                offset_sd.map(|ms| ms / 1e3),
                Some(r.learned.step_ms / 1e3),
                Some(r.learned.step_ms_per_running / 1e3),
                Some(r.learned.quantiles[2]),
                Some(r.learned.kappa),
            ];
            for (family, value) in self.learned.iter().zip(values) {
                if let Some(value) = value {
                    family.get_or_create(&ReplicaLabel { replica: r.name.clone() }).set(value);
                }
            }
        }
        self.kv.iter().for_each(Family::clear);
        for r in &levels.replicas {
            let Some(kv) = &r.kv else { continue };
            let values = [
                Some(f64::from(kv.is_up)),
                kv.age_s,
                kv.age_s.map(|_| kv.resident_tokens as f64),
                kv.measured_tokens.map(|tokens| tokens as f64),
                kv.residence_s,
            ];
            for (family, value) in self.kv.iter().zip(values) {
                if let Some(value) = value {
                    family.get_or_create(&ReplicaLabel { replica: r.name.clone() }).set(value);
                }
            }
        }
        self.digest.iter().for_each(Family::clear);
        for r in &levels.replicas {
            let Some(digest) = &r.digest else { continue };
            for (family, value) in self.digest.iter().zip([digest.keys as f64, digest.age_s]) {
                family.get_or_create(&ReplicaLabel { replica: r.name.clone() }).set(value);
            }
        }
        self.tuner_weights.clear();
        if let Some((weights, _)) = &levels.tuner {
            for (setting, weight) in weights {
                self.tuner_weights.get_or_create(&SettingLabel { setting: setting.clone() }).set(*weight);
            }
        }
        for shadow in &levels.shadows {
            let label = PolicyLabel { policy: shadow.policy.clone() };
            for (family, value) in [
                (&self.shadow_hits, shadow.hit_ratio),
                (&self.shadow_busiest, shadow.busiest_ratio),
                (&self.shadow_ttft, shadow.predicted_ttft_s),
            ] {
                if let Some(value) = value {
                    family.get_or_create(&label).set(value);
                }
            }
        }
    }
}
