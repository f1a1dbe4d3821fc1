//! Fitted numbers as parameters: prior, interval, visited range, identified or not.

use super::Parameter;
use super::fits::{Found, Model};
use super::fleet::{Fleet, Seen};
use crate::stats::blocks::central;

/// What the parameters are made from.
pub(super) struct Fit<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) model: &'a Model,
    pub(super) found: &'a Found,
    /// Fits of replicates; none without enough blocks.
    pub(super) replicates: &'a [Found],
}

impl Fit<'_> {
    /// A parameter whose fit is `scale * pick(found) + shift`.
    fn of(
        &self,
        key: &str,
        prior: Option<f64>,
        pick: &dyn Fn(&Found) -> Option<f64>,
        visited: String,
    ) -> Option<Parameter> {
        let value = pick(self.found)?;
        let interval = central(self.replicates.iter().map(pick).collect::<Option<Vec<f64>>>().unwrap_or_default());
        // Before the fit: half to twice the prior, or the fit where that is larger. What has no prior was not known at all.
        let wide = prior.map_or(f64::INFINITY, |prior| 1.5 * prior.abs().max(value.abs()).max(1e-6));
        let identified =
            interval.is_some_and(|(low, high)| high - low < wide / 2.0) && value.is_finite() && value >= 0.0;
        let identified = identified && interval.is_some_and(|(low, high)| prior.is_some() || low > 0.0 || high < 0.0);
        Some(Parameter { key: key.to_owned(), prior, value, interval, visited, identified })
    }

    /// The 5th and the 95th percentile of a quantity.
    fn range(&self, what: &str, pick: impl Fn(&Seen) -> f64) -> String {
        let mut values: Vec<f64> = self.fleet.seen.iter().map(pick).filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let at =
            |p: f64| values.get(((values.len().saturating_sub(1)) as f64 * p) as usize).copied().unwrap_or_default();
        let number = |v: f64| if v.abs() < 10.0 { format!("{v:.1}") } else { format!("{v:.0}") };
        format!("{what} {} to {}", number(at(0.05)), number(at(0.95)))
    }

    pub(super) fn rtt(&self) -> Vec<Parameter> {
        let replicas = self.fleet.replicas.iter().enumerate();
        let one = |(i, name): (usize, &String)| {
            let requests = self.fleet.seen.iter().filter(|seen| seen.replica == i).count();
            self.of(&format!("(rtt_ms {name})"), None, &move |f| f.rtt.get(i).copied(), format!("{requests} requests"))
        };
        replicas.filter_map(one).collect()
    }

    /// What a request of the batch adds to a decode step.
    pub(super) fn row(&self) -> Option<Parameter> {
        let prior = self.model.engine.decode.ms_per_row;
        self.of("decode.ms_per_row", Some(prior), &|f| f.row, self.range("batch", |s| s.batch))
    }

    /// The least prefill step, as stalls inside answers show it.
    pub(super) fn floor(&self) -> Option<Parameter> {
        let stalls = self.range("tiny prompts prefilled within an answer", |s| s.tiny_stalls);
        self.of("prefill.floor_ms", Some(self.model.least_step()), &|f| f.floor, stalls)
    }

    pub(super) fn engine(&self) -> Vec<Parameter> {
        let e = &self.model.engine;
        let fixed = e.decode.fixed_ms;
        let batch = self.range("batch", |s| s.batch);
        [
            self.of(
                "prefill.ms_per_token",
                Some(e.prefill.ms_per_token),
                &|f| f.rate,
                self.range("uncached tokens", |s| s.uncached),
            ),
            self.floor(),
            self.of("decode.weights_ms", Some(e.decode.weights_ms), &move |f| Some((f.step? - fixed).max(0.0)), batch),
            self.row(),
            self.of(
                "(ms of every prompt beyond 64 tokens)",
                None,
                &|f| f.longer,
                self.range("prompt tokens", |s| s.prompt),
            ),
            self.of(
                "(prefill rate that stalls show)",
                Some(e.prefill.ms_per_token),
                &|f| f.stall,
                self.range("stalled tokens", |s| s.stalled_tokens),
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    pub(super) fn network(&self) -> Vec<Parameter> {
        let n = &self.model.network;
        let silent = self.range("silence of connections, ms", |s| s.idle);
        let mut found: Vec<Parameter> =
            self.of("opening_rounds", Some(n.opening_rounds), &|f| f.opening, silent.clone()).into_iter().collect();
        let point = |key: &str, prior: f64, value: f64, identified: bool, visited: String| Parameter {
            key: key.to_owned(),
            prior: Some(prior),
            value,
            interval: None,
            visited,
            identified,
        };
        let keep = self.model.keep_alive;
        found.push(point("keep_alive_ms", n.keep_alive_ms, keep.unwrap_or(n.keep_alive_ms), keep.is_some(), silent));
        let prompts = self.range("prompt tokens", |s| s.prompt);
        found.push(point(
            "bytes_per_token",
            n.bytes_per_token,
            self.model.bytes_per_token,
            self.model.bytes_known,
            prompts,
        ));
        found
    }

    pub(super) fn policy(&self) -> Vec<Parameter> {
        let waiting = self.range("waiting tokens", |s| s.waiting_tokens);
        let running = self.range("running requests", |s| s.running);
        [
            self.of(
                "ms_per_token",
                Some(self.model.engine.prefill.ms_per_token),
                &|f| f.rate,
                self.range("uncached tokens", |s| s.uncached),
            ),
            self.of("queue_factor", Some(0.31), &|f| Some(f.waiting_token? / f.rate?), waiting),
            self.of("ms_per_running_request", Some(9.0), &|f| f.running, running),
            self.of(
                "(ms a waiting request)",
                Some(40.0),
                &|f| f.waiting,
                self.range("waiting requests", |s| s.waiting),
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
