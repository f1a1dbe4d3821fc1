use super::*;
use serde_json::{Value, json};

fn service(port: Option<ServicePort>) -> KubernetesService {
    let regions = BTreeMap::from([("us-east-1a".to_owned(), "us-east-1".to_owned())]);
    KubernetesService { service: "sglang".to_owned(), port, regions, ..KubernetesService::default() }
}

fn slice(name: &str, kind: &str, endpoints: &Value) -> Value {
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/service-name": "sglang"}}, "addressType": kind,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
}

fn pod(name: &str, uid: &str, address: &str, conditions: &Value) -> Value {
    json!({"addresses": [address], "conditions": conditions, "targetRef": {"kind": "Pod", "name": name, "uid": uid}})
}

fn slices(all: &[Value]) -> Slices {
    let read = |value: &Value| serde_json::from_value::<EndpointSlice>(value.clone()).unwrap();
    all.iter().map(|value| (value["metadata"]["name"].as_str().unwrap().to_owned(), read(value))).collect()
}

/// The endpoints, with those ready before.
fn found(all: &[Value], were_ready: &mut BTreeSet<String>) -> Result<Vec<DiscoveredEndpoint>, String> {
    endpoints(&service(None), None, &slices(all), were_ready)
}

/// Name, URL and whether it drains.
fn shown(all: &[DiscoveredEndpoint]) -> Vec<(&str, &str, bool)> {
    all.iter().map(|one| (one.name.as_str(), one.url.as_str(), one.draining)).collect()
}

#[test]
fn ready_joins_terminating_drains_and_a_pod_that_never_was_ready_is_left_out() {
    let with = |a: &Value, b: &Value| {
        [slice("s", "IPv4", &json!([pod("a", "1", "10.0.0.1", a), pod("b", "2", "10.0.0.2", b)]))]
    };
    let mut were_ready = BTreeSet::new();
    let mut at = |a: Value, b: Value| -> Vec<(String, bool)> {
        let all = found(&with(&a, &b), &mut were_ready).unwrap();
        all.into_iter().map(|one| (one.name, one.draining)).collect()
    };
    let names =
        |all: &[(&str, bool)]| all.iter().map(|(name, drains)| ((*name).to_owned(), *drains)).collect::<Vec<_>>();
    let (ready, unready) = (json!({"ready": true}), json!({"ready": false, "serving": false, "terminating": false}));
    // Absent conditions mean ready; a pod that loads its model has not been ready yet.
    assert_eq!(at(json!({}), unready.clone()), names(&[("a", false)]));
    assert_eq!(at(unready.clone(), ready.clone()), names(&[("a", true), ("b", false)]));
    assert_eq!(at(ready.clone(), unready.clone()), names(&[("a", false), ("b", true)]));
    let terminating = json!({"ready": false, "serving": true, "terminating": true});
    assert_eq!(at(ready.clone(), terminating), names(&[("a", false), ("b", true)]));
    let gone = json!({"ready": false, "serving": false, "terminating": true});
    assert_eq!(at(ready, gone), names(&[("a", false), ("b", true)]));
}

#[test]
fn a_pod_in_several_slices_is_one_replica() {
    let (ready, stale) = (json!({"ready": true}), json!({"ready": false, "terminating": false}));
    let ending = json!({"ready": false, "serving": true, "terminating": true});
    let all = [
        slice("s1", "IPv6", &json!([pod("a", "1", "fd00::1", &ready), pod("b", "2", "fd00::2", &ready)])),
        slice("s2", "IPv4", &json!([pod("a", "1", "10.0.0.1", &stale)])),
        slice("s3", "IPv4", &json!([pod("a", "1", "10.0.0.1", &ready), pod("c", "3", "10.0.0.3", &ready)])),
        slice("s4", "IPv4", &json!([pod("c", "3", "10.0.0.3", &ending)])),
    ];
    let found = found(&all, &mut BTreeSet::new()).unwrap();
    let wanted = [("a", "http://10.0.0.1:8080", false), ("b", "http://[fd00::2]:8080", false)];
    assert_eq!(shown(&found)[..2], wanted);
    assert_eq!(shown(&found)[2], ("c", "http://10.0.0.3:8080", true), "no pod returns from terminating");
}

#[test]
fn of_two_pods_of_one_name_the_one_that_stays_counts() {
    let (ready, ending) = (json!({"ready": true}), json!({"ready": false, "serving": true, "terminating": true}));
    for order in [["s1", "s2"], ["s2", "s1"]] {
        let all = [
            slice(order[0], "IPv4", &json!([pod("sglang-0", "old", "10.0.0.1", &ending)])),
            slice(order[1], "IPv4", &json!([pod("sglang-0", "new", "10.0.0.2", &ready)])),
        ];
        let found = found(&all, &mut BTreeSet::new()).unwrap();
        assert_eq!(shown(&found), [("sglang-0", "http://10.0.0.2:8080", false)], "{order:?}");
        assert_eq!(found[0].uid.as_deref(), Some("new"));
    }
}

#[test]
fn the_region_is_that_of_the_labels_else_of_the_zone() {
    let mut one = slice("s", "IPv4", &json!([pod("a", "1", "10.0.0.1", &json!({}))]));
    let at = |one: &Value, default: Option<&str>| {
        endpoints(&service(None), default, &slices(std::slice::from_ref(one)), &mut BTreeSet::new()).unwrap().remove(0)
    };
    assert_eq!(at(&one, None).region, None);
    assert_eq!(at(&one, Some("eu")).region.as_deref(), Some("eu"));
    one["endpoints"][0]["zone"] = json!("eu-west-3b");
    assert_eq!(at(&one, Some("eu")).region.as_deref(), Some("eu"));
    assert_eq!(at(&one, None).region.as_deref(), Some("eu-west-3b"), "outside every fence that does not name it");
    one["endpoints"][0]["zone"] = json!("us-east-1a");
    assert_eq!(at(&one, Some("eu")).region.as_deref(), Some("us-east-1"));
    assert_eq!(at(&one, None).labels, ["topology.kubernetes.io/zone=us-east-1a"]);
    one["metadata"]["labels"] = json!({"kubernetes.io/service-name": "sglang", "service.kubernetes.io/headless": "",
        "endpointslice.kubernetes.io/managed-by": "controller", "topology.kubernetes.io/region": "ap", "hipaa": "yes",
        "llm-d.ai/model": "llama"});
    let found = at(&one, Some("eu"));
    assert_eq!(found.region.as_deref(), Some("ap"));
    assert_eq!(found.models, ["llama"]);
    let labels = ["hipaa=yes", "llm-d.ai/model=llama", "topology.kubernetes.io/region=ap"];
    assert_eq!(found.labels[..3], labels, "{:?}", found.labels);
    assert_eq!(found.labels.len(), 4, "{:?}", found.labels);
}

#[test]
fn a_port_is_chosen_by_name_or_number_and_a_doubt_is_named() {
    let mut one = slice("s", "IPv4", &json!([pod("a", "1", "10.0.0.1", &json!({}))]));
    one["ports"] = json!([{"name": "metrics", "port": 9090}, {"name": "http", "port": 30000, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let at = |one: &Value, port: Option<ServicePort>| {
        let slices = slices(std::slice::from_ref(one));
        endpoints(&service(port), None, &slices, &mut BTreeSet::new()).map(|mut all| all.remove(0).url)
    };
    let name = |name: &str| Some(ServicePort::Name(name.to_owned()));
    assert_eq!(at(&one, name("http")).unwrap(), "http://10.0.0.1:30000");
    assert_eq!(at(&one, Some(ServicePort::Number(9_090))).unwrap(), "http://10.0.0.1:9090");
    let doubt = at(&one, None).unwrap_err();
    assert_eq!(
        doubt,
        "it has several ports, `dns` (53), `http` (30000), `metrics` (9090); say which by the key `port`"
    );
    assert!(at(&one, name("grpc")).unwrap_err().starts_with("none of its ports is `grpc`; it has `dns` (53)"));
    assert!(at(&one, name("dns")).is_err(), "UDP");
    one["ports"] = json!([]);
    assert_eq!(at(&one, Some(ServicePort::Number(8_000))).unwrap(), "http://10.0.0.1:8000", "every port");
    assert!(at(&one, None).unwrap_err().contains("it has none"));
}

#[test]
fn an_address_is_no_name() {
    let nameless = slice("s", "IPv4", &json!([{"addresses": ["10.0.0.1"]}]));
    let error = found(&[nameless], &mut BTreeSet::new()).unwrap_err();
    assert_eq!(error, "its 1 endpoints have neither a target nor a hostname; use discovery.dns");
    let host = slice("s", "FQDN", &json!([{"addresses": ["gpu.example"], "hostname": "gpu-0"}]));
    assert_eq!(shown(&found(&[host], &mut BTreeSet::new()).unwrap()), [("gpu-0", "http://gpu.example:8080", false)]);
    assert_eq!(found(&[], &mut BTreeSet::new()).unwrap(), []);
    assert_eq!(found(&[slice("s", "IPv4", &json!(null))], &mut BTreeSet::new()).unwrap(), []);
}
