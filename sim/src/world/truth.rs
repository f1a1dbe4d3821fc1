//! The true outcome of a request at each replica, for oracles: copies of the engines run on without later arrivals.
//!
//! The simulator computes it when a request arrives at a router. A copy contains the requests at the engine and those
//! in transit to it. The harm to other requests is the difference between a run with the request and a run without it.

use super::requests::message;
use super::{Key, Span, Time, TraceRequest, World};
use crate::engine::{Engine, EngineEvent, EngineRequest};
use gorgo_core::policy::Truth;
use gorgo_core::{ReplicaId, RequestId};

impl<I: Iterator<Item = TraceRequest>> World<'_, I> {
    /// Gives a router's oracle the outcome that the request would have at each replica.
    pub(super) fn tell_truth(&mut self, router: u16, key: Key) {
        let node = &self.routers[usize::from(router)].router;
        if !node.needs_truth() {
            return;
        }
        let truths = match node.rolls_out() {
            Some(rule) => self.roll_out(router, key, rule),
            None => (0..self.replicas.len()).map(|replica| self.truth(router, key, replica)).collect(),
        };
        self.routers[usize::from(router)].router.foresee(RequestId(key.0), truths);
    }

    /// What would happen to the request at a replica; `None` when the replica would not take the request.
    fn truth(&mut self, router: u16, key: Key, replica: usize) -> Option<Truth> {
        let node = &self.routers[usize::from(router)];
        let (from, to) = (node.site, self.replicas[replica].site);
        let own = EngineRequest::from_trace(RequestId(key.0), &self.flight(key)?.request);
        let bytes = self.config.network.request_bytes(own.input_tokens);
        let rtt_ms = self.network.rtt_ms(from, to, self.now);
        let rule = self.rule(router, ReplicaId(replica as u16));
        let path =
            self.routers[usize::from(router)].connections[replica].path(&rule.transport, bytes, self.now, rtt_ms);
        let forwards = self.is_edge() && usize::from(router) != replica;
        let hop_ms = if forwards { self.config.router_ms } else { 0.0 };
        let upload = Span::from_ms(rtt_ms * (path.trips() - 1.0) + rule.transfer_ms(bytes) + hop_ms);
        let arrival = self.now + upload + self.one_way(from, to, key, message::TO_ENGINE);
        let back = self.one_way(to, from, key, message::FIRST);
        let others = self.on_the_way(replica);
        let engine = &self.replicas[replica].engine;
        let without = play(engine.clone(), others.clone(), None);
        let with = play(engine.clone(), others, Some((arrival, own)));
        let first = with.first?;
        Some(Truth { ttft_ms: (first + back - self.now).ms(), harm_ms: with.ends_ms - without.ends_ms, loss: None })
    }

    /// Requests sent to a replica that have not arrived there, with their arrivals.
    fn on_the_way(&self, replica: usize) -> Vec<(Time, EngineRequest)> {
        let current = |&&(at, key): &&(Time, Key)| {
            at >= self.now && self.flights.get(key.slot()).is_some_and(|f| f.live && f.at_engine == key)
        };
        let request = |&(at, key): &(Time, Key)| {
            (at, EngineRequest::from_trace(RequestId(key.0), &self.flights[key.slot()].request))
        };
        self.replicas[replica].on_the_way.iter().filter(current).map(request).collect()
    }
}

/// A run of an engine to its end.
#[derive(Debug, Clone, Copy, Default)]
struct Played {
    /// First token of the own request.
    first: Option<Time>,
    /// Sum over all other requests of the times they ended, ms.
    ends_ms: f64,
}

fn play(mut engine: Engine, mut arrivals: Vec<(Time, EngineRequest)>, own: Option<(Time, EngineRequest)>) -> Played {
    let own_id = own.as_ref().map(|(_, request)| request.id);
    arrivals.extend(own);
    arrivals.sort_by_key(|&(at, _)| std::cmp::Reverse(at));
    let (mut played, mut events) = (Played::default(), Vec::new());
    loop {
        let arrival = arrivals.last().map(|&(at, _)| at);
        let Some(at) = engine.next_event().into_iter().chain(arrival).min() else { return played };
        if arrival == Some(at)
            && let Some((_, request)) = arrivals.pop()
        {
            // A request that the engine refuses ends at once, with and without the own one.
            let _ = engine.submit(at, request);
        }
        engine.advance(at, &mut events);
        for event in events.drain(..) {
            let is_own = Some(event.id()) == own_id;
            match event {
                EngineEvent::FirstToken { at, .. } if is_own => played.first = Some(at),
                EngineEvent::Finished { at, .. } | EngineEvent::Aborted { at, .. } if !is_own => {
                    played.ends_ms += at.ms();
                }
                _ => {}
            }
        }
    }
}
