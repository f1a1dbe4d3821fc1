//! Reserve of connections beyond the limit: it serves health checks and administration, and refuses all else with 503.
//!
//! The router reads the request of such a connection before it answers, since only the request shows what it is for.
//! While the reserve is full of connections that have sent nothing, the oldest of them is closed for the next one.

use crate::upstream::connect::Io;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long such a connection may say nothing.
const SILENCE: Duration = Duration::from_secs(2);

/// The connections beyond the limit.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    /// Each open one, oldest first.
    slots: VecDeque<Slot>,
}

#[derive(Debug)]
struct Slot {
    /// Sends a silent connection away; closed once the connection has said something.
    away: oneshot::Sender<()>,
    /// Closed when the connection is.
    open: oneshot::Sender<()>,
}

/// A connection's place in the reserve.
#[derive(Debug)]
pub(super) struct Place {
    away: oneshot::Receiver<()>,
    _open: oneshot::Receiver<()>,
}

impl Reserve {
    /// A place for one more connection, of at most `most`; `None` if all are taken by connections that have said
    /// something.
    pub(super) fn place(&mut self, most: usize) -> Option<Place> {
        self.slots.retain(|slot| !slot.open.is_closed());
        if self.slots.len() >= most {
            let silent = self.slots.iter().position(|slot| !slot.away.is_closed())?;
            let _ = self.slots.remove(silent)?.away.send(());
        }
        let ((away, sent_away), (open, closed)) = (oneshot::channel(), oneshot::channel());
        self.slots.push_back(Slot { away, open });
        Some(Place { away: sent_away, _open: closed })
    }
}

/// Waits for the first bytes of a connection of the reserve. `None` when it was turned away: it said nothing in time, or
/// others needed its place.
pub(super) async fn first_bytes(mut io: Io, place: Place) -> Option<(Io, oneshot::Receiver<()>)> {
    let Place { away, _open } = place;
    let mut bytes = vec![0; 4 << 10];
    let read = tokio::select! {
        read = io.read(&mut bytes) => read.ok(),
        Ok(()) = away => None,
        () = tokio::time::sleep(SILENCE) => None,
    };
    match read {
        Some(0) => None,
        Some(length) => {
            bytes.truncate(length);
            Some((Box::new(Rewound { bytes, at: 0, io }), _open))
        }
        None => {
            turn_away(io).await;
            None
        }
    }
}

/// Answers a connection over `limits.connections` with 503, without reading from it.
pub(super) async fn turn_away(mut io: Io) {
    const BODY: &str = "{\"error\":{\"message\":\"the router holds as many connections as it may (limits.connections); try again soon\",\
        \"type\":\"server_error\",\"param\":null,\"code\":\"too_many_connections\"}}";
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{BODY}",
        BODY.len()
    );
    let send = async {
        io.write_all(answer.as_bytes()).await?;
        io.shutdown().await
    };
    let _ = timeout(Duration::from_secs(1), send).await;
}

/// A socket whose first bytes were read already.
struct Rewound {
    bytes: Vec<u8>,
    at: usize,
    io: Io,
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.at < this.bytes.len() {
            let rest = &this.bytes[this.at..];
            let length = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..length]);
            this.at += length;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_silent_connection_makes_room_and_one_that_spoke_does_not() {
        let mut reserve = Reserve::default();
        let (mut first, second) = (reserve.place(2).unwrap(), reserve.place(2).unwrap());
        let Place { away, _open } = second; // it spoke
        drop(away);
        let third = reserve.place(2).unwrap();
        assert!(first.away.try_recv().is_ok(), "sent away");
        drop(third); // closed
        let mut fourth = reserve.place(2).unwrap();
        let fifth = reserve.place(2).unwrap();
        assert!(fourth.away.try_recv().is_ok());
        let Place { away, _open: _fifth } = fifth;
        drop(away);
        assert!(reserve.place(2).is_none(), "both have spoken");
    }

    #[tokio::test]
    async fn bytes_that_were_read_first_are_read_again() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"GET / HTTP/1.1").await.unwrap();
        let place = Reserve::default().place(1).unwrap();
        let (mut io, _open) = first_bytes(Box::new(server), place).await.unwrap();
        client.write_all(b"\r\n").await.unwrap();
        drop(client);
        let mut all = String::new();
        io.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "GET / HTTP/1.1\r\n");
    }
}
