//! Faults of an engine that an experiment asks for: the engine is killed, and started again.

use super::{Member, Plan, Progress, Site, binary, engine, facts, sites};
use crate::Provider;
use crate::error::Result;

/// A node's engine, looked at beforehand, so that a fault takes one command at its time.
pub struct Victim<'a>(Site<'a>);

impl std::fmt::Debug for Victim<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Victim").field(self.0.member).finish()
    }
}

impl<'a> Victim<'a> {
    /// Looks at the node.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn of(
        provider: &'a dyn Provider,
        member: &'a Member,
        plan: &'a Plan,
        show: &'a (dyn Fn(&Progress) + Sync),
    ) -> Result<Self> {
        let mut site = sites(provider, std::slice::from_ref(member), plan, show).remove(0);
        facts::step(&mut site).await?;
        binary::step(&mut site).await?;
        Ok(Self(site))
    }

    /// Kills the engine: its requests break, and it stays down.
    ///
    /// # Errors
    /// When the node cannot be reached, or Docker refuses.
    pub async fn crash(&self) -> Result<()> {
        engine::crash(&self.0).await
    }

    /// Starts the engine that was killed; it is cold then.
    ///
    /// # Errors
    /// When the node cannot be reached, or Docker refuses.
    pub async fn start(&self) -> Result<()> {
        engine::again(&self.0).await
    }

    /// Waits until the engine is healthy.
    ///
    /// # Errors
    /// When it has ended, or is silent for too long.
    pub async fn healthy(&self) -> Result<()> {
        engine::healthy(&self.0).await
    }
}
