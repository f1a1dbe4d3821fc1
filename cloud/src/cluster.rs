//! Operations on a fleet that is set up: state, caches, traces, logs.

use crate::error::{Error, Kind, Result};
use crate::provider::Node;
use crate::setup::verify::call;
use crate::setup::{Engine, Member, Plan, engine_log, service};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file that keeps a cluster's plan between commands; the routers' keys stand in it.
pub fn path(folder: &Path, cloud: &str, account: &str) -> PathBuf {
    folder.join(format!("cluster-{cloud}-{}.json", &crate::digest::of(account.as_bytes())[..12]))
}

/// Keeps a plan for later commands, readable by its owner only.
///
/// # Errors
/// When the file cannot be written.
pub fn save(folder: &Path, cloud: &str, account: &str, plan: &Plan) -> Result<()> {
    let path = path(folder, cloud, account);
    let part = path.with_extension("part");
    let text = serde_json::to_string_pretty(plan).unwrap_or_default();
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
    let written = written.and_then(|mut file| file.write_all(text.as_bytes()));
    written.and_then(|()| std::fs::rename(&part, &path)).map_err(|why| Error::file(&path, &why))
}

/// The plan of an earlier set-up, if there was one.
///
/// # Errors
/// When the file is damaged.
pub fn load(folder: &Path, cloud: &str, account: &str) -> Result<Option<Plan>> {
    let path = path(folder, cloud, account);
    let bytes = match std::fs::read(&path) {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|why| Error::file(&path, &why))?,
    };
    let damaged = |why: serde_json::Error| {
        Error::usage(format!("`{}`", path.display()), why.to_string(), "remove it and set up again")
    };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// The name by which machines know whose cluster they run: one for each state folder, made at first use.
///
/// # Errors
/// When its file cannot be read or written.
pub fn owner(folder: &Path) -> Result<String> {
    let path = folder.join("owner");
    let failed = |why: &std::io::Error| Error::file(&path, why);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(mut file) => file.write_all(crate::provider::nonce().as_bytes()).map_err(|why| failed(&why))?,
        Err(why) if why.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(why) => return Err(failed(&why)),
    }
    Ok(std::fs::read_to_string(&path).map_err(|why| failed(&why))?.trim().to_owned())
}

/// Holds a cluster for `command` until the value is dropped: two commands that set machines up, or run load on them,
/// would overwrite each other's plan.
///
/// # Errors
/// When another command holds it, or the lock's file cannot be used.
pub fn hold(folder: &Path, cloud: &str, account: &str, command: &str) -> Result<File> {
    let path = path(folder, cloud, account).with_extension("lock");
    let failed = |why: &std::io::Error| Error::file(&path, why);
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = open.map_err(|why| failed(&why))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(why)) => return Err(failed(&why)),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = Some(holder.trim()).filter(|holder| !holder.is_empty()).unwrap_or("another command");
            let remedy = "wait until it has ended, or use other machines from another folder with --state";
            return Err(Error::new(Kind::Guard, holder, "uses this cluster", remedy));
        }
    }
    let holder = format!("`{command}` (process {})\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_all(holder.as_bytes())).map_err(|why| failed(&why))?;
    Ok(file)
}

/// A router of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Router {
    /// The one beside the engine.
    Edge,
    /// The central one.
    Central,
}

impl Router {
    /// Its port on the node.
    pub fn port(self, node: &Node) -> u16 {
        match self {
            Self::Edge => node.ports.router,
            Self::Central => node.ports.proxy,
        }
    }

    async fn call(self, member: &Member, plan: &Plan, path: &str, body: &Value) -> Result<Value> {
        let shell = member.shell()?;
        call(shell, self.port(&member.node), &plan.keys.admin, path, Some(body)).await
    }

    /// Empties its prefix index.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn clear(self, member: &Member, plan: &Plan) -> Result<()> {
        self.call(member, plan, "/lb/cache/clear", &json!({})).await.map(drop)
    }

    /// Lets it send no new requests to an engine or peer, or send them again.
    ///
    /// # Errors
    /// When the node does not answer, or its router knows none of this name.
    pub async fn drain(self, member: &Member, plan: &Plan, name: &str, draining: bool) -> Result<()> {
        let body = json!({"id": name, "draining": draining});
        self.call(member, plan, "/proxy/servers/drain", &body).await.map(drop)
    }

    /// Starts a timeline.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn start_trace(self, member: &Member, plan: &Plan) -> Result<()> {
        self.call(member, plan, "/lb/trace/start", &json!({})).await.map(drop)
    }

    /// Ends its timeline and writes it to `folder`.
    ///
    /// # Errors
    /// When the node does not answer, no timeline was started, or the file cannot be written.
    pub async fn stop_trace(self, member: &Member, plan: &Plan, folder: &Path) -> Result<PathBuf> {
        let value = self.call(member, plan, "/lb/trace/stop", &json!({})).await?;
        let of = if self == Self::Edge { "" } else { "-proxy" };
        let path = folder.join(format!("{}{of}_trace.json", member.node.name));
        std::fs::create_dir_all(folder).map_err(|why| Error::file(folder, &why))?;
        std::fs::write(&path, value.to_string()).map_err(|why| Error::file(&path, &why))?;
        Ok(path)
    }
}

/// State of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeState {
    /// Whether the engine is healthy.
    pub engine: Result<()>,
    /// What the router says of itself.
    pub router: Result<Value>,
}

/// State of a node's engine and router.
pub async fn state(member: &Member, plan: &Plan) -> NodeState {
    let ports = member.node.ports;
    let shell = match &member.shell {
        Ok(shell) => shell.as_ref(),
        Err(error) => return NodeState { engine: Err(error.clone()), router: Err(error.clone()) },
    };
    NodeState {
        engine: call(shell, ports.engine, &plan.keys.api, "/health", None).await.map(drop),
        router: call(shell, ports.router, &plan.keys.admin, "/lb/status", None).await,
    }
}

/// What a flush found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// Cache and index are empty.
    Empty,
    /// The engine runs requests and kept its cache; the index was kept too.
    Busy,
}

/// Empties the engine's KV cache and then the router's prefix index.
///
/// # Errors
/// When the node does not answer.
pub async fn flush(member: &Member, plan: &Plan) -> Result<Flushed> {
    let shell = member.shell()?;
    let ports = member.node.ports;
    match call(shell, ports.engine, &plan.keys.api, "/flush_cache", Some(&json!({}))).await {
        Err(error) if error.sign.contains("HTTP 400") => return Ok(Flushed::Busy),
        done => done?,
    };
    Router::Edge.clear(member, plan).await?;
    Ok(Flushed::Empty)
}

/// The last lines of a log: `engine`, `router` or `proxy`.
///
/// # Errors
/// When the node cannot be reached.
pub async fn log(member: &Member, plan: &Plan, what: &str, lines: usize) -> Result<String> {
    let shell = member.shell()?;
    if what == "engine" && matches!(plan.engine, Engine::Docker { .. }) {
        return engine_log(shell, lines).await;
    }
    service::log(shell, what, lines).await
}

#[cfg(test)]
mod tests {
    use super::hold;

    #[test]
    fn a_cluster_is_held_by_one_command_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let hold = |account: &str, command: &str| hold(folder.path(), "ssh", account, command);
        let first = hold("a", "gorgo run").unwrap();
        let refused = hold("a", "gorgo cluster setup").unwrap_err().to_string();
        let holder = format!("`gorgo run` (process {}): uses this cluster; wait", std::process::id());
        assert!(refused.starts_with(&holder), "{refused}");
        let _other = hold("b", "gorgo cluster setup").unwrap();
        drop(first);
        drop(hold("a", "gorgo proxy deploy").unwrap());
    }
}
