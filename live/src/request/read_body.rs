//! Taking a request in: which paths are served, and the body, bounded in size, time and sum.

use crate::config::Config;
use crate::request::body::Body;
use crate::request::errors::refusal;
use crate::state::AppState;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http::{Response, StatusCode};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};

/// Whether a path's bodies hold a prompt; `None` for paths that are not served. Engines' own admin endpoints
/// (`/flush_cache`, `/update_weights...`) are not.
pub(crate) fn is_prompted(path: &str) -> Option<bool> {
    match path {
        "/v1/chat/completions"
        | "/v1/completions"
        | "/v1/responses"
        | "/v1/embeddings"
        | "/v1/messages"
        | "/generate"
        | "/v1/score"
        | "/v1/rerank" => Some(true),
        "/tokenize" | "/detokenize" | "/get_model_info" | "/model_info" => Some(false),
        path if path.starts_with("/v1/") => Some(false),
        _ => None,
    }
}

/// Whether answers become messages of the conversation.
pub(crate) fn is_chat(path: &str) -> bool {
    matches!(path, "/v1/chat/completions" | "/v1/responses" | "/v1/messages")
}

/// Refuses bodies that say they are no JSON.
pub(crate) fn check_type(headers: &HeaderMap) -> Result<(), Box<Response<Body>>> {
    let Some(value) = headers.get(CONTENT_TYPE).filter(|value| *value != "application/json") else { return Ok(()) };
    let kind = value.to_str().unwrap_or("?").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind == "application/json" || kind.ends_with("+json") || kind.is_empty() {
        return Ok(());
    }
    let shown: String = kind.chars().take(80).collect();
    let message = format!("the body's type is `{shown}`; send application/json");
    Err(Box::new(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong_content_type", &message)))
}

/// Reads the whole body. The permit stands for its bytes.
pub(crate) async fn read(
    state: &AppState,
    config: &Config,
    headers: &HeaderMap,
    body: &mut Incoming,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Box<Response<Body>>> {
    let refuse = |status, code: &str, message: &str| Err(Box::new(refusal(status, code, message)));
    let most = config.limits.body_bytes;
    let too_long = || {
        let message = format!("the body is longer than {most} bytes; send a shorter one or raise limits.body_bytes");
        refuse(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", &message)
    };
    let told = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if told.is_some_and(|told| told > most) {
        return too_long();
    }
    let mut patience = Patience::new(config);
    let mut budget: Option<OwnedSemaphorePermit> = None;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let frame = match patience.frame(body).await {
            Some(None) => break,
            Some(Some(Ok(frame))) => frame,
            Some(Some(Err(_))) => {
                return refuse(StatusCode::BAD_REQUEST, "truncated_body", "the body broke off before its end");
            }
            None => {
                return refuse(StatusCode::REQUEST_TIMEOUT, "slow_body", "the body came too slowly; send it at once");
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        let length = first.len() + rest.len() + data.len();
        if length > most {
            return too_long();
        }
        let missing = (length >> 10) + 1 - budget.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if missing > 0 {
            let Ok(more) = Arc::clone(&state.body_kib).try_acquire_many_owned(missing as u32) else {
                return refuse(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "overloaded",
                    "the router holds as many bytes of bodies as it may (limits.bodies_bytes); try again soon",
                );
            };
            match &mut budget {
                Some(budget) => budget.merge(more),
                None => budget = Some(more),
            }
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(told.unwrap_or(length * 2).min(most));
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok((if rest.is_empty() { first } else { rest.freeze() }, budget))
}

/// How long a body may take, and how long its next piece. Time counts from when there is first something to wait for:
/// mostly the body is here. One timer, looked at when it rings: setting it for every piece would cost more than the
/// piece.
struct Patience {
    all: Duration,
    gap: Duration,
    waiting: Option<Waiting>,
}

struct Waiting {
    deadline: Instant,
    last: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl Patience {
    fn new(config: &Config) -> Self {
        let times = &config.timeouts;
        let (all, gap) = (Duration::from_millis(times.body_ms), Duration::from_millis(times.body_gap_ms));
        Self { all, gap, waiting: None }
    }

    /// The next frame, or `None` when time is up.
    async fn frame(&mut self, body: &mut Incoming) -> Option<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let got = poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending => self.ring(cx).map(|()| None),
        });
        let got = got.await;
        if let Some(waiting) = &mut self.waiting {
            waiting.last = Instant::now();
        }
        got
    }

    fn ring(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (all, gap) = (self.all, self.gap);
        let waiting = self.waiting.get_or_insert_with(|| {
            let now = Instant::now();
            Waiting { deadline: now + all, last: now, alarm: Box::pin(sleep_until(now + all.min(gap))) }
        });
        loop {
            let due = waiting.deadline.min(waiting.last + gap);
            if waiting.alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if waiting.alarm.deadline() >= due {
                return Poll::Ready(());
            }
            waiting.alarm.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn paths_that_are_served() {
        for path in ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/generate"] {
            assert_eq!(is_prompted(path), Some(true), "{path}");
        }
        for path in ["/v1/models", "/tokenize", "/v1/models/x"] {
            assert_eq!(is_prompted(path), Some(false), "{path}");
        }
        for path in ["/", "/flush_cache", "/abort_request", "/update_weights_from_disk", "/v1", "/V1/models"] {
            assert_eq!(is_prompted(path), None, "{path}");
        }
    }

    #[test]
    fn types_that_are_no_json_are_refused() {
        let check =
            |value: &'static str| check_type(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]));
        assert!(check("application/json; charset=utf-8").is_ok() && check("Application/JSON").is_ok());
        assert_eq!(check("text/plain").unwrap_err().status(), 415);
        assert!(check_type(&HeaderMap::new()).is_ok());
    }
}
