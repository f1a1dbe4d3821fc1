//! Frames between the processes of an upgrade: a kind, a length, bytes; and the descriptors before them.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// What a frame holds. The numbers are the protocol: they never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// New: it is there; the version of the protocol.
    Hello = 1,
    /// Old: what belongs to the process, in JSON.
    Offer = 2,
    /// Old: what the router has learned.
    Snapshot = 3,
    /// New: all replicas were probed, and requests could come.
    Ready = 4,
    /// Old: the files are yours.
    Go = 5,
    /// New: it accepts; its process id.
    Serving = 6,
    /// Old: what it learned since, and its requests, as between routers.
    News = 7,
    /// New: why it cannot take over.
    Failed = 8,
}

impl Kind {
    const ALL: [Self; 8] =
        [Self::Hello, Self::Offer, Self::Snapshot, Self::Ready, Self::Go, Self::Serving, Self::News, Self::Failed];
}

/// The version of the protocol.
pub(super) const PROTOCOL: u8 = 1;

/// Writes a frame.
pub(super) async fn write(to: &mut (impl AsyncWrite + Unpin), kind: Kind, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&head(kind, bytes.len())).await?;
    to.write_all(bytes).await
}

/// The bytes before a frame's own.
pub(super) fn head(kind: Kind, length: usize) -> [u8; 9] {
    let mut head = [0; 9];
    head[0] = kind as u8;
    head[1..].copy_from_slice(&(length as u64).to_le_bytes());
    head
}

/// Reads a frame of at most `most` bytes.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<(Kind, Vec<u8>)> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let kind = from.read_u8().await?;
    let kind = Kind::ALL.into_iter().find(|known| *known as u8 == kind).ok_or_else(|| wrong("an unknown frame"))?;
    let length = from.read_u64_le().await?;
    let length = usize::try_from(length).ok().filter(|length| *length <= most);
    let length = length.ok_or_else(|| wrong("a frame that is too long"))?;
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((kind, bytes))
}

/// Most descriptors: the listening socket and the pid file.
const MOST: usize = 2;

/// Sends descriptors, with one byte that carries them.
pub(super) async fn send_descriptors(to: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let sent = to.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("more descriptors than fit"));
        }
        Ok(sendmsg(to, &[IoSlice::new(b"+")], &mut control, SendFlags::NOSIGNAL)?)
    });
    if sent.await? == 1 { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives what [`send_descriptors`] sent.
pub(super) async fn receive_descriptors(from: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    from.async_io(Interest::READABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let got = recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if got.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut all = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                all.extend(descriptors);
            }
        }
        Ok(all)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[tokio::test]
    async fn a_listening_socket_passes_and_frames_follow_in_order() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        send_descriptors(&here, &[socket.as_fd(), socket.as_fd()]).await.unwrap();
        write(&mut here, Kind::Offer, b"{}").await.unwrap();
        drop(socket);
        let mut got = receive_descriptors(&there).await.unwrap();
        assert_eq!(got.len(), 2);
        let passed: std::net::TcpListener = got.pop().unwrap().into();
        assert_eq!(passed.local_addr().unwrap(), at);
        assert!(std::net::TcpStream::connect(at).is_ok(), "it listens on, though its first holder closed it");
        assert_eq!(read(&mut there, 10).await.unwrap(), (Kind::Offer, b"{}".to_vec()));
        write(&mut here, Kind::News, &[0; 11]).await.unwrap();
        assert!(read(&mut there, 10).await.is_err(), "too long");
        let (mut here, there) = UnixStream::pair().unwrap();
        drop(there);
        assert!(read(&mut here, 10).await.is_err() && receive_descriptors(&here).await.is_err());
    }
}
