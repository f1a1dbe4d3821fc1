//! The router's own Prometheus metrics: counters of requests and dispatches, and gauges and counters that a scrape sets
//! (`gauges`, `totals`) from what it reads of the router (`levels`). Labels are bounded: names of replicas, reasons,
//! policies, limits, and models as [`series`] counts them.

use crate::observe::request_log::RequestEntry;
use gauges::{Gauges, ReplicaLabel};
pub(crate) use levels::{DigestLevel, Levels, ReplicaGauges, ShadowGauges, SharingLevels};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};
use series::RequestSeries;
use std::collections::BTreeSet;
use std::fmt::Write;
use totals::Totals;

mod gauges;
mod levels;
mod process;
mod series;
mod totals;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PackedLabel {
    replica: String,
    form: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

/// The families.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    series: RequestSeries,
    gauges: Gauges,
    totals: Totals,
    dispatches: Family<ReplicaLabel, Counter>,
    decisions: Family<ReasonLabel, Counter>,
    refusals: Family<CodeLabel, Counter>,
    packed: Family<PackedLabel, Counter>,
    /// The members of families that nearly every request counts in, so that it need not look them up.
    own_rule: Counter,
    retries: Counter,
}

const SECONDS: [f64; 18] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0];
const GAPS: [f64; 15] = [0.001, 0.002, 0.004, 0.006, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
const ERRORS: [f64; 8] = [0.005, 0.01, 0.05, 0.1, 0.5, 2.0, 10.0, 60.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("gorgo");
        let decisions: Family<ReasonLabel, Counter> = Family::default();
        registry.register("decisions", "Dispatches by what decided: own rule or a fallback", decisions.clone());
        let series = RequestSeries::new(&mut registry);
        let (dispatches, retries) = (Family::default(), Counter::default());
        registry.register("dispatches", "Requests given to a replica, retries included", dispatches.clone());
        registry.register("retries", "Dispatches after a request's first", retries.clone());
        let refusals = Family::default();
        registry.register(
            "refusals",
            "Errors that the router itself answered clients with, by error.code: wrong keys, paths, bodies, models; overload",
            refusals.clone(),
        );
        let packed = Family::default();
        let help = "Bytes of request bodies sent packed to a peer: before packing (plain) and after (packed)";
        registry.register_with_unit("packed_bodies", help, Unit::Bytes, packed.clone());
        let (gauges, totals) = (Gauges::new(&mut registry), Totals::new(&mut registry));
        let own_rule = decisions.get_or_create_owned(&ReasonLabel { reason: "own-rule".to_owned() });
        Self { registry, series, gauges, totals, dispatches, decisions, refusals, packed, own_rule, retries }
    }
}

impl Metrics {
    /// The counter of dispatches to a replica.
    pub fn dispatches(&self, replica: &str) -> Counter {
        self.dispatches.get_or_create_owned(&ReplicaLabel { replica: replica.to_owned() })
    }

    /// Removes the label of a replica that left for good, so that there are never more labels than slots.
    pub fn forget(&self, replica: &str) {
        self.dispatches.remove(&ReplicaLabel { replica: replica.to_owned() });
        self.series.forget(replica);
        for form in ["plain", "packed"] {
            self.packed.remove(&PackedLabel { replica: replica.to_owned(), form });
        }
    }

    /// Counts a body of `plain` bytes sent to a peer as `packed` bytes.
    pub(crate) fn packed(&self, replica: &str, plain: usize, packed: usize) {
        for (form, bytes) in [("plain", plain), ("packed", packed)] {
            let label = PackedLabel { replica: replica.to_owned(), form };
            self.packed.get_or_create(&label).inc_by(bytes as u64);
        }
    }

    /// Counts a dispatch to the replica of this counter.
    pub fn dispatched(&self, dispatches: &Counter, attempt: u8, reason: Option<&'static str>) {
        dispatches.inc();
        match reason {
            None => self.own_rule.inc(),
            Some(word) => self.decisions.get_or_create(&ReasonLabel { reason: word.to_owned() }).inc(),
        };
        self.retries.inc_by(u64::from(attempt > 1));
    }

    /// Counts an error that the router itself answered with.
    pub(crate) fn refused(&self, code: &'static str) {
        self.refusals.get_or_create(&CodeLabel { code }).inc();
    }

    /// Counts a request that ended. `streamed`: the time of its first token is known.
    pub fn ended(&self, row: &RequestEntry, streamed: bool, model: Option<&str>, policy: &'static str) {
        self.series.ended(row, streamed, model, policy);
    }

    /// The text of all families, in Prometheus' format 0.0.4.
    pub fn text(&self, levels: &Levels) -> String {
        self.gauges.set(levels);
        self.totals.set(levels);
        let mut text = String::new();
        let _ = encode(&mut text, &self.registry); // writing to a string cannot fail
        let mut page = classic(&text);
        let _ = write!(
            page,
            "# HELP gorgo_build_info The program that runs.\n# TYPE gorgo_build_info gauge\ngorgo_build_info{{version=\"{}\"}} 1\n",
            env!("CARGO_PKG_VERSION")
        );
        process::write(&mut page, levels.started_s);
        page
    }
}

/// OpenMetrics to Prometheus' own format, which every scraper and `promtool check metrics` reads: a counter's help and
/// type carry its samples' name, and there is neither a unit nor an end line.
fn classic(text: &str) -> String {
    let counters: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut out = String::with_capacity(text.len() + 512);
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("UNIT" | "EOF"), ..) => continue,
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(name) => {
                out.push_str(&format!("# {what} {name}_total {rest}"));
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests;
