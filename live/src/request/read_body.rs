//! Reads a request's body: bounded in bytes, in time, and in the bytes of all bodies together.

use crate::config::Config;
use crate::idle_timer::IdleTimer;
use crate::request::body::Body;
use crate::request::errors::refusal;
use crate::state::AppState;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap};
use http::{Response, StatusCode};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// Reads the whole body, up to `limits.body_bytes`. The permit holds its bytes of `limits.bodies_bytes`.
pub(crate) async fn read(
    state: &AppState,
    config: &Config,
    headers: &HeaderMap,
    body: &mut Incoming,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Box<Response<Body>>> {
    read_up_to(config.limits.body_bytes, state, config, headers, body).await
}

/// As [`read`], up to `most` bytes.
pub(crate) async fn read_up_to(
    most: usize,
    state: &AppState,
    config: &Config,
    headers: &HeaderMap,
    body: &mut Incoming,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Box<Response<Body>>> {
    let refuse = |status, code: &'static str, message: &str| Err(Box::new(refusal(status, code, message)));
    let too_long = || {
        let message = format!("the body is longer than {most} bytes; send a shorter one or raise limits.body_bytes");
        refuse(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", &message)
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > most) {
        return too_long();
    }
    let mut deadline = BodyDeadline::new(config);
    let mut permit: Option<OwnedSemaphorePermit> = None;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let frame = match deadline.frame(body).await {
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
        let missing = (length >> 10) + 1 - permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if missing > 0 {
            let Ok(more) = Arc::clone(&state.body_kib).try_acquire_many_owned(missing as u32) else {
                return refuse(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "overloaded",
                    "the router holds as many bytes of bodies as it may (limits.bodies_bytes); try again soon",
                );
            };
            match &mut permit {
                Some(permit) => permit.merge(more),
                None => permit = Some(more),
            }
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(announced.unwrap_or(length * 2).min(most));
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok((if rest.is_empty() { first } else { rest.freeze() }, permit))
}

/// When a body is too slow: in all, or since its last piece. Time counts from when the router first has to wait for it.
struct BodyDeadline {
    all: Duration,
    gap: Duration,
    /// Since when the router waits, and when the last piece came.
    waiting: Option<(Instant, Instant)>,
    timer: IdleTimer,
}

impl BodyDeadline {
    fn new(config: &Config) -> Self {
        let times = &config.timeouts;
        let (all, gap) = (Duration::from_millis(times.body_ms), Duration::from_millis(times.body_gap_ms));
        Self { all, gap, waiting: None, timer: IdleTimer::default() }
    }

    /// The next frame, or `None` when the body is too slow.
    async fn frame(&mut self, body: &mut Incoming) -> Option<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending => {
                let (since, last) = *self.waiting.get_or_insert_with(|| (Instant::now(), Instant::now()));
                self.timer.poll(cx, || (since + self.all).min(last + self.gap)).map(|()| None)
            }
        });
        let frame = frame.await;
        if let Some((_, last)) = &mut self.waiting {
            *last = Instant::now();
        }
        frame
    }
}
