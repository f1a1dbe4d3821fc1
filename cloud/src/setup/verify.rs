//! Real completions through the engine, its router and every peer, and calls of the routers' administration.

use super::router::Paths;
use super::{Done, Keys, Site, service};
use crate::error::{Error, Kind, Result};
use crate::shell::{Command, Shell};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A router that just started is ready within this time.
const READY: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(200);
/// Another process on the port may take connections and never answer.
const PROBE: Duration = Duration::from_secs(5);
const CALL: Duration = Duration::from_secs(120);

/// The client for addresses of shells, which are ports of this machine.
pub(super) fn client() -> Result<reqwest::Client> {
    let failed = |why: reqwest::Error| Error::usage("TLS", why.to_string(), "install the system's root certificates");
    crate::http::loopback().map_err(failed)
}

fn failed(sign: String, meaning: &str) -> Error {
    Error::new(Kind::SetUp, sign, meaning, "look at `gorgo cluster logs`, then run set-up again")
}

/// One call of a port of a node.
///
/// # Errors
/// When there is no answer, or one that is no success.
pub async fn call(shell: &dyn Shell, port: u16, key: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    call_within(CALL, shell, port, key, path, body).await
}

async fn call_within(
    limit: Duration,
    shell: &dyn Shell,
    port: u16,
    key: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Value> {
    let url = format!("http://{}{path}", shell.address(port).await?);
    let http = client()?;
    let request = match body {
        Some(body) => http.post(url).json(body),
        None => http.get(url),
    };
    let answer = request.timeout(limit).bearer_auth(key).send().await;
    let answer =
        answer.map_err(|why| failed(format!("port {port}{path}: {}", crate::http::cause(&why)), "no answer"))?;
    let status = answer.status();
    let text = answer.text().await.map_err(|why| failed(crate::http::cause(&why), "the answer broke off"))?;
    if !status.is_success() {
        let said: String = text.chars().take(200).collect();
        let sign = format!("port {port}{path}: HTTP {} {}", status.as_u16(), said.trim());
        return Err(failed(sign, "the node refused the call"));
    }
    Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn prompt(model: &str, words: &str) -> Value {
    json!({"model": model, "prompt": words, "max_tokens": 4, "temperature": 0})
}

/// Cached tokens of a completion, which must hold text.
fn tokens(value: &Value) -> Result<u64> {
    if value["choices"][0]["text"].as_str().is_none_or(str::is_empty) {
        return Err(failed(value.to_string().chars().take(200).collect(), "the completion holds no text"));
    }
    Ok(value["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0))
}

/// A completion through a port of a node; returns the cached tokens of its second run.
///
/// # Errors
/// When one is refused or empty.
pub async fn completion(shell: &dyn Shell, port: u16, keys: &Keys, model: &str) -> Result<u64> {
    // Long enough for a page of any engine's cache, and new to all of them.
    let words = format!("{} {}", crate::provider::nonce(), "the quick brown fox jumps over the lazy dog ".repeat(40));
    let body = prompt(model, &words);
    tokens(&call(shell, port, &keys.api, "/v1/completions", Some(&body)).await?)?;
    tokens(&call(shell, port, &keys.api, "/v1/completions", Some(&body)).await?)
}

/// Waits until a router, which runs as the service `name`, is ready.
///
/// # Errors
/// When it has ended, or is not ready in 90 s.
pub async fn router(shell: &dyn Shell, name: &str, port: u16, keys: &Keys) -> Result<()> {
    let until = Instant::now() + READY;
    loop {
        match call_within(PROBE, shell, port, &keys.admin, "/ready", None).await {
            Ok(_) => return Ok(()),
            Err(_) if !service::runs(shell, name).await? => {
                let log = service::log(shell, name, 10).await?;
                let last = log.lines().last().unwrap_or("no log").to_owned();
                return Err(crate::signs::known(&log).unwrap_or_else(|| failed(last, "the router ended")));
            }
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

pub(super) async fn step(site: &mut Site<'_>, paths: &Paths) -> Done {
    let (shell, node, keys) = (site.shell()?, &site.member.node, &site.plan.keys);
    let model = served(shell, node.ports.engine, keys).await?;
    let cached = completion(shell, node.ports.engine, keys, &model).await?;
    router(shell, "router", node.ports.router, keys).await?;
    completion(shell, node.ports.router, keys, &model).await?;
    let mut peers = 0;
    for ((_, to), url) in paths.iter().filter(|((from, _), _)| *from == node.name) {
        site.tell(format!("completion through {to}"));
        through_peer(site, to, url, &model).await?;
        peers += 1;
    }
    Ok((format!("engine, router and {peers} peer(s) answer; {cached} tokens cached"), false))
}

/// The name under which the engine serves its model.
async fn served(shell: &dyn Shell, port: u16, keys: &Keys) -> Result<String> {
    let models = call(shell, port, &keys.api, "/v1/models", None).await?;
    let name = models["data"][0]["id"].as_str().map(str::to_owned);
    name.ok_or_else(|| failed(models.to_string().chars().take(200).collect(), "the engine lists no model"))
}

/// A completion that the node itself sends to a peer's router, as a forwarded request goes.
async fn through_peer(site: &Site<'_>, to: &str, url: &str, model: &str) -> Result<()> {
    let body = prompt(model, &format!("{} hello", crate::provider::nonce())).to_string();
    let quoted = body.replace('\\', "\\\\").replace('"', "\\\"");
    let config = format!(
        "url = \"{url}/v1/completions\"\nheader = \"Authorization: Bearer {}\"\nheader = \"Content-Type: application/json\"\ndata = \"{quoted}\"\n",
        site.plan.keys.api
    );
    let words = ["curl", "-sS", "-m", "60", "--noproxy", "*", "--config", "-"];
    let until = Instant::now() + READY;
    loop {
        let output = site.shell()?.run(&Command::new(&words).stdin(config.clone())).await?;
        let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        match tokens(&value) {
            Ok(_) if output.code == 0 => return Ok(()),
            _ if Instant::now() > until => {
                let meaning = format!("{} does not reach the router of {to} at {url}", site.member.node.name);
                let remedy = "check firewall and peers' addresses between the nodes";
                return Err(Error::new(Kind::SetUp, output.last_line(), meaning, remedy));
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}
