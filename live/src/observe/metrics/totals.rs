//! Counters that are kept elsewhere (by logs, the tuner, the exchange with peers, streams of KV events) and that a
//! scrape copies.

use super::gauges::ReplicaLabel;
use super::levels::Levels;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::Ordering;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// The counters.
#[derive(Debug)]
pub(super) struct Totals {
    dropped: Counter,
    messages_sent: Counter,
    bytes_sent: Counter,
    paths: Family<OutcomeLabel, Counter>,
    digest_bytes_sent: Counter,
    digest_received: Family<ReplicaLabel, Counter>,
    tuner_trials: Family<OutcomeLabel, Counter>,
    kv_batches: Family<ReplicaLabel, Counter>,
    kv_gaps: Family<ReplicaLabel, Counter>,
    kv_cuts: Family<ReplicaLabel, Counter>,
}

impl Totals {
    /// Registers the counters.
    pub(super) fn new(registry: &mut Registry) -> Self {
        fn family<L>(registry: &mut Registry, name: &str, help: &str) -> Family<L, Counter>
        where
            L: EncodeLabelSet + Clone + std::hash::Hash + Eq + Send + Sync + std::fmt::Debug + 'static,
        {
            let family = Family::default();
            registry.register(name, help, Family::clone(&family));
            family
        }
        let bytes = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Counter::default();
            registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
            counter
        };
        let (dropped, messages_sent, digest_received) = (Counter::default(), Counter::default(), Family::default());
        registry.register("dropped_records", "Records of decisions and requests that no log took", dropped.clone());
        registry.register("sharing_messages_sent", "Messages to routers of the same replicas", messages_sent.clone());
        let help = "Digests received from a peer since it joined";
        registry.register_with_unit("replica_digest_received", help, Unit::Bytes, Family::clone(&digest_received));
        Self {
            dropped,
            messages_sent,
            digest_received,
            bytes_sent: bytes(registry, "sharing_sent", "Messages to routers of the same replicas"),
            paths: family(
                registry,
                "sharing_paths",
                "Prefixes exchanged with routers of the same replicas, by outcome",
            ),
            digest_bytes_sent: bytes(registry, "digest_sent", "Digests sent to edges"),
            tuner_trials: family(registry, "tuner_trials", "Trials of the tuner, by outcome"),
            kv_batches: family(registry, "replica_kv_event_batches", "Batches of KV events read since it joined"),
            kv_gaps: family(registry, "replica_kv_event_gaps", "Times that batches were lost since it joined"),
            kv_cuts: family(registry, "replica_kv_event_cuts", "Paths cut in the index by removals since it joined"),
        }
    }

    /// Copies all counts.
    pub(super) fn set(&self, levels: &Levels) {
        let copy = |counter: &Counter, count: u64| counter.inner().store(count, Ordering::Relaxed);
        copy(&self.dropped, levels.dropped);
        copy(&self.digest_bytes_sent, levels.digest_bytes_sent);
        if let Some(sharing) = &levels.sharing {
            copy(&self.messages_sent, sharing.messages_sent);
            copy(&self.bytes_sent, sharing.bytes_sent);
            for (outcome, count) in sharing.paths {
                copy(&self.paths.get_or_create(&OutcomeLabel { outcome }), count);
            }
        }
        if let Some((_, trials)) = &levels.tuner {
            let refused = trials.ended.saturating_sub(trials.taken + trials.guarded);
            for (outcome, count) in [("taken", trials.taken), ("guarded", trials.guarded), ("refused", refused)] {
                copy(&self.tuner_trials.get_or_create(&OutcomeLabel { outcome }), count);
            }
        }
        let by_replica = [&self.digest_received, &self.kv_batches, &self.kv_gaps, &self.kv_cuts];
        by_replica.iter().for_each(|family| family.clear());
        for r in &levels.replicas {
            let kv = r.kv.as_ref();
            let counts = [
                r.digest.as_ref().map(|digest| digest.received_bytes),
                kv.map(|kv| kv.batches),
                kv.map(|kv| kv.gaps),
                kv.map(|kv| kv.cuts),
            ];
            for (family, count) in by_replica.iter().zip(counts) {
                if let Some(count) = count {
                    copy(&family.get_or_create(&ReplicaLabel { replica: r.name.clone() }), count);
                }
            }
        }
    }
}
