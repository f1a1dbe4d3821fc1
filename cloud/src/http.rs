//! The HTTP client of this crate.

use std::sync::OnceLock;
use std::time::Duration;

/// The client. Reading the system's certificates takes long, so there is one for the program; connections are not kept,
/// for calls are rare and servers come and go.
pub(crate) fn client() -> reqwest::Result<reqwest::Client> {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client.clone());
    }
    // The one crypto provider of the program; another part may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().pool_max_idle_per_host(0).connect_timeout(Duration::from_secs(20));
    Ok(CLIENT
        .get_or_init({
            let client = builder.build()?;
            move || client
        })
        .clone())
}

/// The innermost cause, without the URL.
pub(crate) fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
