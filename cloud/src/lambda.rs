//! Lambda Cloud. Not yet run against the real cloud: built to its OpenAPI document 1.8.3 and to reports of its users.
//!
//! A machine is known by the nonce of its launch, which its name and a tag repeat. Each run has an SSH key of its own,
//! and a firewall ruleset in each region; the account's global ruleset is never written. The host key is made here and
//! handed over by cloud-init, so that the first login already checks it.

use crate::error::{Error, Kind, Result};
use crate::provider::{Capabilities, LaunchError, Node, Offer, Ports, Provider, Sending, Spec};
use crate::shell::Shell;
use crate::shell::ssh::{SshShell, SshTarget};
use crate::time::Time;
use api::Api;
use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::Mutex;

mod api;
mod firewall;
mod keys;
mod wire;
pub use wire::{Filesystem, Image, Rule, Ruleset, SshKey};

/// Address of the service.
pub const SERVICE: &str = "https://cloud.lambda.ai/api/v1";

/// How to talk to Lambda Cloud.
#[derive(Debug, Clone)]
pub struct LambdaConfig {
    /// Address of the service.
    pub service: String,
    /// API key.
    pub key: SecretString,
    /// Folder for keys and the limiter.
    pub folder: PathBuf,
    /// Networks that may log in by ssh.
    pub ssh_from: String,
    /// User that logs in; that of Lambda's images is `ubuntu`.
    pub ssh_user: String,
    /// Port of ssh, where it is not the usual one.
    pub ssh_port: Option<u16>,
    /// Time.
    pub time: Time,
}

/// The provider.
#[derive(Debug)]
pub struct Lambda {
    api: Api,
    config: LambdaConfig,
    account: String,
    // Keys and rulesets of a run are looked for and made by one task at a time.
    making: Mutex<()>,
}

impl Lambda {
    /// The provider with these settings.
    ///
    /// # Errors
    /// When the key cannot be sent, or no TLS can be had.
    pub fn new(config: LambdaConfig) -> Result<Self> {
        check_service(&config.service)?;
        firewall::check_network(&config.ssh_from)?;
        let key = config.key.expose_secret();
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) {
            let meaning = "holds characters that no key has (a space, a line end)";
            return Err(Error::usage("the API key", meaning, "export LAMBDA_API_KEY again"));
        }
        let account = crate::digest::of(config.key.expose_secret().as_bytes())[..12].to_owned();
        let api = Api::new(&config, &account)?;
        Ok(Self { api, config, account, making: Mutex::default() })
    }

    /// SSH keys of the account.
    ///
    /// # Errors
    /// When the service refuses or does not answer.
    pub async fn ssh_keys(&self) -> Result<Vec<SshKey>> {
        self.api.get("/ssh-keys").await
    }

    /// Adds a public key; the same one under this name is left as it is.
    ///
    /// # Errors
    /// When it is no public key, the account has another one of this name, or the service refuses or does not answer.
    pub async fn add_ssh_key(&self, name: &str, public: &str) -> Result<()> {
        keys::ensure(&self.api, name, public).await
    }

    /// Deletes an SSH key, named by its id.
    ///
    /// # Errors
    /// When the service refuses or does not answer.
    pub async fn delete_ssh_key(&self, id: &str) -> Result<()> {
        self.api.delete(&format!("/ssh-keys/{id}")).await
    }

    /// File systems of the account.
    ///
    /// # Errors
    /// When the service refuses or does not answer.
    pub async fn filesystems(&self) -> Result<Vec<Filesystem>> {
        self.api.get("/file-systems").await
    }

    /// Creates a file system; one of this name in this region is taken as it is.
    ///
    /// # Errors
    /// When the service refuses or does not answer.
    pub async fn create_filesystem(&self, name: &str, region: &str) -> Result<()> {
        let body = json!({"name": name, "region": region});
        let exists = async || -> Result<bool> {
            Ok(self.filesystems().await?.iter().any(|fs| fs.name == name && fs.region.name == region))
        };
        self.api.create("/filesystems", &body, exists).await
    }

    /// Deletes a file system.
    ///
    /// # Errors
    /// When the service refuses or does not answer.
    pub async fn delete_filesystem(&self, id: &str) -> Result<()> {
        self.api.delete(&format!("/filesystems/{id}")).await
    }

    /// Firewall rulesets of the account.
    ///
    /// # Errors
    /// When the service refuses or does not answer.
    pub async fn rulesets(&self) -> Result<Vec<Ruleset>> {
        self.api.get("/firewall-rulesets").await
    }

    /// Rules that hold for every machine of the account outside us-south-1. They are only read.
    ///
    /// # Errors
    /// When the service refuses or does not answer.
    pub async fn global_rules(&self) -> Result<Vec<Rule>> {
        self.api.get("/firewall-rules").await
    }

    /// Machine images.
    ///
    /// # Errors
    /// When the service refuses or does not answer.
    pub async fn images(&self) -> Result<Vec<Image>> {
        self.api.get("/images").await
    }

    /// Opens a port of a node to a network; returns whether rules hold in its region: in one every port is open to all.
    ///
    /// # Errors
    /// When one is no network, the node has no ruleset of ours, or the service refuses or does not answer.
    pub async fn open_to(&self, node: &Node, port: u16, networks: &[String]) -> Result<bool> {
        networks.iter().try_for_each(|network| firewall::check_network(network))?;
        let _one = self.making.lock().await;
        firewall::open(&self.api, &node.id, port, networks).await
    }

    fn folder_of(&self, run: &str) -> PathBuf {
        self.config.folder.join("runs").join(run)
    }

    async fn body(&self, spec: &Spec, key: &str) -> Result<Value> {
        let folder = self.folder_of(&spec.run);
        let _one = self.making.lock().await;
        let public = keys::of_run(&folder).await?;
        let key_name = keys::name(&spec.run);
        keys::ensure(&self.api, &key_name, &public).await?;
        let user_data = keys::cloud_config(&folder, key).await?;
        let mut body = json!({
            "region_name": spec.region,
            "instance_type_name": spec.machine,
            "ssh_key_names": [key_name],
            "name": wire::machine_name(&spec.name, key),
            "user_data": user_data,
            "tags": [
                {"key": wire::TAG_KEY, "value": key},
                {"key": wire::TAG_RUN, "value": spec.run},
                {"key": wire::TAG_NAME, "value": spec.name},
                {"key": wire::TAG_PORTS, "value": spec.ports.to_string()},
            ],
        });
        if let Some(filesystem) = &spec.filesystem {
            body["file_system_names"] = json!([filesystem]);
        }
        if let Some(id) = firewall::ensure(&self.api, &spec.run, &spec.region, &self.config.ssh_from).await? {
            body["firewall_rulesets"] = json!([{"id": id}]);
        }
        Ok(body)
    }
}

#[async_trait]
impl Provider for Lambda {
    fn name(&self) -> &'static str {
        "lambda"
    }

    fn account(&self) -> String {
        self.account.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { paid: true, firewall: true, ssh_keys: true, filesystems: true, ..Capabilities::default() }
    }

    async fn offers(&self) -> Result<Vec<Offer>> {
        let types: std::collections::BTreeMap<String, Value> = self.api.get("/instance-types").await?;
        Ok(types.values().filter_map(wire::offer).collect())
    }

    async fn launch(&self, spec: &Spec, key: &str, sending: &Sending) -> std::result::Result<String, LaunchError> {
        let body = self.body(spec, key).await.map_err(LaunchError::Refused)?;
        self.api.launch(&body, sending).await
    }

    async fn list(&self) -> Result<Vec<Node>> {
        let instances: Vec<Value> = self.api.get("/instances").await?;
        Ok(instances.iter().filter_map(|instance| wire::Instance(instance).node()).collect())
    }

    async fn terminate(&self, id: &str) -> Result<()> {
        self.api.repeat("/instance-operations/terminate", &json!({"instance_ids": [id]})).await
    }

    async fn open(&self, node: &Node, port: u16, peers: &[Node]) -> Result<Vec<String>> {
        let networks: Result<Vec<String>> = peers.iter().map(|peer| Ok(format!("{}/32", address(peer)?))).collect();
        self.open_to(node, port, &networks?).await?;
        let url = format!("http://{}:{port}", address(node)?);
        Ok(vec![url; peers.len()])
    }

    async fn tidy(&self, run: &str) -> Result<()> {
        let _one = self.making.lock().await;
        firewall::delete(&self.api, run).await?;
        let name = keys::name(run);
        for key in self.ssh_keys().await?.into_iter().filter(|key| key.name == name) {
            self.delete_ssh_key(&key.id).await?;
        }
        remove(&self.folder_of(run))
    }

    /// A run's folder is made before its keys and rulesets and removed after them.
    fn untidy(&self) -> Result<Vec<String>> {
        let folder = self.config.folder.join("runs");
        match std::fs::read_dir(&folder) {
            Ok(entries) => {
                Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
            }
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(why) => Err(Error::file(&folder, &why)),
        }
    }

    async fn reach(&self, node: &Node) -> Result<Box<dyn Shell>> {
        let (Some(run), Some(key)) = (&node.run, &node.key) else {
            let remedy = "reach machines launched elsewhere with `--cloud ssh` and a hosts.toml";
            return Err(Error::usage(&node.name, "not launched by this program, so its host key is unknown", remedy));
        };
        let folder = self.folder_of(run);
        let target = SshTarget {
            host: address(node)?.to_owned(),
            user: Some(self.config.ssh_user.clone()),
            port: self.config.ssh_port,
            identity: Some(keys::private(&folder)),
            config: Some("none".into()),
            known_hosts: Some(keys::known_hosts(&folder)),
            host_key_alias: Some(key.clone()),
            ..SshTarget::default()
        };
        Ok(Box::new(SshShell::connect(target).await?))
    }
}

/// Refuses to send keys to a `service` without TLS, unless it is on this machine.
fn check_service(service: &str) -> Result<()> {
    let url = reqwest::Url::parse(service).ok().filter(|url| url.username().is_empty() && url.password().is_none());
    let fine = url.is_some_and(|url| match (url.scheme(), url.host_str()) {
        ("https", Some(_)) => true,
        ("http", Some(host)) => crate::http::is_loopback(host),
        _ => false,
    });
    if fine {
        return Ok(());
    }
    let remedy = "write one that begins with https://, or with http://127.0.0.1 for a stand-in, without a user name";
    Err(Error::usage(format!("LAMBDA_API_URL `{service}`"), "no address to which a key may be sent", remedy))
}

fn address(node: &Node) -> Result<&str> {
    let unknown =
        || Error::new(Kind::Unreachable, &node.name, "the machine has no address yet", "wait until it is ready");
    node.address.as_deref().ok_or_else(unknown)
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(Error::file(folder, &why)),
        _ => Ok(()),
    }
}

const REQUEST: Duration = Duration::from_secs(1);
const LAUNCH: Duration = Duration::from_secs(12);

#[cfg(test)]
mod tests {
    #[test]
    fn keys_pass_in_clear_to_this_machine_alone() {
        for (url, fine) in [
            (super::SERVICE, true),
            ("http://127.0.0.1:9/api/v1", true),
            ("http://[::1]:9", true),
            ("http://127.0.0.1:1@127.0.0.2.example.net:80/api/v1", false),
            ("https://user@cloud.lambda.ai", false),
            ("http://cloud.lambda.ai/api/v1", false),
            ("cloud.lambda.ai", false),
        ] {
            assert_eq!(super::check_service(url).is_ok(), fine, "{url}");
        }
    }
}
