//! Scrapes, probes and peer reports: each is periodic, and the network delays its result.

use super::questions::Question;
use super::queue::{Event, Signal};
use super::{Span, TraceRequest, World};
use crate::engine::Health as EngineHealth;
use gorgo_core::fleet::{Kind, PeerReport, ReplicaSpec};
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
                    is_probed: true,
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
                }
                let (clock, period_ms) = match kind {
                    Kind::Peer => ("peer-clock", self.config.peer_ms),
                    Kind::Local | Kind::Remote => ("scrape-clock", self.config.scrape_ms),
                };
                let first = self.first_tick(period_ms, router, replica, clock);
                self.events.push_question(first, self.questions.len() as u32);
                self.questions.push(Question::new(router, replica, kind == Kind::Peer));
                let first = self.first_tick(self.config.probe_ms, router, replica, "probe-clock");
                self.events.push(first, Signal::Probe { router, replica });
            }
        }
        self.start_sharing();
        self.start_digests();
        if self.config.sample_ms > 0.0 {
            self.events.push(self.now, Event::Sample);
        }
        for (index, fault) in self.config.faults.iter().enumerate() {
            self.events.push(fault.at, Event::Fault { index: index as u16 });
        }
    }

    /// The first turn of a periodic signal, at a random phase per pair of sites. With equal or evenly spread phases all
    /// signals would have the same age.
    pub(super) fn first_tick(&self, period_ms: f64, router: u16, replica: u16, clock: &str) -> Time {
        let pair = u64::from(router) * self.replicas.len() as u64 + u64::from(replica);
        let phase: f64 = rng::stream(self.config.seed, clock, pair).random();
        self.now + Span::from_ms(period_ms * phase)
    }

    fn sites(&self, router: u16, replica: u16) -> (usize, usize) {
        (self.routers[usize::from(router)].site, self.replicas[usize::from(replica)].site)
    }

    /// Half the current round trip, without the jitter of a message.
    pub(super) fn half_rtt(&mut self, router: u16, replica: u16) -> Span {
        let (from, to) = self.sites(router, replica);
        Span::from_ms(self.network.rtt_ms(from, to, self.now) / 2.0)
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        match signal {
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
                    None => ReplicaEvent::ProbeFailed { replica, connected: false },
                };
                self.handle(router, event);
            }
            Signal::AskDigest { router, target } => self.ask_digest(router, target),
            Signal::ReadDigest { router, target, known } => self.read_digest(router, target, known),
            Signal::DigestReceived { router, target, slot } => self.digest_told(router, target, slot),
            Signal::Share { router } => self.share(router),
            Signal::Shared { from, to, slot } => self.shared(from, to, slot),
        }
    }
}
