//! Notices that a client has left although bytes of it are still unread.
//!
//! hyper finds the end of a connection by reading, and reads nothing more while bytes lie in its buffer: a line break
//! behind the body, or a request that was sent ahead. A client that then closes its connection would keep its replica
//! busy to the last token. So while hyper reads nothing, the router reads ahead into a buffer of its own, up to
//! [`MOST`] bytes. Behind more bytes than those the end stays unnoticed until the answer is written.

use crate::upstream::connect::Io;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// Most bytes read ahead on a connection.
const MOST: usize = 64 << 10;

/// Bytes read at once.
const PIECE: usize = 4 << 10;

/// Bytes that were read before hyper asked for them.
#[derive(Default)]
pub(super) struct ReadAhead {
    bytes: Vec<u8>,
    taken: usize,
    /// Whether hyper itself waits for bytes, and so learns of the end.
    hyper_waits: bool,
}

impl ReadAhead {
    /// Gives hyper the bytes read ahead, then those of the socket.
    pub(super) fn poll_read(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.bytes[self.taken..];
        if rest.is_empty() {
            let read = Pin::new(io).poll_read(cx, buf);
            self.hyper_waits = read.is_pending();
            return read;
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.taken += count;
        if self.taken == self.bytes.len() {
            (self.bytes, self.taken) = (Vec::new(), 0);
        }
        self.hyper_waits = false;
        Poll::Ready(Ok(()))
    }

    /// Reads ahead; ready when the client has left.
    pub(super) fn poll_left(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<()> {
        while !self.hyper_waits && self.bytes.len() < MOST {
            let mut piece = [0; PIECE];
            let mut read = ReadBuf::new(&mut piece);
            match ready!(Pin::new(&mut *io).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => self.bytes.extend_from_slice(read.filled()),
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}
