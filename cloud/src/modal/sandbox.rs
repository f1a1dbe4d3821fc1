//! Sandboxes: their creation request, their listing, and their final status.

use super::api::{Api, Repeat};
use super::offers;
use super::proto::client::{
    GenericResult, GpuConfig, NetworkAccess, PortSpec, PortSpecs, Resources, Sandbox, SandboxGetTunnelsRequest,
    SandboxInfo, SandboxListRequest, SandboxTag, SchedulerPlacement, TunnelData, VolumeMount,
    generic_result::GenericStatus, network_access::NetworkAccessType,
};
use super::refusal::explain;
use crate::error::Result;
use crate::provider::{Node, Ports, Spec, Status};
use crate::setup::engine::MODELS;
use std::time::Duration;

/// The login directory of all sandboxes.
pub(super) const HOME: &str = "/root";
/// A list has no more pages than this.
const PAGES: usize = 1_000;
/// Memory beside a GPU, MiB: weights pass through it.
const MEMORY: u32 = 32 << 10;

const MARK: &str = "-gorgo-";
const KEY: &str = "gorgo-key";
const RUN: &str = "gorgo-run";
const NAME: &str = "gorgo-name";
const TYPE: &str = "gorgo-type";
const REGION: &str = "gorgo-region";
const CENTS: &str = "gorgo-cents";
const PORTS: &str = "gorgo-ports";

/// A sandbox's name: unique among those that run, so that a second of one launch cannot be.
pub(super) fn name(name: &str, key: &str) -> String {
    format!("{name}{MARK}{key}")
}

pub(super) fn tags(spec: &Spec, key: &str, cents: Option<u64>) -> Vec<SandboxTag> {
    let tag = |name: &str, value: String| SandboxTag { tag_name: name.to_owned(), tag_value: value };
    vec![
        tag(KEY, key.to_owned()),
        tag(RUN, spec.run.clone()),
        tag(NAME, spec.name.clone()),
        tag(TYPE, spec.machine.clone()),
        tag(REGION, spec.region.clone()),
        tag(CENTS, cents.map(|cents| cents.to_string()).unwrap_or_default()),
        tag(PORTS, spec.ports.to_string()),
    ]
}

/// The sandbox that a launch asks for. The engine's port stays inside.
///
/// # Errors
/// When there is no such type.
pub(super) fn definition(
    spec: &Spec,
    key: &str,
    image: String,
    seconds: u32,
    volume: Option<String>,
) -> Result<Sandbox> {
    let gpu = offers::gpu(&spec.machine)?;
    let port = |port: u16| PortSpec { port: port.into(), unencrypted: false };
    let region = Some(spec.region.clone()).filter(|region| region != "any");
    let mount = |volume_id| VolumeMount { volume_id, mount_path: MODELS.to_owned(), allow_background_commits: true };
    Ok(Sandbox {
        entrypoint_args: ["sleep", "infinity"].map(str::to_owned).to_vec(),
        image_id: image,
        resources: Some(Resources {
            memory_mb: if gpu.is_some() { MEMORY } else { 2_048 },
            milli_cpu: if gpu.is_some() { 4_000 } else { 1_000 },
            gpu_config: gpu.map(|(gpu_type, count)| GpuConfig { count, gpu_type }),
        }),
        timeout_secs: seconds,
        workdir: Some(HOME.to_owned()),
        volume_mounts: volume.into_iter().map(mount).collect(),
        scheduler_placement: region.map(|region| SchedulerPlacement { regions: vec![region] }),
        open_ports: Some(PortSpecs { ports: vec![port(spec.ports.router), port(spec.ports.proxy)] }),
        network_access: Some(NetworkAccess { network_access_type: NetworkAccessType::Open.into() }),
        name: Some(name(&spec.name, key)),
    })
}

/// All sandboxes of the app that run or wait.
pub(super) async fn list(api: &Api, app: &str, environment: &str) -> Result<Vec<SandboxInfo>> {
    let mut all: Vec<SandboxInfo> = Vec::new();
    let mut before = 0.0;
    for _ in 0..PAGES {
        let message = SandboxListRequest {
            app_id: app.to_owned(),
            before_timestamp: before,
            environment_name: environment.to_owned(),
            include_finished: false,
        };
        let page = api
            .call("SandboxListV2", message, Repeat::Safe, async |mut client, request| {
                client.sandbox_list_v2(request).await
            })
            .await?
            .sandboxes;
        let Some(last) = page.last() else { break };
        before = last.created_at;
        all.extend(page);
    }
    Ok(all)
}

/// The tunnels of a sandbox; none while they are not there yet.
pub(super) async fn tunnels(api: &Api, id: &str) -> Result<Vec<TunnelData>> {
    let message = SandboxGetTunnelsRequest { sandbox_id: id.to_owned(), timeout: 2.0 };
    let got = api
        .attempts("SandboxGetTunnels", message, Repeat::Safe, Duration::from_secs(20), async |mut client, request| {
            client.sandbox_get_tunnels(request).await
        })
        .await;
    Ok(got.map_err(|status| explain("SandboxGetTunnels", &status))?.tunnels)
}

/// Host and port of a tunnel; the usual port is left out.
pub(super) fn address(tunnel: &TunnelData) -> String {
    if tunnel.port == 443 { tunnel.host.clone() } else { format!("{}:{}", tunnel.host, tunnel.port) }
}

/// A sandbox as a machine.
pub(super) fn node(info: SandboxInfo, tunnels: &[TunnelData]) -> Node {
    let tag = |name: &str| info.tags.iter().find(|tag| tag.tag_name == name).map(|tag| tag.tag_value.clone());
    let split = info.name.rsplit_once(MARK);
    let key = tag(KEY).or_else(|| split.map(|(_, key)| key.to_owned()));
    let named = tag(NAME).or_else(|| split.map(|(name, _)| name.to_owned()));
    let task = info.task_info.clone().unwrap_or_default();
    let ended = task.finished_at > 0.0 || task.result.as_ref().is_some_and(|result| end(result).is_some());
    let status = match (ended, task.started_at > 0.0) {
        (true, _) => Status::Gone,
        (false, true) => Status::Ready,
        (false, false) => Status::Booting,
    };
    let machine = tag(TYPE).unwrap_or_else(|| "sandbox".to_owned());
    let ports: Ports = tag(PORTS).and_then(|text| text.parse().ok()).unwrap_or_default();
    let entry = tunnels.iter().find(|tunnel| tunnel.container_port == u32::from(ports.router));
    Node {
        name: named.filter(|name| !name.is_empty()).unwrap_or_else(|| info.id.clone()),
        key,
        run: tag(RUN),
        gpus: offers::gpu(&machine).ok().flatten().map_or(0, |(_, count)| count),
        machine,
        region: tag(REGION).unwrap_or_default(),
        status,
        address: entry.map(address),
        cents_per_hour: tag(CENTS).and_then(|cents| cents.parse().ok()),
        ports,
        id: info.id,
    }
}

/// Why a sandbox ended; nothing while it runs.
pub(super) fn end(result: &GenericResult) -> Option<String> {
    let meaning = match GenericStatus::try_from(result.status) {
        Ok(GenericStatus::Unspecified) => return None,
        Ok(GenericStatus::Success) => "its command ended".to_owned(),
        Ok(GenericStatus::Terminated) => "it was terminated".to_owned(),
        Ok(GenericStatus::Timeout) => "its lease ended".to_owned(),
        Ok(GenericStatus::InitFailure) => "it did not start".to_owned(),
        Ok(GenericStatus::KernelOomKill) => "it had too little memory".to_owned(),
        Ok(other) => format!("{other:?}"),
        Err(_) => format!("status {}", result.status),
    };
    Some(if result.exception.is_empty() { meaning } else { format!("{meaning} ({})", result.exception) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modal::proto::client::TaskInfo;

    fn spec() -> Spec {
        Spec {
            run: "r".to_owned(),
            name: "n".repeat(40),
            machine: "gpu_2x_h100".to_owned(),
            region: "us-west".to_owned(),
            filesystem: None,
            image: None,
            ports: Ports { engine: 1, router: 2, proxy: 3 },
            expires_ms: 0,
        }
    }

    #[test]
    fn what_is_asked_for_is_what_is_listed() {
        let (spec, key) = (spec(), "0123456789abcdef");
        let asked = definition(&spec, key, "im".to_owned(), 60, None).unwrap();
        assert!(asked.name.as_ref().unwrap().len() <= 64);
        let ports: Vec<u32> = asked.open_ports.unwrap().ports.iter().map(|port| port.port).collect();
        assert_eq!(ports, [2, 3], "the engine's port has no tunnel");
        let info = SandboxInfo {
            id: "sb-1".to_owned(),
            name: name(&spec.name, key),
            tags: tags(&spec, key, Some(1_382)),
            task_info: Some(TaskInfo { started_at: 1.0, ..TaskInfo::default() }),
            created_at: 1.0,
        };
        let tunnel = TunnelData { host: "x.modal.host".to_owned(), port: 443, container_port: 2 };
        let node = node(info, &[tunnel]);
        assert_eq!((node.name.as_str(), node.key.as_deref()), (spec.name.as_str(), Some(key)));
        assert_eq!((node.gpus, node.cents_per_hour, node.status), (2, Some(1_382), Status::Ready));
        assert_eq!((node.address.as_deref(), node.ports), (Some("x.modal.host"), spec.ports));
        assert_eq!(node.region, "us-west");
    }

    #[test]
    fn an_unknown_end_is_an_end() {
        let result = |status| GenericResult { status, ..GenericResult::default() };
        assert_eq!(end(&result(0)), None);
        assert_eq!(end(&result(99)).as_deref(), Some("status 99"));
        assert_eq!(end(&result(4)).as_deref(), Some("its lease ended"));
    }
}
