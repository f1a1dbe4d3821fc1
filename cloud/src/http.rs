//! The HTTP clients of this crate.

use std::sync::OnceLock;
use std::time::Duration;

/// The client for the Internet. Reading the system's certificates takes long, so there is one for the program; connections
/// are not kept, for calls are rare and servers come and go.
pub(crate) fn client() -> reqwest::Result<reqwest::Client> {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    once(&CLIENT, |builder| builder)
}

/// The client for ports of this machine. No proxy of the environment gets these calls: their keys open the routers.
pub(crate) fn loopback() -> reqwest::Result<reqwest::Client> {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    once(&CLIENT, reqwest::ClientBuilder::no_proxy)
}

/// Whether `host` of a URL is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn once(
    client: &OnceLock<reqwest::Client>,
    with: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> reqwest::Result<reqwest::Client> {
    if let Some(client) = client.get() {
        return Ok(client.clone());
    }
    // The one crypto provider of the program; another part may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().pool_max_idle_per_host(0).connect_timeout(Duration::from_secs(20));
    let made = with(builder).build()?;
    Ok(client.get_or_init(|| made).clone())
}

/// The innermost cause, without the URL.
pub(crate) fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
