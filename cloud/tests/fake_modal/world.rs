//! One account: its sandboxes and images, and the draw of faults.

use super::commands::Commands;
use gorgo_cloud::modal::proto::client::{
    GenericResult, RpcRetryPolicy, SandboxCreateRequest, SandboxInfo, SandboxListRequest, SandboxTag, TaskInfo,
    TunnelData, generic_result::GenericStatus,
};
use gorgo_cloud::modal::proto::status::{Any, Status as Details};
use gorgo_cloud::{Ledger, Time};
use prost::Message;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Notify;
use tonic::{Code, Status};

const MINUTE: u64 = 60_000;
/// Sandboxes on one page of a list: few, so that lists have several.
const PAGE: usize = 2;
/// Life of an auth token.
const TOKEN: u64 = 20 * MINUTE;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    None,
    /// Refused before any effect.
    Refused(Status0),
    /// The effect is there, the answer is lost.
    Lost(Code),
}

/// A status that compares.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Status0 {
    TooMany { wait: Option<f32> },
    Unavailable,
}

impl Status0 {
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Unavailable => Status::unavailable("try later"),
            Self::TooMany { wait: None } => Status::resource_exhausted("too many"),
            Self::TooMany { wait: Some(seconds) } => {
                let value = RpcRetryPolicy { retry_after_secs: *seconds }.encode_to_vec();
                let any = Any { type_url: "type.googleapis.com/modal.client.RPCRetryPolicy".to_owned(), value };
                let details = Details { code: 8, message: "too many".to_owned(), details: vec![any] };
                Status::with_details(Code::ResourceExhausted, "too many", details.encode_to_vec().into())
            }
        }
    }
}

pub(crate) struct Machine {
    pub(crate) key: String,
    pub(crate) name: String,
    pub(crate) request: SandboxCreateRequest,
    pub(crate) commands: Arc<Commands>,
    created_ms: u64,
    listed_ms: u64,
    starts_ms: u64,
    /// It ends then by itself.
    dies_ms: Option<u64>,
    ended: Option<(u64, GenericStatus)>,
}

impl Machine {
    fn end(&self, now_ms: u64) -> Option<GenericStatus> {
        let dead = self.dies_ms.filter(|at| *at <= now_ms).map(|_| GenericStatus::InitFailure);
        let seconds = self.request.definition.as_ref().map_or(0, |definition| definition.timeout_secs);
        let lease = (self.created_ms + u64::from(seconds) * 1_000 <= now_ms).then_some(GenericStatus::Timeout);
        self.ended.map(|(_, status)| status).or(dead).or(lease)
    }
}

pub(crate) struct World {
    account: String,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) faults: bool,
    pub(crate) time: Time,
    ledger: Option<Ledger>,
    folder: PathBuf,
    pub(crate) machines: BTreeMap<String, Machine>,
    /// Effects by idempotency key.
    pub(crate) created: BTreeMap<String, String>,
    pub(crate) images: BTreeMap<String, Vec<String>>,
    pub(crate) app: bool,
    pub(crate) tokens: BTreeMap<String, u64>,
    pub(crate) violations: Vec<String>,
    pub(crate) requests: u64,
    /// Longest wait for a machine.
    pub(crate) boot_ms: u64,
    /// The next sandbox ends by itself soon after it started.
    pub(crate) next_dies: bool,
    /// At this request the client is interrupted.
    pub(crate) interrupt_at: Option<u64>,
    pub(crate) interrupt: Arc<Notify>,
    pub(crate) faults_drawn: u64,
    /// Sandboxes whose creation was not answered.
    pub(crate) unanswered: usize,
    pub(crate) streams_broken: u64,
}

impl World {
    pub(crate) fn new(
        account: &str,
        seed: u64,
        faults: bool,
        time: Time,
        ledger: Option<Ledger>,
        folder: PathBuf,
    ) -> Self {
        Self {
            account: account.to_owned(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            faults,
            time,
            ledger,
            folder,
            machines: BTreeMap::new(),
            created: BTreeMap::new(),
            images: BTreeMap::new(),
            app: false,
            tokens: BTreeMap::new(),
            violations: Vec::new(),
            requests: 0,
            boot_ms: 2 * MINUTE,
            next_dies: false,
            interrupt_at: None,
            interrupt: Arc::default(),
            faults_drawn: 0,
            unanswered: 0,
            streams_broken: 0,
        }
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Machine> {
        let now_ms = self.time.now_ms();
        self.machines.values().filter(move |machine| machine.end(now_ms).is_none())
    }

    pub(crate) fn end_all(&mut self) {
        self.machines.values().for_each(|machine| machine.commands.end());
    }

    pub(crate) fn chance(&mut self, share: f64) -> bool {
        self.faults && self.rng.random_bool(share)
    }

    pub(crate) fn draw(&mut self, call: &str) -> Fault {
        self.requests += 1;
        if self.interrupt_at == Some(self.requests) {
            self.interrupt.notify_one();
        }
        let draw: f64 = if self.faults { self.rng.random() } else { 1.0 };
        let fault = match draw {
            d if d < 0.04 => Fault::Refused(Status0::TooMany { wait: Some(2.5) }),
            d if d < 0.05 => Fault::Refused(Status0::TooMany { wait: None }),
            d if d < 0.09 => Fault::Refused(Status0::Unavailable),
            d if d < 0.12 => Fault::Lost(Code::Unavailable),
            d if d < 0.15 => Fault::Lost(Code::Internal),
            d if d < 0.17 => Fault::Lost(Code::Cancelled),
            // The answers that matter most are lost more often.
            d if d < 0.35 && call == "SandboxCreate" => Fault::Lost(Code::Unknown),
            _ => Fault::None,
        };
        self.faults_drawn += u64::from(fault != Fault::None);
        fault
    }

    pub(crate) fn token(&mut self) -> String {
        use base64::Engine;
        let end_ms = self.time.now_ms() + TOKEN;
        let claims = format!(r#"{{"exp": {}, "n": {}}}"#, end_ms / 1_000, self.tokens.len());
        let token = format!("e30.{}.sig", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims));
        self.tokens.insert(token.clone(), end_ms);
        token
    }

    pub(crate) fn create(&mut self, request: SandboxCreateRequest) -> Result<String, Status> {
        let now_ms = self.time.now_ms();
        let tag = |tags: &[SandboxTag], name: &str| {
            tags.iter().find(|tag| tag.tag_name == name).map(|tag| tag.tag_value.clone()).unwrap_or_default()
        };
        let (key, name) = (tag(&request.tags, "gorgo-key"), tag(&request.tags, "gorgo-name"));
        let definition = request.definition.clone().unwrap_or_default();
        let full = definition.name.clone().unwrap_or_default();
        if full.len() > 64 || !full.contains(&key) {
            self.violations.push(format!("the name `{full}` does not repeat its nonce"));
        }
        let ports: Vec<u32> = definition.open_ports.iter().flat_map(|open| &open.ports).map(|port| port.port).collect();
        let shown = tag(&request.tags, "gorgo-ports");
        if ports.iter().any(|port| shown.starts_with(&format!("{port}-")))
            || definition.open_ports.iter().flat_map(|o| &o.ports).any(|p| p.unencrypted)
        {
            self.violations.push(format!("{name} opens its engine, or a port in clear"));
        }
        if let Some(ledger) = &self.ledger
            && !ledger.open_entries().unwrap().iter().any(|entry| entry.intent.key == key)
        {
            self.violations.push(format!("{name} was launched before it stood in the ledger"));
        }
        if definition.timeout_secs == 0 || definition.timeout_secs > 86_400 {
            return Err(Status::invalid_argument("timeout_secs must be within a day"));
        }
        if !self.images.contains_key(&definition.image_id) {
            return Err(Status::invalid_argument("no such image"));
        }
        if self.running().any(|machine| machine.request.definition.as_ref().unwrap().name == definition.name) {
            return Err(Status::already_exists("a sandbox of this name runs"));
        }
        if self.machines.values().any(|machine| machine.key == key || machine.name == name) {
            self.violations.push(format!("{name} was launched twice"));
        }
        let late = if self.chance(0.2) { self.rng.random_range(0..3 * MINUTE) } else { 0 };
        let starts_ms = now_ms + self.rng.random_range(0..=self.boot_ms);
        let dies = std::mem::take(&mut self.next_dies) || self.chance(0.1);
        let id = format!("sb-{:022x}", self.rng.random::<u64>());
        let machine = Machine {
            key,
            name,
            request,
            commands: Arc::new(Commands::new(self.folder.join(&id))),
            // Creations differ, as the pages of a list need it.
            created_ms: now_ms + self.machines.len() as u64,
            listed_ms: now_ms + late,
            starts_ms,
            dies_ms: dies.then_some(starts_ms + 1_000),
            ended: None,
        };
        self.machines.insert(id.clone(), machine);
        Ok(id)
    }

    pub(crate) fn get(&self, id: &str) -> Result<&Machine, Status> {
        self.machines.get(id).ok_or_else(|| Status::not_found("no such sandbox"))
    }

    pub(crate) fn by_name(&self, name: &str, terminated: bool) -> Result<String, Status> {
        let now_ms = self.time.now_ms();
        let found = self.machines.iter().find(|(_, machine)| {
            machine.request.definition.as_ref().unwrap().name() == name && (terminated || machine.end(now_ms).is_none())
        });
        found.map(|(id, _)| id.clone()).ok_or_else(|| Status::not_found("no sandbox of this name"))
    }

    pub(crate) fn result(&self, id: &str) -> Result<Option<GenericResult>, Status> {
        let end = self.get(id)?.end(self.time.now_ms());
        Ok(end.map(|status| GenericResult {
            status: status.into(),
            exception: if status == GenericStatus::InitFailure { "it died".to_owned() } else { String::new() },
            exitcode: 1,
        }))
    }

    /// The task of a sandbox that has a machine.
    pub(crate) fn task(&self, id: &str) -> Result<Option<String>, Status> {
        let started = self.get(id)?.starts_ms <= self.time.now_ms();
        Ok(started.then(|| format!("ta-{}/{id}", self.account)))
    }

    pub(crate) fn terminate(&mut self, id: &str) -> Result<Option<GenericResult>, Status> {
        let before = self.result(id)?;
        let now_ms = self.time.now_ms();
        if let Some(machine) = self.machines.get_mut(id) {
            machine.ended.get_or_insert((now_ms, GenericStatus::Terminated));
            machine.commands.end();
        }
        Ok(before)
    }

    pub(crate) fn list(&mut self, request: &SandboxListRequest) -> Vec<SandboxInfo> {
        let now_ms = self.time.now_ms();
        let mut all: Vec<SandboxInfo> = Vec::new();
        for (id, machine) in &self.machines {
            let ended = machine.end(now_ms).is_some();
            if machine.listed_ms > now_ms || (ended && !request.include_finished) {
                continue;
            }
            let started = machine.starts_ms <= now_ms;
            all.push(SandboxInfo {
                id: id.clone(),
                created_at: machine.created_ms as f64 / 1e3,
                task_info: started
                    .then(|| TaskInfo { started_at: machine.starts_ms as f64 / 1e3, ..TaskInfo::default() }),
                tags: machine.request.tags.clone(),
                name: machine.request.definition.as_ref().unwrap().name().to_owned(),
            });
        }
        if self.faults {
            // Another program's sandbox in the same app.
            let task = TaskInfo { started_at: 1.0, ..TaskInfo::default() };
            all.push(SandboxInfo {
                id: "sb-foreign".to_owned(),
                created_at: 5.0,
                task_info: Some(task),
                tags: Vec::new(),
                name: "n0".to_owned(),
            });
        }
        all.sort_by(|a, b| b.created_at.total_cmp(&a.created_at));
        all.retain(|info| request.before_timestamp <= 0.0 || info.created_at < request.before_timestamp);
        all.truncate(PAGE);
        all
    }

    pub(crate) fn tunnels(&self, id: &str) -> Result<Vec<TunnelData>, Status> {
        let machine = self.get(id)?;
        if machine.starts_ms > self.time.now_ms() {
            return Ok(Vec::new());
        }
        let ports = machine.request.definition.iter().flat_map(|definition| &definition.open_ports);
        let tunnel = |port: u32| TunnelData { host: "127.0.0.1".to_owned(), port, container_port: port };
        Ok(ports.flat_map(|open| open.ports.iter().map(|port| tunnel(port.port))).collect())
    }
}
