//! Policies that decide on live requests without dispatching them.
//!
//! Each is a complete core router that gets the events of the real one: its index holds what replicas *would* have
//! cached, its counters the load they *would* have. A request runs in a shadow for as long as in reality.

use gorgo_core::policy::PolicyConfig;
use gorgo_core::rng;
use gorgo_core::router::{Action, AdminEvent, Event, ReplicaEvent, RequestEvent, Router, RouterConfig, Usage};
use gorgo_core::{RequestId, Time};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::mpsc;

/// An event for all shadows.
#[derive(Debug)]
pub enum ShadowEvent {
    /// An event of the real router.
    Event(Time, Event),
    /// A request ended.
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

/// Largest share of a replica times the number of replicas, by the requests that each got: 1 is even. `None` before the
/// first decision.
pub(crate) fn busiest(dispatched: &[u64]) -> Option<f64> {
    let (most, sum) = (dispatched.iter().max()?, dispatched.iter().sum::<u64>());
    (sum > 0).then(|| *most as f64 * dispatched.len() as f64 / sum as f64)
}

impl ShadowStats {
    /// Share of prompt tokens that would have been cached; `None` before the first prompt.
    pub fn hit_rate(&self) -> Option<f64> {
        (self.prompt_tokens > 0).then(|| self.cached_tokens as f64 / self.prompt_tokens as f64)
    }

    /// As [`busiest`].
    pub fn busiest(&self) -> Option<f64> {
        busiest(&self.dispatched)
    }

    /// Mean predicted time to first token, ms.
    pub fn mean_ttft_ms(&self) -> Option<f64> {
        (self.predicted > 0).then(|| self.predicted_ttft_ms / self.predicted as f64)
    }
}

struct ShadowRouter {
    router: Router,
    attempts: FxHashMap<RequestId, u8>,
    tokens: FxHashMap<RequestId, u32>,
    stats: ShadowStats,
}

/// The shadows' figures, shared with the admin API.
pub(crate) type SharedStats = Arc<Mutex<Vec<ShadowStats>>>;

/// Runs shadows until the channel closes.
pub(crate) async fn run(
    policies: &[PolicyConfig],
    config: &RouterConfig,
    seed: u64,
    mut events: mpsc::Receiver<ShadowEvent>,
    figures: SharedStats,
) {
    let config = RouterConfig { record_decisions: false, explore: 0.0, ..config.clone() };
    let mut shadows: Vec<ShadowRouter> = policies
        .iter()
        .map(|policy| ShadowRouter {
            router: Router::new(config.clone(), policy.build(), None, rng::stream(seed, "policy", 0)),
            attempts: FxHashMap::default(),
            tokens: FxHashMap::default(),
            stats: ShadowStats { policy: policy.name().to_owned(), ..ShadowStats::default() },
        })
        .collect();
    let mut batch = Vec::new();
    while events.recv_many(&mut batch, 256).await > 0 {
        for event in batch.drain(..) {
            shadows.iter_mut().for_each(|shadow| shadow.handle(&event));
        }
        let mut shown = figures.lock();
        *shown = shadows.iter().map(|shadow| shadow.stats.clone()).collect();
    }
}

impl ShadowRouter {
    fn handle(&mut self, event: &ShadowEvent) {
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

    /// The event as this shadow's router gets it; `None` for events that concern only the real dispatch or policy.
    fn translated(&mut self, event: &Event) -> Option<Event> {
        match event {
            Event::Request(event) => self.translated_request(event).map(Event::Request),
            Event::Replica(event) => {
                if let ReplicaEvent::Added { replica, .. } = event
                    && let Some(count) = self.stats.dispatched.get_mut(replica.index())
                {
                    *count = 0; // the dispatches of the slot's former replica
                }
                Some(Event::Replica(event.clone()))
            }
            Event::Admin(AdminEvent::PolicySet(_)) => None,
            Event::Admin(AdminEvent::ConfigSet(config)) => {
                let config = RouterConfig { record_decisions: false, explore: 0.0, ..RouterConfig::clone(config) };
                Some(AdminEvent::ConfigSet(Box::new(config)).into())
            }
            Event::Admin(AdminEvent::IndexCleared) => Some(AdminEvent::IndexCleared.into()),
            Event::Admin(AdminEvent::Restored(snapshot)) => Some(AdminEvent::Restored(snapshot.clone()).into()),
            Event::Admin(AdminEvent::RatesRestored(rates)) => Some(AdminEvent::RatesRestored(rates.clone()).into()),
            Event::Timer => Some(Event::Timer),
        }
    }

    fn translated_request(&mut self, event: &RequestEvent) -> Option<RequestEvent> {
        let attempt = |id: &RequestId| self.attempts.get(id).copied();
        match event {
            RequestEvent::Arrived(request) => {
                self.tokens.insert(request.id, request.info.prompt_tokens);
                Some(event.clone())
            }
            RequestEvent::FirstToken { id, .. } => {
                attempt(id).map(|attempt| RequestEvent::FirstToken { id: *id, attempt })
            }
            RequestEvent::Finished { id, answer, .. } => attempt(id).map(|attempt| RequestEvent::Finished {
                id: *id,
                attempt,
                usage: Usage::default(), // the engine's counts concern the real replica's cache
                answer: answer.clone(),
            }),
            RequestEvent::Committed { .. } | RequestEvent::Failed { .. } => None,
            RequestEvent::ClientGone { .. } => Some(event.clone()),
        }
    }

    /// What ended in reality ends here too, wherever it had got to.
    fn ended(&self, id: RequestId) -> Option<Event> {
        self.tokens.contains_key(&id).then_some(Event::Request(RequestEvent::ClientGone { id }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_core::ReplicaId;
    use gorgo_core::fleet::{Kind, ReplicaSpec};
    use gorgo_core::policy::RequestInfo;
    use gorgo_core::router::Request;

    /// Request `n`, 100 tokens of two blocks.
    fn arrived(n: u64) -> Event {
        let info = RequestInfo { prompt_tokens: 100, head: 1, ..RequestInfo::default() };
        RequestEvent::Arrived(Request::new(RequestId(n), vec![1, 2].into(), info)).into()
    }

    #[tokio::test]
    async fn a_shadow_counts_what_it_would_have_hit() {
        let (sender, receiver) = mpsc::channel(1_000);
        let figures = SharedStats::default();
        let send = |at, event: Event| sender.try_send(ShadowEvent::Event(Time(at), event)).unwrap();
        for name in ["a", "b"] {
            let spec = ReplicaSpec::new(name, Kind::Remote);
            let replica = ReplicaId(u16::from(name == "b"));
            send(0, ReplicaEvent::Added { replica, spec }.into());
        }
        for n in 1..=4 {
            send(n * 10, arrived(n));
            send(n * 10 + 1, RequestEvent::FirstToken { id: RequestId(n), attempt: 1 }.into());
            let (id, usage) = (RequestId(n), Usage::default());
            send(n * 10 + 2, RequestEvent::Finished { id, attempt: 1, usage, answer: None }.into());
        }
        drop(sender);
        let policies = [PolicyConfig::default(), PolicyConfig::parse("round-robin", Default::default()).unwrap()];
        run(&policies, &RouterConfig::default(), 1, receiver, Arc::clone(&figures)).await;
        let figures = figures.lock();
        assert_eq!((figures[0].decided, figures[0].cached_tokens, figures[0].prompt_tokens), (4, 300, 400));
        assert_eq!((figures[1].cached_tokens, figures[1].dispatched.clone()), (200, vec![2, 2]));
        assert!((figures[1].busiest().unwrap() - 1.0).abs() < 1e-9 && figures[0].mean_ttft_ms().is_some());
    }

    #[tokio::test]
    async fn a_shadow_sees_changes_of_the_configuration_and_a_cleared_index_but_keeps_its_policy() {
        let (sender, receiver) = mpsc::channel(1_000);
        let figures = SharedStats::default();
        let send = |at, event: Event| sender.try_send(ShadowEvent::Event(Time(at), event)).unwrap();
        let spec = ReplicaSpec::new("a", Kind::Remote);
        send(0, ReplicaEvent::Added { replica: ReplicaId(0), spec }.into());
        let request = |n: u64| {
            send(n * 10, arrived(n));
            send(n * 10 + 1, RequestEvent::FirstToken { id: RequestId(n), attempt: 1 }.into());
        };
        (1..=2).for_each(request);
        send(25, AdminEvent::PolicySet(PolicyConfig::parse("random", Default::default()).unwrap()).into());
        send(26, AdminEvent::IndexCleared.into());
        request(3);
        let mut config = RouterConfig { queue_limit: 0, ..RouterConfig::default() };
        config.gates.max_running = Some(3);
        send(35, AdminEvent::ConfigSet(Box::new(config)).into());
        request(4);
        drop(sender);
        run(&[PolicyConfig::default()], &RouterConfig::default(), 1, receiver, Arc::clone(&figures)).await;
        let figures = figures.lock();
        let one = &figures[0];
        // Of four requests the second alone finds its prompt, and the fourth finds the gate closed.
        assert_eq!((one.policy.as_str(), one.decided, one.cached_tokens), ("gorgo", 3, 100));
    }
}
