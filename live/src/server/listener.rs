//! Sources of client connections: TCP sockets, or a simulated network in tests.

use crate::upstream::connect::Io;
use crate::upstream::transport::keep_alive;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};

/// Completes an accepted connection; called on the worker thread that will drive it.
pub(crate) type Opening = Box<dyn FnOnce() -> io::Result<Io> + Send>;

/// A source of client connections.
pub trait Listener: Send + 'static {
    /// Accepts the next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Io, SocketAddr)>> + Send;

    /// Accepts the next connection for another thread's runtime.
    fn accept_for_another(&mut self) -> impl Future<Output = io::Result<(Opening, SocketAddr)>> + Send {
        async {
            let (io, from) = self.accept().await?;
            Ok((Box::new(move || Ok(io)) as Opening, from))
        }
    }
}

impl Listener for TcpListener {
    async fn accept(&mut self) -> io::Result<(Io, SocketAddr)> {
        let (stream, from) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        keep_alive(&stream);
        Ok((Box::new(stream), from))
    }

    async fn accept_for_another(&mut self) -> io::Result<(Opening, SocketAddr)> {
        let (stream, from) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        keep_alive(&stream);
        let stream = stream.into_std()?; // tokio's own is bound to the runtime it was made in
        Ok((Box::new(move || Ok(Box::new(TcpStream::from_std(stream)?) as Io)), from))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::upstream::connect::tcp;

    /// The sockets of this process that are connected to `port` or at it, and have a timer for a silent peer.
    fn with_keep_alive(port: u16) -> usize {
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let is_it = |line: &&str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let at = format!(":{port:04X}");
            // Established, timer 2.
            (fields[1].ends_with(&at) || fields[2].ends_with(&at)) && fields[3] == "01" && fields[5].starts_with("02:")
        };
        table.lines().skip(1).filter(is_it).count()
    }

    #[tokio::test]
    async fn both_sides_of_a_connection_ask_a_silent_peer() {
        let mut listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let opened = tcp()("127.0.0.1".to_owned(), port).await.unwrap();
        let (accepted, _) = listener.accept_for_another().await.unwrap();
        assert_eq!(with_keep_alive(port), 2);
        drop((opened, accepted));
    }
}
