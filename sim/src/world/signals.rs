//! Scrapes, probes and peer reports: each is periodic, and the network delays its result.

use super::peer_message::PeerMessage;
use super::queue::{Event, Signal};
use super::{Span, TraceRequest, World};
use crate::engine::Health as EngineHealth;
use gorgo_core::fleet::{EngineReport, Kind, PeerReport, ReplicaSpec};
use gorgo_core::network::HEAD_BYTES;
use gorgo_core::router::ReplicaEvent;
use gorgo_core::{ReplicaId, Time, rng};
use rand::RngExt;

impl<I: Iterator<Item = TraceRequest>> World<'_, I> {
    /// Adds the fleet to every router and starts the periodic signals. Routers probe and scrape once before they serve.
    pub(super) fn start(&mut self) {
        let edge = self.is_edge();
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
                    transport: self.rule(router, ReplicaId(replica)).transport,
                    region: Some(self.config.sites[config.site].name.clone()),
                    labels: Vec::new(),
                };
                self.handle(router, ReplicaEvent::Added { replica: ReplicaId(replica), spec });
                let (from, to) = self.sites(router, replica);
                let rtt_ms = self.network.rtt_ms(from, to, self.now);
                let id = ReplicaId(replica);
                self.handle(
                    router,
                    ReplicaEvent::Probed { replica: id, rtt_ms: rtt_ms * self.rule(router, id).probe_scale },
                );
                if kind == Kind::Peer {
                    let report = PeerReport { healthy: true, ..PeerReport::default() };
                    self.handle(router, ReplicaEvent::PeerReported { replica: id, report, seen: self.now });
                    self.start_clock(self.config.peer_ms, router, replica, Signal::AskPeer { router, peer: replica });
                } else {
                    self.start_clock(self.config.scrape_ms, router, replica, Signal::Scrape { router, replica });
                }
                self.start_clock(self.config.probe_ms, router, replica, Signal::Probe { router, replica });
            }
        }
        self.start_sharing();
        if self.config.sample_ms > 0.0 {
            self.events.push(self.now, Event::Sample);
        }
        for (index, fault) in self.config.faults.iter().enumerate() {
            self.events.push(fault.at, Event::Fault { index: index as u16 });
        }
    }

    /// Schedules the first turn of a periodic signal at a random phase per pair of sites. With equal or evenly spread
    /// phases all signals would have the same age.
    fn start_clock(&mut self, period_ms: f64, router: u16, replica: u16, first: Signal) {
        let pair = u64::from(router) * self.replicas.len() as u64 + u64::from(replica);
        let clock = match first {
            Signal::Probe { .. } => "probe-clock",
            Signal::Scrape { .. } => "scrape-clock",
            _ => "peer-clock",
        };
        let phase: f64 = rng::stream(self.config.seed, clock, pair).random();
        self.events.push(self.now + Span::from_ms(period_ms * phase), first);
    }

    fn sites(&self, router: u16, replica: u16) -> (usize, usize) {
        (self.routers[usize::from(router)].site, self.replicas[usize::from(replica)].site)
    }

    /// Half the current round trip, without the jitter of a message.
    fn half_rtt(&mut self, router: u16, replica: u16) -> Span {
        let (from, to) = self.sites(router, replica);
        Span::from_ms(self.network.rtt_ms(from, to, self.now) / 2.0)
    }

    /// Sends a scrape or asks for a report over the connections that requests use: time until it is read.
    fn ask(&mut self, router: u16, target: u16) -> Span {
        let (upload, connection) = self.upload(router, ReplicaId(target), HEAD_BYTES);
        self.routers[usize::from(router)].asking[usize::from(target)] = Some(connection);
        upload + self.half_rtt(router, target)
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Scrape { router, replica } => {
                let way = self.ask(router, replica);
                self.events.push(self.now + way, Signal::ScrapeRead { router, replica, asked: self.now });
            }
            Signal::ScrapeRead { router, replica, asked } => {
                let way = self.half_rtt(router, replica);
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
                self.events.push(self.now + way, Signal::Scraped { router, replica, asked, report });
            }
            Signal::Scraped { router, replica, asked, report } => {
                self.schedule_next(self.config.scrape_ms, asked, Signal::Scrape { router, replica });
                let asking = self.routers[usize::from(router)].asking[usize::from(replica)].take();
                let replica = ReplicaId(replica);
                if let Some(connection) = asking.filter(|_| report.is_some()) {
                    self.return_connection(router, replica, connection);
                }
                let event = match report {
                    Some(report) => ReplicaEvent::Scraped { replica, report },
                    None => ReplicaEvent::ScrapeFailed { replica },
                };
                self.handle(router, event);
            }
            Signal::Probe { router, replica } => {
                let (from, to) = self.sites(router, replica);
                let rtt = self.network.rtt_ms(from, to, self.now);
                let edge = self.is_edge() && router != replica;
                // A probe between edges is answered by the peer's router, which survives a crash of its engine.
                let rtt_ms = (edge || self.replicas[usize::from(replica)].engine.health(self.now) == EngineHealth::Up)
                    .then_some(rtt as f32);
                let rtt_ms = rtt_ms.map(|rtt| rtt * self.rule(router, ReplicaId(replica)).probe_scale as f32);
                self.events.push(self.now + Span::from_ms(rtt), Signal::Probed { router, replica, rtt_ms });
                self.events.push(self.now + Span::from_ms(self.config.probe_ms), signal);
            }
            Signal::Probed { router, replica, rtt_ms } => {
                let replica = ReplicaId(replica);
                let event = match rtt_ms {
                    Some(rtt) => ReplicaEvent::Probed { replica, rtt_ms: f64::from(rtt) },
                    None => ReplicaEvent::ProbeFailed { replica },
                };
                self.handle(router, event);
            }
            Signal::Share { router } => self.share(router),
            Signal::Shared { from, to, slot } => self.shared(from, to, slot),
            Signal::AskPeer { router, peer } => {
                let way = self.ask(router, peer);
                self.events.push(self.now + way, Signal::PeerReportRead { router, peer, asked: self.now });
            }
            Signal::PeerReportRead { router, peer, asked } => {
                let message = PeerMessage::of(&self.routers[usize::from(peer)].router, self.now);
                let way = self.half_rtt(router, peer);
                self.events.push(self.now + way, Signal::PeerReportArrived { router, peer, asked, message });
            }
            Signal::PeerReportArrived { router, peer, asked, message } => {
                self.schedule_next(self.config.peer_ms, asked, Signal::AskPeer { router, peer });
                let replica = ReplicaId(peer);
                if let Some(connection) = self.routers[usize::from(router)].asking[replica.index()].take() {
                    self.return_connection(router, replica, connection);
                }
                let seen = self.routers[usize::from(router)].router.counted_until(replica, asked);
                self.handle(router, ReplicaEvent::PeerReported { replica, report: message.report(), seen });
            }
        }
    }

    /// Schedules the next turn of a signal that waits for its answer.
    fn schedule_next(&mut self, period_ms: f64, asked: Time, next: Signal) {
        self.events.push((asked + Span::from_ms(period_ms)).max(self.now), next);
    }
}
