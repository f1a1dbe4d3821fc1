//! Modal's sandboxes. Not yet run against the real service: built to the messages of Modal's own client 1.6.4 and to
//! reports of its users.
//!
//! Modal calls its interface internal, so all of it is in this room. Compared with the client's descriptors on
//! 2026-11-28: every field number in `proto/` agrees. Since the notes that this was built from, a listed sandbox may
//! hold its tunnels (field 15 of `SandboxInfo`), the wait of a throttled call comes as `x-throttle-retry-delay`, and
//! "persistent" sandboxes came; none is used here.
//!
//! A sandbox is known by the nonce of its launch, which its name and a tag repeat; names are unique among those that
//! run. One that wants a GPU is of the first version; the list of the second shows both. A sandbox is an image and
//! processes: no Docker, no systemd, no firewall. Its router is reached by an encrypted tunnel, its engine from inside
//! alone. Modal itself ends it with its lease.
//!
//! Reading order: `config` → `api` (one call; `token`, `refusal`) → `image`, `sandbox`, `offers` → `exec`, `shell`.

use crate::error::{Error, Kind, Result};
use crate::http::is_loopback;
use crate::provider::{Capabilities, LaunchError, Life, Node, Offer, Provider, Sending, Shown, Spec, Status};
use crate::shell::{Command, Shell};
use api::{Api, Repeat};
use async_trait::async_trait;
use parking_lot::Mutex;
use proto::client::{
    AppGetOrCreateRequest, ObjectCreationType, SandboxCreateRequest, SandboxGetFromNameRequest,
    SandboxGetTaskIdRequest, SandboxTerminateRequest, SandboxWaitRequest, TunnelData, VolumeFsVersion,
    VolumeGetOrCreateRequest, WorkspaceBillingRatesRequest,
};
use refusal::explain;
use secrecy::ExposeSecret;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;

mod api;
mod config;
mod exec;
mod image;
mod offers;
#[doc(hidden)]
pub mod proto;
mod refusal;
mod sandbox;
mod shell;
mod token;
pub use config::{ModalConfig, SERVICE};

/// The app of all sandboxes.
const APP: &str = "gorgo";
/// Modal ends a sandbox after a day at the latest.
const LONGEST_LEASE_MS: u64 = 24 * 3_600_000;
/// SGLang's image; Modal's machines have a driver that fits it.
const IMAGE: &str = "lmsysorg/sglang:v0.5.23-runtime";
/// A sandbox that runs answers within this time.
const ANSWERS: Duration = Duration::from_secs(60);

/// The provider.
#[derive(Debug)]
pub struct Modal {
    api: Arc<Api>,
    environment: String,
    account: String,
    app: tokio::sync::Mutex<Option<String>>,
    // Images by what they stand on: asked for by one launch at a time, for all.
    images: tokio::sync::Mutex<BTreeMap<String, String>>,
    rates: tokio::sync::OnceCell<BTreeMap<String, String>>,
    // Tunnels stay as long as their sandbox.
    tunnels: Mutex<BTreeMap<String, Vec<TunnelData>>>,
}

impl Modal {
    /// The provider with these settings. It must be made on a runtime.
    ///
    /// # Errors
    /// When the token cannot be sent, or the address is not usable.
    pub fn new(config: &ModalConfig) -> Result<Self> {
        let whole = format!("{}\0{}", config.token_id.expose_secret(), config.environment);
        Ok(Self {
            api: Arc::new(Api::new(config)?),
            environment: config.environment.clone(),
            account: crate::digest::of(whole.as_bytes())[..12].to_owned(),
            app: tokio::sync::Mutex::default(),
            images: tokio::sync::Mutex::default(),
            rates: tokio::sync::OnceCell::new(),
            tunnels: Mutex::default(),
        })
    }

    /// The app, created if asked for and absent; nothing when it is absent.
    async fn app(&self, create: bool) -> Result<Option<String>> {
        let mut known = self.app.lock().await;
        if known.is_none() {
            let how = if create { ObjectCreationType::CreateIfMissing } else { ObjectCreationType::Unspecified };
            let message = AppGetOrCreateRequest {
                app_name: APP.to_owned(),
                environment_name: self.environment.clone(),
                object_creation_type: how.into(),
            };
            let got = self
                .api
                .call("AppGetOrCreate", message, Repeat::Safe, async |mut client, request| {
                    client.app_get_or_create(request).await
                })
                .await;
            *known = match got {
                Err(error) if error.kind == Kind::NotFound && !create => None,
                got => Some(got?.app_id),
            };
        }
        Ok(known.clone())
    }

    async fn image(&self, app: &str, spec: &Spec, show: &Shown<'_>) -> Result<String> {
        let base = spec.image.as_deref().unwrap_or(IMAGE);
        let mut images = self.images.lock().await;
        if let Some(id) = images.get(base) {
            return Ok(id.clone());
        }
        let id = image::ensure(&self.api, app, &self.environment, base, show).await?;
        images.insert(base.to_owned(), id.clone());
        Ok(id)
    }

    async fn volume(&self, name: &str) -> Result<String> {
        let message = VolumeGetOrCreateRequest {
            deployment_name: name.to_owned(),
            environment_name: self.environment.clone(),
            object_creation_type: ObjectCreationType::CreateIfMissing.into(),
            version: VolumeFsVersion::V2.into(),
        };
        let got = self.api.call("VolumeGetOrCreate", message, Repeat::Safe, async |mut client, request| {
            client.volume_get_or_create(request).await
        });
        Ok(got.await?.volume_id)
    }

    /// The rates of the account, asked for once.
    async fn rates(&self) -> Result<&BTreeMap<String, String>> {
        let ask = async || {
            let message = WorkspaceBillingRatesRequest {};
            let got = self.api.call("WorkspaceBillingRates", message, Repeat::Safe, async |mut client, request| {
                client.workspace_billing_rates(request).await
            });
            got.await.map(|rates| rates.rates.into_iter().collect())
        };
        self.rates.get_or_try_init(ask).await
    }

    /// The request that creates a sandbox; nothing has been paid for yet.
    async fn request(&self, spec: &Spec, key: &str) -> Result<SandboxCreateRequest> {
        let left_ms = spec.expires_ms.saturating_sub(self.api.time.now_ms());
        if left_ms > LONGEST_LEASE_MS {
            let remedy = "give a lease of 24h or less";
            return Err(Error::usage(&spec.name, "Modal ends a sandbox after 24 hours at the latest", remedy));
        }
        let app = self.app(true).await?.unwrap_or_default();
        let image = self.image(&app, spec, &|line| tracing::debug!("{line}")).await?;
        let volume = match &spec.filesystem {
            Some(name) => Some(self.volume(name).await?),
            None => None,
        };
        let seconds = u32::try_from(left_ms.div_ceil(1_000)).unwrap_or(u32::MAX).max(1);
        let offer = self.offers().await?.into_iter().find(|offer| offer.name == spec.machine);
        let cents = offer.and_then(|offer| self.cents_per_hour(&offer, &spec.region));
        Ok(SandboxCreateRequest {
            app_id: app,
            definition: Some(sandbox::definition(spec, key, image, seconds, volume)?),
            environment_name: self.environment.clone(),
            tags: sandbox::tags(spec, key, cents),
        })
    }

    /// The sandbox of this name, after the answer to its creation was lost.
    async fn by_name(&self, name: &str) -> Result<Option<String>> {
        let message = SandboxGetFromNameRequest {
            sandbox_name: name.to_owned(),
            environment_name: self.environment.clone(),
            app_name: APP.to_owned(),
            include_terminated: true,
        };
        let got = self.api.call("SandboxGetFromName", message, Repeat::Safe, async |mut client, request| {
            client.sandbox_get_from_name(request).await
        });
        match got.await {
            Ok(found) => Ok(Some(found.sandbox_id)),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The tunnels of a sandbox that runs; none while they are not there yet.
    async fn tunnels(&self, id: &str) -> Vec<TunnelData> {
        let lock = || self.tunnels.lock();
        let known = lock().get(id).cloned();
        if let Some(known) = known {
            return known;
        }
        let found = sandbox::tunnels(&self.api, id).await.unwrap_or_default();
        if !found.is_empty() {
            lock().insert(id.to_owned(), found.clone());
        }
        found
    }

    /// The task of a sandbox; nothing while it waits for a machine.
    async fn task(&self, id: &str) -> Result<Option<String>> {
        let message = SandboxGetTaskIdRequest { sandbox_id: id.to_owned() };
        let got = self.api.call("SandboxGetTaskId", message, Repeat::Safe, async |mut client, request| {
            client.sandbox_get_task_id(request).await
        });
        let got = got.await?;
        match (got.task_id.filter(|task| !task.is_empty()), got.task_result.as_ref().and_then(sandbox::end)) {
            (Some(task), _) => Ok(Some(task)),
            (None, Some(why)) => Err(Error::new(Kind::NotFound, id, why, "launch another")),
            (None, None) => Ok(None),
        }
    }

    async fn shell(&self, id: &str) -> Result<shell::ModalShell> {
        let waiting = || Error::new(Kind::Unreachable, id, "the sandbox waits for a machine", "wait until it is ready");
        let task = self.task(id).await?.ok_or_else(waiting)?;
        Ok(shell::ModalShell::new(exec::Task::open(self.api.clone(), task).await?, id.to_owned()))
    }
}

#[async_trait]
impl Provider for Modal {
    fn name(&self) -> &'static str {
        "modal"
    }

    fn account(&self) -> String {
        self.account.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            paid: true,
            containers: true,
            any_region: true,
            longest_lease_ms: Some(LONGEST_LEASE_MS),
            ..Capabilities::default()
        }
    }

    /// Modal tells no capacity: every type is offered everywhere.
    async fn offers(&self) -> Result<Vec<Offer>> {
        Ok(offers::offers(self.rates().await?))
    }

    fn cents_per_hour(&self, offer: &Offer, region: &str) -> Option<u64> {
        Some((offer.cents_per_hour? * offers::percent(region)).div_ceil(100))
    }

    async fn prepare(&self, specs: &[&Spec], show: &Shown<'_>) -> Result<()> {
        let app = self.app(true).await?.unwrap_or_default();
        for spec in specs {
            self.image(&app, spec, show).await?;
        }
        Ok(())
    }

    async fn launch(&self, spec: &Spec, key: &str, sending: &Sending) -> std::result::Result<String, LaunchError> {
        let request = self.request(spec, key).await.map_err(LaunchError::Refused)?;
        if self.api.time.now_ms() > sending.before_ms() {
            let meaning = "the image took too long, and the launch was not sent";
            let error = Error::new(Kind::Refused, &spec.name, meaning, "launch again: the image is kept");
            return Err(LaunchError::Refused(error));
        }
        let repeat = Repeat::Refused { until_ms: sending.before_ms() };
        sending.begins();
        let create = async |mut client: api::Client, request| client.sandbox_create(request).await;
        let status = match self.api.attempts("SandboxCreate", request, repeat, ANSWERS, create).await {
            Ok(created) => return Ok(created.sandbox_id),
            Err(status) => status,
        };
        let error = explain("SandboxCreate", &status);
        // A name that is taken is one of this launch: nothing else knows its nonce.
        if error.kind != Kind::Unknown && status.code() != Code::AlreadyExists {
            return Err(LaunchError::Refused(error));
        }
        match self.by_name(&sandbox::name(&spec.name, key)).await {
            Ok(Some(id)) => Ok(id),
            // It may be created yet: the fleet looks for it by its listing.
            Ok(None) | Err(_) => Err(LaunchError::Unknown(error)),
        }
    }

    async fn list(&self) -> Result<Vec<Node>> {
        let Some(app) = self.app(false).await? else { return Ok(Vec::new()) };
        let all = sandbox::list(&self.api, &app, &self.environment).await?;
        let nodes = all.into_iter().map(async |info| {
            let started = info.task_info.as_ref().is_some_and(|task| task.started_at > 0.0);
            let tunnels = if started { self.tunnels(&info.id).await } else { Vec::new() };
            sandbox::node(info, &tunnels)
        });
        Ok(futures_util::future::join_all(nodes).await)
    }

    async fn life(&self, id: &str) -> Life {
        let message = SandboxWaitRequest { sandbox_id: id.to_owned(), timeout: 0.0 };
        let got = self
            .api
            .call("SandboxWait", message, Repeat::Safe, async |mut client, request| client.sandbox_wait(request).await);
        match got.await {
            Ok(answer) => {
                if let Some(why) = answer.result.as_ref().and_then(sandbox::end) {
                    return Life::Ended(why);
                }
            }
            Err(error) => return Life::NotYet(error.to_string()),
        }
        let answers = async {
            let shell: Box<dyn Shell> = Box::new(self.shell(id).await?);
            shell.must(&Command::new(&["true"]).silence(ANSWERS)).await
        };
        match answers.await {
            Ok(_) => Life::Works,
            Err(error) => Life::NotYet(error.to_string()),
        }
    }

    async fn find(&self, name: &str, key: &str) -> Result<Option<String>> {
        self.by_name(&sandbox::name(name, key)).await
    }

    async fn terminate(&self, id: &str) -> Result<()> {
        let message = SandboxTerminateRequest { sandbox_id: id.to_owned() };
        let got = self.api.call("SandboxTerminate", message, Repeat::Safe, async |mut client, request| {
            client.sandbox_terminate(request).await
        });
        got.await.map(drop)
    }

    /// Tunnels are open to all from the beginning; the router's key is their guard.
    async fn open(&self, node: &Node, port: u16, peers: &[Node]) -> Result<Vec<String>> {
        Ok(vec![self.url(node, port).await?; peers.len()])
    }

    async fn url(&self, node: &Node, port: u16) -> Result<String> {
        let tunnels = self.tunnels(&node.id).await;
        let tunnel = tunnels.iter().find(|tunnel| tunnel.container_port == u32::from(port));
        let none = || {
            let meaning =
                if node.status == Status::Ready { "the port has no tunnel" } else { "there is no tunnel yet" };
            let remedy = "tunnels are made at launch for the ports of router and proxy";
            Error::new(Kind::Unreachable, format!("port {port} of {}", node.name), meaning, remedy)
        };
        let tunnel = tunnel.ok_or_else(none)?;
        let scheme = if is_loopback(&tunnel.host) { "http" } else { "https" };
        Ok(format!("{scheme}://{}", sandbox::address(tunnel)))
    }

    async fn tidy(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn reach(&self, node: &Node) -> Result<Box<dyn Shell>> {
        Ok(Box::new(self.shell(&node.id).await?))
    }
}
