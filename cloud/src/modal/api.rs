//! One call of Modal: credentials, deadline, one idempotency key for all attempts, waits that Modal asks for.

use super::ModalConfig;
use super::proto::client::modal_client_client::ModalClientClient;
use super::refusal::{explain, passing, wait};
use super::token::Token;
use crate::error::{Error, Result};
use crate::http::is_loopback;
use crate::time::Time;
use secrecy::ExposeSecret;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status};

/// The client that this program speaks as, and the version that the protocol files were read from.
const CLIENT: (&str, &str) = ("1", "1.6.4");
const RETRIES: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
pub(super) const MESSAGE: usize = 100 << 20;

pub(super) type Client = ModalClientClient<Channel>;
pub(super) type Answer<A> = std::result::Result<Response<A>, Status>;

/// Whether a call may be sent again after an answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It has the same effect once or twice.
    Safe,
    /// Only when it certainly had no effect, and not after this time.
    Refused { until_ms: u64 },
}

impl Repeat {
    fn after_throttling(self, status: &Status) -> bool {
        self == Self::Safe || status.code() == Code::ResourceExhausted
    }

    fn until_ms(self) -> u64 {
        match self {
            Self::Safe => u64::MAX,
            Self::Refused { until_ms } => until_ms,
        }
    }
}

#[derive(Debug)]
pub(super) struct Api {
    channel: Channel,
    id: MetadataValue<Ascii>,
    secret: MetadataValue<Ascii>,
    token: Token,
    throttle_wait: Duration,
    pub(super) time: Time,
}

/// A connection that is opened by its first call and opened again when it is lost.
pub(super) fn channel(url: &str) -> Result<Channel> {
    let wrong = |why: &str| Error::usage(format!("`{url}`"), why.to_owned(), "name Modal's address as https://HOST");
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| wrong("no address"))?;
    let endpoint = endpoint.connect_timeout(Duration::from_secs(20)).keep_alive_while_idle(true);
    let endpoint =
        endpoint.http2_keep_alive_interval(Duration::from_secs(30)).keep_alive_timeout(Duration::from_secs(10));
    let uri = endpoint.uri();
    let endpoint = match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => endpoint
            .tls_config(ClientTlsConfig::new().with_native_roots())
            .map_err(|why| wrong(&format!("no TLS ({why})")))?,
        // Credentials pass in clear, so only to this machine.
        (Some("http"), Some(host)) if is_loopback(host) => endpoint,
        _ => return Err(wrong("neither https nor a loopback address")),
    };
    Ok(endpoint.connect_lazy())
}

/// A header value that no log shows.
pub(super) fn secret(text: &str, what: &str) -> Result<MetadataValue<Ascii>> {
    let wrong = |_| Error::usage(what, "holds characters that cannot be sent", "export it again");
    let mut value: MetadataValue<Ascii> = text.parse().map_err(wrong)?;
    value.set_sensitive(true);
    Ok(value)
}

impl Api {
    pub(super) fn new(config: &ModalConfig) -> Result<Self> {
        Ok(Self {
            channel: channel(&config.service)?,
            id: secret(config.token_id.expose_secret(), "MODAL_TOKEN_ID")?,
            secret: secret(config.token_secret.expose_secret(), "MODAL_TOKEN_SECRET")?,
            token: Token::default(),
            throttle_wait: config.throttle_wait,
            time: config.time.clone(),
        })
    }

    pub(super) fn client(&self) -> Client {
        Client::new(self.channel.clone()).max_decoding_message_size(MESSAGE)
    }

    /// A request with the credentials; the server and the client give it up after `limit`.
    pub(super) fn request<Q>(&self, message: Q, limit: Duration) -> Request<Q> {
        let mut request = Request::new(message);
        request.set_timeout(limit);
        let metadata = request.metadata_mut();
        metadata.insert("x-modal-token-id", self.id.clone());
        metadata.insert("x-modal-token-secret", self.secret.clone());
        metadata.insert("x-modal-client-type", MetadataValue::from_static(CLIENT.0));
        metadata.insert("x-modal-client-version", MetadataValue::from_static(CLIENT.1));
        request
    }

    /// Calls `send` until it answers.
    pub(super) async fn call<Q: Clone, A, F: Future<Output = Answer<A>>>(
        &self,
        name: &'static str,
        message: Q,
        repeat: Repeat,
        send: impl Fn(Client, Request<Q>) -> F,
    ) -> Result<A> {
        self.attempts(name, message, repeat, Duration::from_secs(60), send)
            .await
            .map_err(|status| explain(name, &status))
    }

    /// As [`Api::call`], with the status as it came.
    pub(super) async fn attempts<Q: Clone, A, F: Future<Output = Answer<A>>>(
        &self,
        name: &'static str,
        message: Q,
        repeat: Repeat,
        limit: Duration,
        send: impl Fn(Client, Request<Q>) -> F,
    ) -> std::result::Result<A, Status> {
        let key: MetadataValue<Ascii> = uuid().parse().map_err(|_| Status::internal("no key"))?;
        let (mut retries, mut throttled, mut waited, mut renewed) = (0_u32, 0_u32, Duration::ZERO, false);
        loop {
            let mut request = self.request(message.clone(), limit);
            let metadata = request.metadata_mut();
            metadata.insert("x-idempotency-key", key.clone());
            metadata.insert("x-retry-attempt", retries.into());
            metadata.insert("x-throttle-retry-attempt", throttled.into());
            if name.ends_with("V2") {
                let token = self.token.get(self).await?;
                request.metadata_mut().insert("x-modal-auth-token", token);
            }
            let status = match send(self.client(), request).await {
                Ok(answer) => {
                    warn_once(&answer);
                    return Ok(answer.into_inner());
                }
                Err(status) => status,
            };
            // A token may end on its way: another is asked for, once.
            if name.ends_with("V2") && status.code() == Code::Unauthenticated && !renewed {
                renewed = true;
                self.token.forget().await;
                continue;
            }
            if let Some(asked) = wait(&status).filter(|_| repeat.after_throttling(&status)) {
                let late = self.time.now_ms() + asked.as_millis() as u64 > repeat.until_ms();
                if late || waited + asked > self.throttle_wait {
                    return Err(status);
                }
                waited += asked;
                throttled += 1;
                self.time.sleep(asked).await;
                continue;
            }
            if repeat != Repeat::Safe || !passing(&status) || retries >= RETRIES {
                return Err(status);
            }
            tracing::debug!("{name}: {:?}, attempt {}", status.code(), retries + 2);
            self.time.sleep((FIRST_WAIT * 2_u32.pow(retries)).min(LONGEST_WAIT)).await;
            retries += 1;
        }
    }
}

/// Modal's own warnings (this client is too old, an option goes away), each logged once.
fn warn_once<A>(answer: &Response<A>) {
    static SAID: parking_lot::Mutex<std::collections::BTreeSet<String>> =
        parking_lot::Mutex::new(std::collections::BTreeSet::new());
    let Some(text) = answer.metadata().get("x-modal-warning").and_then(|value| value.to_str().ok()) else { return };
    let mut said = SAID.lock();
    if said.len() < 100 && said.insert(text.to_owned()) {
        tracing::warn!("Modal: {}", unpercent(text));
    }
}

/// Text without its percent encoding.
fn unpercent(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let code = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = &tail[if byte.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A random id in the usual notation of version 4.
pub(super) fn uuid() -> String {
    let mut bytes = crate::provider::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_warnings_have_their_notation() {
        let id = uuid();
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert!("89ab".contains(&id[19..20]));
        assert_eq!(unpercent("a%20b%C3%A9 100%"), "a b\u{e9} 100%");
        assert_eq!(unpercent("%zz%4"), "%zz%4");
    }

    #[tokio::test]
    async fn credentials_pass_in_clear_to_this_machine_alone() {
        for fine in ["https://api.modal.com:443", "http://127.0.0.1:9", "http://[::1]:9", "http://localhost:9"] {
            assert!(channel(fine).is_ok(), "{fine}");
        }
        for wrong in ["http://api.modal.com", "http://127.0.0.1.example.net", "ftp://127.0.0.1", "x"] {
            assert!(channel(wrong).is_err(), "{wrong}");
        }
    }
}
