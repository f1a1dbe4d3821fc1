//! The listening socket that a systemd socket unit holds: it stays open while one process follows another.

use crate::server::start::StartError;
use listenfd::ListenFd;
use std::io;
use std::net::{SocketAddr, TcpListener};

/// The socket that was passed to this process (`LISTEN_FDS`), ready for the runtime; `None` when there is none.
///
/// # Errors
/// There are several, or it is no TCP socket that listens on `listen`.
pub(crate) fn socket(listen: SocketAddr) -> Result<Option<TcpListener>, StartError> {
    let mut passed = ListenFd::from_env();
    let wrong = |why: String| StartError::Listen { listen, why: io::Error::other(why) };
    if passed.len() > 1 {
        return Err(wrong(format!("systemd passes {} sockets and a router has one port", passed.len())));
    }
    let Some(socket) = passed.take_tcp_listener(0).map_err(|why| StartError::Listen { listen, why })? else {
        return Ok(None);
    };
    let at = check(&socket, listen, "systemd passes")?;
    tracing::info!("listening on the socket that systemd holds on {at}");
    Ok(Some(socket))
}

/// Makes a socket that `another` gave ready for the runtime; returns its address.
///
/// # Errors
/// When it does not listen on `listen`.
pub(crate) fn check(socket: &TcpListener, listen: SocketAddr, another: &str) -> Result<SocketAddr, StartError> {
    let refused = |why| StartError::Listen { listen, why };
    let at = socket.local_addr().map_err(refused)?;
    if !fits(at, listen) {
        let why = format!("{another} a socket on {at}; let ListenStream and `listen` name the same");
        return Err(refused(io::Error::other(why)));
    }
    socket.set_nonblocking(true).map_err(refused)?;
    Ok(at)
}

/// Whether the socket's address is the configured one; port 0 stands for any.
fn fits(at: SocketAddr, listen: SocketAddr) -> bool {
    at.ip() == listen.ip() && (listen.port() == 0 || at.port() == listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_elsewhere_does_not_open_the_router_to_others() {
        let at = |text: &str| text.parse().unwrap();
        assert!(fits(at("127.0.0.1:8000"), at("127.0.0.1:8000")) && fits(at("127.0.0.1:9"), at("127.0.0.1:0")));
        assert!(!fits(at("0.0.0.0:8000"), at("127.0.0.1:8000")) && !fits(at("127.0.0.1:8001"), at("127.0.0.1:8000")));
    }
}
