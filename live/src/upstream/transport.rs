//! How connections to replicas behave: congestion control, and what the core needs to price distance.

use crate::config::{Config, CongestionControl};
use crate::upstream::connect::Endpoint;
use gorgo_core::network::{Congestion, Transport};
use rustix::net::sockopt;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Duration;

/// Sets the congestion control of a socket; a kernel that refuses keeps the system's.
pub(crate) fn set_congestion(socket: impl AsFd, wanted: CongestionControl) {
    if wanted == CongestionControl::Bbr {
        let _ = sockopt::set_tcp_congestion(socket, "bbr");
    }
}

/// Lets the kernel ask a silent peer whether it is there: a request may be silent for minutes, and balancers and NATs
/// drop connections that are, without a word. A kernel that refuses leaves it off.
pub(crate) fn keep_alive(socket: impl AsFd) {
    const IDLE: Duration = Duration::from_secs(30);
    const BETWEEN: Duration = Duration::from_secs(10);
    const PROBES: u32 = 3;
    let _ = sockopt::set_socket_keepalive(&socket, true);
    let _ = sockopt::set_tcp_keepidle(&socket, IDLE);
    let _ = sockopt::set_tcp_keepintvl(&socket, BETWEEN);
    let _ = sockopt::set_tcp_keepcnt(&socket, PROBES);
}

/// What a socket of this process gets.
pub(crate) fn congestion(wanted: CongestionControl) -> Congestion {
    static GOT: [OnceLock<Congestion>; 2] = [const { OnceLock::new() }; 2];
    *GOT[wanted as usize].get_or_init(|| {
        let Ok(socket) = std::net::TcpListener::bind(("127.0.0.1", 0)) else { return Congestion::Cubic };
        set_congestion(&socket, wanted);
        let name = sockopt::tcp_congestion(&socket).unwrap_or_default();
        let kept = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_slow_start_after_idle");
        match name.as_str() {
            "bbr" => Congestion::Bbr,
            _ if kept.is_ok_and(|text| text.trim() == "0") => Congestion::CubicKept,
            _ => Congestion::Cubic,
        }
    })
}

/// The transport to a replica at `endpoint` that keeps idle connections for `keep_alive` and gets long requests in
/// `compression` of their bytes. With `is_shared` its requests share one open connection.
///
/// Then no request pays for an opening. Windows need no other rule: the core counts that each report takes the connection
/// with the largest window, which keeps that window open, and this is what happens to the shared connection. With more
/// requests at once than before, the core expects the first window of a new connection, which is too little; for BBR, the
/// default, windows of used connections do not count.
pub(crate) fn transport(
    config: &Config,
    endpoint: &Endpoint,
    keep_alive: Duration,
    compression: f64,
    is_shared: bool,
) -> Transport {
    Transport {
        congestion: congestion(config.upstream.congestion),
        opening_rounds: match (is_shared, endpoint.is_https()) {
            (true, _) => 0.0,
            (false, true) => 2.0, // TCP, then TLS 1.3
            (false, false) => 1.0,
        },
        keep_alive_ms: keep_alive.as_secs_f64() * 1e3,
        compression,
        ..Transport::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_gets_what_the_transport_says() {
        for wanted in [CongestionControl::Bbr, CongestionControl::System] {
            let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
            set_congestion(&socket, wanted);
            let name = sockopt::tcp_congestion(&socket).unwrap();
            assert_eq!(name == "bbr", congestion(wanted) == Congestion::Bbr, "{wanted:?}: {name}");
        }
    }
}
