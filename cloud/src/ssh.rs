//! Hosts that the user has. They are taken and released, never ended.

use crate::error::{Error, Result};
use crate::provider::{Capabilities, LaunchError, Node, Offer, Ports, Provider, Region, Spec, Status, check_name};
use crate::shell::Shell;
use crate::shell::ssh::{SshShell, SshTarget};
use async_trait::async_trait;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// One host of `hosts.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Name used in commands.
    pub name: String,
    /// Host name, address, or an alias of `~/.ssh/config`.
    pub host: String,
    /// User; ssh's own choice when absent.
    pub user: Option<String>,
    /// Port; ssh's own choice when absent.
    pub port: Option<u16>,
    /// Private key; ssh's own choice when absent.
    pub identity: Option<PathBuf>,
    /// Hosts to jump over, as `ssh -J` takes them.
    pub jump: Option<String>,
    /// Known host keys in place of the user's file.
    pub known_hosts: Option<PathBuf>,
    /// Region.
    pub region: String,
    /// Address at which the other hosts reach this one; `host` when absent.
    pub address: Option<String>,
    /// GPUs.
    #[serde(default)]
    pub gpus: u32,
    /// Price, US cents an hour; it is only added up.
    #[serde(default)]
    pub cents_per_hour: u64,
    /// Port of the engine.
    pub engine_port: Option<u16>,
    /// Port of the edge router.
    pub router_port: Option<u16>,
    /// Port of the central router.
    pub proxy_port: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    hosts: Vec<Host>,
}

/// Reads `hosts.toml`.
///
/// # Errors
/// When the file cannot be read, or an entry is wrong.
pub fn read(path: &Path) -> Result<Vec<Host>> {
    let text = std::fs::read_to_string(path).map_err(|why| Error::file(path, &why))?;
    let shown = path.display();
    let wrong = |why: toml::de::Error| {
        Error::usage(format!("`{shown}`"), why.to_string().trim().to_owned(), "correct the entry")
    };
    let hosts = toml::from_str::<File>(&text).map_err(wrong)?.hosts;
    for (i, host) in hosts.iter().enumerate() {
        check_name(&host.name)?;
        if hosts[..i].iter().any(|other| other.name == host.name) {
            return Err(Error::usage(format!("`{shown}`: `{}`", host.name), "two hosts have this name", "rename one"));
        }
    }
    Ok(hosts)
}

/// The provider.
#[derive(Debug)]
pub struct Ssh {
    hosts: Vec<Host>,
    folder: PathBuf,
}

impl Ssh {
    /// These hosts; `folder` notes which are taken.
    pub fn new(hosts: Vec<Host>, folder: PathBuf) -> Self {
        Self { hosts, folder }
    }

    fn host(&self, name: &str) -> Result<&Host> {
        let names = || self.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", ");
        let unknown =
            || Error::usage(format!("host `{name}`"), "not in hosts.toml", format!("name one of: {}", names()));
        self.hosts.iter().find(|host| host.name == name).ok_or_else(unknown)
    }

    fn mark(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn node(&self, host: &Host) -> Option<Node> {
        let mark = std::fs::read_to_string(self.mark(&host.name)).ok()?;
        let (key, run) = mark.trim().split_once(' ')?;
        let usual = Ports::default();
        let ports = Ports {
            engine: host.engine_port.unwrap_or(usual.engine),
            router: host.router_port.unwrap_or(usual.router),
            proxy: host.proxy_port.unwrap_or(usual.proxy),
        };
        Some(Node {
            id: format!("ssh-{}", host.name),
            name: host.name.clone(),
            key: Some(key.to_owned()),
            run: Some(run.to_owned()),
            machine: "host".to_owned(),
            region: host.region.clone(),
            status: Status::Ready,
            address: Some(host.address.clone().unwrap_or_else(|| host.host.clone())),
            cents_per_hour: host.cents_per_hour,
            gpus: host.gpus,
            ports,
        })
    }

    fn take(&self, spec: &Spec, key: &str) -> Result<String> {
        let host = self.host(&spec.name)?;
        let mark = self.mark(&host.name);
        std::fs::create_dir_all(&self.folder).map_err(|why| Error::file(&self.folder, &why))?;
        let taken = std::fs::File::create_new(&mark);
        let written =
            taken.and_then(|mut file| std::io::Write::write_all(&mut file, format!("{key} {}\n", spec.run).as_bytes()));
        written.map_err(|why| match why.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::usage(format!("host `{}`", host.name), "already taken", "release it with `gorgo kill`")
            }
            _ => Error::file(&mark, &why),
        })?;
        Ok(format!("ssh-{}", host.name))
    }

    async fn connect(&self, name: &str) -> Result<Box<dyn Shell>> {
        let host = self.host(name)?;
        let target = SshTarget {
            host: host.host.clone(),
            user: host.user.clone(),
            port: host.port,
            identity: host.identity.clone(),
            jump: host.jump.clone(),
            known_hosts: host.known_hosts.clone(),
            ..SshTarget::default()
        };
        Ok(Box::new(SshShell::connect(target).await?))
    }
}

#[async_trait]
impl Provider for Ssh {
    fn name(&self) -> &'static str {
        "ssh"
    }

    fn account(&self) -> String {
        "hosts".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    async fn offers(&self) -> Result<Vec<Offer>> {
        let offer = |host: &Host| Offer {
            name: host.name.clone(),
            description: host.host.clone(),
            gpus: host.gpus,
            cents_per_hour: host.cents_per_hour,
            regions: vec![Region { name: host.region.clone(), description: String::new() }],
        };
        Ok(self.hosts.iter().filter(|host| !self.mark(&host.name).exists()).map(offer).collect())
    }

    async fn launch(&self, spec: &Spec, key: &str, _: u64) -> std::result::Result<String, LaunchError> {
        self.take(spec, key).map_err(LaunchError::Refused)
    }

    async fn list(&self) -> Result<Vec<Node>> {
        Ok(self.hosts.iter().filter_map(|host| self.node(host)).collect())
    }

    /// Ends what set-up started and releases the host.
    async fn terminate(&self, id: &str) -> Result<()> {
        let name = id.strip_prefix("ssh-").unwrap_or(id);
        let mark = self.mark(name);
        if !mark.exists() {
            return Ok(());
        }
        let shell = self.connect(name).await?;
        crate::setup::stop(shell.as_ref()).await?;
        std::fs::remove_file(&mark).map_err(|why| Error::file(&mark, &why))
    }

    async fn open(&self, node: &Node, port: u16, peers: &[Node]) -> Result<Vec<String>> {
        let address = node.address.as_deref().unwrap_or_default();
        Ok(vec![format!("http://{address}:{port}"); peers.len()])
    }

    async fn tidy(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn reach(&self, node: &Node) -> Result<Box<dyn Shell>> {
        self.connect(&node.name).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_entry_is_named_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts.toml");
        let good = "[[hosts]]\nname = \"a\"\nhost = \"h\"\nregion = \"eu\"\n";
        for (text, words) in [
            (format!("{good}gpu = 1\n"), "gpu"),
            (format!("{good}{good}"), "two hosts"),
            (good.replace("\"a\"", "\"a b\""), "a b"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains(words), "{words}");
        }
        std::fs::write(&path, good).unwrap();
        assert_eq!(read(&path).unwrap()[0].name, "a");
    }

    #[tokio::test]
    async fn a_host_is_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        let host: File = toml::from_str("[[hosts]]\nname = \"a\"\nhost = \"h\"\nregion = \"eu\"\n").unwrap();
        let ssh = Ssh::new(host.hosts, folder.path().join("taken"));
        let spec = |name: &str| Spec {
            run: "r".to_owned(),
            name: name.to_owned(),
            machine: String::new(),
            region: "eu".to_owned(),
            filesystem: None,
            image: None,
            ports: Ports::default(),
            expires_ms: 0,
        };
        ssh.launch(&spec("a"), "k", 0).await.unwrap();
        assert_eq!(ssh.list().await.unwrap()[0].key.as_deref(), Some("k"));
        assert!(ssh.launch(&spec("a"), "k2", 0).await.unwrap_err().into_error().to_string().contains("already taken"));
        assert!(ssh.launch(&spec("b"), "k3", 0).await.unwrap_err().into_error().to_string().contains("name one of: a"));
        assert!(ssh.offers().await.unwrap().is_empty());
    }
}
