//! One account: its machines, keys and rulesets, and the draw of faults.

use gorgo_cloud::{Ledger, Time};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Notify;

type Done = Result<Value, (u16, &'static str)>;

/// Starts a host for a launch; it gets the public half of the launch's SSH key.
pub(crate) type Boot = Box<dyn FnMut(&Value, &str) -> String + Send>;
/// Ends the host at this address.
pub(crate) type Halt = Box<dyn FnMut(&str) + Send>;

const MINUTE: u64 = 60_000;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    None,
    TooMany { wait: bool },
    HtmlBefore,
    HtmlAfter,
    Lost,
}

#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) key: String,
    pub(crate) name: String,
    request: Value,
    listed_ms: u64,
    active_ms: u64,
    ended_ms: Option<u64>,
    ip: String,
}

impl Machine {
    pub(crate) fn user_data(&self) -> String {
        self.request["user_data"].as_str().unwrap_or_default().to_owned()
    }
}

pub(crate) struct World {
    rng: ChaCha8Rng,
    faults: bool,
    time: Time,
    ledger: Option<Ledger>,
    pub(crate) machines: BTreeMap<String, Machine>,
    pub(crate) ssh_keys: BTreeMap<String, Value>,
    pub(crate) rulesets: BTreeMap<String, Value>,
    pub(crate) filesystems: BTreeMap<String, Value>,
    pub(crate) violations: Vec<String>,
    pub(crate) requests: u64,
    /// Longest boot; drawn between half a minute and this, unless it is shorter.
    pub(crate) boot_ms: u64,
    /// From the end of a machine until it is listed as terminated.
    pub(crate) ending_ms: u64,
    /// Ends of this machine that are accepted and have no effect.
    pub(crate) deaf: BTreeMap<String, u32>,
    /// What a launch is answered with after its effect.
    pub(crate) after_effect: Option<(u16, &'static str)>,
    /// Whether every launch is refused for lack of capacity.
    pub(crate) is_full: bool,
    /// Rulesets cannot be deleted.
    pub(crate) in_use: bool,
    /// Entries of the listing that are not ours.
    pub(crate) foreign: Vec<Value>,
    /// Called with the body of a launch and the public half of its SSH key; returns the new machine's address.
    pub(crate) boot: Option<Boot>,
    /// Called with the address of a machine that ends.
    pub(crate) halt: Option<Halt>,
    /// At this request the client is interrupted.
    pub(crate) interrupt_at: Option<u64>,
    pub(crate) interrupt: Arc<Notify>,
    pub(crate) faults_drawn: u64,
    /// Machines whose launch was not answered.
    pub(crate) unanswered: usize,
}

impl World {
    pub(crate) fn new(seed: u64, faults: bool, time: Time, ledger: Option<Ledger>) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            faults,
            time,
            ledger,
            machines: BTreeMap::new(),
            ssh_keys: BTreeMap::new(),
            rulesets: BTreeMap::new(),
            filesystems: BTreeMap::new(),
            violations: Vec::new(),
            requests: 0,
            boot_ms: 5 * MINUTE,
            ending_ms: MINUTE,
            deaf: BTreeMap::new(),
            after_effect: None,
            is_full: false,
            in_use: false,
            foreign: Vec::new(),
            boot: None,
            halt: None,
            interrupt_at: None,
            interrupt: Arc::default(),
            faults_drawn: 0,
            unanswered: 0,
        }
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Machine> {
        self.machines.values().filter(|machine| machine.ended_ms.is_none())
    }

    fn chance(&mut self, share: f64) -> bool {
        self.faults && self.rng.random_bool(share)
    }

    pub(crate) fn draw(&mut self, path: &str) -> Fault {
        self.requests += 1;
        if self.interrupt_at == Some(self.requests) {
            self.interrupt.notify_one();
        }
        let draw: f64 = if self.faults { self.rng.random() } else { 1.0 };
        let fault = match draw {
            d if d < 0.04 => Fault::TooMany { wait: false },
            d if d < 0.08 => Fault::TooMany { wait: true },
            d if d < 0.11 => Fault::HtmlBefore,
            d if d < 0.15 => Fault::HtmlAfter,
            d if d < 0.20 => Fault::Lost,
            // The answers that matter most are lost more often.
            d if d < 0.35 && path.ends_with("/launch") => Fault::Lost,
            _ => Fault::None,
        };
        self.faults_drawn += u64::from(fault != Fault::None);
        fault
    }

    pub(crate) fn act(&mut self, method: &str, path: &str, body: &Value) -> Done {
        let words: Vec<&str> = path.split('/').skip(1).collect();
        match (method, words.as_slice()) {
            ("get", ["instance-types"]) => Ok(types()),
            ("get", ["instances"]) => Ok(self.list()),
            ("get", ["instances", id]) => self.visible(id).map(|machine| self.show(id, &machine)),
            ("post", ["instance-operations", "launch"]) => self.launch(body),
            ("post", ["instance-operations", "terminate"]) => self.terminate(body),
            ("get", ["ssh-keys"]) => Ok(Value::Array(self.ssh_keys.values().cloned().collect())),
            ("post", ["ssh-keys"]) => Ok(self.add("k", body, |world| &mut world.ssh_keys)),
            ("delete", ["ssh-keys", id]) => removed(self.ssh_keys.remove(*id)),
            ("get", ["file-systems"]) => Ok(Value::Array(self.filesystems.values().cloned().collect())),
            ("post", ["filesystems"]) => {
                let mut body = body.clone();
                body["region"] = json!({"name": body["region"], "description": ""});
                Ok(self.add("f", &body, |world| &mut world.filesystems))
            }
            ("delete", ["filesystems", id]) => removed(self.filesystems.remove(*id)),
            ("get", ["images"]) => Ok(json!([])),
            ("get", ["firewall-rules"]) => Ok(json!([])),
            ("get", ["firewall-rulesets"]) => Ok(Value::Array(self.rulesets.values().cloned().collect())),
            ("post", ["firewall-rulesets"]) => {
                if body["region"] == "us-south-1" {
                    return Err((400, "global/invalid-parameters"));
                }
                let mut body = body.clone();
                body["region"] = json!({"name": body["region"], "description": ""});
                Ok(self.add("w", &body, |world| &mut world.rulesets))
            }
            ("patch", ["firewall-rulesets", id]) => {
                let Some(set) = self.rulesets.get_mut(*id) else { return Err((404, "global/object-does-not-exist")) };
                set["rules"] = body["rules"].clone();
                Ok(set.clone())
            }
            ("delete", ["firewall-rulesets", id]) => {
                let uses = |machine: &Machine| machine.request["firewall_rulesets"][0]["id"] == **id;
                if self.in_use || self.running().any(uses) {
                    return Err((400, "firewall-rulesets/firewall-ruleset-in-use"));
                }
                removed(self.rulesets.remove(*id))
            }
            // Writing the account's global rules could lock others out.
            ("put" | "patch", _) => {
                self.violations.push(format!("{method} {path} changes the whole account"));
                Err((403, "global/forbidden"))
            }
            _ => Err((404, "global/object-does-not-exist")),
        }
    }

    fn add(&mut self, letter: &str, body: &Value, map: fn(&mut Self) -> &mut BTreeMap<String, Value>) -> Value {
        let id = format!("{letter}{:08x}", self.rng.random::<u32>());
        let mut object = body.clone();
        object["id"] = json!(id);
        // Names are not unique: another of the same name is a fault of the client's.
        if map(self).values().any(|other| other["name"] == object["name"] && other["region"] == object["region"]) {
            self.violations.push(format!("a second {letter} named {}", object["name"]));
        }
        map(self).insert(id, object.clone());
        object
    }

    fn launch(&mut self, body: &Value) -> Done {
        let now_ms = self.time.now_ms();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let tag = |key: &str| {
            let tags = body["tags"].as_array().unwrap();
            tags.iter().find(|tag| tag["key"] == key).map(|tag| text(&tag["value"])).unwrap_or_default()
        };
        let (key, name) = (tag("gorgo-key"), tag("gorgo-name"));
        if !body["name"].as_str().unwrap_or_default().contains(&key) {
            self.violations.push(format!("the name of {name} does not repeat its nonce"));
        }
        if let Some(ledger) = &self.ledger
            && !ledger.open_entries().unwrap().iter().any(|entry| entry.intent.key == key)
        {
            self.violations.push(format!("{name} was launched before it stood in the ledger"));
        }
        if body["region_name"] != "us-south-1" && body["firewall_rulesets"].as_array().is_none_or(Vec::is_empty) {
            self.violations.push(format!("{name} has no firewall ruleset of its own"));
        }
        if self.is_full || self.chance(0.1) {
            return Err((400, "instance-operations/launch/insufficient-capacity"));
        }
        if self.machines.values().any(|machine| machine.key == key || machine.name == name) {
            self.violations.push(format!("{name} was launched twice"));
        }
        let late = if self.chance(0.2) { self.rng.random_range(0..3 * MINUTE) } else { 0 };
        let id = format!("i{:08x}", self.rng.random::<u32>());
        let boot = self.rng.random_range((MINUTE / 2).min(self.boot_ms)..=self.boot_ms);
        let public = self.ssh_keys.values().find(|key| key["name"] == body["ssh_key_names"][0]);
        let public = public.map(|key| text(&key["public_key"])).unwrap_or_default();
        let ip = match &mut self.boot {
            Some(boot) => boot(body, &public),
            None => format!("198.51.100.{}", self.machines.len() + 1),
        };
        let machine = Machine {
            key,
            name,
            request: body.clone(),
            listed_ms: now_ms + late,
            active_ms: now_ms + boot.max(late),
            ended_ms: None,
            ip,
        };
        self.machines.insert(id.clone(), machine);
        match self.after_effect {
            Some(refusal) => Err(refusal),
            None => Ok(json!({"instance_ids": [id]})),
        }
    }

    fn visible(&self, id: &str) -> Result<Machine, (u16, &'static str)> {
        let machine = self.machines.get(id).filter(|machine| machine.listed_ms <= self.time.now_ms());
        machine.cloned().ok_or((404, "global/object-does-not-exist"))
    }

    fn terminate(&mut self, body: &Value) -> Done {
        for id in body["instance_ids"].as_array().unwrap() {
            let id = id.as_str().unwrap();
            self.visible(id)?;
            let now_ms = self.time.now_ms();
            let machine = self.machines.get_mut(id).unwrap();
            match self.deaf.get_mut(&machine.name) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    continue;
                }
                _ => _ = machine.ended_ms.get_or_insert(now_ms),
            }
            if let Some(halt) = &mut self.halt {
                halt(&machine.ip);
            }
        }
        Ok(json!({"terminated_instances": []}))
    }

    fn list(&mut self) -> Value {
        let now_ms = self.time.now_ms();
        let listed = self.machines.iter().filter(|(_, machine)| {
            let over = machine.ended_ms.is_some_and(|ended| now_ms > ended + 3 * MINUTE);
            machine.listed_ms <= now_ms && !over
        });
        let mut list: Vec<Value> = listed.map(|(id, machine)| self.show(id, machine)).collect();
        if self.faults {
            // Somebody else's machine in a new region with a new status, named as one of ours could be.
            list.push(json!({"id": "foreign", "name": "n0", "status": "hibernating", "ssh_key_names": ["x"],
                "file_system_names": [], "region": {"name": "mars-north-1", "description": "far"},
                "instance_type": {"name": "gpu_9x_new", "description": "", "price_cents_per_hour": 1, "specs": {}},
                "actions": {}, "is_reserved": true}));
        }
        list.extend(self.foreign.iter().cloned());
        Value::Array(list)
    }

    fn show(&self, id: &str, machine: &Machine) -> Value {
        let now_ms = self.time.now_ms();
        let status = match machine.ended_ms {
            Some(ended) if now_ms >= ended + self.ending_ms => "terminated",
            Some(_) => "terminating",
            None if now_ms >= machine.active_ms => "active",
            None if now_ms + MINUTE / 2 >= machine.active_ms => "contactable",
            None => "booting",
        };
        let request = &machine.request;
        let mut shown = json!({"id": id, "name": request["name"], "status": status,
            "ssh_key_names": request["ssh_key_names"], "file_system_names": [],
            "region": {"name": request["region_name"], "description": ""},
            "instance_type": {"name": request["instance_type_name"], "description": "", "price_cents_per_hour": 129,
                "gpu_description": "", "specs": {"vcpus": 1, "memory_gib": 1, "storage_gib": 1, "gpus": 1}},
            "tags": request["tags"], "firewall_rulesets": request["firewall_rulesets"], "actions": {},
            "jupyter_token": "the-jupyter-token", "jupyter_url": "https://x?token=the-jupyter-token"});
        if now_ms >= machine.active_ms {
            shown["ip"] = json!(machine.ip);
        }
        shown
    }
}

fn removed(object: Option<Value>) -> Done {
    object.map(|_| json!({})).ok_or((404, "global/object-does-not-exist"))
}

fn types() -> Value {
    let region = |name: &str| json!({"name": name, "description": name});
    let item = |name: &str, cents: u64, regions: Vec<Value>| {
        json!({"instance_type": {"name": name, "description": name, "gpu_description": "A100",
            "price_cents_per_hour": cents, "specs": {"vcpus": 30, "memory_gib": 200, "storage_gib": 512, "gpus": 1}},
            "regions_with_capacity_available": regions})
    };
    json!({
        "gpu_1x_a100": item("gpu_1x_a100", 129, ["us-east-1", "us-south-1", "us-west-1", "europe-central-1", "mars-north-1"].map(region).to_vec()),
        "gpu_8x_h100": item("gpu_8x_h100", 2392, vec![]),
    })
}
