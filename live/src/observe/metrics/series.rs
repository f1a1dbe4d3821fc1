//! Metrics of requests by replica, model and policy.
//!
//! A request looks its series up once, by three short names, and then counts without further lookups. The number of
//! series is bounded: replicas by the slots of the fleet, policies by those there are, models by [`MODELS`]. A model
//! beyond those takes the place of the one used longest ago, and only models that an engine has served count, so that
//! names which clients make up neither fill the page nor push others out.

use super::{ERRORS, GAPS, SECONDS};
use crate::observe::request_log::RequestEntry;
use gorgo_core::Time;
use gorgo_core::router::EndReason;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most models with series of their own.
pub(super) const MODELS: usize = 32;
/// Longest name of a model that is a label.
const NAME: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SeriesLabels {
    replica: String,
    model: String,
    policy: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    status: String,
    reason: String,
    code: String,
    replica: String,
    model: String,
    policy: String,
}

type Histograms = Family<SeriesLabels, Histogram, fn() -> Histogram>;
type Counters = Family<SeriesLabels, Counter>;

/// The families whose members have these labels.
#[derive(Debug)]
struct Families {
    requests: Family<RequestLabels, Counter>,
    ttft: Histograms,
    e2e: Histograms,
    itl: Histograms,
    queue_time: Histograms,
    over: Histograms,
    under: Histograms,
    prompt_tokens: Counters,
    predicted_cached: Counters,
    cached: Counters,
    held: Counters,
    output_tokens: Counters,
}

/// The members of the families for one replica, model and policy.
#[derive(Debug)]
struct Series {
    labels: SeriesLabels,
    /// Labels under which requests were counted, by their end and code.
    ends: Mutex<FxHashMap<(EndReason, u16), Counter>>,
    ttft: Histogram,
    e2e: Histogram,
    itl: Histogram,
    queue_time: Histogram,
    over: Histogram,
    under: Histogram,
    prompt_tokens: Counter,
    predicted_cached: Counter,
    cached: Counter,
    held: Counter,
    output_tokens: Counter,
    /// When it counted last, ns.
    used: AtomicU64,
}

type ByPolicy = Vec<(&'static str, Arc<Series>)>;
type ByModel = FxHashMap<Box<str>, ByPolicy>;

/// All series.
#[derive(Debug)]
pub(super) struct RequestSeries {
    families: Families,
    series: Mutex<FxHashMap<Box<str>, ByModel>>,
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

fn gaps() -> Histogram {
    Histogram::new(GAPS)
}

fn errors() -> Histogram {
    Histogram::new(ERRORS)
}

impl RequestSeries {
    /// Registers the families.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let mut histograms = |name: &str, help: &str, make: fn() -> Histogram| {
            let family = Histograms::new_with_constructor(make);
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
            family
        };
        let ttft = histograms("time_to_first_token", "Arrival to first content-bearing token", seconds);
        let e2e = histograms("e2e_request_latency", "Arrival to last byte of finished requests", seconds);
        let itl = histograms("inter_token_latency", "Mean gap between tokens of an answer", gaps);
        let queue_time = histograms("queue_time", "Arrival to last dispatch", seconds);
        let over = histograms("ttft_prediction_over", "How far a predicted time to first token was too long", errors);
        let under =
            histograms("ttft_prediction_under", "How far a predicted time to first token was too short", errors);
        let mut counters = |name: &str, help: &str| {
            let family = Counters::default();
            registry.register(name, help, family.clone());
            family
        };
        let prompt_tokens = counters("prompt_tokens", "Prompt tokens of requests that are over");
        let predicted_cached =
            counters("predicted_cached_tokens", "Prompt tokens the index expected cached, where the engine told");
        let cached = counters("cached_tokens", "Prompt tokens engines found cached");
        let held = counters("held_cached_tokens", "Prompt tokens cached by the KV events of engines, where they tell");
        let output_tokens = counters("output_tokens", "Tokens generated");
        let requests = Family::default();
        registry.register("requests", "Requests that are over, by how and why", Family::clone(&requests));
        let families = Families {
            requests,
            ttft,
            e2e,
            itl,
            queue_time,
            over,
            under,
            prompt_tokens,
            predicted_cached,
            cached,
            held,
            output_tokens,
        };
        Self { families, series: Mutex::default() }
    }

    /// Counts a request that ended. `streamed`: the time of its first token is known.
    pub(super) fn ended(&self, row: &RequestEntry, streamed: bool, model: Option<&str>, policy: &'static str) {
        let replica = row.replica.as_ref().map_or("", |replica| &*replica.name);
        let served = row.end == EndReason::Finished && row.status_code < 300;
        // A client may name any model: only one that an engine has served gets series of its own.
        let is_known = |model: &&str| model.len() <= NAME && (served || self.knows(model));
        let model = model.filter(is_known).unwrap_or_default();
        self.find(replica, model, policy).count(&self.families, row, streamed);
    }

    fn knows(&self, model: &str) -> bool {
        self.series.lock().values().any(|models| models.contains_key(model))
    }

    fn find(&self, replica: &str, model: &str, policy: &'static str) -> Arc<Series> {
        let mut all = self.series.lock();
        let known = all.get(replica).and_then(|models| models.get(model));
        if let Some((_, series)) = known.and_then(|policies| policies.iter().find(|(name, _)| *name == policy)) {
            return Arc::clone(series);
        }
        if !model.is_empty() && !all.values().any(|models| models.contains_key(model)) {
            self.make_room(&mut all);
        }
        let labels = SeriesLabels { replica: replica.to_owned(), model: model.to_owned(), policy: policy.to_owned() };
        let series = Arc::new(self.families.series(labels));
        let policies = all.entry(replica.into()).or_default().entry(model.into()).or_default();
        policies.push((policy, Arc::clone(&series)));
        series
    }

    /// Removes the least recently used model if the limit is reached.
    fn make_room(&self, all: &mut FxHashMap<Box<str>, ByModel>) {
        let mut used: BTreeMap<Box<str>, u64> = BTreeMap::new();
        for (model, policies) in all.values().flatten().filter(|(model, _)| !model.is_empty()) {
            let last = policies.iter().map(|(_, series)| series.used.load(Ordering::Relaxed)).max().unwrap_or(0);
            let known = used.entry(model.clone()).or_default();
            *known = last.max(*known);
        }
        if used.len() < MODELS {
            return;
        }
        if let Some((oldest, _)) = used.into_iter().min_by_key(|(_, last)| *last) {
            for models in all.values_mut() {
                models.remove(&oldest).iter().flatten().for_each(|(_, series)| self.families.remove(series));
            }
        }
    }

    /// Removes the series of a replica that left for good.
    pub(super) fn forget(&self, replica: &str) {
        let gone = self.series.lock().remove(replica);
        gone.iter().flat_map(|models| models.values()).flatten().for_each(|(_, series)| self.families.remove(series));
    }
}

impl Families {
    fn series(&self, labels: SeriesLabels) -> Series {
        Series {
            ends: Mutex::default(),
            ttft: self.ttft.get_or_create_owned(&labels),
            e2e: self.e2e.get_or_create_owned(&labels),
            itl: self.itl.get_or_create_owned(&labels),
            queue_time: self.queue_time.get_or_create_owned(&labels),
            over: self.over.get_or_create_owned(&labels),
            under: self.under.get_or_create_owned(&labels),
            prompt_tokens: self.prompt_tokens.get_or_create_owned(&labels),
            predicted_cached: self.predicted_cached.get_or_create_owned(&labels),
            cached: self.cached.get_or_create_owned(&labels),
            held: self.held.get_or_create_owned(&labels),
            output_tokens: self.output_tokens.get_or_create_owned(&labels),
            used: AtomicU64::new(0),
            labels,
        }
    }

    fn remove(&self, series: &Series) {
        for family in [&self.ttft, &self.e2e, &self.itl, &self.queue_time, &self.over, &self.under] {
            family.remove(&series.labels);
        }
        for family in [&self.prompt_tokens, &self.predicted_cached, &self.cached, &self.held, &self.output_tokens] {
            family.remove(&series.labels);
        }
        for (end, code) in series.ends.lock().keys() {
            self.requests.remove(&series.request_labels(*end, *code));
        }
    }
}

impl Series {
    fn request_labels(&self, end: EndReason, code: u16) -> RequestLabels {
        let SeriesLabels { replica, model, policy } = self.labels.clone();
        let (status, reason) = (end.status().as_str().to_owned(), end.as_str().to_owned());
        RequestLabels { status, reason, code: code.to_string(), replica, model, policy }
    }

    fn count(&self, families: &Families, row: &RequestEntry, streamed: bool) {
        let Time(done) = row.done;
        self.used.store(done, Ordering::Relaxed);
        let end = (row.end.kind(), row.status_code);
        let mut ends = self.ends.lock();
        ends.entry(end)
            .or_insert_with(|| families.requests.get_or_create_owned(&self.request_labels(end.0, end.1)))
            .inc();
        drop(ends);
        if let Some(at) = row.dispatched {
            self.queue_time.observe((at - row.arrived).ms() / 1e3);
        }
        let first_token = row.first_token.filter(|_| streamed);
        if let Some(first) = first_token {
            self.ttft.observe((first - row.arrived).ms() / 1e3);
            if let Some((expected, sent)) = row.predicted_ttft_ms.zip(row.dispatched) {
                let error = (expected - (first - sent).ms()) / 1e3;
                if error >= 0.0 {
                    self.over.observe(error);
                } else {
                    self.under.observe(-error);
                }
            }
        }
        if row.end == EndReason::Finished {
            self.e2e.observe((row.done - row.arrived).ms() / 1e3);
            if let Some(first) = first_token.filter(|_| row.output_tokens > 1) {
                self.itl.observe((row.done - first).ms() / 1e3 / f64::from(row.output_tokens - 1));
            }
        }
        self.prompt_tokens.inc_by(u64::from(row.counted_tokens.unwrap_or(row.prompt_tokens)));
        self.output_tokens.inc_by(u64::from(row.output_tokens));
        self.held.inc_by(row.held_tokens.map_or(0, u64::from));
        if let Some(cached) = row.cached_tokens {
            self.cached.inc_by(u64::from(cached));
            self.predicted_cached.inc_by(u64::from(row.predicted_cached_tokens));
        }
    }
}
