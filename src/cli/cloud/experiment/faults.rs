//! The experiment's faults on machines: engines are killed and started again, and routers drain replicas, each at its
//! time after the start of the load.

use super::super::Session;
use super::entry::{Entry, restarted};
use crate::cli::process::since_1970;
use anyhow::Context;
use futures_util::future::try_join_all;
use gorgo_cloud::cluster::Router;
use gorgo_cloud::setup::faults::Victim;
use gorgo_cloud::setup::{Member, Plan, service};
use gorgo_sim::world::{Fault, FaultKind};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::watch;

/// What happens to a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Kill,
    Start,
    Drain,
    Undrain,
}

impl Act {
    fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Start => "start",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
        }
    }
}

/// Acts on each replica, by its index, in the order of their times, s.
fn schedule(faults: &[Fault]) -> BTreeMap<usize, Vec<(f64, Act)>> {
    let mut acts: BTreeMap<usize, Vec<(f64, Act)>> = BTreeMap::new();
    for fault in faults {
        let (at_s, of) = (fault.at.secs(), acts.entry(fault.replica.into()).or_default());
        match fault.kind {
            FaultKind::Crash { down_ms } => of.extend([(at_s, Act::Kill), (at_s + down_ms / 1e3, Act::Start)]),
            FaultKind::Drain => of.push((at_s, Act::Drain)),
            FaultKind::Undrain => of.push((at_s, Act::Undrain)),
        }
    }
    acts.values_mut().for_each(|of| of.sort_by(|a, b| a.0.total_cmp(&b.0)));
    acts
}

/// What was done so far.
#[derive(Debug, Default)]
struct Done {
    down: BTreeSet<usize>,
    crashed: BTreeSet<usize>,
    drained: BTreeSet<usize>,
    rows: Vec<Value>,
}

/// The faults of one run.
pub(super) struct Faults<'a> {
    session: &'a Session,
    members: &'a [Member],
    plan: &'a Plan,
    entry: &'a Entry,
    acts: BTreeMap<usize, Vec<(f64, Act)>>,
    victims: BTreeMap<usize, Victim<'a>>,
    done: Mutex<Done>,
}

impl<'a> Faults<'a> {
    /// Looks at the machines whose engines will crash.
    pub(super) async fn of(
        session: &'a Session,
        faults: &[Fault],
        members: &'a [Member],
        plan: &'a Plan,
        entry: &'a Entry,
    ) -> anyhow::Result<Self> {
        let acts = schedule(faults);
        let mut victims = BTreeMap::new();
        for &i in acts.iter().filter(|(_, of)| of.iter().any(|(_, act)| *act == Act::Kill)).map(|(i, _)| i) {
            victims.insert(i, Victim::of(session.provider.as_ref(), &members[i], plan, &|_| ()).await?);
        }
        Ok(Self { session, members, plan, entry, acts, victims, done: Mutex::default() })
    }

    /// Injects all faults of a load that starts at `start` since 1970 and has ended once `over` is true. One that has
    /// begun by then is carried out: a command that is left alone may act after the one that undoes it.
    pub(super) async fn inject(&self, start: Duration, over: &watch::Sender<bool>) -> anyhow::Result<()> {
        let of_replica = self.acts.iter().map(async |(&i, acts)| {
            let mut over = over.subscribe();
            for &(at_s, act) in acts {
                let at = start + Duration::from_secs_f64(at_s);
                tokio::select! {
                    biased;
                    _ = over.wait_for(|over| *over) => break,
                    () = tokio::time::sleep(at.saturating_sub(since_1970())) => {}
                }
                self.act(i, act).await?;
                let name = &self.members[i].node.name;
                let done_s = (since_1970().as_millis() as f64 - start.as_millis() as f64) / 1e3;
                self.done.lock().rows.push(json!({"replica": name, "act": act.word(), "at_s": at_s, "done_s": done_s}));
            }
            anyhow::Ok(())
        });
        try_join_all(of_replica).await.map(drop)
    }

    async fn act(&self, i: usize, act: Act) -> anyhow::Result<()> {
        match act {
            Act::Kill => {
                // Noted first, so that a command that is cut short is undone too.
                self.done.lock().down.insert(i);
                self.done.lock().crashed.insert(i);
                self.victim(i)?.crash().await?;
            }
            Act::Start => {
                if self.done.lock().down.contains(&i) {
                    self.victim(i)?.start().await?;
                    self.done.lock().down.remove(&i);
                }
            }
            Act::Drain => {
                self.done.lock().drained.insert(i);
                self.drain(i, true).await?;
            }
            Act::Undrain => {
                self.drain(i, false).await?;
                self.done.lock().drained.remove(&i);
            }
        }
        Ok(())
    }

    fn victim(&self, i: usize) -> anyhow::Result<&Victim<'a>> {
        self.victims.get(&i).context("an engine crashes that was not looked at")
    }

    /// Tells every router that users pass.
    async fn drain(&self, i: usize, draining: bool) -> anyhow::Result<()> {
        let name = &self.members[i].node.name;
        let tell = self.entry.routers(self.members).into_iter().map(async |(member, router)| {
            let own = router == Router::Central || member.node.name == *name;
            let known = if own { format!("{name}-engine") } else { name.clone() };
            router.drain(member, self.plan, &known, draining).await
        });
        try_join_all(tell).await?;
        Ok(())
    }

    /// What was done and when, s after the start of the load.
    pub(super) fn rows(&self) -> Vec<Value> {
        self.done.lock().rows.clone()
    }

    /// Undoes what the load's end has left. After a run that is `whole`, the next arm finds engines that are healthy
    /// and edges that remember no fault.
    pub(super) async fn restore(&self, whole: bool) -> anyhow::Result<()> {
        let (down, crashed, drained) = {
            let done = self.done.lock();
            (done.down.clone(), done.crashed.clone(), done.drained.clone())
        };
        for &i in &down {
            self.victim(i)?.start().await?;
        }
        for &i in &drained {
            self.drain(i, false).await?;
        }
        if whole {
            for &i in &crashed {
                self.victim(i)?.healthy().await?;
            }
            if self.entry.proxy.is_none() && !crashed.is_empty() {
                for member in self.members {
                    service::stop(member.shell()?, "router").await?;
                }
                restarted(self.session, self.members, self.plan).await?;
            }
        }
        Ok(())
    }
}
