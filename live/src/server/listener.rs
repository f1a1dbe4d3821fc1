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
