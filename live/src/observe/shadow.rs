//! Policies that decide on live requests without dispatching them.
//!
//! Each is a whole router of its own that hears what the real one hears: its index holds what it *would* have
//! cached, its counters what it *would* have booked. A request runs in a shadow as long as it does in reality.

use gorgo_core::policy::PolicyConfig;
use gorgo_core::rng;
use gorgo_core::router::{Action, Event, Router, RouterConfig, Usage};
use gorgo_core::{RequestId, Time};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What shadows are told.
#[derive(Debug)]
pub enum ShadowEvent {
    /// The real router was told this.
    Event(Time, Event),
    /// A request is over.
    Done(Time, RequestId),
}

/// What one shadow would have done.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ShadowStats {
    /// The policy.
    pub policy: String,
    /// Requests decided.
    pub decided: u64,
    /// Their prompt tokens.
    pub prompt_tokens: u64,
    /// Those of them that would have been cached.
    pub cached_tokens: u64,
    /// Sum of the predicted times to first token, ms, and how many there were.
    pub predicted_ttft_ms: f64,
    /// How many predictions that is the sum of.
    pub predicted: u64,
    /// Requests a replica would have got, by slot.
    pub dispatched: Vec<u64>,
}

impl ShadowStats {
    /// Share of prompt tokens that would have been cached.
    pub fn hit_rate(&self) -> f64 {
        self.cached_tokens as f64 / self.prompt_tokens.max(1) as f64
    }

    /// Largest share of a replica times the number of replicas: 1 is even.
    pub fn busiest(&self) -> f64 {
        let (most, sum) = (self.dispatched.iter().max(), self.dispatched.iter().sum::<u64>());
        most.map_or(0.0, |&most| most as f64 * self.dispatched.len() as f64 / sum.max(1) as f64)
    }

    /// Mean predicted time to first token, ms.
    pub fn mean_ttft_ms(&self) -> Option<f64> {
        (self.predicted > 0).then(|| self.predicted_ttft_ms / self.predicted as f64)
    }
}

struct Shade {
    router: Router,
    attempts: FxHashMap<RequestId, u8>,
    tokens: FxHashMap<RequestId, u32>,
    stats: ShadowStats,
}

/// The shadows' figures, shared with the admin API.
pub type Figures = Arc<Mutex<Vec<ShadowStats>>>;

/// Runs shadows until the channel closes.
pub async fn run(
    policies: &[PolicyConfig],
    config: &RouterConfig,
    seed: u64,
    mut events: mpsc::Receiver<ShadowEvent>,
    figures: Figures,
) {
    let config = RouterConfig { record_decisions: false, ..config.clone() };
    let mut shades: Vec<Shade> = policies
        .iter()
        .map(|policy| Shade {
            router: Router::new(config.clone(), policy.build(), None, rng::stream(seed, "policy", 0)),
            attempts: FxHashMap::default(),
            tokens: FxHashMap::default(),
            stats: ShadowStats { policy: policy.name().to_owned(), ..ShadowStats::default() },
        })
        .collect();
    let mut batch = Vec::new();
    while events.recv_many(&mut batch, 256).await > 0 {
        for event in batch.drain(..) {
            shades.iter_mut().for_each(|shade| shade.hear(&event));
        }
        let mut shown = figures.lock();
        *shown = shades.iter().map(|shade| shade.stats.clone()).collect();
    }
}

impl Shade {
    fn hear(&mut self, event: &ShadowEvent) {
        let (now, event) = match event {
            ShadowEvent::Event(now, event) => (*now, self.translated(event)),
            ShadowEvent::Done(now, id) => (*now, self.ended(*id)),
        };
        let Some(event) = event else { return };
        let mut actions = Vec::new();
        self.router.handle(now, event, &mut actions);
        for action in actions {
            match action {
                Action::Dispatch(dispatch) => {
                    let first = self.attempts.insert(dispatch.id, dispatch.attempt).is_none();
                    if !first {
                        continue;
                    }
                    let stats = &mut self.stats;
                    let slot = dispatch.replica.index();
                    if stats.dispatched.len() <= slot {
                        stats.dispatched.resize(slot + 1, 0);
                    }
                    stats.dispatched[slot] += 1;
                    stats.decided += 1;
                    stats.cached_tokens += u64::from(dispatch.cached_tokens);
                    stats.prompt_tokens += u64::from(self.tokens.get(&dispatch.id).copied().unwrap_or(0));
                    if let Some(ms) = dispatch.predicted_ttft_ms {
                        stats.predicted_ttft_ms += ms;
                        stats.predicted += 1;
                    }
                }
                Action::Done { id, .. } => {
                    self.attempts.remove(&id);
                    self.tokens.remove(&id);
                }
                _ => {}
            }
        }
        self.stats.dispatched.resize(self.router.replicas().len().max(self.stats.dispatched.len()), 0);
    }

    /// The event as it would be in this shadow's world; `None` for what concerns only the real dispatch.
    fn translated(&mut self, event: &Event) -> Option<Event> {
        match event {
            Event::Arrived(request) => {
                self.tokens.insert(request.id, request.ask.prompt_tokens);
                Some(event.clone())
            }
            Event::FirstToken { id, .. } => {
                self.attempts.get(id).map(|&attempt| Event::FirstToken { id: *id, attempt })
            }
            Event::Finished { id, answer, .. } => self.attempts.get(id).map(|&attempt| Event::Finished {
                id: *id,
                attempt,
                usage: Usage::default(), // the engine spoke of the real replica's cache
                answer: answer.clone(),
            }),
            Event::Failed { .. } => None,
            Event::ReplicaAdded { replica, .. } => {
                // What the former replica of the slot would have got is not this one's.
                if let Some(count) = self.stats.dispatched.get_mut(replica.index()) {
                    *count = 0;
                }
                Some(event.clone())
            }
            _ => Some(event.clone()),
        }
    }

    /// What ended in reality ends here too, wherever it had got to.
    fn ended(&self, id: RequestId) -> Option<Event> {
        self.tokens.contains_key(&id).then_some(Event::ClientGone { id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_core::ReplicaId;
    use gorgo_core::fleet::{Kind, ReplicaSpec};
    use gorgo_core::policy::Ask;
    use gorgo_core::router::Request;

    #[tokio::test]
    async fn a_shadow_counts_what_it_would_have_hit() {
        let (sender, receiver) = mpsc::channel(1_000);
        let figures = Figures::default();
        let send = |at, event| sender.try_send(ShadowEvent::Event(Time(at), event)).unwrap();
        for name in ["a", "b"] {
            let spec = ReplicaSpec { name: name.into(), kind: Kind::Remote, ms_per_token: None, kv_tokens: None };
            let replica = ReplicaId(u16::from(name == "b"));
            send(0, Event::ReplicaAdded { replica, spec });
        }
        for n in 1..=4 {
            let ask = Ask { prompt_tokens: 100, head: 1, ..Ask::default() };
            let request = Request { id: RequestId(n), symbols: vec![1, 2].into(), ask, hops: 0, deadline: None };
            send(n * 10, Event::Arrived(request));
            send(n * 10 + 1, Event::FirstToken { id: RequestId(n), attempt: 1 });
            send(n * 10 + 2, Event::Finished { id: RequestId(n), attempt: 1, usage: Usage::default(), answer: None });
        }
        drop(sender);
        let policies = [PolicyConfig::default(), PolicyConfig::parse("round-robin", Default::default()).unwrap()];
        run(&policies, &RouterConfig::default(), 1, receiver, Arc::clone(&figures)).await;
        let figures = figures.lock();
        assert_eq!((figures[0].decided, figures[0].cached_tokens, figures[0].prompt_tokens), (4, 300, 400));
        assert_eq!((figures[1].cached_tokens, figures[1].dispatched.clone()), (200, vec![2, 2]));
        assert!((figures[1].busiest() - 1.0).abs() < 1e-9 && figures[0].mean_ttft_ms().is_some());
    }
}
