//! The short-lived token of the V2 calls, renewed before it ends.

use super::api::{Api, secret};
use super::proto::client::AuthTokenGetRequest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::time::Duration;
use tokio::sync::Mutex;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Status};

const ATTEMPT: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A token whose end cannot be read is renewed after so long.
const UNREAD: Duration = Duration::from_secs(10 * 60);
/// Share of the remaining life after which a token is renewed.
const SHARE: f64 = 0.55;

#[derive(Debug, Default)]
pub(super) struct Token {
    // Held while it is renewed: one request at a time.
    held: Mutex<Option<Held>>,
}

#[derive(Debug)]
struct Held {
    value: MetadataValue<Ascii>,
    renew_ms: u64,
    ends_ms: u64,
    failures: u32,
}

impl Token {
    /// Lets go of a token that was refused.
    pub(super) async fn forget(&self) {
        *self.held.lock().await = None;
    }

    /// A token that lives.
    pub(super) async fn get(&self, api: &Api) -> Result<MetadataValue<Ascii>, Status> {
        let mut held = self.held.lock().await;
        let now_ms = api.time.now_ms();
        if let Some(held) = held.as_ref().filter(|held| now_ms < held.renew_ms && now_ms < held.ends_ms) {
            return Ok(held.value.clone());
        }
        match renewed(api).await {
            Ok(new) => Ok(held.insert(new).value.clone()),
            Err(status) => match held.as_mut() {
                // The old one lives on; the next renewal waits a little.
                Some(old) if api.time.now_ms() < old.ends_ms && !is_final(&status) => {
                    let pause = (FIRST_WAIT * 2_u32.pow(old.failures.min(7))).min(LONGEST_WAIT);
                    old.failures += 1;
                    old.renew_ms = api.time.now_ms() + pause.as_millis() as u64;
                    Ok(old.value.clone())
                }
                _ => Err(status),
            },
        }
    }
}

fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
}

async fn renewed(api: &Api) -> Result<Held, Status> {
    let mut attempt = 0;
    let text = loop {
        match api.client().auth_token_get(api.request(AuthTokenGetRequest {}, ATTEMPT)).await {
            Ok(answer) => break answer.into_inner().token,
            Err(status) => {
                attempt += 1;
                if is_final(&status) || attempt >= ATTEMPTS {
                    return Err(status);
                }
                api.time.sleep(FIRST_WAIT).await;
            }
        }
    };
    let now_ms = api.time.now_ms();
    let life_ms = end_ms(&text).map(|end| end.saturating_sub(now_ms));
    let life_ms = life_ms.unwrap_or(UNREAD.as_millis() as u64);
    let value = secret(&text, "Modal's token").map_err(|why| Status::internal(why.to_string()))?;
    Ok(Held { value, renew_ms: now_ms + (life_ms as f64 * SHARE) as u64, ends_ms: now_ms + life_ms, failures: 0 })
}

/// When a JWT ends, milliseconds since 1970. Its signature is the server's concern.
fn end_ms(token: &str) -> Option<u64> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let end = serde_json::from_slice::<serde_json::Value>(&claims).ok()?["exp"].as_f64()?;
    (end > 0.0 && end < 1e11).then_some((end * 1e3) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_token_is_read_and_nonsense_is_not() {
        let token = |claims: &str| format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(end_ms(&token(r#"{"exp": 1795852306}"#)), Some(1_795_852_306_000));
        for wrong in [token("{}"), token(r#"{"exp": "soon"}"#), token(r#"{"exp": 1e300}"#), "x".into(), "a.!.c".into()]
        {
            assert_eq!(end_ms(&wrong), None, "{wrong}");
        }
    }
}
