//! Nodes on this machine: a folder each, regions by label, round trips by relay processes.
//!
//! Processes outlive the command that started them; a node ends with `gorgo kill`.

use crate::error::{Error, Kind, Result};
use crate::provider::{Capabilities, LaunchError, Node, Offer, Ports, Provider, Region, Sending, Spec, Status};
use crate::setup::service::{self, Service};
use crate::shell::Shell;
use crate::shell::local::LocalShell;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use tokio::sync::Mutex;

/// Types of emulated machines and the engine preset of each.
pub const MACHINES: [(&str, &str); 4] =
    [("gpu_1x_a100", "a100-80"), ("gpu_1x_a100_40gb", "a100-40"), ("gpu_1x_h100", "h100"), ("gpu_1x_l40s", "l40s")];

/// The provider.
#[derive(Debug)]
pub struct Local {
    folder: PathBuf,
    program: PathBuf,
    regions: Vec<Region>,
    // Ports are chosen by one task at a time.
    choosing: Mutex<()>,
}

impl Local {
    /// Nodes below `folder`; `program` is this program and `regions` are those between which round trips are known.
    pub fn new(folder: PathBuf, program: PathBuf, regions: Vec<Region>) -> Self {
        Self { folder, program, regions, choosing: Mutex::default() }
    }

    fn place(&self, id: &str) -> PathBuf {
        self.folder.join("nodes").join(id)
    }

    fn read(&self) -> Result<Vec<Node>> {
        let nodes = self.folder.join("nodes");
        let entries = match std::fs::read_dir(&nodes) {
            Ok(entries) => entries,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(why) => return Err(Error::file(&nodes, &why)),
        };
        let mut list = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path().join("node.json");
            // A folder without this file is a launch that was cut short.
            let Ok(bytes) = std::fs::read(&path) else { continue };
            let damaged = |why: serde_json::Error| {
                Error::usage(path.display().to_string(), why.to_string(), "remove that folder")
            };
            list.push(serde_json::from_slice::<Node>(&bytes).map_err(damaged)?);
        }
        list.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
        Ok(list)
    }

    fn create(&self, spec: &Spec, key: &str) -> Result<String> {
        if !MACHINES.iter().any(|(name, _)| *name == spec.machine) {
            let known: Vec<&str> = MACHINES.iter().map(|(name, _)| *name).collect();
            let remedy = format!("name one of {}", known.join(", "));
            return Err(Error::usage(format!("type `{}`", spec.machine), "not one of the local types", remedy));
        }
        if !self.regions.iter().any(|region| region.name == spec.region) {
            let remedy = "name a region of `gorgo available --cloud local`";
            return Err(Error::usage(format!("region `{}`", spec.region), "its round trips are not known", remedy));
        }
        let ports = free_ports(3, &self.taken()?)?;
        let id = format!("local-{key}");
        let node = Node {
            id: id.clone(),
            name: spec.name.clone(),
            key: Some(key.to_owned()),
            run: Some(spec.run.clone()),
            machine: spec.machine.clone(),
            region: spec.region.clone(),
            status: Status::Ready,
            address: Some("127.0.0.1".to_owned()),
            cents_per_hour: Some(0),
            gpus: 1,
            ports: Ports { engine: ports[0], router: ports[1], proxy: ports[2] },
        };
        let place = self.place(&id);
        write(&place.join("node.json"), &serde_json::to_vec_pretty(&node).unwrap_or_default())?;
        Ok(id)
    }

    /// Ports given to nodes and links so far, whether anything listens on them yet or not.
    fn taken(&self) -> Result<BTreeSet<u16>> {
        let mut taken = BTreeSet::new();
        for node in self.read()? {
            taken.extend([node.ports.engine, node.ports.router, node.ports.proxy]);
            for entry in std::fs::read_dir(self.place(&node.id)).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with("links-") {
                    let links = std::fs::read(entry.path()).ok();
                    let links = links.and_then(|b| serde_json::from_slice::<BTreeMap<String, u16>>(&b).ok());
                    taken.extend(links.unwrap_or_default().into_values());
                }
            }
        }
        Ok(taken)
    }

    /// The relay's ports on `node`, one a peer, kept so that URLs stay the same.
    fn links(&self, node: &Node, port: u16, peers: &[&Node]) -> Result<BTreeMap<String, u16>> {
        let path = self.place(&node.id).join(format!("links-{port}.json"));
        let old: BTreeMap<String, u16> =
            std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let missing = peers.iter().filter(|peer| !old.contains_key(&peer.id)).count();
        let mut fresh = free_ports(missing, &self.taken()?)?.into_iter();
        let link = |peer: &&Node| {
            let port = old.get(&peer.id).copied().or_else(|| fresh.next());
            (peer.id.clone(), port.unwrap_or_default())
        };
        let links: BTreeMap<String, u16> = peers.iter().map(link).collect();
        write(&path, &serde_json::to_vec(&links).unwrap_or_default())?;
        Ok(links)
    }
}

#[async_trait]
impl Provider for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn account(&self) -> String {
        "this machine".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { loopback: true, emulated: true, ..Capabilities::default() }
    }

    async fn offers(&self) -> Result<Vec<Offer>> {
        let offer = |(name, preset): (&str, &str)| Offer {
            name: name.to_owned(),
            description: format!("emulated, {preset}"),
            gpus: 1,
            cents_per_hour: Some(0),
            regions: self.regions.clone(),
        };
        Ok(MACHINES.map(offer).to_vec())
    }

    async fn launch(&self, spec: &Spec, key: &str, sending: &Sending) -> std::result::Result<String, LaunchError> {
        let _one = self.choosing.lock().await;
        sending.begins();
        self.create(spec, key).map_err(LaunchError::Refused)
    }

    async fn list(&self) -> Result<Vec<Node>> {
        self.read()
    }

    async fn terminate(&self, id: &str) -> Result<()> {
        let place = self.place(id);
        if id.contains('/') || !place.exists() {
            return Ok(());
        }
        let shell = LocalShell::new(place.clone())?;
        let services = std::fs::read_dir(place.join(".gorgo/services")).into_iter().flatten().flatten();
        for service in services {
            service::stop(&shell, &service.file_name().to_string_lossy()).await?;
        }
        std::fs::remove_dir_all(&place).map_err(|why| Error::file(&place, &why))
    }

    async fn open(&self, node: &Node, port: u16, peers: &[Node]) -> Result<Vec<String>> {
        let _one = self.choosing.lock().await;
        let far: Vec<&Node> = peers.iter().filter(|peer| peer.region != node.region).collect();
        let name = format!("relay-{port}");
        let shell = LocalShell::new(self.place(&node.id))?;
        if far.is_empty() {
            service::stop(&shell, &name).await?;
            return Ok(vec![format!("http://127.0.0.1:{port}"); peers.len()]);
        }
        let links = self.links(node, port, &far)?;
        let mut argv = vec![self.program.display().to_string(), "relay".to_owned()];
        for peer in &far {
            let listen = links[&peer.id];
            let (from, to) = (&peer.region, &node.region);
            argv.push("--link".to_owned());
            argv.push(format!("127.0.0.1:{listen}=127.0.0.1:{port},from={from},to={to},name={}", peer.name));
        }
        service::ensure(&shell, &Service { name: &name, argv, environment: None, inputs: String::new() }, false)
            .await?;
        let url = |peer: &Node| format!("http://127.0.0.1:{}", links.get(&peer.id).copied().unwrap_or(port));
        Ok(peers.iter().map(url).collect())
    }

    async fn tidy(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn reach(&self, node: &Node) -> Result<Box<dyn Shell>> {
        let place = self.place(&node.id);
        if !place.join("node.json").exists() {
            return Err(Error::new(Kind::Unreachable, &node.name, "the node is gone", "launch another"));
        }
        Ok(Box::new(LocalShell::new(place)?))
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |why: std::io::Error| Error::file(path, &why);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let part = path.with_extension("part");
    std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path)).map_err(failed)
}

/// Ports that are free now and not `taken`: the system may offer a port again before its engine listens.
fn free_ports(count: usize, taken: &BTreeSet<u16>) -> Result<Vec<u16>> {
    let failed =
        |why: std::io::Error| Error::new(Kind::Usage, "a port on 127.0.0.1", why.to_string(), "free local ports");
    // All are held until all are known, so that they differ and each of `taken` is offered once at most.
    let (mut held, mut ports): (Vec<TcpListener>, Vec<u16>) = (Vec::new(), Vec::new());
    while ports.len() < count {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        ports.extend(Some(port).filter(|port| !taken.contains(port)));
        held.push(listener);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_given_to_a_node_is_not_given_again_before_anything_listens_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let regions = vec![Region { name: "here".to_owned(), description: String::new() }];
        let local = Local::new(folder.path().to_owned(), PathBuf::from("gorgo"), regions);
        let spec = |name: &str| Spec {
            name: name.to_owned(),
            run: "run".to_owned(),
            machine: MACHINES[0].0.to_owned(),
            region: "here".to_owned(),
            filesystem: None,
            image: None,
            ports: Ports::default(),
            expires_ms: 0,
        };
        local.create(&spec("a"), "a").unwrap();
        local.create(&spec("b"), "b").unwrap();
        let nodes = local.read().unwrap();
        let links = local.links(&nodes[0], 1, &[&nodes[1]]).unwrap();
        assert_eq!(local.taken().unwrap().len(), 7, "three a node and a link");
        assert!(local.taken().unwrap().contains(&links[&nodes[1].id]));
        let all: BTreeSet<u16> = (1_024..=u16::MAX).filter(|port| port % 2 == 0).collect();
        assert!(free_ports(20, &all).unwrap().iter().all(|port| port % 2 == 1));
    }
}
