//! Moves the bytes of connections.

use super::link::{Link, LinkState, Way};
use crate::clock::Alarms;
use bytes::{Bytes, BytesMut};
use gorgo_core::Time;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};

/// Pieces on the way at a time, in one direction of one connection, and their largest size: 16 MiB at most.
const PIECES: usize = 256;
const PIECE_BYTES: usize = 64 << 10;
/// Pause after a failed accept, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Takes connections of a link for ever.
pub(super) async fn accept(link: Arc<Link>, listener: TcpListener, alarms: Alarms, most: usize) {
    let open = Arc::new(Semaphore::new(most.max(1)));
    loop {
        let Ok(permit) = Arc::clone(&open).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let (link, alarms) = (Arc::clone(&link), alarms.clone());
                tokio::spawn(async move {
                    connection(&link, client, &alarms).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(link: &Link, client: TcpStream, alarms: &Alarms) {
    let mut resets = link.watch_resets();
    resets.mark_unchanged();
    let opened = link.handshake();
    let breaks = link.breaks().unwrap_or(Time::NEVER);
    // Whatever was done to the link, a new connection only begins once its target answers.
    let connect = async {
        pass(&mut link.watch_state()).await;
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
                direction(link, alarms, Way::There, client.0, server.1, opened),
                direction(link, alarms, Way::Back, server.0, client.1, Time::ZERO),
            )
        } => relayed.is_ok(),
        _ = resets.changed() => false,
        () = alarms.sleep_until(link.instant(breaks)), if breaks != Time::NEVER => false,
    };
    if !orderly {
        // An error on one side, or a fault on command, is a reset on both.
        let _ = client.set_zero_linger();
        let _ = server.map(|server| server.set_zero_linger());
    }
}

/// Waits while the link is partitioned.
async fn pass(state: &mut watch::Receiver<LinkState>) {
    let _ = state.wait_for(|s| *s == LinkState::Up).await; // fails only when the link is gone, and so is this task
}

/// One direction, to the end of its stream. The first bytes leave half a round trip after `opened` at the earliest.
async fn direction(
    link: &Link,
    alarms: &Alarms,
    way: Way,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut opened: Time,
) -> std::io::Result<()> {
    let (put, mut take) = mpsc::channel::<(Time, Bytes)>(PIECES);
    let read = async move {
        let mut last = Time::ZERO;
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE_BYTES);
            let piece = match from.read_buf(&mut buffer).await? {
                0 => Bytes::new(), // the end travels like bytes do
                _ => buffer.split().freeze(),
            };
            // The first bytes could only be sent when the handshake was over.
            let due = link.due(way, last, std::mem::take(&mut opened));
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
            alarms.sleep_until(link.instant(due)).await;
            pass(&mut state).await;
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
