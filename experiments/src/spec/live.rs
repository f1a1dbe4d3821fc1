//! `[live]`: existing servers for live runs, in place of emulated replicas.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// An existing server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LiveNode {
    /// Name of the replica in `[fleet]` that it stands for.
    pub name: String,
    /// Its engine: `http://host:port` or `https://host`.
    pub engine: Option<String>,
    /// The `gorgo lb` beside it, as users reach it: `http://host:port` or `https://host`. It gets each
    /// arm's policy.
    pub router: Option<String>,
}

/// Settings of live runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LiveSpec {
    /// One per replica; without any, a live run emulates all replicas.
    pub nodes: Vec<LiveNode>,
    /// Name of the served model.
    pub model: String,
    /// Empty the engines' and routers' caches before each run, so that no run profits from the one before.
    pub flush: bool,
    /// Folder for the decision logs of the routers that the run starts, `ARM-SEED-ROUTER.jsonl` each, for `gorgo evaluate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decisions: Option<PathBuf>,
    /// Environment variable with the engines' API key.
    pub engine_key_env: Option<String>,
    /// Environment variable with the routers' API key.
    pub router_key_env: Option<String>,
    /// Environment variable with the routers' admin key.
    pub admin_key_env: Option<String>,
}

impl Default for LiveSpec {
    fn default() -> Self {
        let (engine_key_env, router_key_env, admin_key_env) = (None, None, None);
        let (nodes, model, decisions) = (Vec::new(), String::new(), None);
        Self { nodes, model, flush: true, decisions, engine_key_env, router_key_env, admin_key_env }
    }
}

impl LiveSpec {
    /// Checks the nodes against the names of the fleet's replicas.
    pub(super) fn check(&self, names: &[&str]) -> Result<(), String> {
        for (i, node) in self.nodes.iter().enumerate() {
            let name = node.name.as_str();
            if !names.contains(&name) {
                let hint = gorgo_core::suggest::did_you_mean(name, names.iter().copied());
                return Err(format!("[live] node `{name}` is not in the fleet; {hint}"));
            }
            if self.nodes[..i].iter().any(|other| other.name == name) {
                return Err(format!("[live] lists node `{name}` twice"));
            }
            if node.engine.is_none() && node.router.is_none() {
                return Err(format!(
                    "[live] node `{name}` has no address; give engine = \"http://HOST:PORT\", router, or both"
                ));
            }
        }
        let missing = names.iter().find(|name| !self.nodes.iter().any(|node| node.name == **name));
        match missing.filter(|_| !self.nodes.is_empty()) {
            Some(name) => Err(format!("[live] has no node for replica `{name}`; list one for each replica")),
            None => Ok(()),
        }
    }
}
