//! Answers that come before the request is written.
//!
//! A server that refuses a long body (413, 401) may answer and close at once. The rest of the body then meets a reset,
//! and hyper gives the answer up with the write that failed, though the kernel has received it. So a write that the
//! other side has reset does not fail: what it carried is dropped, and the next read returns the answer or, if there is
//! none, the error of the write.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection whose reset writes fail at the next read.
#[derive(Debug)]
pub(super) struct EarlyAnswer<T> {
    stream: T,
    /// The error of the first write that failed.
    failed: Option<io::Error>,
}

impl<T> EarlyAnswer<T> {
    pub(super) fn new(stream: T) -> Self {
        Self { stream, failed: None }
    }

    /// The outcome of a write of `length` bytes: all are dropped once the other side has reset the connection.
    fn written(&mut self, result: io::Result<usize>, length: usize) -> io::Result<usize> {
        match result {
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                self.failed = Some(error);
                Ok(length)
            }
            result => result,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for EarlyAnswer<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        match self.failed.take_if(|_| read.is_err() || buf.filled().len() == before) {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Ready(read),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for EarlyAnswer<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.failed.is_some() {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(self.written(result, buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if self.failed.is_some() {
            return Poll::Ready(Ok(length));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        Poll::Ready(self.written(result, length))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// A connection whose other side has sent `answer` and closed without reading what it was sent.
    async fn reset_after(answer: &[u8]) -> EarlyAnswer<TcpStream> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = EarlyAnswer::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let (mut server, _) = listener.accept().await.unwrap();
        stream.write_all(b"unread").await.unwrap();
        server.readable().await.unwrap();
        server.write_all(answer).await.unwrap();
        drop(server);
        stream
    }

    #[tokio::test]
    async fn the_answer_is_read_before_the_write_fails() {
        let mut stream = reset_after(b"413").await;
        // Until the reset has come, the kernel takes what it has room for.
        while stream.failed.is_none() {
            stream.write_all(&[0; 1 << 16]).await.unwrap();
        }
        stream.write_all(b"more").await.unwrap();
        let mut answer = Vec::new();
        let end = stream.read_to_end(&mut answer).await.unwrap_err();
        assert!(matches!(end.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{end:?}");
        assert_eq!(answer, b"413");
    }

    #[tokio::test]
    async fn without_an_answer_the_error_is_that_of_the_write() {
        let mut stream = reset_after(b"").await;
        while stream.failed.is_none() {
            stream.write_all(&[0; 1 << 16]).await.unwrap();
        }
        let error = stream.read_u8().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error:?}");
    }
}
