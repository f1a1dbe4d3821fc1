//! Reads EndpointSlices: the replicas of a Service, each once.

use crate::config::{KubernetesService, ServicePort};
use crate::discovery::DiscoveredEndpoint;
use crate::discovery::file::{MODEL_LABELS, REGION_LABELS, labels};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Slices of a Service by their names.
pub(super) type Slices = BTreeMap<String, EndpointSlice>;

/// Label that Kubernetes' own page of well-known labels gives the zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// One mention of a pod in a slice.
struct Mention {
    endpoint: DiscoveredEndpoint,
    ready: bool,
    /// Rank of the address: IPv4, IPv6, names.
    rank: u8,
}

/// The replicas that slices list, by name. `were_ready` holds the identity of every endpoint that was ready once: such
/// an endpoint that is no longer ready is drained, one that never was is left out. A terminating endpoint is drained.
///
/// An endpoint may stand in several slices: while the controller moves it, and once for each family of addresses. It
/// terminates if one slice says so, since no pod returns from that; else it is ready if one slice says so.
///
/// # Errors
/// No slice has the port, or no endpoint has a name.
pub(super) fn endpoints(
    service: &KubernetesService,
    region: Option<&str>,
    slices: &Slices,
    were_ready: &mut BTreeSet<String>,
) -> Result<Vec<DiscoveredEndpoint>, String> {
    let (mut found, mut nameless, mut with_port) = (BTreeMap::<String, Mention>::new(), 0, 0);
    for slice in slices.values() {
        let Some(port) = port(service, slice)? else { continue };
        with_port += 1;
        for endpoint in &slice.endpoints {
            match mention(service, region, slice, endpoint, port) {
                Some(new) => add(&mut found, new),
                None => nameless += 1,
            }
        }
    }
    if with_port == 0 && !slices.is_empty() {
        return Err(format!("none of its ports is {}; it has {}", wanted(service), ports(slices)));
    }
    if found.is_empty() && nameless > 0 {
        return Err(format!("its {nameless} endpoints have neither a target nor a hostname; use discovery.dns"));
    }
    let identity = |of: &DiscoveredEndpoint| of.uid.clone().unwrap_or_else(|| of.name.clone());
    were_ready.retain(|known| found.values().any(|one| identity(&one.endpoint) == *known));
    let mut all = Vec::with_capacity(found.len());
    for Mention { mut endpoint, ready, .. } in found.into_values() {
        let identity = identity(&endpoint);
        if ready {
            were_ready.insert(identity);
        } else if were_ready.contains(&identity) {
            endpoint.draining = true;
        } else if !endpoint.draining {
            continue;
        }
        all.push(endpoint);
    }
    Ok(all)
}

/// Adds a mention to those of the same name.
fn add(found: &mut BTreeMap<String, Mention>, new: Mention) {
    let Some(old) = found.get_mut(&new.endpoint.name) else {
        found.insert(new.endpoint.name.clone(), new);
        return;
    };
    if old.endpoint.uid == new.endpoint.uid {
        let draining = old.endpoint.draining || new.endpoint.draining;
        let ready = old.ready || new.ready;
        if new.rank < old.rank {
            *old = new;
        }
        (old.endpoint.draining, old.ready) = (draining, ready && !draining);
    } else {
        // A pod and the one before it, as a StatefulSet names them: the new one does not terminate.
        let last = |one: &Mention| (!one.endpoint.draining, one.ready, Reverse(one.endpoint.uid.clone()));
        if last(&new) > last(old) {
            *old = new;
        }
    }
}

/// What a slice says of one endpoint; nothing if only its address could name it.
fn mention(
    service: &KubernetesService,
    region: Option<&str>,
    slice: &EndpointSlice,
    endpoint: &Endpoint,
    port: u16,
) -> Option<Mention> {
    let target = endpoint.target_ref.as_ref();
    let name = target.and_then(|target| target.name.clone()).or_else(|| endpoint.hostname.clone())?;
    // Kubernetes gives no meaning to further addresses.
    let address = endpoint.addresses.first()?;
    let url =
        if address.contains(':') { format!("http://[{address}]:{port}") } else { format!("http://{address}:{port}") };
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let terminating = conditions.terminating.unwrap_or(false);
    let no_labels = BTreeMap::new();
    let mut tags: BTreeMap<String, String> = slice.metadata.labels.as_ref().unwrap_or(&no_labels).clone();
    // The bookkeeping of Kubernetes.
    tags.retain(|key, _| !key.starts_with("endpointslice.kubernetes.io/") && !key.contains("kubernetes.io/service"));
    tags.retain(|key, _| !key.starts_with("service.kubernetes.io/"));
    if let Some(zone) = &endpoint.zone {
        tags.insert(ZONE_LABEL.to_owned(), zone.clone());
    }
    let label = |keys: &[&str]| keys.iter().find_map(|key| tags.get(*key)).cloned();
    let zone = endpoint.zone.as_ref();
    let region = label(&REGION_LABELS)
        .or_else(|| zone.and_then(|zone| service.regions.get(zone)).cloned())
        .or_else(|| region.map(str::to_owned))
        .or_else(|| zone.cloned());
    let endpoint = DiscoveredEndpoint {
        uid: target.and_then(|target| target.uid.clone()),
        region,
        labels: labels(&tags),
        models: label(&MODEL_LABELS).into_iter().collect(),
        draining: terminating,
        ..DiscoveredEndpoint::new(&name, &url)
    };
    let rank = match slice.address_type.as_str() {
        "IPv4" => 0,
        "IPv6" => 1,
        _ => 2,
    };
    // "A nil value should be interpreted as true."
    Some(Mention { endpoint, ready: conditions.ready.unwrap_or(true) && !terminating, rank })
}

/// The port of a slice that replicas listen on.
///
/// # Errors
/// The configuration names none, and the slice has several.
fn port(service: &KubernetesService, slice: &EndpointSlice) -> Result<Option<u16>, String> {
    let all = slice.ports.as_deref().unwrap_or_default();
    let usable = |port: Option<i32>| port.and_then(|port| u16::try_from(port).ok()).filter(|&port| port > 0);
    let mut tcp = all.iter().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    Ok(match &service.port {
        // A slice without ports stands for all of them.
        Some(ServicePort::Number(number)) if all.is_empty() => Some(*number),
        Some(ServicePort::Number(number)) => tcp.find_map(|port| usable(port.port).filter(|port| port == number)),
        Some(ServicePort::Name(name)) => {
            tcp.find(|port| port.name.as_deref().unwrap_or_default() == name).and_then(|port| usable(port.port))
        }
        None => {
            let first = tcp.next().and_then(|port| usable(port.port));
            if tcp.next().is_some() {
                let slices = BTreeMap::from([(String::new(), slice.clone())]);
                return Err(format!("it has several ports, {}; say which by the key `port`", ports(&slices)));
            }
            first
        }
    })
}

fn wanted(service: &KubernetesService) -> String {
    match &service.port {
        Some(ServicePort::Number(number)) => number.to_string(),
        Some(ServicePort::Name(name)) => format!("`{name}`"),
        None => "a TCP port".to_owned(),
    }
}

/// The ports of slices for a message, at most eight.
fn ports(slices: &Slices) -> String {
    let all = slices.values().flat_map(|slice| slice.ports.as_deref().unwrap_or_default());
    let shown = |port: &k8s_openapi::api::discovery::v1::EndpointPort| {
        let number = port.port.map_or_else(|| "any".to_owned(), |port| port.to_string());
        port.name.as_ref().filter(|name| !name.is_empty()).map_or(number.clone(), |name| format!("`{name}` ({number})"))
    };
    let all: BTreeSet<String> = all.map(shown).collect();
    if all.is_empty() { "none".to_owned() } else { all.into_iter().take(8).collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests;
