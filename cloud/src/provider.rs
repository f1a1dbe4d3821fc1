//! One trait for every provider of machines.

use crate::error::{Error, Result};
use crate::shell::Shell;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a provider can do beyond launching machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Machines cost money from launch to termination.
    pub paid: bool,
    /// Firewall rules can be set.
    pub firewall: bool,
    /// SSH keys are kept at the provider.
    pub ssh_keys: bool,
    /// File systems outlive machines.
    pub filesystems: bool,
    /// Nodes share one network and one machine, so routers listen on loopback.
    pub loopback: bool,
    /// Nodes run the emulated engine unless told otherwise.
    pub emulated: bool,
}

/// A region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Region {
    /// Its code.
    pub name: String,
    /// Where it is.
    #[serde(default)]
    pub description: String,
}

/// A type of machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Name used to launch it.
    pub name: String,
    /// Description.
    pub description: String,
    /// GPUs.
    pub gpus: u32,
    /// Price, US cents an hour.
    pub cents_per_hour: u64,
    /// Regions with capacity now.
    pub regions: Vec<Region>,
}

/// A machine to launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// The launch command this machine belongs to.
    pub run: String,
    /// The user's name of it.
    pub name: String,
    /// Type.
    pub machine: String,
    /// Region.
    pub region: String,
    /// File system to attach.
    pub filesystem: Option<String>,
    /// End of the lease, milliseconds since 1970.
    pub expires_ms: u64,
}

/// What a machine is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Starting.
    Booting,
    /// Running.
    Ready,
    /// Running but faulty.
    Unhealthy,
    /// Ending.
    Ending,
    /// Gone.
    Gone,
    /// A status this version does not know; the machine counts as running.
    Other(String),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Booting => "booting",
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::Ending => "ending",
            Self::Gone => "gone",
            Self::Other(word) => word,
        })
    }
}

/// Ports of a node's engine and router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Engine.
    pub engine: u16,
    /// Edge router.
    pub router: u16,
    /// Central router, where one is deployed.
    pub proxy: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { engine: 8080, router: 8000, proxy: 9000 }
    }
}

/// A machine as the provider lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The provider's id.
    pub id: String,
    /// The user's name of it.
    pub name: String,
    /// Nonce of the launch, if this project launched it.
    pub key: Option<String>,
    /// Launch command it belongs to.
    pub run: Option<String>,
    /// Type.
    pub machine: String,
    /// Region.
    pub region: String,
    /// What it is doing.
    pub status: Status,
    /// Address at which peers and clients reach it; absent until known.
    pub address: Option<String>,
    /// Price, US cents an hour.
    pub cents_per_hour: u64,
    /// GPUs.
    pub gpus: u32,
    /// Ports of its engine and routers.
    pub ports: Ports,
}

/// Why no id came back from a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaunchError {
    /// Nothing was launched.
    Refused(Error),
    /// A machine may have been launched.
    Unknown(Error),
}

impl LaunchError {
    /// The failure itself.
    pub fn into_error(self) -> Error {
        match self {
            Self::Refused(error) | Self::Unknown(error) => error,
        }
    }
}

/// A provider of machines.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// Digest of the credentials.
    fn account(&self) -> String;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Types of machines with price and capacity.
    ///
    /// # Errors
    /// When the provider does not answer.
    async fn offers(&self) -> Result<Vec<Offer>>;

    /// Launches one machine under a nonce and returns its id. It is called once a nonce, and sends nothing that costs
    /// after `send_before_ms`: later the machine would no longer be looked for.
    ///
    /// # Errors
    /// [`LaunchError::Refused`] only when certainly nothing was launched.
    async fn launch(&self, spec: &Spec, key: &str, send_before_ms: u64) -> std::result::Result<String, LaunchError>;

    /// All machines of the account.
    ///
    /// # Errors
    /// When the provider does not answer.
    async fn list(&self) -> Result<Vec<Node>>;

    /// Asks for a machine's end; a machine that does not exist is [`crate::Kind::NotFound`].
    ///
    /// # Errors
    /// When the provider refuses or does not answer.
    async fn terminate(&self, id: &str) -> Result<()>;

    /// Opens a port of `node` to `peers` and returns the URL at which each peer reaches it.
    ///
    /// # Errors
    /// When a rule cannot be set, or the node has no address yet.
    async fn open(&self, node: &Node, port: u16, peers: &[Node]) -> Result<Vec<String>>;

    /// Removes what belongs to a launch beside its machines (keys, firewall rules), once the machines are gone.
    ///
    /// # Errors
    /// When something could not be removed.
    async fn tidy(&self, run: &str) -> Result<()>;

    /// A shell on a node.
    ///
    /// # Errors
    /// When the node cannot be reached.
    async fn reach(&self, node: &Node) -> Result<Box<dyn Shell>>;
}

/// A nonce or key of 32 random hexadecimal digits.
pub fn nonce() -> String {
    random().iter().fold(String::with_capacity(32), |text, byte| text + &format!("{byte:02x}"))
}

/// Bytes of the system's random source.
pub(crate) fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has a random source");
    bytes
}

/// Whether `name` may name a node: it goes into file names, labels and shell words.
///
/// # Errors
/// When it may not.
pub fn check_name(name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.len() <= 40 && name.chars().all(fine) && !name.starts_with('-') {
        return Ok(());
    }
    let remedy = "use 1 to 40 letters, digits, `-` and `_`";
    Err(Error::usage(format!("node name `{name}`"), "not usable as a name", remedy))
}
