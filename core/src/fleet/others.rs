//! Load that other routers put on a replica: the load that they report, and the requests that only the engine reports.
//!
//! Routers with `[sharing]` send each other their own requests at each replica, as gauges: a later message replaces an
//! earlier one, so a lost message does no lasting harm. An engine reports only the number of its requests, but policies
//! weigh tokens: each request of a router that reports nothing counts as many tokens as this router's recent requests.

use super::{EngineReport, Load};
use crate::{Span, Time};

/// A peer's reported load expires after this time: a router that stopped has no requests.
const TOLD: Span = Span(3_000_000_000);

/// Requests of other routers at one replica.
#[derive(Debug, Clone, Default)]
pub(crate) struct Others {
    /// The last reported load of each peer, and the time of the report.
    told: Vec<(Time, Load)>,
    /// Requests that neither this router nor a peer sent.
    foreign: Load,
    sum: Load,
}

impl Others {
    /// All of them.
    pub(crate) fn load(&self) -> &Load {
        &self.sum
    }

    /// Stores the load that peer number `peer` reported.
    pub(crate) fn told(&mut self, now: Time, peer: usize, load: Load) {
        if self.told.len() <= peer {
            self.told.resize(peer + 1, (Time::ZERO, Load::default()));
        }
        self.told[peer] = (now, load);
        self.add_up(now);
    }

    /// Takes an engine's report. `typical` gives the tokens of each reported request that no router accounts for;
    /// without it such requests are ignored.
    pub(crate) fn scraped(&mut self, now: Time, report: &EngineReport, own: &Load, typical: Option<Typical>) {
        self.foreign = Load::default();
        self.add_up(now);
        if let Some(typical) = typical {
            self.foreign = typical.beyond(report, &own.plus(&self.sum));
            self.sum = self.sum.plus(&self.foreign);
        }
    }

    /// Forgets what only the engine reported: its reports have ended.
    pub(crate) fn unreported(&mut self, now: Time) {
        self.foreign = Load::default();
        self.add_up(now);
    }

    fn add_up(&mut self, now: Time) {
        let fresh = self.told.iter().filter(|(at, _)| now - *at <= TOLD);
        self.sum = fresh.fold(self.foreign, |sum, (_, load)| sum.plus(load));
    }
}

/// Tokens of this router's recent requests, as moving averages.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Typical {
    prompt: f64,
    uncached: f64,
    seen: u32,
}

impl Typical {
    /// Requests that the average spans.
    const SPAN: u32 = 64;

    /// Counts a dispatched request.
    pub(crate) fn sent(&mut self, prompt: u32, uncached: u32) {
        self.seen = self.seen.saturating_add(1).min(Self::SPAN);
        let share = 1.0 / f64::from(self.seen);
        self.prompt += share * (f64::from(prompt) - self.prompt);
        self.uncached += share * (f64::from(uncached) - self.uncached);
    }

    /// What `report` counts beyond the requests known at that time.
    fn beyond(&self, report: &EngineReport, known: &Load) -> Load {
        let all = report.running.saturating_add(report.queued);
        let requests = all.saturating_sub(known.requests());
        let waiting = report.queued.saturating_sub(known.waiting_requests).min(requests);
        let running = requests - waiting;
        let tokens = |count: u32, each: f64| (f64::from(count) * each) as u64;
        Load {
            waiting_requests: waiting,
            waiting_tokens: tokens(waiting, self.prompt),
            waiting_uncached_tokens: tokens(waiting, self.uncached),
            running_requests: running,
            running_tokens: tokens(running, self.prompt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(waiting_requests: u32, running_requests: u32) -> Load {
        Load { waiting_requests, running_requests, ..Load::default() }
    }

    #[test]
    fn what_a_report_counts_beyond_the_requests_known_is_of_others() {
        let mut typical = Typical::default();
        [(100, 20), (300, 40)].iter().for_each(|&(prompt, uncached)| typical.sent(prompt, uncached));
        let report = EngineReport { running: 5, queued: 4, ..EngineReport::default() };
        let mut others = Others::default();
        others.scraped(Time::ZERO, &report, &load(1, 2), Some(typical));
        let Load { waiting_tokens, waiting_uncached_tokens, running_tokens, .. } = *others.load();
        assert_eq!((others.load().waiting_requests, others.load().running_requests), (3, 3));
        assert_eq!((waiting_tokens, waiting_uncached_tokens, running_tokens), (600, 90, 600));
        // Own requests that the report does not count yet hide no others' below zero.
        others.scraped(Time::ZERO, &report, &load(20, 0), Some(typical));
        assert_eq!(*others.load(), Load::default());
        others.scraped(Time::ZERO, &report, &load(0, 0), None);
        assert_eq!(*others.load(), Load::default());
    }

    #[test]
    fn what_peers_told_is_added_replaced_and_forgotten_when_they_fall_silent() {
        let mut others = Others::default();
        others.told(Time::from_ms(0.0), 0, load(3, 1));
        others.told(Time::from_ms(0.0), 2, load(1, 1));
        assert_eq!(others.load().requests(), 6);
        others.told(Time::from_ms(2_000.0), 0, load(0, 1));
        assert_eq!(others.load().requests(), 3);
        let report = EngineReport { running: 9, ..EngineReport::default() };
        others.scraped(Time::from_ms(2_000.0), &report, &load(0, 2), Some(Typical::default()));
        assert_eq!(others.load().requests(), 7, "peers 3, unknown 9 - 2 - 3");
        others.scraped(Time::from_ms(4_000.0), &report, &load(0, 2), None);
        assert_eq!(others.load().requests(), 1, "peer 2 has been silent for 4 s");
    }
}
