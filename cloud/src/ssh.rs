//! Hosts that the user has. They are taken and released, never ended.

use crate::error::{Error, Result};
use crate::provider::{
    Capabilities, LaunchError, Node, Offer, Ports, Provider, Region, Sending, Spec, Status, check_name,
};
use crate::shell::ssh::{SshShell, SshTarget};
use crate::shell::{Command, Shell};
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

const EXAMPLE: &str = "write one, for example: [[hosts]] name = \"rack-1\" host = \"203.0.113.7\" region = \"aws:us-east-1\" \
                       (one key a line), or name another file with --hosts";

/// Reads `hosts.toml`.
///
/// # Errors
/// When the file cannot be read, or an entry is wrong.
pub fn read(path: &Path) -> Result<Vec<Host>> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|why| match why.kind() {
        std::io::ErrorKind::NotFound => Error::usage(format!("`{shown}`"), "there is no such file", EXAMPLE),
        _ => Error::file(path, &why),
    })?;
    let wrong = |why: toml::de::Error| {
        Error::usage(format!("`{shown}`"), why.to_string().trim().to_owned(), "correct the entry")
    };
    let hosts = toml::from_str::<File>(&text).map_err(wrong)?.hosts;
    if hosts.is_empty() {
        return Err(Error::usage(format!("`{shown}`"), "names no host", EXAMPLE));
    }
    for (i, host) in hosts.iter().enumerate() {
        check_name(&host.name)?;
        let wrong = |meaning: String, remedy: &str| {
            Err(Error::usage(format!("`{shown}`: host `{}`", host.name), meaning, remedy.to_owned()))
        };
        if let Some((meaning, remedy)) = host.fault() {
            return wrong(meaning, remedy);
        }
        if hosts[..i].iter().any(|other| other.name == host.name) {
            return wrong("two hosts have this name".to_owned(), "rename one");
        }
        let same = |other: &&Host| (&other.host, other.port, &other.user) == (&host.host, host.port, &host.user);
        if let Some(other) = hosts[..i].iter().find(same) {
            return wrong(format!("`{}` is the same host", other.name), "remove one: a host is taken once");
        }
    }
    Ok(hosts)
}

impl Host {
    /// What is wrong with this entry, and the remedy.
    fn fault(&self) -> Option<(String, &'static str)> {
        // ssh would take such words as options, which may run commands.
        let words = [("host", Some(&self.host)), ("user", self.user.as_ref()), ("jump", self.jump.as_ref())];
        let words = words.into_iter().chain([("address", self.address.as_ref()), ("region", Some(&self.region))]);
        for (key, word) in words.filter_map(|(key, word)| Some((key, word?))) {
            if word.is_empty() || word.starts_with('-') || word.contains(char::is_whitespace) {
                return Some((format!("{key} = \"{word}\" is no name or address"), "write one, or remove the key"));
            }
        }
        let ports = [self.engine_port, self.router_port, self.proxy_port];
        if self.port == Some(0) || ports.contains(&Some(0)) {
            return Some(("port 0 is no port".to_owned(), "name a port from 1 to 65535"));
        }
        let Ports { engine, router, proxy } = self.ports();
        if engine == router || router == proxy || engine == proxy {
            let meaning = format!("engine, router and proxy have the ports {engine}, {router} and {proxy}");
            return Some((meaning, "give each a port of its own"));
        }
        None
    }

    fn ports(&self) -> Ports {
        let usual = Ports::default();
        Ports {
            engine: self.engine_port.unwrap_or(usual.engine),
            router: self.router_port.unwrap_or(usual.router),
            proxy: self.proxy_port.unwrap_or(usual.proxy),
        }
    }
}

/// The provider.
#[derive(Debug)]
pub struct Ssh {
    hosts: Vec<Host>,
    folder: PathBuf,
    owner: String,
}

impl Ssh {
    /// These hosts; `folder` notes which are taken, for clusters of `owner`.
    pub fn new(hosts: Vec<Host>, folder: PathBuf, owner: String) -> Self {
        Self { hosts, folder, owner }
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

    /// Nonce and launch command of who took the host. A file without them is left of a crash or a full disk, and
    /// takes nothing.
    fn taken(&self, name: &str) -> Option<(String, String)> {
        let mark = std::fs::read_to_string(self.mark(name)).ok()?;
        let (key, run) = mark.trim().split_once(' ')?;
        Some((key.to_owned(), run.to_owned()))
    }

    fn node(&self, host: &Host) -> Option<Node> {
        let (key, run) = self.taken(&host.name)?;
        Some(Node {
            id: format!("ssh-{}", host.name),
            name: host.name.clone(),
            key: Some(key),
            run: Some(run),
            machine: "host".to_owned(),
            region: host.region.clone(),
            status: Status::Ready,
            address: Some(host.address.clone().unwrap_or_else(|| host.host.clone())),
            cents_per_hour: Some(host.cents_per_hour),
            gpus: host.gpus,
            ports: host.ports(),
        })
    }

    fn take(&self, spec: &Spec, key: &str) -> Result<String> {
        let host = self.host(&spec.name)?;
        let mark = self.mark(&host.name);
        std::fs::create_dir_all(&self.folder).map_err(|why| Error::file(&self.folder, &why))?;
        // Written whole before it has its name, so that a crash leaves no host half taken.
        let part = self.folder.join(format!(".{}-{key}", host.name));
        let written = std::fs::write(&part, format!("{key} {}\n", spec.run));
        if self.taken(&host.name).is_none() {
            let _ = std::fs::remove_file(&mark);
        }
        let linked = written.and_then(|()| std::fs::hard_link(&part, &mark));
        let _ = std::fs::remove_file(&part);
        linked.map_err(|why| match why.kind() {
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
            cents_per_hour: Some(host.cents_per_hour),
            regions: vec![Region { name: host.region.clone(), description: String::new() }],
        };
        Ok(self.hosts.iter().filter(|host| self.taken(&host.name).is_none()).map(offer).collect())
    }

    async fn launch(&self, spec: &Spec, key: &str, sending: &Sending) -> std::result::Result<String, LaunchError> {
        sending.begins();
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
        let owner = shell.must(&Command::script("cat .gorgo/owner 2>/dev/null; exit 0", &[""; 0])).await?.text();
        // The cluster of another state folder is not ours to end.
        if owner.is_empty() || owner == self.owner {
            crate::setup::stop(shell.as_ref()).await?;
        }
        std::fs::remove_file(&mark).map_err(|why| Error::file(&mark, &why))
    }

    async fn forget(&self, id: &str) -> Result<()> {
        let mark = self.mark(id.strip_prefix("ssh-").unwrap_or(id));
        match std::fs::remove_file(&mark) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(Error::file(&mark, &why)),
            _ => Ok(()),
        }
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
            (good.replace("\"h\"", "\"\""), "host = \"\""),
            (good.replace("\"h\"", "\"-oProxyCommand=x\""), "-oProxyCommand"),
            (format!("{good}jump = \"-oProxyCommand=x\"\n"), "jump"),
            (format!("{good}router_port = 0\n"), "port 0"),
            (format!("{good}router_port = 8080\n"), "port of its own"),
            (format!("{good}{}", good.replace("\"a\"", "\"b\"")), "`a` is the same host"),
            (String::new(), "names no host"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains(words), "{words}");
        }
        std::fs::write(&path, good).unwrap();
        assert_eq!(read(&path).unwrap()[0].name, "a");
        let missing = read(&folder.path().join("none.toml")).unwrap_err().to_string();
        assert!(missing.contains("[[hosts]] name ="), "{missing}");
    }

    #[tokio::test]
    async fn a_host_is_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        let host: File = toml::from_str("[[hosts]]\nname = \"a\"\nhost = \"h\"\nregion = \"eu\"\n").unwrap();
        let ssh = Ssh::new(host.hosts, folder.path().join("taken"), String::new());
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
        // What a full disk left takes nothing.
        std::fs::create_dir(folder.path().join("taken")).unwrap();
        std::fs::write(folder.path().join("taken/a"), "").unwrap();
        assert_eq!(ssh.offers().await.unwrap().len(), 1);
        let sending = Sending::before(0);
        ssh.launch(&spec("a"), "k", &sending).await.unwrap();
        assert_eq!(ssh.list().await.unwrap()[0].key.as_deref(), Some("k"));
        assert!(
            ssh.launch(&spec("a"), "k2", &sending)
                .await
                .unwrap_err()
                .into_error()
                .to_string()
                .contains("already taken")
        );
        assert!(
            ssh.launch(&spec("b"), "k3", &sending)
                .await
                .unwrap_err()
                .into_error()
                .to_string()
                .contains("name one of: a")
        );
        assert!(ssh.offers().await.unwrap().is_empty());
        ssh.forget("ssh-a").await.unwrap();
        assert_eq!(ssh.offers().await.unwrap().len(), 1);
    }
}
