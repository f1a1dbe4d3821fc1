//! Set-up: from bare nodes to a fleet through which a verified request has gone on every path.
//!
//! Every step first looks at what is there, so a second run changes nothing and an interrupted one goes on. Nodes are
//! set up at the same time; what must be equal on all of them (the image) is decided between two steps.

use crate::error::{Error, Result};
use crate::provider::{Node, Provider};
use crate::shell::Shell;
use futures_util::future::join_all;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

mod binary;
mod docker;
pub(crate) mod engine;
mod facts;
pub mod faults;
pub mod router;
pub mod service;
pub mod verify;

pub use engine::{log as engine_log, stop};
pub use facts::Facts;

/// What serves the model on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Engine {
    /// `gorgo engine`, the emulated one.
    Emulated {
        /// More words for it.
        args: Vec<String>,
    },
    /// SGLang in Docker.
    Docker {
        /// Image; chosen by the nodes' drivers when absent.
        image: Option<String>,
        /// More words for `sglang.launch_server`.
        args: Vec<String>,
    },
    /// SGLang as a process: the node is a container with it.
    Sglang {
        /// More words for `sglang.launch_server`.
        args: Vec<String>,
    },
    /// A command of the user's that serves HTTP on `$PORT`.
    Command {
        /// Program and arguments.
        argv: Vec<String>,
    },
}

/// What one node's engine has of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnEngine {
    /// Requests it runs at a time.
    pub max_running: u32,
    /// Words for it after those that all engines get.
    pub args: Vec<String>,
}

/// Keys of the routers.
#[derive(Clone, Serialize, Deserialize)]
pub struct Keys {
    /// Clients send it.
    pub api: String,
    /// Operators and peers send it.
    pub admin: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// Random keys.
    pub fn random() -> Self {
        Self { api: crate::provider::nonce(), admin: crate::provider::nonce() }
    }
}

/// What every node of a cluster shall run. It is kept between commands, without the model's token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Engine.
    pub engine: Engine,
    /// Model.
    pub model: String,
    /// Requests an engine runs at a time.
    pub max_running: u32,
    /// Engines that differ, by their nodes' names.
    #[serde(default)]
    pub own: BTreeMap<String, OwnEngine>,
    /// Prefill rate of a node's engine that its router is configured with, ms per token.
    #[serde(default)]
    pub rates: BTreeMap<String, f64>,
    /// Whose cluster it is, as [`crate::cluster::owner`] names it.
    #[serde(skip)]
    pub owner: String,
    /// Settings of the routers, as in their file, without role, name, addresses and keys.
    pub router: toml::Table,
    /// Keys of the routers.
    pub keys: Keys,
    /// This program for x86-64 nodes.
    pub binary: PathBuf,
    /// This program for arm64 nodes.
    pub binary_arm64: Option<PathBuf>,
    /// Free disk a node with Docker must have, GiB.
    pub disk_gib: u64,
    /// Minutes within which an engine must be healthy.
    #[serde(default = "healthy_within_min")]
    pub healthy_within_min: u64,
    /// Token of the model's hub.
    #[serde(skip)]
    pub hub_token: Option<SecretString>,
    /// Address of the model's hub.
    pub hub: String,
}

impl Plan {
    /// Requests that a node's engine runs at a time.
    fn max_running_on(&self, node: &Node) -> u32 {
        self.own.get(&node.name).map_or(self.max_running, |own| own.max_running)
    }

    /// Words that a node's engine gets after those of its kind: `args` and its own.
    fn words_on(&self, node: &Node, args: &[String]) -> Vec<String> {
        let own = self.own.get(&node.name).map(|own| own.args.as_slice());
        [args, own.unwrap_or_default()].concat()
    }
}

/// Minutes within which an engine is usually healthy: large weights take long to download.
pub const HEALTHY_WITHIN_MIN: u64 = 60;

fn healthy_within_min() -> u64 {
    HEALTHY_WITHIN_MIN
}

/// GiB of free disk that image and usual weights need.
pub const DISK_GIB: u64 = 60;

/// A node and the way to it.
pub struct Member {
    /// The node.
    pub node: Node,
    /// Its command line, or why there is none.
    pub shell: Result<Box<dyn Shell>>,
}

impl Member {
    /// Its command line.
    ///
    /// # Errors
    /// Why there is none.
    pub fn shell(&self) -> Result<&dyn Shell> {
        self.shell.as_ref().map(AsRef::as_ref).map_err(Clone::clone)
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("node", &self.node.name).finish_non_exhaustive()
    }
}

/// A step as it begins, for display.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Node.
    pub node: String,
    /// Step.
    pub step: String,
}

/// One step on one node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Name.
    pub name: &'static str,
    /// What was found or done.
    pub note: String,
    /// Whether it changed the node.
    pub changed: bool,
    /// Seconds it took.
    pub seconds: f64,
}

/// What happened on one node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Node.
    pub node: String,
    /// Its steps.
    pub steps: Vec<Step>,
    /// The failure that ended them: sign, meaning, remedy.
    #[serde(serialize_with = "triple")]
    pub failure: Option<Error>,
}

fn triple<S: serde::Serializer>(failure: &Option<Error>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    failure
        .as_ref()
        .map(|e| BTreeMap::from([("sign", &e.sign), ("meaning", &e.meaning), ("remedy", &e.remedy)]))
        .serialize(serializer)
}

/// What a step leaves: a note, and whether it changed the node.
type Done = Result<(String, bool)>;

/// One node while it is set up.
struct Site<'a> {
    member: &'a Member,
    plan: &'a Plan,
    provider: &'a dyn Provider,
    show: &'a (dyn Fn(&Progress) + Sync),
    facts: Option<Facts>,
    programs: Arc<binary::Programs>,
    binary: String,
    report: Report,
}

impl Site<'_> {
    fn shell(&self) -> Result<&dyn Shell> {
        self.member.shell()
    }

    fn facts(&self) -> &Facts {
        self.facts.as_ref().expect("facts are the first step")
    }

    fn fine(&self) -> bool {
        self.report.failure.is_none()
    }

    fn tell(&self, step: impl Into<String>) {
        (self.show)(&Progress { node: self.member.node.name.clone(), step: step.into() });
    }

    /// Notes a step; after a failure no further step is taken on this node.
    fn note(&mut self, name: &'static str, began: Instant, done: Done) {
        match done {
            Ok((note, changed)) => {
                self.report.steps.push(Step { name, note, changed, seconds: began.elapsed().as_secs_f64() });
            }
            Err(error) => {
                self.tell(format!("{name}: {error}"));
                self.report.failure = Some(error);
            }
        }
    }
}

/// Runs one step on all nodes that have not failed, at the same time.
macro_rules! step {
    ($sites:expr, $name:literal, $work:expr) => {
        join_all($sites.iter_mut().filter(|site| site.fine()).map(async |site| {
            let began = Instant::now();
            site.tell($name);
            let done = $work(site).await;
            site.note($name, began, done);
        }))
        .await
    };
}

/// Sets up all nodes. A node that fails ends there; the others go on.
pub async fn run(
    provider: &dyn Provider,
    members: &[Member],
    plan: &Plan,
    show: &(dyn Fn(&Progress) + Sync),
) -> Vec<Report> {
    let mut sites = prepared_sites(provider, members, plan, show).await;
    let image = docker::image_for_all(plan, sites.iter().filter_map(|site| site.facts.as_ref()));
    for site in sites.iter_mut().filter(|site| site.fine()) {
        if let Err(error) = &image {
            site.note("image", Instant::now(), Err(error.clone()));
        }
    }
    let image = image.unwrap_or_default();
    step!(sites, "image", async |site: &mut Site<'_>| docker::pull(site, &image).await);
    docker::one_digest(&mut sites, &image).await;
    // Units before the engine: installing one may make systemd reload, which takes the GPUs from running containers.
    route_and_verify(sites, Some(&image)).await
}

/// Writes the routers' files anew, restarts the routers whose files changed, and verifies all paths.
pub async fn routers(
    provider: &dyn Provider,
    members: &[Member],
    plan: &Plan,
    show: &(dyn Fn(&Progress) + Sync),
) -> Vec<Report> {
    let sites = prepared_sites(provider, members, plan, show).await;
    route_and_verify(sites, None).await
}

/// The nodes after the steps that every set-up begins with: facts looked at, program in place.
async fn prepared_sites<'a>(
    provider: &'a dyn Provider,
    members: &'a [Member],
    plan: &'a Plan,
    show: &'a (dyn Fn(&Progress) + Sync),
) -> Vec<Site<'a>> {
    let mut sites = sites(provider, members, plan, show);
    step!(sites, "look", facts::step);
    step!(sites, "program", binary::step);
    sites
}

fn sites<'a>(
    provider: &'a dyn Provider,
    members: &'a [Member],
    plan: &'a Plan,
    show: &'a (dyn Fn(&Progress) + Sync),
) -> Vec<Site<'a>> {
    let programs = Arc::default();
    let site = |member: &'a Member| {
        let programs = Arc::clone(&programs);
        let report = Report { node: member.node.name.clone(), steps: Vec::new(), failure: None };
        Site { member, plan, provider, show, facts: None, programs, binary: String::new(), report }
    };
    members.iter().map(site).collect()
}

async fn route_and_verify(mut sites: Vec<Site<'_>>, image: Option<&str>) -> Vec<Report> {
    let paths = router::open_all(&mut sites).await;
    step!(sites, "router", async |site: &mut Site<'_>| router::step(site, &paths).await);
    if let Some(image) = image {
        step!(sites, "engine", async |site: &mut Site<'_>| engine::step(site, image).await);
    }
    step!(sites, "verified", async |site: &mut Site<'_>| verify::step(site, &paths).await);
    sites.into_iter().map(|site| site.report).collect()
}
