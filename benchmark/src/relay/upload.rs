//! When the bytes of a request leave the sender: in as many flights as its window needs, by the rule of
//! [`gorgo_core::network`].
//!
//! The sockets of a relay are on loopback, where a whole prompt is in flight at once. So the relay delays bytes as TCP
//! over the link would: one window leaves at once, and each further flight one round trip later and twice as large.
//! Bytes that arrive when all earlier bytes are acknowledged start a new burst, with the congestion window of that
//! moment.

use gorgo_core::network::{Connection, Transport};
use gorgo_core::{Span, Time};
use gorgo_sim::network::LinkRule;

/// The sending side of one connection.
#[derive(Debug)]
pub(super) struct Upload {
    rule: LinkRule,
    /// Bytes that count for one byte on the socket.
    byte_scale: f64,
    /// The connection as the last burst left it; `None` while nothing was sent.
    connection: Option<Connection>,
    burst: Option<Burst>,
}

#[derive(Debug, Clone, Copy)]
struct Burst {
    began: Time,
    bytes: f64,
    /// When its last byte leaves.
    leaves: Time,
}

impl Upload {
    pub(super) fn new(rule: LinkRule, byte_scale: f64) -> Self {
        Self { rule, byte_scale, connection: None, burst: None }
    }

    /// When the last of `bytes` leaves, if they can be sent from `now` on over a link with this round trip.
    pub(super) fn leaves(&mut self, now: Time, bytes: usize, rtt_ms: f64) -> Time {
        let transport: &Transport = &self.rule.transport;
        if let Some(burst) = self.burst.filter(|burst| burst.leaves + Span::from_ms(rtt_ms) <= now) {
            let sent = transport.after(burst.bytes as u64, self.connection.as_ref(), burst.began, rtt_ms);
            (self.connection, self.burst) = (Some(sent), None);
        }
        let burst = self.burst.get_or_insert(Burst { began: now, bytes: 0.0, leaves: now });
        burst.bytes += bytes as f64 * self.byte_scale;
        let flights = transport.path(burst.bytes as u64, self.connection.as_ref(), burst.began, rtt_ms).rounds - 1.0;
        let ms = rtt_ms * flights + self.rule.transfer_ms(burst.bytes as u64);
        burst.leaves = (burst.began + Span::from_ms(ms)).max(burst.leaves).max(now);
        burst.leaves
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_core::network::{Congestion, Connections};
    use gorgo_sim::network::NetworkConfig;

    const RTT: f64 = 200.0;

    fn upload(congestion: Congestion, byte_scale: f64) -> Upload {
        Upload::new(LinkRule::new(&NetworkConfig { congestion, ..NetworkConfig::default() }, None), byte_scale)
    }

    /// Sends bursts of (start in ms, bytes) in pieces of 5 kB; returns how long each takes beyond one way, in round trips.
    fn trips(upload: &mut Upload, bursts: &[(f64, usize)]) -> Vec<f64> {
        let burst = |&(at, bytes): &(f64, usize)| {
            let began = Time::from_ms(at);
            let mut leaves = began;
            for piece in 0..bytes.div_ceil(5_000) {
                leaves = upload.leaves(began, (bytes - piece * 5_000).min(5_000), RTT);
            }
            (leaves - began).ms() / RTT
        };
        bursts.iter().map(burst).collect()
    }

    #[test]
    fn a_burst_in_pieces_takes_the_round_trips_that_the_simulator_charges() {
        for congestion in [Congestion::Cubic, Congestion::CubicKept, Congestion::Bbr] {
            let bursts = [(0.0, 300), (1_000.0, 80_000), (2_600.0, 80_000), (9_000.0, 120_000), (30_000.0, 30_000)];
            let relayed = trips(&mut upload(congestion, 1.0), &bursts);
            let transport = Transport { congestion, keep_alive_ms: 1e6, ..Transport::default() };
            let mut connections = Connections::default();
            for (&(at, bytes), relayed) in bursts.iter().zip(relayed) {
                let at = Time::from_ms(at);
                let (path, connection) = connections.send(&transport, bytes as u64, at, RTT);
                connections.put(connection, at);
                assert!((relayed - (path.rounds - 1.0)).abs() < 1e-6, "{congestion:?}, {bytes} B at {at:?}: {relayed}");
            }
        }
    }

    /// As over the kernel's TCP, where the window of a connection shrinks from its last flight on.
    #[test]
    fn a_burst_right_after_an_answer_leaves_at_once() {
        let answered = |flights: f64| flights * RTT + 1.0;
        let bursts = [(0.0, 80_000), (answered(3.0), 80_000), (answered(3.0) + answered(1.0), 80_000)];
        assert_eq!(trips(&mut upload(Congestion::Cubic, 1.0), &bursts), [2.0, 0.0, 0.0]);
    }

    #[test]
    fn early_bytes_leave_before_the_later_flights() {
        let mut sender = upload(Congestion::Cubic, 1.0);
        let leaves: Vec<f64> = (0..10).map(|_| sender.leaves(Time::ZERO, 10_000, RTT).ms()).collect();
        // 14.6 kB at once, 29.2 kB a round trip later, then 58.4 kB.
        assert_eq!(leaves, [0.0, 200.0, 200.0, 200.0, 400.0, 400.0, 400.0, 400.0, 400.0, 400.0]);
    }

    #[test]
    fn scaled_bytes_and_bandwidth_count() {
        assert_eq!(trips(&mut upload(Congestion::Cubic, 0.0), &[(0.0, 400_000)]), [0.0]);
        assert_eq!(trips(&mut upload(Congestion::Cubic, 2.0), &[(0.0, 14_000)]), [1.0]);
        let rule = LinkRule { mbps: Some(8.0), ..LinkRule::new(&NetworkConfig::default(), None) };
        assert_eq!(trips(&mut Upload::new(rule, 1.0), &[(0.0, 10_000)]), [10.0 / RTT], "a byte takes a microsecond");
    }
}
