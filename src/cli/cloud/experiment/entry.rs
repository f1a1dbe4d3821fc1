//! Where the users of an arm enter: at the edge beside each engine, or at a proxy on the machine of its region.

use super::super::Session;
use super::super::deploy::central;
use super::machines::{plan_for, proxy_machine};
use super::node::verdict;
use anyhow::Context;
use futures_util::future::{join_all, try_join_all};
use gorgo_cloud::cluster::Router;
use gorgo_cloud::setup::router::withdraw;
use gorgo_cloud::setup::{Member, Plan, routers, run as set_up};
use gorgo_experiments::build::Built;
use gorgo_experiments::spec::PlannedArm;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The routers of one run.
#[derive(Debug)]
pub(super) struct Entry {
    /// The machine with the proxy, if there is one.
    pub(super) proxy: Option<usize>,
    /// What the load generator of each machine calls.
    pub(super) urls: Vec<String>,
}

impl Entry {
    /// Gives engines and routers the arm's settings. `plan` is what the machines run, and is changed with them.
    pub(super) async fn open(
        session: &Session,
        arm: &PlannedArm,
        built: &Built,
        members: &[Member],
        plan: &mut Plan,
        peers: &mut BTreeSet<String>,
    ) -> anyhow::Result<Self> {
        let wanted = plan_for(plan, arm, built)?;
        let proxy = proxy_machine(arm)?;
        // Behind a proxy no request passes an edge, whose settings can stay.
        let router = if proxy.is_some() { plan.router.clone() } else { wanted.router.clone() };
        let edges = Plan { router, ..wanted.clone() };
        let names: BTreeSet<String> = members.iter().map(|member| member.node.name.clone()).collect();
        let (engines, routers) = (edges.own != plan.own, edges.router != plan.router || edges.rates != plan.rates);
        if engines || routers || (proxy.is_none() && *peers != names) {
            *plan = edges;
            session.keep(plan)?;
            match engines {
                true => verdict(&set_up(session.provider.as_ref(), members, plan, &|_| ()).await)?,
                false => restarted(session, members, plan).await?,
            }
            *peers = names;
        }
        let Some(at) = proxy else {
            let url = |member: &Member| format!("http://127.0.0.1:{}", member.node.ports.router);
            return Ok(Self { proxy: None, urls: members.iter().map(url).collect() });
        };
        let node = &members[at].node;
        let port = Router::Central.port(node);
        central(session, &wanted, members, at, port).await?;
        let others: Vec<_> =
            members.iter().map(|member| &member.node).filter(|other| other.id != node.id).cloned().collect();
        let mut far = session.provider.open(node, port, &others).await?.into_iter();
        let url = |(i, _): (usize, &Member)| match i == at {
            true => Ok(format!("http://127.0.0.1:{port}")),
            false => far.next().context("the proxy's port was not opened"),
        };
        Ok(Self { proxy: Some(at), urls: members.iter().enumerate().map(url).collect::<anyhow::Result<_>>()? })
    }

    /// Ends the proxy, if there is one: the next arm begins without it.
    pub(super) async fn close(arm: &PlannedArm, members: &[Member]) -> anyhow::Result<()> {
        if proxy_machine(arm)?.is_none() {
            return Ok(());
        }
        let ends = members.iter().map(async |member| withdraw(member.shell()?).await);
        Ok(join_all(ends).await.into_iter().collect::<gorgo_cloud::Result<()>>()?)
    }

    /// The routers that users' requests pass, by their machines.
    pub(super) fn routers<'a>(&self, members: &'a [Member]) -> Vec<(&'a Member, Router)> {
        match self.proxy {
            Some(at) => vec![(&members[at], Router::Central)],
            None => members.iter().map(|member| (member, Router::Edge)).collect(),
        }
    }

    /// The index of the router at which users of a machine's region enter.
    pub(super) fn router(&self, machine: usize) -> usize {
        if self.proxy.is_some() { 0 } else { machine }
    }

    pub(super) async fn start_traces(&self, members: &[Member], plan: &Plan) -> anyhow::Result<()> {
        let starts = self.routers(members).into_iter().map(|(member, router)| router.start_trace(member, plan));
        try_join_all(starts).await?;
        Ok(())
    }

    pub(super) async fn stop_traces(
        &self,
        members: &[Member],
        plan: &Plan,
        folder: &Path,
    ) -> anyhow::Result<Vec<PathBuf>> {
        let ends = self.routers(members).into_iter().map(|(member, router)| router.stop_trace(member, plan, folder));
        Ok(try_join_all(ends).await?)
    }
}

/// Starts the edges whose settings changed or that do not run, and verifies all paths.
pub(super) async fn restarted(session: &Session, members: &[Member], plan: &Plan) -> anyhow::Result<()> {
    verdict(&routers(session.provider.as_ref(), members, plan, &|_| ()).await)
}
