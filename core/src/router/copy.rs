//! A copy of a router with another policy, for the roll-outs of the simulator.

use super::Router;
use crate::policy::Policy;
use crate::rng;
use std::sync::Arc;

impl Router {
    /// A router that knows what this one knows and decides by `policy`. Its cost grows with the prefix index and the
    /// requests in flight; it records no decisions.
    #[must_use]
    pub fn copied(&self, policy: Box<dyn Policy>) -> Self {
        let mut config = self.config.clone();
        config.record_decisions = false;
        Self {
            config,
            policy,
            rng: rng::copied(&self.rng),
            replicas: self.replicas.clone(),
            names: Arc::clone(&self.names),
            index: self.index.clone(),
            flights: self.flights.clone(),
            queue: self.queue.clone(),
            queued: self.queued,
            queued_tokens: self.queued_tokens,
            ticket: self.ticket,
            timers: self.timers.clone(),
            retry_tokens: self.retry_tokens,
            stats: self.stats,
            rates: self.rates.clone(),
            publishing: self.publishing.clone(),
            typical: self.typical,
            truth: None,
            now: self.now,
            matched: Vec::new(),
            candidates: Vec::new(),
            terms: Vec::new(),
            learned: Vec::new(),
        }
    }
}
