//! Circuit breaker of a replica: opens after consecutive failures, then admits one trial request at a time.

use crate::judgement::Failure;
use crate::{Span, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When the breaker opens and for how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// Failures in a row that open it.
    pub failures: u32,
    /// First time it stays open, ms; doubled at each failed trial.
    pub open_ms: f64,
    /// Longest time it stays open, ms.
    pub max_open_ms: f64,
    /// How long a replica that refuses this router's key stays set aside, ms: from the first refusal on if it has answered
    /// no request yet, else after `failures` in a row.
    pub key_refused_ms: f64,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures: 3, open_ms: 500.0, max_open_ms: 2_000.0, key_refused_ms: 30_000.0 }
    }
}

/// State of one replica's breaker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Breaker {
    failures: u32,
    /// Openings since the last success.
    opened: u32,
    until: Option<Time>,
    /// The failure that opened it last.
    cause: Option<Failure>,
}

/// A breaker as another process takes it over.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedBreaker {
    failures: u32,
    opened: u32,
    /// Time until the next trial, ms; `None` while it is closed.
    open_ms: Option<f64>,
    cause: Option<Failure>,
}

impl Breaker {
    /// The breaker with its times counted from `now`.
    pub(crate) fn saved(&self, now: Time) -> SavedBreaker {
        let open_ms = self.until.map(|until| (until - now).ms());
        SavedBreaker { failures: self.failures, opened: self.opened, open_ms, cause: self.cause }
    }

    /// Whether no request may be sent at `now`. After `open_ms` the breaker is half open: one trial passes at a time,
    /// so it counts as open while requests are in flight.
    pub fn is_open(&self, now: Time, in_flight: u32) -> bool {
        self.until.is_some_and(|until| now < until || in_flight > 0)
    }

    /// Whether it was opened and has not been closed since, half open included.
    pub fn is_tripped(&self) -> bool {
        self.until.is_some()
    }

    /// The failure that opened it; `None` while it is closed.
    pub fn cause(&self) -> Option<Failure> {
        self.cause
    }

    /// Whether it is open because no connection could be made. Other causes are judged from requests, which one client
    /// may have crafted, and never close the whole fleet.
    pub fn is_unreachable(&self) -> bool {
        self.cause == Some(Failure::Unreachable)
    }

    /// A request got its first token, or the replica proved otherwise that it works; true if it was unreachable.
    pub fn succeeded(&mut self) -> bool {
        let was_unreachable = self.is_unreachable();
        *self = Self::default();
        was_unreachable
    }

    /// A request failed and the replica is at fault; true if this opened the breaker. Without `may_open` the failure is
    /// counted only. A refused key opens it at once if the key `is_key_unproven`.
    pub fn failed(
        &mut self,
        now: Time,
        failure: Failure,
        may_open: bool,
        is_key_unproven: bool,
        config: &BreakerConfig,
    ) -> bool {
        self.failures = self.failures.saturating_add(1);
        let refused = failure == Failure::KeyRefused;
        let trial_failed = self.until.is_some_and(|until| now >= until);
        let is_enough = (refused && is_key_unproven) || self.failures >= config.failures;
        let opens = trial_failed || (self.until.is_none() && is_enough);
        if !opens || !may_open {
            return false;
        }
        let open = (config.open_ms * 2f64.powi(self.opened.min(30) as i32)).min(config.max_open_ms);
        self.opened = self.opened.saturating_add(1);
        self.until = Some(now + Span::from_ms(if refused { config.key_refused_ms } else { open }));
        self.cause = Some(failure);
        true
    }

    /// When an open breaker lets the next trial through.
    pub fn reopens(&self, now: Time) -> Option<Time> {
        self.until.filter(|&until| until > now)
    }

    /// Lets a trial through at once, because probes succeed again.
    pub fn half_open(&mut self, now: Time) {
        if let Some(until) = &mut self.until {
            *until = (*until).min(now);
        }
    }
}

impl SavedBreaker {
    /// The breaker at `now`. It opens for no longer than the settings allow.
    pub(crate) fn restored(&self, now: Time, config: &BreakerConfig) -> Breaker {
        let longest = config.max_open_ms.max(config.key_refused_ms);
        let until = self.open_ms.map(|ms| now + Span::from_ms(ms.clamp(0.0, longest)));
        Breaker { failures: self.failures, opened: self.opened, until, cause: self.cause.filter(|_| until.is_some()) }
    }
}
