//! A local relay between the ZeroMQ library and an engine that limits message sizes: the library allocates as much
//! memory as a frame's header states, and does not limit the parts of a message. The relay closes the connection at a
//! frame that is longer than any batch, before the library reads it.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Most bytes of a message.
const MESSAGE: u64 = 64 << 20;
/// Most parts of a message.
const PARTS: u32 = 1_000;
/// Most bytes of a command.
const COMMAND: u64 = 64 << 10;
/// Bytes before the first frame (ZMTP 3, greeting).
const GREETING: u64 = 64;

/// A connection to an engine of which only bounded messages pass. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Relay {
    /// Where the library connects to.
    pub(super) address: String,
    task: AbortHandle,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    /// Connects to `tcp://HOST:PORT`, and listens on loopback for one connection, the library's.
    ///
    /// # Errors
    /// When either fails, or takes longer than `limit`.
    pub(super) async fn to(address: &str, limit: Duration) -> io::Result<Self> {
        let at = address.strip_prefix("tcp://").unwrap_or(address).to_owned();
        let engine = timeout(limit, TcpStream::connect(at)).await??;
        engine.set_nodelay(true)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let inner = format!("tcp://{}", listener.local_addr()?);
        let from = address.to_owned();
        let task = tokio::spawn(async move {
            let accepted = timeout(limit, listener.accept()).await;
            drop(listener); // for one connection
            let Ok(Ok((library, _))) = accepted else { return };
            if let Err(why) = pass(engine, library).await {
                tracing::warn!("the KV events of {from} are not read further: {why}");
            }
        });
        Ok(Self { address: inner, task: task.abort_handle() })
    }
}

/// Passes bytes both ways until one side closes; an error if the engine's are not bounded frames.
async fn pass(engine: TcpStream, library: TcpStream) -> Result<(), &'static str> {
    let (mut from_engine, mut to_engine) = engine.into_split();
    let (mut from_library, mut to_library) = library.into_split();
    let up = async {
        let _ = tokio::io::copy(&mut from_library, &mut to_engine).await;
        Ok(())
    };
    let down = async {
        let (mut frames, mut buffer) = (Frames::default(), vec![0; 64 << 10]);
        loop {
            let Ok(read @ 1..) = from_engine.read(&mut buffer).await else { return Ok(()) };
            frames.check(&buffer[..read])?;
            if to_library.write_all(&buffer[..read]).await.is_err() {
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}

/// The headers of the frames that pass.
#[derive(Debug)]
struct Frames {
    /// Bytes until the next header.
    body: u64,
    header: [u8; 9],
    /// Bytes of the header so far.
    read: usize,
    /// Bytes and parts of the message so far.
    message: u64,
    parts: u32,
}

impl Default for Frames {
    fn default() -> Self {
        Self { body: GREETING, header: [0; 9], read: 0, message: 0, parts: 0 }
    }
}

impl Frames {
    fn check(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            if self.body > 0 {
                let skipped = usize::try_from(self.body).unwrap_or(usize::MAX).min(bytes.len());
                (self.body, bytes) = (self.body - skipped as u64, &bytes[skipped..]);
                continue;
            }
            (self.header[self.read], bytes) = (bytes[0], &bytes[1..]);
            self.read += 1;
            let (is_more, is_long, is_command) =
                (self.header[0] & 1 != 0, self.header[0] & 2 != 0, self.header[0] & 4 != 0);
            if self.read < if is_long { 9 } else { 2 } {
                continue;
            }
            self.read = 0;
            let long = self.header[1..].iter().fold(0u64, |length, &byte| length << 8 | u64::from(byte));
            self.body = if is_long { long } else { u64::from(self.header[1]) };
            if is_command {
                if self.body > COMMAND {
                    return Err("a command is longer than 64 kB");
                }
                continue;
            }
            (self.message, self.parts) = (self.message.saturating_add(self.body), self.parts + 1);
            if self.message > MESSAGE {
                return Err("a message is longer than 64 MiB");
            }
            if self.parts > PARTS {
                return Err("a message has more than 1000 parts");
            }
            if !is_more {
                (self.message, self.parts) = (0, 0);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frames: &[u8]) -> Result<(), &'static str> {
        let all = [&[0xff; GREETING as usize][..], frames].concat();
        let whole = Frames::default().check(&all);
        let mut pieces = Frames::default();
        assert_eq!(all.chunks(1).try_for_each(|piece| pieces.check(piece)), whole, "however the bytes are cut");
        whole
    }

    fn long(flags: u8, length: u64) -> Vec<u8> {
        [&[flags | 2][..], &length.to_be_bytes()].concat()
    }

    #[test]
    fn frames_beyond_the_bounds_end_the_connection() {
        assert_eq!(check(&[0, 3, 1, 2, 3, 4, 2, 9, 9, 1, 1, 7, 0, 0]), Ok(()));
        assert_eq!(check(&[1, 0].repeat(999)), Ok(()));
        assert_eq!(check(&[0, 1, 7].repeat(5_000)), Ok(()), "each is a message");
        assert_eq!(check(&long(0, MESSAGE)), Ok(()));
        assert_eq!(check(&long(0, 1 << 62)), Err("a message is longer than 64 MiB"));
        assert_eq!(check(&[&[1, 1, 7][..], &long(0, MESSAGE)].concat()), Err("a message is longer than 64 MiB"));
        assert_eq!(check(&long(0, u64::MAX)), Err("a message is longer than 64 MiB"));
        assert_eq!(check(&long(4, COMMAND + 1)), Err("a command is longer than 64 kB"));
        assert_eq!(check(&[1, 0].repeat(1_001)), Err("a message has more than 1000 parts"));
    }
}
