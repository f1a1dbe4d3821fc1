//! Relays the bytes of connections, delayed by their link.

use super::link::{Direction, Link, LinkState};
use crate::timer::PreciseTimer;
use bytes::{Bytes, BytesMut};
use gorgo_core::Time;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};

/// Limits of the bytes in transit in one direction of one connection: number of pieces and their size, 16 MiB in all.
const PIECES: usize = 256;
const PIECE_BYTES: usize = 64 << 10;
/// Pause after a failed accept, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections of a link until its task is aborted; at most `most` are open at a time.
pub(super) async fn accept(link: Arc<Link>, listener: TcpListener, timer: PreciseTimer, most: usize) {
    let open = Arc::new(Semaphore::new(most.max(1)));
    loop {
        let Ok(permit) = Arc::clone(&open).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let (link, timer) = (Arc::clone(&link), timer.clone());
                tokio::spawn(async move {
                    relay_connection(&link, client, &timer).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Relays one connection until one side closes it or the link resets it.
async fn relay_connection(link: &Link, client: TcpStream, timer: &PreciseTimer) {
    let mut resets = link.watch_resets();
    resets.mark_unchanged();
    let opened = link.handshake();
    let reset_time = link.reset_time();
    // A new connection waits for the end of a partition and until its target accepts.
    let connect = async {
        wait_until_up(&mut link.watch_state()).await;
        TcpStream::connect(link.config.target).await
    };
    let (mut client, mut server) = (client, None);
    let orderly = tokio::select! {
        relayed = async {
            let server = server.insert(connect.await?);
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (client, server) = (client.split(), server.split());
            tokio::try_join!(
                relay_direction(link, timer, Direction::ToTarget, client.0, server.1, opened),
                relay_direction(link, timer, Direction::ToClient, server.0, client.1, Time::ZERO),
            )
        } => relayed.is_ok(),
        _ = resets.changed() => false,
        () = sleep_until(timer, link, reset_time) => false,
    };
    if !orderly {
        // An error on one side, or a reset of the link, resets both sides.
        let _ = client.set_zero_linger();
        let _ = server.map(|server| server.set_zero_linger());
    }
}

/// Returns at `at`, or never.
async fn sleep_until(timer: &PreciseTimer, link: &Link, at: Option<Time>) {
    match at {
        Some(at) => timer.sleep_until(link.instant(at)).await,
        None => std::future::pending().await,
    }
}

/// Waits until the link is not partitioned.
async fn wait_until_up(state: &mut watch::Receiver<LinkState>) {
    let _ = state.wait_for(|s| *s == LinkState::Up).await; // fails only when the link is gone, and so is this task
}

/// Relays one direction to the end of its stream. The first bytes leave half a round trip after `opened` or later.
async fn relay_direction(
    link: &Link,
    timer: &PreciseTimer,
    direction: Direction,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut opened: Time,
) -> std::io::Result<()> {
    let (put, mut take) = mpsc::channel::<(Time, Bytes)>(PIECES);
    let read = async move {
        let mut last = Time::ZERO;
        let mut buffer = BytesMut::new();
        let mut upload = (direction == Direction::ToTarget).then(|| link.upload());
        loop {
            buffer.reserve(PIECE_BYTES);
            let piece = match from.read_buf(&mut buffer).await? {
                0 => Bytes::new(), // the end of the stream is delayed like its bytes
                _ => buffer.split().freeze(),
            };
            // A client cannot send its first bytes before the handshake completes.
            let sent = match &mut upload {
                Some(upload) => link.leaves(upload, std::mem::take(&mut opened), piece.len()),
                None => Time::ZERO,
            };
            let due = link.due(direction, last, sent);
            last = due;
            let over = piece.is_empty();
            if put.send((due, piece)).await.is_err() || over {
                return Ok(());
            }
        }
    };
    let write = async move {
        let mut state = link.watch_state();
        while let Some((due, piece)) = take.recv().await {
            timer.sleep_until(link.instant(due)).await;
            wait_until_up(&mut state).await;
            if piece.is_empty() {
                return to.shutdown().await;
            }
            to.write_all(&piece).await?;
        }
        Ok(())
    };
    let result: std::io::Result<((), ())> = async { tokio::try_join!(read, write) }.await;
    result.map(drop)
}
