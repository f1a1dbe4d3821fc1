//! What a node is: architecture, disk, GPUs, driver, Docker, systemd.

use super::{Done, Engine, Site, service};
use crate::error::{Error, Kind, Result};
use crate::shell::{Command, Shell};
use std::collections::BTreeMap;
use std::time::Duration;

/// Names the state folder whose cluster a node runs.
pub(crate) const OWNER: &str = ".gorgo/owner";
/// Seconds by which a node's clock may differ; timelines and leases use it.
const CLOCK: u64 = 5;

const SCRIPT: &str = r#"export LC_ALL=C
command -v cloud-init >/dev/null 2>&1 && cloud-init status --wait >/dev/null 2>&1
echo "arch=$(uname -m)"
echo "directory=$(pwd)"
echo "free_kib=$(df -Pk . | awk 'NR == 2 {print $4}')"
echo "seconds=$(date +%s)"
echo "owner=$(cat .gorgo/owner 2>/dev/null)"
command -v curl >/dev/null 2>&1 && echo "curl=yes"
if command -v nvidia-smi >/dev/null 2>&1; then
    if out=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>&1); then
        echo "driver=$(echo "$out" | head -n 1)"; echo "gpus=$(echo "$out" | wc -l)"
    else
        echo "gpu_failure=$(echo "$out" | tail -n 1)"
    fi
fi
if [ "$1" = docker ]; then
    if out=$(docker info 2>&1); then echo "docker=docker"
    elif out=$(sudo -n docker info 2>&1); then echo "docker=sudo -n docker"
    else echo "docker_failure=$(echo "$out" | tail -n 1)"; fi
fi
XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$(id -u)} systemctl --user show-environment >/dev/null 2>&1 && echo "systemd=yes"
exit 0
"#;

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Machine architecture, as `uname -m` prints it.
    pub arch: String,
    /// Login directory.
    pub directory: String,
    /// Free disk, KiB.
    pub free_kib: u64,
    /// GPUs the driver lists.
    pub gpus: u32,
    /// Major version of the NVIDIA driver.
    pub driver: Option<u32>,
    /// Words that run Docker, with sudo where needed.
    pub docker: Vec<String>,
    /// Whether systemd runs services of this user.
    pub systemd: bool,
}

pub(super) async fn look(shell: &dyn Shell, docker: bool) -> Result<(Facts, u64, BTreeMap<String, String>)> {
    let words = if docker { "docker" } else { "" };
    // First boots run cloud-init for minutes without a word.
    let command = Command::script(SCRIPT, &[words]).silence(Duration::from_secs(15 * 60));
    let text = shell.must(&command).await?.text();
    let pairs = text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.trim().to_owned()));
    let pairs: BTreeMap<String, String> = pairs.collect();
    let get = |key: &str| pairs.get(key).map(String::as_str).unwrap_or_default();
    let facts = Facts {
        arch: get("arch").to_owned(),
        directory: get("directory").to_owned(),
        free_kib: get("free_kib").parse().unwrap_or(0),
        gpus: get("gpus").parse().unwrap_or(0),
        driver: get("driver").split('.').next().and_then(|major| major.parse().ok()),
        docker: get("docker").split_whitespace().map(str::to_owned).collect(),
        systemd: get("systemd") == "yes",
    };
    Ok((facts, get("seconds").parse().unwrap_or(0), pairs))
}

pub(super) async fn step(site: &mut Site<'_>) -> Done {
    let docker = matches!(site.plan.engine, Engine::Docker { .. });
    let (facts, seconds, pairs) = look(site.shell()?, docker).await?;
    let setup = |sign: String, meaning: &str, remedy: &str| Err(Error::new(Kind::SetUp, sign, meaning, remedy));
    if !pairs.contains_key("curl") {
        return setup("curl".to_owned(), "not installed on the node", "install it: checks between nodes use it");
    }
    let owner = pairs.get("owner").filter(|owner| !owner.is_empty() && **owner != site.plan.owner);
    if owner.is_some() && service::runs(site.shell()?, "router").await? {
        let name = &site.member.node.name;
        return setup(
            "a router of another state folder runs here".to_owned(),
            "its cluster would end",
            &format!("end it there with `gorgo kill`, or let go of it with `gorgo run-on {name} -- rm {OWNER}`"),
        );
    }
    let now = crate::time::Time::real().now_ms() / 1_000;
    if now.abs_diff(seconds) > CLOCK {
        let sign = format!("the node's clock differs by {} s", now.abs_diff(seconds));
        return setup(sign, "timelines and leases would be wrong", "set the clock (`timedatectl set-ntp true`)");
    }
    if let Some(failure) = pairs.get("gpu_failure") {
        return Err(crate::signs::explain(failure, Kind::SetUp, "nvidia-smi failed"));
    }
    if docker {
        if let Some(failure) = pairs.get("docker_failure") {
            return Err(crate::signs::explain(failure, Kind::SetUp, "Docker cannot be used"));
        }
        let wanted = site.member.node.gpus;
        if facts.gpus < wanted.max(1) {
            let sign = format!("nvidia-smi lists {} GPU(s)", facts.gpus);
            return setup(sign, &format!("{} are needed", wanted.max(1)), "reboot the node or launch another");
        }
        let free = facts.free_kib >> 20;
        if free < site.plan.disk_gib {
            let sign = format!("{free} GiB of disk are free");
            let meaning = format!("image and weights need {}", site.plan.disk_gib);
            return setup(sign, &meaning, "free space, or lower --disk-gib if the weights are small");
        }
    }
    let mut note = format!("{}, {} GiB free", facts.arch, facts.free_kib >> 20);
    if let Some(driver) = facts.driver {
        note += &format!(", {} GPU(s), driver {driver}", facts.gpus);
    }
    site.facts = Some(facts);
    Ok((note, false))
}
