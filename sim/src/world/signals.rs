//! What routers hear between requests: scrapes, probes and peers' reports, each on its own period and as old as the
//! way makes it.

use super::queue::PeerWords;
use super::{Ev, Event, Span, TraceRequest, World};
use crate::engine::Health as EngineHealth;
use gorgo_core::fleet::{EngineReport, Health, Kind, Load, PeerReport, ReplicaSpec};
use gorgo_core::{ReplicaId, Time, rng};
use rand::RngExt;

impl<I: Iterator<Item = TraceRequest>> World<'_, I> {
    /// Announces the fleet and starts the clocks. Routers probe and scrape once before they serve.
    pub(super) fn start(&mut self) {
        let edge = self.routers.len() > 1 || matches!(self.config.topology, super::Topology::Edge);
        for router in 0..self.routers.len() as u16 {
            for replica in 0..self.replicas.len() as u16 {
                let config = &self.config.replicas[usize::from(replica)];
                let kind = match (edge, router == replica) {
                    (true, true) => Kind::Local,
                    (true, false) => Kind::Peer,
                    (false, _) => Kind::Remote,
                };
                let spec = ReplicaSpec {
                    name: config.name.clone(),
                    kind,
                    ms_per_token: config.ms_per_token,
                    kv_tokens: Some(u64::from(config.engine.kv_tokens)),
                };
                self.tell(router, Event::ReplicaAdded { replica: ReplicaId(replica), spec });
                let (from, to) = self.sites(router, replica);
                let rtt_ms = self.network.rtt_ms(from, to, self.now);
                let id = ReplicaId(replica);
                self.tell(router, Event::Probed { replica: id, rtt_ms });
                if kind == Kind::Peer {
                    let report = PeerReport { healthy: true, ..PeerReport::default() };
                    self.tell(router, Event::PeerReported { replica: id, report, seen: self.now });
                    self.every(self.config.peer_ms, router, replica, Ev::Ask { router, peer: replica });
                } else {
                    self.every(self.config.scrape_ms, router, replica, Ev::Scrape { router, replica });
                }
                self.every(self.config.probe_ms, router, replica, Ev::Probe { router, replica });
            }
        }
        if self.config.sample_ms > 0.0 {
            self.events.push(self.now, Ev::Sample);
        }
        for (index, fault) in self.config.faults.iter().enumerate() {
            self.events.push(fault.at, Ev::Fault { index: index as u16 });
        }
    }

    /// First tick of a clock. Clocks of different pairs are out of step by chance, as in life: in lockstep, or spread
    /// evenly, all news would be of one age.
    fn every(&mut self, period_ms: f64, router: u16, replica: u16, event: Ev) {
        let pair = u64::from(router) * self.replicas.len() as u64 + u64::from(replica);
        let clock = match event {
            Ev::Probe { .. } => "probe-clock",
            Ev::Scrape { .. } => "scrape-clock",
            _ => "peer-clock",
        };
        let phase: f64 = rng::stream(self.config.seed, clock, pair).random();
        self.events.push(self.now + Span::from_ms(period_ms * phase), event);
    }

    fn sites(&self, router: u16, replica: u16) -> (usize, usize) {
        (self.routers[usize::from(router)].site, self.replicas[usize::from(replica)].site)
    }

    /// Half the present round trip, without a message's own jitter.
    fn half(&mut self, router: u16, replica: u16) -> Span {
        let (from, to) = self.sites(router, replica);
        Span::from_ms(self.network.rtt_ms(from, to, self.now) / 2.0)
    }

    pub(super) fn signal(&mut self, event: Ev) {
        match event {
            Ev::Scrape { router, replica } => {
                let way = self.handshake(router, ReplicaId(replica)) + self.half(router, replica);
                self.events.push(self.now + way, Ev::ScrapeRead { router, replica, asked: self.now });
            }
            Ev::ScrapeRead { router, replica, asked } => {
                let way = self.half(router, replica);
                self.drive(replica);
                let node = &mut self.replicas[usize::from(replica)];
                let report = (node.engine.health(self.now) == EngineHealth::Up).then(|| {
                    let gauges = node.engine.metrics(self.now);
                    EngineReport {
                        running: gauges.num_running_reqs,
                        queued: gauges.num_queue_reqs as u32,
                        used_tokens: gauges.num_used_tokens,
                        kv_tokens: u64::from(gauges.max_total_num_tokens),
                    }
                });
                self.events.push(self.now + way, Ev::Scraped { router, replica, asked, report });
            }
            Ev::Scraped { router, replica, asked, report } => {
                self.again(self.config.scrape_ms, asked, Ev::Scrape { router, replica });
                let replica = ReplicaId(replica);
                if report.is_some() {
                    self.keep(router, replica);
                }
                self.tell(
                    router,
                    match report {
                        Some(report) => Event::Scraped { replica, report },
                        None => Event::ScrapeFailed { replica },
                    },
                );
            }
            Ev::Probe { router, replica } => {
                let (from, to) = self.sites(router, replica);
                let rtt = self.network.rtt_ms(from, to, self.now);
                let edge = self.routers.len() > 1 && router != replica;
                // A probe between edges meets the peer's router, which lives on when its engine dies.
                let rtt_ms = (edge || self.replicas[usize::from(replica)].engine.health(self.now) == EngineHealth::Up)
                    .then_some(rtt as f32);
                self.events.push(self.now + Span::from_ms(rtt), Ev::Probed { router, replica, rtt_ms });
                self.events.push(self.now + Span::from_ms(self.config.probe_ms), event);
            }
            Ev::Probed { router, replica, rtt_ms } => {
                let replica = ReplicaId(replica);
                self.tell(
                    router,
                    match rtt_ms {
                        Some(rtt) => Event::Probed { replica, rtt_ms: f64::from(rtt) },
                        None => Event::ProbeFailed { replica },
                    },
                );
            }
            Ev::Ask { router, peer } => {
                let way = self.handshake(router, ReplicaId(peer)) + self.half(router, peer);
                self.events.push(self.now + way, Ev::Asked { router, peer, asked: self.now });
            }
            Ev::Asked { router, peer, asked } => {
                let load = self.words(peer);
                let way = self.half(router, peer);
                self.events.push(self.now + way, Ev::Told { router, peer, asked, load });
            }
            Ev::Told { router, peer, asked, load } => {
                self.again(self.config.peer_ms, asked, Ev::Ask { router, peer });
                self.keep(router, ReplicaId(peer));
                self.told(router, peer, asked, &load);
            }
            _ => {}
        }
    }

    /// The next turn of a clock that waits for its answer.
    fn again(&mut self, period_ms: f64, asked: Time, event: Ev) {
        self.events.push((asked + Span::from_ms(period_ms)).max(self.now), event);
    }

    /// What a router says of its own engine when a peer asks.
    fn words(&self, router: u16) -> PeerWords {
        let node = &self.routers[usize::from(router)].router;
        let own = &node.replicas()[usize::from(router)];
        let load = own.load;
        PeerWords {
            waiting: load.waiting_requests,
            waiting_tokens: load.waiting_tokens as u32,
            waiting_uncached: load.waiting_uncached_tokens as u32,
            running: load.running_requests,
            running_tokens: load.running_tokens as u32,
            queued: node.queue_len() as u32,
            healthy: own.health != Health::Down && !own.breaker.is_open(self.now, 0),
        }
    }

    fn told(&mut self, router: u16, peer: u16, asked: Time, words: &PeerWords) {
        let load = Load {
            waiting_requests: words.waiting,
            waiting_tokens: u64::from(words.waiting_tokens),
            waiting_uncached_tokens: u64::from(words.waiting_uncached),
            running_requests: words.running,
            running_tokens: u64::from(words.running_tokens),
        };
        // What was sent a round trip before the question is surely counted in the answer: a request over a new
        // connection takes that much longer than the question, which mostly has one.
        let rtt_ms = self.routers[usize::from(router)].router.replicas()[usize::from(peer)].rtt.smoothed_ms();
        let seen = Time(asked.0.saturating_sub(Span::from_ms(rtt_ms).0));
        let report = PeerReport { load, queued: words.queued, healthy: words.healthy };
        self.tell(router, Event::PeerReported { replica: ReplicaId(peer), report, seen });
    }
}
