//! One trait for every provider of machines.

use crate::error::{Error, Kind, Result};
use crate::shell::Shell;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Nodes are containers that a launch fills with an image: without Docker and systemd, with fixed ports.
    pub containers: bool,
    /// Any name may be asked for as a region; offers list examples.
    pub any_region: bool,
    /// The provider ends a machine after this many milliseconds at the latest.
    pub longest_lease_ms: Option<u64>,
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
    /// Price, US cents an hour, where the provider tells it.
    pub cents_per_hour: Option<u64>,
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
    /// Image, where the machine is a container; the provider's choice when absent.
    pub image: Option<String>,
    /// Ports of engine and routers on it.
    pub ports: Ports,
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

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.engine, self.router, self.proxy)
    }
}

/// `8080-8000-9000` or with commas: engine, edge router, central router.
impl std::str::FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let ports: Vec<u16> = text.split(['-', ',']).filter_map(|word| word.trim().parse().ok()).collect();
        match ports[..] {
            [engine, router, proxy] if ports.iter().all(|port| *port > 0) => {
                if engine == router || router == proxy || engine == proxy {
                    return Err(format!("`{text}` names a port twice; engine, router and proxy need one each"));
                }
                Ok(Self { engine, router, proxy })
            }
            _ => Err(format!("`{text}` are not three ports; write ENGINE,ROUTER,PROXY, for example 8080,8000,9000")),
        }
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
    /// Price, US cents an hour, where the provider tells it.
    pub cents_per_hour: Option<u64>,
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

/// Until when a launch may be sent, and whether it may have been acted on.
#[derive(Debug)]
pub struct Sending {
    before_ms: u64,
    sent: AtomicBool,
}

impl Sending {
    /// A launch that may be sent until `ms`.
    pub fn before(ms: u64) -> Self {
        Self { before_ms: ms, sent: AtomicBool::new(false) }
    }

    /// When it may no longer be sent, milliseconds since 1970.
    pub fn before_ms(&self) -> u64 {
        self.before_ms
    }

    /// The launch is about to be sent.
    pub fn begins(&self) {
        self.sent.store(true, Ordering::SeqCst);
    }

    /// The provider certainly did not act on what was sent.
    pub fn had_no_effect(&self) {
        self.sent.store(false, Ordering::SeqCst);
    }

    /// Whether the provider may have acted on it.
    pub fn is_sent(&self) -> bool {
        self.sent.load(Ordering::SeqCst)
    }
}

/// Whether a machine works, by a look at the machine itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// As far as the provider can tell.
    Works,
    /// Not yet, for this reason.
    NotYet(String),
    /// It has ended, for this reason.
    Ended(String),
}

/// Shows a line of progress.
pub type Shown<'a> = dyn Fn(&str) + Sync + 'a;

/// A provider of machines.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// Digest of the credentials. Others of the same account make another digest, so machines are known by their nonce.
    fn account(&self) -> String;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Types of machines with price and capacity.
    ///
    /// # Errors
    /// When the provider does not answer.
    async fn offers(&self) -> Result<Vec<Offer>>;

    /// Price of a machine in a region, US cents an hour, where it is known.
    fn cents_per_hour(&self, offer: &Offer, _region: &str) -> Option<u64> {
        offer.cents_per_hour
    }

    /// Makes what the launches of these machines need and what may take long (an image), before the first launch is written
    /// to the ledger.
    ///
    /// # Errors
    /// When the machines could not be launched.
    async fn prepare(&self, _specs: &[&Spec], _show: &Shown<'_>) -> Result<()> {
        Ok(())
    }

    /// Looks at a machine that is listed as ready, or at one that should be listed and is not.
    async fn life(&self, _id: &str) -> Life {
        Life::Works
    }

    /// Launches one machine under a nonce and returns its id. It is called once for each nonce. It marks `sending` before
    /// the paid call, and does not send that call after `sending.before_ms()`: no command looks for the machine then.
    ///
    /// # Errors
    /// [`LaunchError::Refused`] only when certainly nothing was launched.
    async fn launch(&self, spec: &Spec, key: &str, sending: &Sending) -> std::result::Result<String, LaunchError>;

    /// All machines of the account.
    ///
    /// # Errors
    /// When the provider does not answer.
    async fn list(&self) -> Result<Vec<Node>>;

    /// Id of the machine of a launch that the listing does not show, also of one that has ended.
    ///
    /// # Errors
    /// When the provider does not answer.
    async fn find(&self, _name: &str, _key: &str) -> Result<Option<String>> {
        Ok(None)
    }

    /// Asks for a machine's end; a machine that does not exist is [`crate::Kind::NotFound`].
    ///
    /// # Errors
    /// When the provider refuses or does not answer.
    async fn terminate(&self, id: &str) -> Result<()>;

    /// Releases a host without connecting to it; what runs there is left running.
    ///
    /// # Errors
    /// When the provider's machines are no hosts of the user, or a file cannot be removed.
    async fn forget(&self, id: &str) -> Result<()> {
        let remedy = "end it with `gorgo kill` without --force";
        Err(Error::usage(id, "only hosts of yours can be released as they are", remedy))
    }

    /// Opens a port of `node` to `peers` and returns the URL at which each peer reaches it.
    ///
    /// # Errors
    /// When a rule cannot be set, or the node has no address yet.
    async fn open(&self, node: &Node, port: u16, peers: &[Node]) -> Result<Vec<String>>;

    /// URL at which a port of `node` is reached from outside.
    ///
    /// # Errors
    /// When the node has no address yet, or the port is not reached from outside.
    async fn url(&self, node: &Node, port: u16) -> Result<String> {
        let unknown =
            || Error::new(Kind::Unreachable, &node.name, "the machine has no address yet", "wait until it is ready");
        Ok(format!("http://{}:{port}", node.address.as_deref().ok_or_else(unknown)?))
    }

    /// Removes what belongs to a launch beside its machines (keys, firewall rules), once the machines are gone.
    ///
    /// # Errors
    /// When something could not be removed.
    async fn tidy(&self, run: &str) -> Result<()>;

    /// Launch commands that left something to [`Provider::tidy`].
    ///
    /// # Errors
    /// When a folder cannot be read.
    fn untidy(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

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
