//! The part of a peer's report beyond its load: its engine's learned rates and its arrival rate.
//!
//! ```text
//! rate(t)   = sum over requests of exp(-(t - sent) / T) / T        T = 10 s: requests, prompt and uncached tokens a second
//! load(t)   = load in the report + own requests since + (their rate - own rate) * age of the report     at most 1 s old
//! ```
//!
//! The age of a report is its network delay plus the time since it arrived. Requests that other routers are expected to
//! have sent during that age count as waiting for their first token, as this router's own requests since the report do.
//! Source: Dahlin, *Interpreting stale load information*, 2000.
//! Numbers have 32 bits, so that a report in the simulator equals one that was serialized and sent.

use super::Load;
use crate::{Span, Time};
use serde::{Deserialize, Serialize};

/// Time that the moving averages span.
const SPAN_S: f64 = 10.0;
/// Limit on the age that is extrapolated: the estimated load of a peer that sends no more reports stops growing.
const OLDEST: Span = Span(1_000_000_000);

/// The rates that a peer learned of its own engine.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerRates {
    /// First tokens behind it.
    pub samples: u32,
    /// TTFT beyond the terms below, ms.
    pub offset: f32,
    /// ms per 1,000 uncached tokens, per 1,000 waiting tokens, per running and per waiting request.
    pub ttft: [f32; 4],
    /// ms of a decode step, and of each further request in it.
    pub step: [f32; 2],
}

/// What a router sends to an engine or peer, per second.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Arrivals {
    /// Requests.
    pub requests: f32,
    /// Their prompt tokens.
    pub tokens: f32,
    /// Those of them that were not cached.
    pub uncached: f32,
}

impl Arrivals {
    fn add(&mut self, other: &Self, factor: f32) {
        self.requests += factor * other.requests;
        self.tokens += factor * other.tokens;
        self.uncached += factor * other.uncached;
    }

    /// The sum of two.
    pub(crate) fn plus(mut self, other: &Self) -> Self {
        self.add(other, 1.0);
        self
    }

    /// What is left without `other`, 0 at least.
    fn beyond(mut self, other: &Self) -> Self {
        self.add(other, -1.0);
        // NaN becomes 0.
        let least = |number: f32| number.max(0.0);
        Self { requests: least(self.requests), tokens: least(self.tokens), uncached: least(self.uncached) }
    }

    /// The load that arrives in `age`, all of it waiting.
    fn during(&self, age: Span) -> Load {
        let of = |rate: f32| f64::from(rate) * age.ms() / 1e3;
        Load {
            waiting_requests: of(self.requests).round() as u32,
            waiting_tokens: of(self.tokens) as u64,
            waiting_uncached_tokens: of(self.uncached.min(self.tokens)) as u64,
            ..Load::default()
        }
    }
}

/// Moving averages of what this router sends.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sending {
    rate: Arrivals,
    at: Time,
}

impl Sending {
    /// Counts a request.
    pub(crate) fn sent(&mut self, now: Time, tokens: u32, uncached: u32) {
        let one = Arrivals { requests: 1.0, tokens: tokens as f32, uncached: uncached as f32 };
        let mut rate = self.rate(now);
        rate.add(&one, (1.0 / SPAN_S) as f32);
        (self.rate, self.at) = (rate, now);
    }

    /// The averages at `now`.
    pub(crate) fn rate(&self, now: Time) -> Arrivals {
        let left = (-(now - self.at).ms() / (1e3 * SPAN_S)).exp() as f32;
        let mut rate = Arrivals::default();
        rate.add(&self.rate, left);
        rate
    }
}

/// How a peer's report ages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ageing {
    made: Time,
    others: Arrivals,
}

impl Ageing {
    /// The aging of a report made at `made`: the engine gets `all`, of which this router sends `own`.
    pub(crate) fn new(made: Time, all: &Arrivals, own: &Arrivals) -> Self {
        Self { made, others: all.beyond(own) }
    }

    /// The load that other routers are expected to have sent since the report.
    pub(crate) fn load(&self, now: Time) -> Load {
        self.others.during((now - self.made).min(OLDEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: f64) -> Time {
        Time::from_ms(s * 1e3)
    }

    #[test]
    fn the_average_finds_a_steady_rate_and_forgets_it() {
        let mut sending = Sending::default();
        (0..200).for_each(|i| sending.sent(at(f64::from(i) * 0.25), 1_000, 400));
        let Arrivals { requests, tokens, uncached } = sending.rate(at(49.75));
        assert!((requests - 4.0).abs() < 0.2 && (tokens - 4e3).abs() < 200.0 && (uncached - 1.6e3).abs() < 80.0);
        assert!((sending.rate(at(59.75)).requests / requests - (-1.0f32).exp()).abs() < 1e-3);
    }

    #[test]
    fn a_report_ages_by_what_others_send_and_not_without_end() {
        let all = Arrivals { requests: 10.0, tokens: 9_000.0, uncached: 5_000.0 };
        let own = Arrivals { requests: 4.0, tokens: 10_000.0, uncached: 1_000.0 };
        let load = |s| Ageing::new(at(1.0), &all, &own).load(at(s));
        assert_eq!(load(1.0), Load::default());
        assert_eq!(load(1.5), Load { waiting_requests: 3, ..Load::default() }, "no more uncached tokens than tokens");
        assert_eq!(load(9.0), load(2.0));
        let wild = Arrivals { requests: f32::NAN, tokens: f32::INFINITY, uncached: f32::INFINITY };
        let most = Ageing::new(at(0.0), &wild, &own).load(at(9.0));
        assert_eq!((most.waiting_requests, most.waiting_tokens), (0, u64::MAX));
    }
}
