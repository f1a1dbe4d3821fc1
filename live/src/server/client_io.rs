//! A client's socket with timeouts for clients that send nothing or read nothing.
//!
//! Three limits, all on the socket and so under TLS and every version of HTTP: a head that was begun has
//! `timeouts.header_ms` (the first one from the connection's start), a connection without a request has
//! `timeouts.idle_ms`, and a client that takes nothing of what is written to it has `timeouts.idle_gap_ms`. Frames of
//! HTTP/2 between requests are not heads: pings find out whether such a client is alive.
//!
//! A client may send its whole body before it reads the answer. If the router refuses the request earlier and closes
//! the socket with bytes unread, the kernel resets the connection and the client loses the answer. So the router first
//! shuts down its sending side, then reads and drops incoming bytes, within the limits of a body (lingering close, RFC
//! 9112, 9.6).

use crate::config::Config;
use crate::idle_timer::IdleTimer;
use crate::request::context::ConnectionContext;
use crate::server::read_ahead::ReadAhead;
use crate::upstream::connect::Io;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The socket of a client.
pub(super) struct ClientIo {
    io: Io,
    ahead: ReadAhead,
    context: Arc<ConnectionContext>,
    head: Duration,
    idle: Duration,
    gap: Duration,
    /// Since when a head is incomplete, and the number of requests begun before it.
    head_since: Option<(Instant, u64)>,
    /// Whether the connection was ordered to close because it is idle.
    closing: bool,
    blocked_since: Option<Instant>,
    head_timer: IdleTimer,
    idle_timer: IdleTimer,
    write_timer: IdleTimer,
    /// How long a body may take, and how many bytes of one that was refused are read.
    body: Duration,
    most: usize,
    /// Since when such a body is read, after the end of writing, and when the last piece came.
    lingers: Option<(Instant, Instant)>,
    linger_timer: IdleTimer,
}

impl ClientIo {
    pub(super) fn new(io: Io, context: Arc<ConnectionContext>, config: &Config) -> Self {
        let timeouts = &config.timeouts;
        Self {
            io,
            ahead: ReadAhead::default(),
            context,
            head: Duration::from_millis(timeouts.header_ms),
            idle: Duration::from_millis(timeouts.idle_ms),
            gap: Duration::from_millis(timeouts.idle_gap_ms),
            head_since: None,
            closing: false,
            blocked_since: None,
            head_timer: IdleTimer::default(),
            idle_timer: IdleTimer::default(),
            write_timer: IdleTimer::default(),
            body: Duration::from_millis(timeouts.body_ms),
            most: config.limits.body_bytes.saturating_mul(2),
            lingers: None,
            linger_timer: IdleTimer::default(),
        }
    }

    /// Notes the beginning of a head.
    fn note_read(&mut self) {
        let activity = &self.context.activity;
        let begun = activity.begun();
        let is_in_head = self.head_since.is_some_and(|(_, before)| before == begun);
        if !is_in_head && !activity.is_busy() {
            self.head_since = Some((Instant::now(), begun));
        }
    }

    /// Ready when the client has been silent for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let activity = &self.context.activity;
        let begun = activity.begun();
        let head_since = match self.head_since {
            _ if activity.is_busy() => None,
            _ if begun == 0 => Some(activity.accepted()),
            Some((since, before)) if before == begun && !activity.is_http2() => Some(since),
            _ => None,
        };
        if let Some(since) = head_since {
            return self.head_timer.poll(cx, || since + self.head);
        }
        // The timer runs while a request is open, too: hyper does not read again when the answer is complete.
        let (idle, head) = (self.idle, self.head);
        let deadline =
            |extra| if activity.is_busy() { Instant::now() + idle } else { activity.quiet_since() + idle + extra };
        if !self.closing {
            if self.idle_timer.poll(cx, || deadline(Duration::ZERO)).is_pending() {
                return Poll::Pending;
            }
            self.closing = true;
            activity.idle.notify_one();
        }
        // It is closed in order; one that does not close gets a head's time for that.
        self.idle_timer.poll(cx, || deadline(head))
    }

    /// What writing gave, or an error once the client has taken nothing for too long.
    fn check_write<T>(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.blocked_since = None;
            return wrote;
        }
        let since = *self.blocked_since.get_or_insert_with(Instant::now);
        self.write_timer.poll(cx, || since + self.gap).map(|()| Err(timed_out("the client reads nothing")))
    }
}

/// How long a client may be silent in a body that was refused.
const SILENCE: Duration = Duration::from_secs(5);

/// Bytes that are read at once of a body that nobody wants.
const DROPPED: usize = 16 << 10;

impl ClientIo {
    /// Reads what a client still sends of a body that was refused; ready at its end, or when that is too long.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (since, mut last) = *self.lingers.get_or_insert_with(|| (Instant::now(), Instant::now()));
        let mut buffer = [0; DROPPED];
        while self.most > 0 {
            let mut read = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.io).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    self.most = self.most.saturating_sub(read.filled().len());
                    last = Instant::now();
                    self.lingers = Some((since, last));
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    let until = (since + self.body).min(last + SILENCE);
                    return self.linger_timer.poll(cx, || until);
                }
            }
        }
        Poll::Ready(())
    }
}

fn timed_out(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

impl AsyncRead for ClientIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        match this.ahead.poll_read(&mut this.io, cx, buf) {
            Poll::Ready(read) => {
                if buf.filled().len() > before {
                    this.note_read();
                }
                Poll::Ready(read)
            }
            Poll::Pending => this.poll_silence(cx).map(|()| Err(timed_out("the client is silent"))),
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.check_write(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.check_write(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes each time that its task runs: here the task gets to wait for the end, too.
        let this = &mut *self;
        if this.context.activity.awaits_answer() && this.ahead.poll_left(&mut this.io, cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the client has left")));
        }
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        this.check_write(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingers.is_none() {
            let shut = Pin::new(&mut self.io).poll_shutdown(cx);
            match self.check_write(cx, shut) {
                Poll::Ready(Ok(())) if self.context.activity.is_unread() => {}
                other => return other,
            }
        }
        self.poll_linger(cx).map(Ok)
    }
}
