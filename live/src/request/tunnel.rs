//! WebSockets (`/v1/realtime`): a connection that a client switches to another protocol, passed on as bytes.
//!
//! The replica is chosen as for any request, and may be chosen again until one has switched. The connection to it is
//! one of its own. The bytes pass in the task of the client's connection, which counts in `limits.connections` and is
//! drained like any. Both ends are closed when one of them is, or when nothing has passed for `timeouts.idle_gap_ms`.

use crate::driver::mailbox::Command;
use crate::request::attempt::FailedAttempt;
use crate::request::body::Body;
use crate::request::client_request::ClientRequest;
use crate::request::forward::{end_response, finish_head, stopped_response};
use crate::request::guard::RequestGuard;
use crate::supervise;
use crate::upstream::connection::ConnectionError;
use crate::upstream::replica::Upstream;
use crate::wire::answer_tap::{AnswerTap, Framing};
use bytes::Bytes;
use gorgo_core::router::{Dispatch, Failure};
use http::header::{CONNECTION, HeaderMap, UPGRADE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

/// Most bytes of a refusal that is passed on.
const REFUSAL: usize = 64 << 10;

/// Finds a replica that switches, and lets the bytes pass.
pub(super) async fn answer(mut request: Box<ClientRequest>) -> Response<Body> {
    let mut client = request.parts.extensions.remove::<OnUpgrade>();
    let mut guard = match request.announce().await {
        Ok(guard) => guard,
        Err(refused) => return *refused,
    };
    let mut failed = None;
    loop {
        let (upstream, dispatch) = match guard.next_command().await {
            Command::Stop => return stopped_response(guard),
            Command::Queued | Command::Cancel => continue,
            Command::Done { reason, .. } => return end_response(guard, reason, failed, None),
            Command::Dispatch { dispatch, upstream, decision, .. } => {
                guard.record_dispatch(dispatch, &upstream, decision);
                (upstream, dispatch)
            }
        };
        failed = None;
        let opened = tokio::select! {
            biased;
            opened = open(&request, &upstream, &dispatch) => opened,
            command = guard.next_command() => {
                guard.put_back(command);
                continue;
            }
        };
        match opened {
            Ok((mut head, replica)) => {
                if !guard.report_first_token() {
                    continue; // the core has withdrawn this attempt
                }
                guard.row.status_code = head.status.as_u16();
                finish_head(&mut head, &guard, Some(&upstream), &request);
                switch_headers(&mut head.headers);
                let gap = Duration::from_millis(request.config.timeouts.idle_gap_ms);
                if let Some(client) = client.take() {
                    request.context.switch(pass(guard, client, replica, gap));
                }
                return Response::from_parts(head, Body::Full(Bytes::new()));
            }
            Err(attempt) => {
                guard.report_failure(attempt.failure, &attempt.why, &upstream, attempt.dispatches());
                failed = Some(attempt);
            }
        }
    }
}

fn switch_headers(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Opens a connection to a replica and asks it to switch.
async fn open(
    request: &ClientRequest,
    upstream: &Upstream,
    dispatch: &Dispatch,
) -> Result<(http::response::Parts, OnUpgrade), Box<FailedAttempt>> {
    let lost = |error: ConnectionError| {
        let why = format!("no answer from replica `{}` ({error})", upstream.name);
        Box::new(FailedAttempt { failure: error.failure(), response: None, why })
    };
    let at = &upstream.endpoint;
    let connector = &request.context.state.connector;
    let io = connector.connect(at.is_https(), at.host(), at.port()).await;
    let io = io.map_err(|error| lost(ConnectionError::Connect(error)))?;
    let handshake = http1::handshake::<_, Full<Bytes>>(TokioIo::new(io)).await;
    let (mut sender, connection) = handshake.map_err(|error| lost(ConnectionError::Http { error }))?;
    tokio::spawn(supervise::logged("WebSocket's connection", async move {
        let _ = connection.with_upgrades().await;
    }));
    let mut asked = request.to_replica(upstream, dispatch, None);
    switch_headers(asked.headers_mut());
    let mut response = sender.send_request(asked).await.map_err(|error| lost(ConnectionError::Http { error }))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let replica = hyper::upgrade::on(&mut response);
        return Ok((response.into_parts().0, replica));
    }
    let (head, body) = response.into_parts();
    let why = format!("replica `{}` answered {} and did not switch to WebSocket", upstream.name, head.status);
    let gap = Duration::from_millis(request.config.timeouts.idle_gap_ms);
    let said = timeout(gap, Limited::new(body, REFUSAL).collect()).await.ok().and_then(Result::ok);
    let failure = match Failure::of_status(head.status.as_u16()) {
        // Starlette answers 403 to a WebSocket of a path that it does not have.
        Some(Failure::KeyRefused | Failure::Client)
            if matches!(head.status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) =>
        {
            Failure::NoEndpoint
        }
        Some(Failure::KeyRefused) => request.refusal_of(upstream),
        Some(failure) => failure,
        // A page, or the way to one, in place of a WebSocket.
        None => Failure::NoEndpoint,
    };
    let response = said.map(|said| Response::from_parts(head, Body::Full(said.to_bytes())));
    Err(Box::new(FailedAttempt { failure, response, why }))
}

/// Passes bytes both ways until one end is closed, nothing passes for `gap`, or the router stops.
async fn pass(mut guard: Box<RequestGuard>, client: OnUpgrade, replica: OnUpgrade, gap: Duration) {
    let both = tokio::time::timeout(gap, async { tokio::try_join!(client, replica) }).await;
    let Ok(Ok((client, replica))) = both else {
        return guard.fail(Failure::Connection, "the connection was not switched to WebSocket");
    };
    let last = Mutex::new(Instant::now());
    let (from_client, to_client) = tokio::io::split(TokioIo::<Upgraded>::new(client));
    let (from_replica, to_replica) = tokio::io::split(TokioIo::<Upgraded>::new(replica));
    let idle = async {
        loop {
            let until = *last.lock() + gap;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    };
    let ways = async {
        // A WebSocket has no half-closed state: what one side has sent has passed when its end is read, and then the
        // other side is closed, too.
        let up = one_way(from_client, to_replica, &last, gap);
        let down = one_way(from_replica, to_client, &last, gap);
        tokio::select! {
            _ = up => {}
            _ = down => {}
        }
    };
    let is_stopped = tokio::select! {
        () = ways => false,
        () = idle => false,
        () = guard.wait_for_stop() => true,
    };
    if is_stopped {
        guard.stop();
    } else {
        guard.finish(&AnswerTap::new(Framing::Opaque, false));
    }
}

/// Passes bytes one way to their end.
async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    last: &Mutex<Instant>,
    gap: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; 8 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        *last.lock() = Instant::now();
        if read == 0 {
            return to.shutdown().await;
        }
        let write = async {
            to.write_all(&buffer[..read]).await?;
            to.flush().await
        };
        timeout(gap, write).await??;
    }
}
