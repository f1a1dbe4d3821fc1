//! Commands on machines: `available`, `launch`, `list`, `cluster ...` and the others.

use anyhow::{Context, bail};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use gorgo_cloud::lambda::{Lambda, LambdaConfig, SERVICE};
use gorgo_cloud::local::Local;
use gorgo_cloud::modal::{Modal, ModalConfig};
use gorgo_cloud::provider::Region;
use gorgo_cloud::setup::{Member, Plan};
use gorgo_cloud::ssh::Ssh;
use gorgo_cloud::{Fleet, Ledger, Node, Provider, Time};
use std::path::PathBuf;
use std::sync::Arc;

mod account;
mod cluster;
pub(super) mod deploy;
pub(super) mod experiment;
mod interrupt;
mod kill;
mod launch;
mod machines;
mod nodes;
mod table;
mod watch;

/// A provider of machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Cloud {
    /// Emulated replicas on this machine
    Local,
    /// Hosts you have, from hosts.toml
    Ssh,
    /// Lambda Cloud (not yet run against the real cloud)
    Lambda,
    /// Sandboxes of Modal (not yet run against the real cloud)
    Modal,
}

/// What every command on machines takes.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct CloudArgs {
    /// Provider; lambda when LAMBDA_API_KEY is set, modal when MODAL_TOKEN_ID is, else local
    #[arg(long, global = true, value_enum, env = "GORGO_CLOUD")]
    cloud: Option<Cloud>,
    /// Folder of ledger, keys and node state; gorgo in XDG_STATE_HOME or ~/.local/state when absent
    #[arg(long, global = true, value_name = "DIR", env = "GORGO_STATE")]
    state: Option<PathBuf>,
    /// File of your hosts; gorgo/hosts.toml in XDG_CONFIG_HOME or ~/.config when absent
    #[arg(long, global = true, value_name = "FILE", env = "GORGO_HOSTS")]
    hosts: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CloudCommand {
    /// List types of machines with price and free regions
    #[command(after_help = "Example:\n  gorgo available --cloud local")]
    Available(machines::AvailableArgs),
    /// Launch machines and wait until they are ready
    #[command(
        after_help = "Examples:\n  gorgo launch --type gpu_1x_a100 --name my-node --region us-east-1\n  gorgo launch --cloud local --type gpu_1x_a100 --region aws:us-east-1,aws:us-west-2,aws:eu-central-1\n  gorgo launch --cloud ssh --name rack-1,rack-2\n  gorgo launch --cloud modal --type gpu_8x_h100 --name big --region us-west"
    )]
    Launch(launch::LaunchArgs),
    /// List machines with their cost so far; fails while a machine that should have ended still runs
    #[command(after_help = "Example:\n  gorgo list")]
    List(machines::ListArgs),
    /// Show engine and router of each machine
    #[command(after_help = "Example:\n  gorgo status")]
    Status(cluster::StatusArgs),
    /// Show prices of types, or of what runs
    #[command(after_help = "Example:\n  gorgo price --running")]
    Price(machines::PriceArgs),
    /// End machines and wait until the provider lists them as gone; hosts of yours are released
    #[command(after_help = "Examples:\n  gorgo kill my-node\n  gorgo kill --all\n  gorgo kill --force rack-1")]
    Kill(kill::KillArgs),
    /// Run a command on machines (`gorgo run` is the experiment)
    #[command(after_help = "Example:\n  gorgo run-on my-node -- nvidia-smi")]
    RunOn(nodes::RunOnArgs),
    /// Log in to a machine
    #[command(after_help = "Example:\n  gorgo connect my-node")]
    Connect(nodes::ConnectArgs),
    /// List, add and delete SSH keys of the account
    #[command(after_help = "Example:\n  gorgo ssh-keys list")]
    SshKeys(account::SshKeysArgs),
    /// List, create and delete file systems of the account
    #[command(after_help = "Example:\n  gorgo filesystems create models --region us-east-1")]
    Filesystems(account::FilesystemsArgs),
    /// List firewall rules; open a port of a machine
    #[command(after_help = "Example:\n  gorgo firewall open my-node --port 8000 --from 203.0.113.7/32")]
    Firewall(account::FirewallArgs),
    /// End machines whose lease is over; `launch` starts this in the background
    #[command(after_help = "Example:\n  gorgo watch --cloud lambda")]
    Watch(watch::WatchArgs),
    /// Set up engines and routers on all machines, and operate them
    #[command(
        after_help = "Examples:\n  gorgo cluster setup --strategy gorgo --max-concurrent 100\n  gorgo cluster flush-cache\n  gorgo cluster restart-lb --strategy prefix-tree"
    )]
    Cluster(cluster::ClusterArgs),
    /// Check the account without changing it: key, types, keys, rates
    #[command(name = "cloud", after_help = "Example:\n  gorgo cloud check --cloud lambda")]
    Cloud(account::CheckArgs),
}

pub(super) fn run(command: CloudCommand) -> anyhow::Result<()> {
    super::process::runtime()?.block_on(async {
        match command {
            // At an interrupt these two end machines, or name those that still run.
            CloudCommand::Launch(args) => launch::run(&args).await,
            CloudCommand::Watch(args) => watch::run(&args).await,
            CloudCommand::Available(args) => interruptible(machines::available(&args)).await,
            CloudCommand::List(args) => interruptible(machines::list(&args)).await,
            CloudCommand::Status(args) => interruptible(cluster::status(&args)).await,
            CloudCommand::Price(args) => interruptible(machines::price(&args)).await,
            CloudCommand::Kill(args) => interruptible(kill::run(&args)).await,
            CloudCommand::RunOn(args) => interruptible(nodes::run_on(&args)).await,
            CloudCommand::Connect(args) => interruptible(nodes::connect(&args)).await,
            CloudCommand::SshKeys(args) => interruptible(account::ssh_keys(&args)).await,
            CloudCommand::Filesystems(args) => interruptible(account::filesystems(&args)).await,
            CloudCommand::Firewall(args) => interruptible(account::firewall(&args)).await,
            CloudCommand::Cluster(args) => interruptible(cluster::run(args)).await,
            CloudCommand::Cloud(args) => interruptible(account::check(&args)).await,
        }
    })
}

/// Does `work`; an interrupt cancels it, which closes its connections and ends the commands that run through them.
async fn interruptible<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut interrupts = super::process::StopSignal::install()?;
    tokio::select! {
        done = work => done,
        () = interrupts.recv() => bail!("interrupted; run the same command again to go on"),
    }
}

/// A provider with its ledger.
pub(super) struct Session {
    provider: Arc<dyn Provider>,
    lambda: Option<Arc<Lambda>>,
    ledger: Ledger,
    folder: PathBuf,
    cloud: Cloud,
}

fn home(variable: &str, below: &str) -> anyhow::Result<PathBuf> {
    let folder = std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(below)));
    Ok(folder.with_context(|| format!("HOME is not set; name a folder with {variable}"))?.join("gorgo"))
}

/// Address of Lambda Cloud.
fn service_url() -> String {
    let url = ["LAMBDA_API_URL", "GORGO_LAMBDA_URL"].iter().find_map(|name| std::env::var(name).ok());
    url.filter(|url| !url.is_empty()).unwrap_or_else(|| SERVICE.to_owned())
}

fn show(line: &str) {
    eprintln!("{line}");
}

impl CloudArgs {
    /// What the environment alone says.
    fn of_environment() -> anyhow::Result<Self> {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cloud = std::env::var("GORGO_CLOUD").ok().filter(|name| !name.is_empty());
        let cloud = cloud.map(|name| Cloud::from_str(&name, true).map_err(|why| anyhow::anyhow!("GORGO_CLOUD: {why}")));
        Ok(Self { cloud: cloud.transpose()?, state: path("GORGO_STATE"), hosts: path("GORGO_HOSTS"), json: false })
    }

    fn key() -> Option<String> {
        // A key read from a file often ends with a line end.
        std::env::var("LAMBDA_API_KEY").ok().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty())
    }

    pub(super) fn session(&self) -> anyhow::Result<Session> {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let cloud = self.cloud.unwrap_or(match (Self::key().is_some(), set("MODAL_TOKEN_ID")) {
            (true, _) => Cloud::Lambda,
            (false, true) => Cloud::Modal,
            (false, false) => Cloud::Local,
        });
        let folder = self.state.clone().map_or_else(|| home("XDG_STATE_HOME", ".local/state"), Ok)?;
        let ledger = Ledger::open(&folder)?;
        let mut lambda = None;
        let provider: Arc<dyn Provider> = match cloud {
            Cloud::Local => {
                let program = std::env::current_exe().context("cannot find this program's own file")?;
                let regions = gorgo_traces::geo::regions().iter().map(|region| Region {
                    name: format!("{}:{}", region.provider, region.name),
                    description: region.location.clone(),
                });
                Arc::new(Local::new(folder.join("local"), program, regions.collect()))
            }
            Cloud::Ssh => {
                let file = self
                    .hosts
                    .clone()
                    .map_or_else(|| Ok(home("XDG_CONFIG_HOME", ".config")?.join("hosts.toml")), anyhow::Ok)?;
                Arc::new(Ssh::new(
                    gorgo_cloud::ssh::read(&file)?,
                    folder.join("ssh"),
                    gorgo_cloud::cluster::owner(&folder)?,
                ))
            }
            Cloud::Lambda => {
                let Some(key) = Self::key() else {
                    bail!("LAMBDA_API_KEY is not set; make a key in Lambda's console and export it")
                };
                let service = service_url();
                let ssh_from = std::env::var("GORGO_SSH_FROM").unwrap_or_else(|_| "0.0.0.0/0".to_owned());
                let ssh_port = match std::env::var("GORGO_LAMBDA_SSH_PORT") {
                    Ok(text) => Some(text.parse().context("GORGO_LAMBDA_SSH_PORT is no port")?),
                    Err(_) => None,
                };
                let ssh_user = std::env::var("GORGO_LAMBDA_SSH_USER").unwrap_or_else(|_| "ubuntu".to_owned());
                let folder = folder.join("lambda");
                let time = Time::real();
                let config = LambdaConfig { service, key: key.into(), folder, ssh_from, ssh_user, ssh_port, time };
                let provider = Arc::new(Lambda::new(config)?);
                lambda = Some(provider.clone());
                provider
            }
            Cloud::Modal => {
                let config = ModalConfig::read(|name| std::env::var(name).ok())?;
                let config = config.context(
                    "no token of Modal is known; export MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or run `modal token new`",
                )?;
                Arc::new(Modal::new(&config)?)
            }
        };
        Ok(Session { provider, lambda, ledger, folder, cloud })
    }
}

impl Session {
    fn fleet(&self) -> Fleet<'_> {
        Fleet::new(self.provider.as_ref(), &self.ledger, Time::real()).telling(&show)
    }

    /// Lambda alone has accounts with keys, file systems and firewalls.
    fn lambda(&self) -> anyhow::Result<&Lambda> {
        self.lambda.as_deref().with_context(|| format!("`{}` has no account; use --cloud lambda", self.provider.name()))
    }

    /// File that the watch of these machines keeps locked.
    fn watch_lock(&self) -> PathBuf {
        let account = gorgo_cloud::digest::of(self.provider.account().as_bytes());
        self.folder.join(format!("watch-{}-{}.lock", self.provider.name(), &account[..12]))
    }

    /// Whether a process ends machines when their lease is over.
    fn is_watched(&self) -> bool {
        std::fs::File::open(self.watch_lock()).is_ok_and(|file| file.try_lock().is_err())
    }

    /// Machines of ours that run, in the order of their names.
    async fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        let rows = self.fleet().rows().await?;
        let open = rows.into_iter().filter(|row| row.entry.as_ref().is_some_and(gorgo_cloud::ledger::Entry::is_open));
        let mut nodes: Vec<Node> = open.filter_map(|row| row.node).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(nodes)
    }

    async fn node(&self, name: &str) -> anyhow::Result<Node> {
        let nodes = self.nodes().await?;
        let known: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        let found = nodes.into_iter().find(|node| node.name == name || node.id == name);
        found.with_context(|| match known.is_empty() {
            true => "no machine runs; launch one with `gorgo launch`".to_owned(),
            false => format!("no machine `{name}` runs; name one of: {}", known.join(", ")),
        })
    }

    /// Nodes with their shells, opened at the same time.
    async fn members(&self, nodes: Vec<Node>) -> Vec<Member> {
        let open = nodes.into_iter().map(async |node| {
            let shell = self.provider.reach(&node).await;
            Member { node, shell }
        });
        futures_util::future::join_all(open).await
    }

    fn keys_file(&self) -> PathBuf {
        gorgo_cloud::cluster::path(&self.folder, self.provider.name(), &self.provider.account())
    }

    fn plan(&self) -> anyhow::Result<Plan> {
        let plan = gorgo_cloud::cluster::load(&self.folder, self.provider.name(), &self.provider.account())?;
        let plan = plan.context("no cluster is set up; run `gorgo cluster setup`")?;
        Ok(Plan { owner: self.owner()?, ..plan })
    }

    fn owner(&self) -> anyhow::Result<String> {
        Ok(gorgo_cloud::cluster::owner(&self.folder)?)
    }

    /// Holds the cluster for this command until the value is dropped.
    fn hold(&self, command: &str) -> anyhow::Result<std::fs::File> {
        let (cloud, account) = (self.provider.name(), self.provider.account());
        Ok(gorgo_cloud::cluster::hold(&self.folder, cloud, &account, command)?)
    }

    fn keep(&self, plan: &Plan) -> anyhow::Result<()> {
        Ok(gorgo_cloud::cluster::save(&self.folder, self.provider.name(), &self.provider.account(), plan)?)
    }
}
