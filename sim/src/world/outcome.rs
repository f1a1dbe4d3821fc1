//! The results of a run, and the samples of queues during it.

use super::{
    DecisionRecord, Event, FencedCount, GapHistogram, Key, QueueSample, RequestRecord, Shared, Span, Time, Topology,
    TraceRequest, Tuned, Tuner, World,
};
use std::sync::Arc;

/// The results of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// One record per request, in the order of the trace.
    pub records: Vec<RequestRecord>,
    /// Gaps between tokens of one request, over all engines.
    pub itl: GapHistogram,
    /// Queue samples in order of time.
    pub samples: Vec<QueueSample>,
    /// Hash over every event: equal for equal inputs.
    pub event_hash: u64,
    /// Events processed.
    pub events: u64,
    /// Virtual time from the start to the last answer.
    pub span: Span,
    /// The decisions of the first `decisions_of` requests, in order of time.
    pub decisions: Vec<Decided>,
    /// Requests with a fence and its violations; `None` without `residency`.
    pub fenced: Option<FencedCount>,
    /// Messages between routers, if they share: batches of proxies, or digests of edges.
    pub shared: Option<Shared>,
    /// What each router's tuner found; empty without `tune`.
    pub tuned: Vec<Tuned>,
}

/// A router's decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// Index of the request in `records`.
    pub record: usize,
    /// Index of the router that decided.
    pub router: u16,
    /// Inputs, scores and choice.
    pub decision: Arc<DecisionRecord>,
}

impl<I: Iterator<Item = TraceRequest>> World<'_, I> {
    /// Keeps a decision. From the first request on whose decisions are not kept, the router records none: a record costs
    /// more than the decision.
    pub(super) fn decided(&mut self, router: u16, decision: Arc<DecisionRecord>) {
        let record = Key(decision.id.0).index() as usize;
        if record < self.config.decisions_of {
            self.decisions.push(Decided { record, router, decision });
        } else {
            self.routers[usize::from(router)].router.record_decisions(false);
        }
    }

    pub(super) fn sample(&mut self) {
        for (i, node) in self.replicas.iter_mut().enumerate() {
            let loads = node.engine.loads(self.now);
            let queued = match self.config.topology {
                Topology::Edge => self.routers[i].router.queue_len(),
                Topology::Proxy { .. } => self.routers.iter().map(|node| node.router.queue_len()).sum(),
            };
            self.samples.push(QueueSample {
                at: self.now,
                replica: i as u16,
                waiting: (loads.waiting + loads.arriving) as u32,
                running: (loads.running + loads.prefilling) as u32,
                kv_tokens: loads.used_tokens as u32,
                queued_at_router: queued as u32,
            });
        }
        self.events.push(self.now + Span::from_ms(self.config.sample_ms), Event::Sample);
    }

    pub(super) fn finish(self) -> Outcome {
        let fenced = self.config.residency.as_ref().map(|_| self.fenced());
        let mut itl = GapHistogram::default();
        for node in &self.replicas {
            itl.merge(node.engine.gaps());
        }
        let (event_hash, events) = self.events.digest();
        let span = self.records.iter().filter_map(|r| r.done.get()).max().unwrap_or_default();
        Outcome {
            records: self.records,
            itl,
            samples: self.samples,
            event_hash,
            events,
            span: span - Time::ZERO,
            shared: self.sharing.shared().or(self.digests.shared()),
            tuned: self.tuners.iter().map(Tuner::found).collect(),
            decisions: self.decisions,
            fenced,
        }
    }
}
