//! The edge router beside each engine, and the central router on one node.

use super::facts::OWNER;
use super::service::{self, Service};
use super::{Done, Plan, Site};
use crate::error::{Error, Kind, Result};
use crate::provider::Node;
use crate::shell::Shell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use toml::{Table, Value};

const FILE: &str = ".gorgo/router.toml";
const ENVIRONMENT: &str = ".gorgo/router.env";
/// A central router reaches its engines within this time.
const REACHED: Duration = Duration::from_secs(60);
const GATE_FILE: &str = ".gorgo/gate.toml";
const PROXY_FILE: &str = ".gorgo/proxy.toml";

/// URL at which the first node reaches the second one's router.
pub(super) type Paths = BTreeMap<(String, String), String>;

/// Opens every router to all others, one after the other: firewall rules are read, extended and written back.
pub(super) async fn open_all(sites: &mut [Site<'_>]) -> Paths {
    let nodes: Vec<Node> = sites.iter().filter(|site| site.fine()).map(|site| site.member.node.clone()).collect();
    let mut paths = Paths::new();
    for site in sites.iter_mut().filter(|site| site.fine()) {
        let began = Instant::now();
        let node = &site.member.node;
        let peers: Vec<Node> = nodes.iter().filter(|other| other.id != node.id).cloned().collect();
        match site.provider.open(node, node.ports.router, &peers).await {
            Ok(urls) => {
                paths.extend(peers.iter().zip(urls).map(|(peer, url)| ((peer.name.clone(), node.name.clone()), url)));
            }
            Err(error) => site.note("ports", began, Err(error)),
        }
    }
    paths
}

fn row(url: &str, name: &str, region: Option<&str>) -> Value {
    let mut row = Table::new();
    row.insert("url".to_owned(), url.into());
    row.insert("name".to_owned(), name.into());
    if let Some(region) = region {
        row.insert("region".to_owned(), region.into());
    }
    Value::Table(row)
}

/// The router's file on this node.
fn file(plan: &Plan, node: &Node, loopback: bool, paths: &Paths) -> Table {
    let mut table = plan.router.clone();
    let listen = if loopback { "127.0.0.1" } else { "0.0.0.0" };
    table.insert("role".to_owned(), "edge".into());
    table.insert("name".to_owned(), node.name.clone().into());
    table.insert("listen".to_owned(), format!("{listen}:{}", node.ports.router).into());
    let engine = format!("http://127.0.0.1:{}", node.ports.engine);
    let name = format!("{}-engine", node.name);
    let mut own = row(&engine, &name, Some(&node.region));
    if let (Some(rate), Some(own)) = (plan.rates.get(&node.name), own.as_table_mut()) {
        own.insert("ms_per_token".to_owned(), (*rate).into());
    }
    table.insert("replicas".to_owned(), Value::Array(vec![own]));
    let peers = paths.iter().filter(|((from, _), _)| *from == node.name);
    let peers: Vec<Value> = peers.map(|((_, to), url)| row(url, to, None)).collect();
    table.insert("peers".to_owned(), Value::Array(peers));
    table
}

pub(super) async fn step(site: &mut Site<'_>, paths: &Paths) -> Done {
    let node = &site.member.node;
    let table = file(site.plan, node, site.provider.capabilities().loopback, paths);
    if !site.plan.owner.is_empty() {
        site.shell()?.put(OWNER, 0o600, site.plan.owner.as_bytes()).await?;
    }
    let changed = start(site.shell()?, site, "router", "lb", FILE, &table).await?;
    Ok((
        format!("port {}, {} peer(s)", node.ports.router, paths.keys().filter(|(from, _)| *from == node.name).count()),
        changed,
    ))
}

async fn start(
    shell: &dyn Shell,
    site: &Site<'_>,
    name: &'static str,
    word: &str,
    file: &str,
    table: &Table,
) -> Result<bool> {
    let wrong = |why: toml::ser::Error| Error::usage("router settings", why.to_string(), "correct the router's file");
    let text = toml::to_string(table).map_err(wrong)?;
    let keys = &site.plan.keys;
    let environment = format!("GORGO_API_KEY={}\nGORGO_ADMIN_KEY={}\n", keys.api, keys.admin);
    shell.put(file, 0o600, text.as_bytes()).await?;
    shell.put(ENVIRONMENT, 0o600, environment.as_bytes()).await?;
    let directory = &site.facts().directory;
    let argv = [&site.binary, word, "start", "--config", &format!("{directory}/{file}"), "--pid-file"];
    let mut argv: Vec<String> = argv.map(str::to_owned).to_vec();
    argv.push(format!("{directory}/.gorgo/{name}.pid"));
    let inputs = crate::digest::of(format!("{text}\0{environment}").as_bytes());
    let service = Service { name, argv, environment: Some(ENVIRONMENT.to_owned()), inputs };
    service::ensure(shell, &service, site.facts().systemd).await
}

/// An engine as the central router reaches it.
#[derive(Debug, Clone)]
pub struct Reached {
    /// URL.
    pub url: String,
    /// Name in records.
    pub name: String,
    /// Region.
    pub region: String,
    /// Whether a gate stands before it, which asks for the clients' key.
    pub gated: bool,
    /// Its prefill rate that the router is configured with, ms per token.
    pub ms_per_token: Option<f64>,
}

/// Starts a gate on a member: a router with one engine on the port of central routers, which asks for the clients' key.
/// The engine itself stays on loopback.
///
/// # Errors
/// When it cannot be started.
pub async fn gate(
    provider: &dyn crate::Provider,
    member: &super::Member,
    plan: &Plan,
    show: &(dyn Fn(&super::Progress) + Sync),
) -> Result<bool> {
    let mut sites = super::sites(provider, std::slice::from_ref(member), plan, show);
    let site = &mut sites[0];
    super::facts::step(site).await?;
    super::binary::step(site).await?;
    let node = &member.node;
    let mut table = Table::new();
    table.insert("role".to_owned(), "proxy".into());
    table.insert("policy".to_owned(), "round-robin".into());
    table.insert("name".to_owned(), format!("{}-gate", node.name).into());
    table.insert("listen".to_owned(), format!("0.0.0.0:{}", node.ports.proxy).into());
    let engine = format!("http://127.0.0.1:{}", node.ports.engine);
    let engine = row(&engine, &format!("{}-engine", node.name), Some(&node.region));
    table.insert("replicas".to_owned(), Value::Array(vec![engine]));
    // A central router of before has the same port.
    service::stop(site.shell()?, "proxy").await?;
    let changed = start(site.shell()?, site, "gate", "proxy", GATE_FILE, &table).await?;
    super::verify::router(site.shell()?, "gate", node.ports.proxy, &plan.keys).await?;
    Ok(changed)
}

/// Ends a central router, or a gate before its engine, on this node; one that does not run is no error.
///
/// # Errors
/// When the node cannot be reached.
pub async fn withdraw(shell: &dyn Shell) -> Result<()> {
    service::stop(shell, "proxy").await?;
    service::stop(shell, "gate").await
}

/// Whether a central router runs on a member.
///
/// # Errors
/// When the member cannot be reached.
pub async fn proxy_runs(member: &super::Member) -> Result<bool> {
    service::runs(member.shell()?, "proxy").await
}

/// Waits until the central router has a round trip to every engine.
async fn reached(shell: &dyn Shell, port: u16, plan: &Plan, engines: &[Reached]) -> Result<()> {
    let until = Instant::now() + REACHED;
    loop {
        let state = super::verify::call(shell, port, &plan.keys.admin, "/proxy/latency", None).await?;
        let is_lost = |engine: &&Reached| {
            let row = &state[&engine.name];
            row["healthy"] != true || !row["age_ms"].is_number()
        };
        let lost: Vec<&str> = engines.iter().filter(is_lost).map(|engine| engine.name.as_str()).collect();
        if lost.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            let meaning = "the central router does not reach these engines";
            let remedy = "check firewall and addresses between the nodes, then deploy again";
            return Err(Error::new(Kind::SetUp, lost.join(", "), meaning, remedy));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Starts the central router on a member and `port`, before these engines.
///
/// # Errors
/// When it cannot be started.
pub async fn deploy_proxy(
    provider: &dyn crate::Provider,
    member: &super::Member,
    plan: &Plan,
    port: u16,
    engines: &[Reached],
    show: &(dyn Fn(&super::Progress) + Sync),
) -> Result<bool> {
    let members = std::slice::from_ref(member);
    let mut sites = super::sites(provider, members, plan, show);
    let site = &mut sites[0];
    super::facts::step(site).await?;
    super::binary::step(site).await?;
    let node = &member.node;
    let mut table = plan.router.clone();
    let listen = if provider.capabilities().loopback { "127.0.0.1" } else { "0.0.0.0" };
    table.insert("role".to_owned(), "proxy".into());
    table.insert("name".to_owned(), format!("{}-proxy", node.name).into());
    table.insert("listen".to_owned(), format!("{listen}:{port}").into());
    let replica = |engine: &Reached| {
        let mut row = row(&engine.url, &engine.name, Some(&engine.region));
        if let Some(table) = row.as_table_mut() {
            table.extend(engine.ms_per_token.map(|rate| ("ms_per_token".to_owned(), rate.into())));
            table.extend(engine.gated.then(|| ("api_key".to_owned(), plan.keys.api.clone().into())));
        }
        row
    };
    table.insert("replicas".to_owned(), Value::Array(engines.iter().map(replica).collect()));
    if engines.iter().any(|engine| engine.gated) {
        // A gate has no metrics of its engine.
        let probes = table.entry("probes").or_insert_with(|| Value::Table(Table::new()));
        if let Some(probes) = probes.as_table_mut() {
            probes.insert("scrape_ms".to_owned(), 0.into());
        }
        service::stop(site.shell()?, "gate").await?;
    }
    let changed = start(site.shell()?, site, "proxy", "proxy", PROXY_FILE, &table).await?;
    super::verify::router(site.shell()?, "proxy", port, &plan.keys).await?;
    reached(site.shell()?, port, plan, engines).await?;
    let log = || async { service::log(site.shell()?, "proxy", 5).await };
    match super::verify::completion(site.shell()?, port, &plan.keys, &plan.model).await {
        Ok(_) => Ok(changed),
        Err(error) => {
            Err(Error::new(Kind::SetUp, error.sign, error.meaning, format!("{}: {}", error.remedy, log().await?)))
        }
    }
}
