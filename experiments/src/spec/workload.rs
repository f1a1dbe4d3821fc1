//! `[workload]`: the requests of a run and their arrival times.

use super::SpecError;
use gorgo_core::request::TraceRequest;
use gorgo_core::settings::field_names;
use gorgo_core::{Span, Time};
use gorgo_traces::workload::arrange::{below_rate, redraw};
use gorgo_traces::workload::blocks::mix;
use gorgo_traces::workload::{Arrivals, Options, UnknownPlaces, Workload};
use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use std::path::Path;
use std::sync::Arc;
use toml::{Table, Value};

/// Latest arrival of a run, s: with the time that answers take it fits into the clock.
const LONGEST_S: f64 = 1e9;

/// A trace or a generator, with limits and arrival rates. The keys of the trace reader's options may stand beside
/// these.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct WorkloadSpec {
    /// Built-in name or path of a trace.
    pub trace: Option<String>,
    /// `wildchat-like`: generate a trace instead.
    pub generate: Option<String>,
    /// Most requests; the size of a generated trace.
    pub requests: Option<usize>,
    /// Poisson arrivals in the order of the trace, requests a second.
    pub rate: Option<f64>,
    /// Poisson arrivals of conversations, whose turns keep their pauses, requests a second on average.
    pub session_rate: Option<f64>,
    /// Keep only requests that arrive within this time. A drawn arrival process goes on through fresh copies of the trace (other
    /// ids, other users) when the trace is too short for it.
    pub duration_s: Option<f64>,
    /// Tokens that routers count for each token of the engine, where the trace has no `router_tokens`. Simulation only: a
    /// real router counts by itself.
    pub router_token_factor: Option<f64>,
    /// Seconds that a day takes in a generated trace, whose countries then follow their local time of day; the rate is the
    /// mean over the day. Without it the rate is constant.
    pub day_s: Option<f64>,
    /// Hour of the day, UTC, at which a generated trace with `day_s` begins; 0 when absent.
    pub start_hour: Option<f64>,
    /// The reader's options.
    #[schemars(flatten)]
    pub options: Options,
}

#[derive(Debug, Default, Deserialize)]
struct Own {
    trace: Option<String>,
    generate: Option<String>,
    requests: Option<usize>,
    rate: Option<f64>,
    session_rate: Option<f64>,
    duration_s: Option<f64>,
    router_token_factor: Option<f64>,
    day_s: Option<f64>,
    start_hour: Option<f64>,
}

impl WorkloadSpec {
    /// Reads the table. An error is one sentence that names the key.
    fn parse(mut table: Table) -> Result<Self, String> {
        let mut own = Table::new();
        let keys = field_names::<Own>();
        for key in keys {
            own.extend(table.remove_entry(*key));
        }
        places_are_known(table.get("unknown_places"))?;
        let keeps = table.contains_key("unknown_places");
        if own.contains_key("generate") && keeps {
            return Err(GENERATE_TAKES.to_owned());
        }
        let own: Own = Value::Table(own)
            .try_into()
            .map_err(|e: toml::de::Error| format!("[workload] {}", super::run::explain(&e)))?;
        if table.contains_key("seed") {
            return Err("[workload] seed is set by the run's own seed; use `seeds`".to_owned());
        }
        let mut options: Options = Value::Table(table).try_into().map_err(|e: toml::de::Error| {
            let mut message = super::run::explain(&e);
            // A value that is none of its names has a list of its own.
            if message.contains("unknown field") {
                message = message.replace("expected one of ", &format!("expected one of `{}`, ", keys.join("`, `")));
            }
            format!(
                "[workload] {}",
                message.replace("`time_scale`, `duration_s`", "`time_scale`").replace(", `seed`", "")
            )
        })?;
        if !keeps {
            options.unknown_places = DRAWN;
        }
        let spec = Self {
            trace: own.trace,
            generate: own.generate,
            requests: own.requests,
            rate: own.rate,
            session_rate: own.session_rate,
            duration_s: own.duration_s,
            router_token_factor: own.router_token_factor,
            day_s: own.day_s,
            start_hour: own.start_hour,
            options,
        };
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        match (&self.trace, self.generate.as_deref()) {
            (None, None) => {
                return Err(
                    "[workload] needs `trace` (a built-in name or a path) or `generate = \"wildchat-like\"`".into()
                );
            }
            (Some(name), _) if name.trim().is_empty() => {
                return Err(format!(
                    "[workload] trace = \"{name}\" names nothing; give a path or a built-in name: {}",
                    gorgo_traces::shipped::names()
                ));
            }
            (Some(_), Some(_)) => return Err("[workload] has both `trace` and `generate`; keep one".into()),
            (None, Some(name)) if name != "wildchat-like" => {
                return Err(format!("[workload] generate = \"{name}\" is not known; did you mean `wildchat-like`?"));
            }
            _ => {}
        }
        if self.trace.as_deref() == Some("-") {
            return Err("[workload] trace = \"-\" cannot be standard input: results keep a digest of the trace; save it in a file".into());
        }
        if self.trace.is_none() {
            let plain = Options {
                max_input_tokens: self.options.max_input_tokens,
                max_output_tokens: self.options.max_output_tokens,
                time_scale: self.options.time_scale,
                unknown_places: DRAWN,
                ..Options::default()
            };
            if self.options != plain {
                return Err(GENERATE_TAKES.to_owned());
            }
        }
        if self.rate.is_some() && self.session_rate.is_some() {
            return Err("[workload] has both `rate` and `session_rate`; keep one".into());
        }
        let drawn =
            [("rate", self.rate), ("session_rate", self.session_rate)].into_iter().find(|(_, rate)| rate.is_some());
        if let Some((key, _)) = drawn.filter(|_| self.options.arrivals != Arrivals::default()) {
            return Err(format!("[workload] has both `{key}` and `arrivals`; keep one"));
        }
        // A drawn process has its rate; a factor on its times would make another one of it.
        let poisson = matches!(self.options.arrivals, Arrivals::Poisson(_) | Arrivals::PoissonSessions(_));
        let drawn = drawn.map(|(key, _)| key).or(poisson.then_some("arrivals"));
        if let Some(key) = drawn.filter(|_| self.options.time_scale != 1.0) {
            let scale = self.options.time_scale;
            return Err(format!(
                "[workload] time_scale = {scale} would change the rate that `{key}` asks for; keep one"
            ));
        }
        if self.generate.is_none() && (self.day_s.is_some() || self.start_hour.is_some()) {
            return Err(
                "[workload] day_s and start_hour are settings of a generated trace; a recorded one has its own times"
                    .into(),
            );
        }
        if self.day_s.is_none() && self.start_hour.is_some() {
            return Err("[workload] start_hour needs day_s, the seconds that a day takes".into());
        }
        if let Some(hour) = self.start_hour.filter(|hour| !(0.0..=24.0).contains(hour)) {
            return Err(format!("[workload] start_hour = {hour} must lie between 0 and 24"));
        }
        if let Some(day) = self.day_s.filter(|day| !(60.0..=86_400.0).contains(day)) {
            return Err(format!("[workload] day_s = {day} must lie between 60 and 86400"));
        }
        // Beyond these bounds times would not fit into the clock.
        for (key, value, low, high) in [
            ("rate", self.rate, 1e-6, 1e6),
            ("session_rate", self.session_rate, 1e-6, 1e6),
            ("time_scale", Some(self.options.time_scale), 1e-6, 1e6),
            ("duration_s", self.duration_s, 1e-3, LONGEST_S),
        ] {
            if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
                return Err(format!("[workload] {key} = {value} must lie between {low} and {high}"));
            }
        }
        if self.router_token_factor.is_some_and(|f| !(0.01..=100.0).contains(&f)) {
            let factor = self.router_token_factor.unwrap_or_default();
            return Err(format!("[workload] router_token_factor = {factor} must lie between 0.01 and 100"));
        }
        if self.requests == Some(0) {
            return Err("[workload] requests = 0 leaves nothing to run".into());
        }
        Ok(())
    }

    /// The files that the requests come from, each after its key; none for a built-in or generated trace.
    pub(super) fn files(&self, dir: &Path) -> Vec<(&'static str, String)> {
        let trace = self.trace.iter().filter(|name| gorgo_traces::shipped::find(name).is_none());
        let lookup = self.options.lookup.iter().map(|path| ("lookup", path.display().to_string()));
        trace.map(|name| ("trace", located(name, dir))).chain(lookup).collect()
    }

    /// The reader's options for one seed.
    fn reading(&self, seed: u64) -> Options {
        let mut options = self.options.clone();
        options.seed = seed;
        if let Some(rate) = self.rate {
            options.arrivals = Arrivals::Poisson(rate);
        }
        if let Some(rate) = self.session_rate {
            options.arrivals = Arrivals::PoissonSessions(rate);
        }
        options
    }

    /// Reads the trace, once for all seeds and rates; `None` when the requests are generated. Relative paths start
    /// from `dir`.
    ///
    /// # Errors
    /// When the trace cannot be read.
    pub fn read(&self, dir: &Path) -> Result<Option<Workload>, SpecError> {
        let Some(name) = &self.trace else { return Ok(None) };
        Ok(Some(gorgo_traces::workload::open_undrawn(&located(name, dir), &self.reading(0))?))
    }

    /// What [`Self::read`] depends on: workloads with equal keys share one reading.
    pub(crate) fn reading_key(&self) -> String {
        let drawn = self.rate.is_some() || self.session_rate.is_some();
        format!("{:?} {drawn} {}", self.trace, serde_json::to_string(&self.options).unwrap_or_default())
    }

    /// Reads and draws, or generates the requests for one seed. Relative paths start from `dir`.
    ///
    /// # Errors
    /// When the trace cannot be read, or leaves no request.
    pub fn load(&self, dir: &Path, seed: u64) -> Result<Vec<TraceRequest>, SpecError> {
        self.draw(self.read(dir)?.as_ref(), seed)
    }

    /// The requests for one seed, from what [`Self::read`] gave.
    ///
    /// # Errors
    /// When no request is left.
    pub fn draw(&self, read: Option<&Workload>, seed: u64) -> Result<Vec<TraceRequest>, SpecError> {
        Ok(self.draw_noted(read, seed)?.0)
    }

    /// As [`Self::draw`], with remarks for the user on what was drawn.
    ///
    /// # Errors
    /// See [`Self::draw`].
    pub fn draw_noted(
        &self,
        read: Option<&Workload>,
        seed: u64,
    ) -> Result<(Vec<TraceRequest>, Vec<String>), SpecError> {
        let mut notes = Vec::new();
        let options = self.reading(seed);
        let drawn = options.arrivals != Arrivals::Recorded;
        let mut requests = match read {
            Some(read) => {
                let mut workload = read.clone();
                workload.notes.clear();
                gorgo_traces::workload::arrange::draw(&mut workload, &options)?;
                notes.extend(workload.notes);
                workload.requests
            }
            None => self.generate(seed, &options)?,
        };
        if let Some(duration) = self.duration_s {
            let end = Time::ZERO + Span::from_secs(duration);
            if drawn && read.is_some() {
                prolong(&mut requests, end, self.requests.unwrap_or(usize::MAX), &options);
            }
            requests.retain(|r| r.at <= end);
        }
        if let Some(limit) = self.requests {
            requests.truncate(limit);
        }
        if requests.is_empty() {
            return Err(SpecError::NoRequest);
        }
        let last = requests.iter().map(|r| r.at).max().unwrap_or_default().secs();
        if last > LONGEST_S {
            return Err(SpecError::TooLong { last, longest: LONGEST_S });
        }
        if let Some(factor) = self.router_token_factor {
            for request in requests.iter_mut().filter(|r| r.router_tokens.is_none()) {
                request.router_tokens = Some(((f64::from(request.input_tokens) * factor).round() as u32).max(1));
            }
        }
        notes.extend(self.rate_note(&requests));
        Ok((requests, notes))
    }

    /// A note where the run has far fewer requests a second than asked for.
    fn rate_note(&self, requests: &[TraceRequest]) -> Option<String> {
        let (rate, why) = match (self.generate.is_some(), self.requests, self.rate.or(self.session_rate)?) {
            (true, requests, rate) if self.duration_s.is_none() && self.day_s.is_none() => (
                rate,
                match requests {
                    Some(_) => {
                        "the last turns of long conversations come after all others; give duration_s in place of requests"
                    }
                    None => "the last turns of long conversations come after all others; give duration_s",
                },
            ),
            (false, None, rate) if self.session_rate.is_some() && self.duration_s.is_some() => {
                (rate, "sessions last longer than duration_s; give a longer one")
            }
            _ => return None,
        };
        // A turn that waits for the one before it has no time of its own.
        if requests.iter().any(|r| r.delay.is_some()) {
            return None;
        }
        let span = self.duration_s.or(requests.last().map(|r| r.at.secs()))?;
        let had = below_rate(requests.len(), span, rate)?;
        Some(format!("the run has {had:.2} of the {rate} requests/s asked for, since {why}"))
    }
}

/// What becomes of users without a place unless `unknown_places` says otherwise: a simulated user has one.
pub(super) const DRAWN: UnknownPlaces = UnknownPlaces::Draw(gorgo_traces::geo::Weights::Full1m);

const GENERATE_TAKES: &str = "[workload] generate takes rate, session_rate, requests, duration_s, day_s, start_hour, max_input_tokens, max_output_tokens and time_scale; other keys are options of a trace";

/// Refuses a value of `unknown_places` in words of the file.
fn places_are_known(value: Option<&Value>) -> Result<(), String> {
    let known = |value: &Value| match value {
        Value::String(word) => word == "keep",
        Value::Table(table) => {
            table.len() == 1 && matches!(table.get("draw").and_then(Value::as_str), Some("full1m" | "first10k"))
        }
        _ => false,
    };
    match value.filter(|value| !known(value)) {
        None => Ok(()),
        Some(wrong) => Err(format!(
            "[workload] unknown_places is {wrong}; give \"keep\", {{ draw = \"full1m\" }} or {{ draw = \"first10k\" }}"
        )),
    }
}

/// The path of a trace: beside the experiment's file if it is there, else from the current folder. A built-in trace
/// keeps its name.
fn located(name: &str, dir: &Path) -> String {
    let beside = dir.join(name);
    let known = gorgo_traces::shipped::find(name).is_some() || !beside.exists();
    if known { name.to_owned() } else { beside.display().to_string() }
}

/// Writes the path of a trace as from the current folder.
pub(super) fn name_file(trace: &mut Value, dir: &Path) {
    if let Value::String(name) = trace {
        *name = located(name, dir);
    }
}

/// As [`name_file`], in settings of a run.
pub(super) fn name_files(settings: &mut Table, dir: &Path) {
    if let Some(trace) = settings.get_mut("workload").and_then(|workload| workload.get_mut("trace")) {
        name_file(trace, dir);
    }
}

/// Reads `[workload]` inside [`super::RunSpec`].
pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<WorkloadSpec, D::Error> {
    WorkloadSpec::parse(Table::deserialize(input)?).map_err(D::Error::custom)
}

/// Appends copies of the trace with new ids, users and gaps until it lasts to `end`.
fn prolong(requests: &mut Vec<TraceRequest>, end: Time, limit: usize, options: &Options) {
    let original = requests.clone();
    let mut round = 0u64;
    while requests.len() < limit {
        let Some(last) = requests.iter().map(|r| r.at).max().filter(|&last| last < end) else { return };
        round += 1;
        let fresh = |ids: &Arc<[u64]>| ids.iter().map(|&id| mix(id, round)).collect::<Arc<[u64]>>();
        let copy = original.iter().map(|r| TraceRequest {
            session: mix(r.session, round),
            user: mix(r.user, round),
            blocks: fresh(&r.blocks),
            answer_blocks: fresh(&r.answer_blocks),
            ..r.clone()
        });
        let mut copy: Vec<TraceRequest> = copy.collect();
        // Gaps of its own, so that no rate is off by the same share in every copy.
        redraw(&mut copy, options.arrivals, mix(options.seed, round));
        let begin = match options.arrivals {
            // Sessions overlap: the next copy begins where the starts of the sessions of the last one ended.
            Arrivals::PoissonSessions(rate) => {
                Time::ZERO + Span::from_secs(original.len() as f64 / rate * options.time_scale * round as f64)
            }
            _ => last,
        };
        for request in &mut copy {
            request.at = begin + Span(Time::from_ms(request.at.ms() * options.time_scale).0);
        }
        requests.extend(copy);
        if matches!(options.arrivals, Arrivals::PoissonSessions(_)) {
            if begin > end {
                break;
            }
            requests.sort_by_key(|r| r.at);
        }
    }
}
