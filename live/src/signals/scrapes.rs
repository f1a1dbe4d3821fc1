//! The scrapes of an engine: its load for the core, and for the log whether its metrics can be read.

use crate::observe::changes::Change;
use crate::signals::model_list;
use crate::signals::pages::{Turns, Unanswered, fetch, unusable};
use crate::signals::scrape::{self, Restarts, Seen};
use crate::state::AppState;
use crate::upstream::replica::Upstream;
use gorgo_core::fleet::{EngineReport, Health};
use gorgo_core::router::ReplicaEvent;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// Failed scrapes of a connected engine after which the log says that its metrics are not read.
const UNREAD_AFTER: u32 = 3;

/// Scrapes an engine for as long as it is a replica.
pub(super) async fn scrapes(node: Arc<AppState>, upstream: Arc<Upstream>) {
    let mut turns = Turns::new(&node, &upstream, "scrape-clock");
    let mut scraper = Scraper::new(node, upstream);
    loop {
        let began = Instant::now();
        let Scraper { node, upstream, .. } = &scraper;
        let period = node.config().probes.scrape_ms;
        model_list::read(node, upstream).await;
        if period > 0 {
            scraper.scrape().await;
        }
        turns.next(began, period).await;
    }
}

struct Scraper {
    node: Arc<AppState>,
    upstream: Arc<Upstream>,
    /// Scrapes so far.
    count: u64,
    /// Whether the engine has `/v1/loads`, once it has answered.
    has_loads: Option<bool>,
    restarts: Restarts,
    told_several: bool,
    reading: Reading,
}

/// What one scrape gave.
#[derive(Default)]
struct Scrape {
    report: Option<EngineReport>,
    /// Why no page came.
    failed: Option<Unanswered>,
    /// Why a page that came holds no report.
    missing: Option<String>,
}

impl Scraper {
    fn new(node: Arc<AppState>, upstream: Arc<Upstream>) -> Self {
        let (restarts, reading) = (Restarts::default(), Reading::default());
        Self { node, upstream, count: 0, has_loads: None, restarts, told_several: false, reading }
    }

    /// Reads the engine's load: from `/v1/loads` if the engine has it (it is fresh), else from `/metrics`; from `/metrics`
    /// every tenth time in any case, since only that reveals a restart.
    async fn scrape(&mut self) {
        self.count += 1;
        let mut scrape = Scrape::default();
        if self.has_loads != Some(false) || self.count.is_multiple_of(60) {
            self.read_loads(&mut scrape).await;
        }
        if scrape.failed.is_none() && (scrape.report.is_none() || self.count % 10 == 1) {
            self.read_metrics(&mut scrape).await;
        }
        let Self { node, upstream, reading, .. } = self;
        let replica = upstream.id;
        let is_up = || node.driver.read(|router, _, _| router.replicas()[replica.index()].health == Health::Up);
        let has_report = || node.driver.read(|router, _, _| router.replicas()[replica.index()].engine.is_some());
        if let Some(unread) = reading.note(&scrape, is_up) {
            node.driver.observers().tell(Change::Metrics { replica: upstream.name.clone(), unread });
        }
        match (scrape.report, scrape.failed) {
            (Some(report), _) => node.driver.handle_for(upstream, ReplicaEvent::Scraped { replica, report }),
            (None, Some(Unanswered { why, connected, .. })) => {
                upstream.note_error(node.clock().now(), format!("its metrics cannot be read: {why}"));
                node.driver.handle_for(upstream, ReplicaEvent::ScrapeFailed { replica, connected });
            }
            // Probes tell its health, our own counters its load. An engine without metrics has nothing to be forgotten.
            (None, None) if has_report() => node.driver.handle_for(upstream, ReplicaEvent::Unreported { replica }),
            (None, None) => {}
        }
    }

    async fn read_loads(&mut self, scrape: &mut Scrape) {
        match fetch(&self.node, &self.upstream, "/v1/loads?include=core&format=json").await {
            Ok((status, body)) => {
                scrape.report = status.is_success().then(|| scrape::loads(&body)).flatten();
                self.has_loads = Some(scrape.report.is_some());
            }
            Err(why) => scrape.failed = Some(why),
        }
    }

    async fn read_metrics(&mut self, scrape: &mut Scrape) {
        match fetch(&self.node, &self.upstream, "/metrics").await {
            Ok((status, body)) if status.is_success() => {
                let page = scrape::metrics(&String::from_utf8_lossy(&body));
                self.upstream.sglang.store(page.sglang, Ordering::Relaxed);
                self.upstream.vllm.store(page.vllm, Ordering::Relaxed);
                let seen = self.restarts.look(&page);
                self.tell_restart(seen);
                scrape.report = scrape.report.take().or(page.report);
                let is_missing = scrape.report.is_none();
                scrape.missing = is_missing.then(|| "/metrics names none of SGLang's or vLLM's".to_owned());
            }
            Ok((status, _)) if status.is_server_error() => scrape.failed = Some(unusable(status)),
            Ok((status, _)) => {
                let is_missing = scrape.report.is_none();
                scrape.missing = is_missing.then(|| format!("/metrics is answered with {status}"));
            }
            Err(why) => scrape.failed = Some(why),
        }
    }

    fn tell_restart(&mut self, seen: Seen) {
        let Self { node, upstream, .. } = &*self;
        let name = || upstream.name.clone();
        match seen {
            Seen::Same => {}
            Seen::Restarted => {
                node.driver.observers().tell(Change::Restarted { replica: name() });
                node.driver.handle_for(upstream, ReplicaEvent::Flushed { replica: upstream.id });
            }
            Seen::Several if self.told_several => {}
            Seen::Several => {
                node.driver.observers().tell(Change::SeveralEngines { replica: name() });
                self.told_several = true;
            }
        }
    }
}

/// Whether the metrics can be read, as last logged.
#[derive(Default)]
struct Reading {
    is_blind: bool,
    /// Scrapes in a row without a page, though the engine took the connection.
    failures: u32,
}

impl Reading {
    /// What must be logged after a scrape: that the metrics are read again (`Some(None)`), or why they are not.
    ///
    /// That an unreachable engine has no metrics either is no news; one that is killed resets a connection first.
    fn note(&mut self, scrape: &Scrape, is_up: impl FnOnce() -> bool) -> Option<Option<String>> {
        let failed = scrape.failed.as_ref().filter(|failed| failed.connected);
        self.failures = failed.map_or(0, |_| self.failures.saturating_add(1));
        let why = failed.filter(|_| self.failures >= UNREAD_AFTER).map(|failed| failed.why.clone());
        let why = why.or_else(|| scrape.missing.clone());
        match (&scrape.report, why) {
            (Some(_), _) if self.is_blind => {
                self.is_blind = false;
                Some(None)
            }
            (None, Some(why)) if !self.is_blind && is_up() => {
                self.is_blind = true;
                Some(Some(why))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_that_cannot_be_read_are_told_once_and_again_when_they_can() {
        let failed = |connected| Scrape {
            failed: Some(Unanswered { why: "the answer is 500".to_owned(), connected, late: false }),
            ..Scrape::default()
        };
        let missing = Scrape { missing: Some("no names".to_owned()), ..Scrape::default() };
        let read = Scrape { report: Some(EngineReport::default()), ..Scrape::default() };
        let mut reading = Reading::default();
        let mut note = |scrape: &Scrape, is_up: bool| reading.note(scrape, || is_up);
        assert_eq!(note(&read, true), None, "as expected");
        for _ in 0..10 {
            assert_eq!(note(&failed(false), true), None, "it is unreachable");
        }
        assert_eq!((note(&failed(true), true), note(&failed(true), true)), (None, None), "too few");
        assert_eq!(note(&failed(true), false), None, "it is down");
        assert_eq!(note(&failed(true), true), Some(Some("the answer is 500".to_owned())));
        assert_eq!(note(&missing, true), None, "told already");
        assert_eq!((note(&read, true), note(&read, true)), (Some(None), None));
        assert_eq!(note(&missing, true), Some(Some("no names".to_owned())));
    }
}
