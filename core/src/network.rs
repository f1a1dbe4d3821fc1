//! Network cost of a request: round trips by its size, the connection's congestion window, and connection setup.
//!
//! ```text
//! rounds(B, W) = max(1, ceil(log2(1 + B / W)))       B = bytes of the request, W = bytes the sender may have in flight
//! network      = RTT * (rounds + opening)            opening = 0 on a kept connection, else its handshakes
//! ```
//!
//! W is the initial window (10 segments) on a new connection. A connection in slow start that carried B bytes ends with
//! `W0 + B`. Linux halves the window of cubic and reno for each retransmission timeout without data *sent*
//! (`tcp_slow_start_after_idle`, RFC 5681 section 4.1); the answer's bytes do not count, so a connection that waited
//! seconds for an answer is back at W0. BBR keeps its model of the path: about one and a half round trips at any size.
//! All constants were measured with the Linux kernel's TCP over a delay line, 200 B to 480 kB. Requests longer than one
//! initial window are packed for peer routers; B is then what is sent of them, `compression * B`.
//!
//! [`Transport`] describes how connections to a replica behave; [`Connections`] is the pool of idle ones. The simulator
//! uses both as its model of the network, the router uses both as its estimate.

use crate::range::{DURATION_MS, OutOfRange, check_ranges};
use crate::{Span, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// Bytes that may be in flight on a new connection: 10 segments of 1,460 bytes (RFC 6928, Linux since 2.6.39).
pub const INITIAL_WINDOW: u64 = 14_600;

/// Bytes of a request beside its prompt: head and JSON frame.
pub const HEAD_BYTES: u64 = 400;

/// What the sender's congestion control does with a connection that was idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Congestion {
    /// Cubic or reno with Linux defaults: the window shrinks while no data is sent.
    #[default]
    Cubic,
    /// Cubic or reno with `net.ipv4.tcp_slow_start_after_idle=0`: the window stays.
    CubicKept,
    /// BBR: a used connection sends at the measured rate at once.
    Bbr,
}

/// How connections to a replica behave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Transport {
    /// Congestion control of the sender.
    pub congestion: Congestion,
    /// Bytes in flight on a new connection.
    pub initial_window: u64,
    /// Round trips to open a connection: 1 for TCP, 2 with TLS 1.3.
    pub opening_rounds: f64,
    /// An idle connection is closed after this long, ms; the shorter limit of both ends.
    pub keep_alive_ms: f64,
    /// Bytes sent for each byte of a request longer than the initial window; below 1 where the sender packs those.
    pub compression: f64,
}

impl Default for Transport {
    fn default() -> Self {
        Self {
            congestion: Congestion::Cubic,
            initial_window: INITIAL_WINDOW,
            opening_rounds: 1.0,
            keep_alive_ms: 4_000.0,
            compression: 1.0,
        }
    }
}

impl Transport {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first one out of bounds.
    pub fn check(&self) -> Result<(), OutOfRange> {
        check_ranges([
            ("initial_window", self.initial_window as f64, 1.0..=1e12),
            ("opening_rounds", self.opening_rounds, 0.0..=100.0),
            ("keep_alive_ms", self.keep_alive_ms, DURATION_MS),
            ("compression", self.compression, COMPRESSION),
        ])
    }

    /// Bytes that are sent of a request of `bytes`.
    #[inline]
    pub fn sent(&self, bytes: u64) -> u64 {
        if self.compression == 1.0 || bytes <= self.initial_window {
            return bytes;
        }
        (bytes as f64 * self.compression).ceil() as u64
    }

    /// Round trips of a request of `bytes` on `connection`, or on a new one.
    #[inline]
    pub fn path(&self, bytes: u64, connection: Option<&Connection>, now: Time, rtt_ms: f64) -> Path {
        let bytes = self.sent(bytes);
        let Some(connection) = connection else {
            let rounds = rounds(bytes, self.initial_window);
            // BBR paces its first flights: measured 0.3 of a round trip more than cubic when more than one is needed.
            let paced = if self.congestion == Congestion::Bbr && rounds > 1.0 { 0.3 } else { 0.0 };
            return Path { rounds: rounds + paced, opening: self.opening_rounds };
        };
        let rounds = match self.congestion {
            // Measured on used connections: 1.01 at 200 B, 1.25 at 14 kB, 1.5 to 1.55 from 30 kB on.
            Congestion::Bbr => 1.0 + 0.5 * (bytes as f64 / (2.0 * self.initial_window as f64)).min(1.0),
            Congestion::Cubic | Congestion::CubicKept => rounds(bytes, self.window(connection, now, rtt_ms)),
        };
        Path { rounds, opening: 0.0 }
    }

    /// Connections last used before then are closed at `now`.
    #[inline]
    fn open_since(&self, now: Time) -> Time {
        Time(now.0.saturating_sub(Span::from_ms(self.keep_alive_ms).0))
    }

    /// Bytes that may be in flight on an idle connection at `now`.
    #[inline]
    fn window(&self, connection: &Connection, now: Time, rtt_ms: f64) -> u64 {
        if self.congestion != Congestion::Cubic {
            return connection.window;
        }
        if connection.window <= self.initial_window {
            return self.initial_window; // it shrinks no further
        }
        // Linux: the smoothed RTT and at least 200 ms.
        let timeout_ms = rtt_ms.max(0.0) + 200.0;
        let halvings = ((now - connection.sent).ms() / timeout_ms).min(63.0) as u32;
        (connection.window >> halvings).max(self.initial_window)
    }

    /// The connection after it carried a request of `bytes` whose first flight was sent at `now`; `connection` is its
    /// state before, `None` if it is new.
    #[inline]
    pub fn after(&self, bytes: u64, connection: Option<&Connection>, now: Time, rtt_ms: f64) -> Connection {
        let bytes = self.sent(bytes);
        let before = connection.map_or(self.initial_window, |c| self.window(c, now, rtt_ms));
        // A window grows only when the sender fills it.
        let window = if bytes > before / 2 { before.max(self.initial_window.saturating_add(bytes)) } else { before };
        // The connection is idle from its last flight on, not from its first.
        let flights = match self.congestion {
            Congestion::Bbr => 1.0,
            Congestion::Cubic | Congestion::CubicKept => rounds(bytes, before),
        };
        Connection { window, sent: now + Span::from_ms(rtt_ms.max(0.0) * (flights - 1.0)) }
    }
}

/// The bounds of a compression.
pub const COMPRESSION: RangeInclusive<f64> = 0.001..=1.0;

/// The expected compression after a request of `plain` bytes was packed into `packed`: that of the first one, then a
/// moving average over about eight. One value for all peers, since it depends on the prompts.
pub fn learn_compression(expected: f64, plain: u64, packed: u64) -> f64 {
    let one = (packed as f64 / plain.max(1) as f64).clamp(*COMPRESSION.start(), *COMPRESSION.end());
    if expected == 1.0 { one } else { expected + (one - expected) / 8.0 }
}

/// Round trips of a transfer of `bytes` that begins with `window` bytes in flight and doubles each round: at least 1.
#[inline]
pub fn rounds(bytes: u64, window: u64) -> f64 {
    if bytes <= window {
        return 1.0;
    }
    let ratio = 1 + u128::from(bytes).div_ceil(u128::from(window.max(1)));
    f64::from(ratio.next_power_of_two().trailing_zeros().max(1))
}

/// Round trips that a request pays on the way to a replica and back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Path {
    /// Round trips until the answer's first byte, without the engine's time.
    pub rounds: f64,
    /// Round trips to open a connection; 0 on a kept one.
    pub opening: f64,
}

impl Default for Path {
    /// A small request on a kept connection.
    fn default() -> Self {
        Self { rounds: 1.0, opening: 0.0 }
    }
}

impl Path {
    /// All round trips.
    #[inline]
    pub fn trips(&self) -> f64 {
        self.rounds + self.opening
    }
}

/// A connection to a replica between two requests, or in use by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Bytes that may be in flight just after the last request was sent.
    window: u64,
    /// When the last flight of the last request was sent.
    sent: Time,
}

/// Idle connections that a choice looks at, the latest first: a burst may leave hundreds.
const LOOKED_AT: usize = 8;

/// Closed connections that are dropped one by one at most.
const CLOSED_KEPT: usize = 32;

/// A router's idle connections to one replica, in the order of their last use. About as many as were in use at once.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    idle: Vec<(Time, Connection)>,
    /// How many of the first are closed.
    closed: usize,
}

impl Connections {
    /// The path of a request of `bytes` sent at `now`.
    pub fn path(&self, transport: &Transport, bytes: u64, now: Time, rtt_ms: f64) -> Path {
        let best = self.best(transport, transport.open_since(now), now, rtt_ms).map(|i| &self.idle[i].1);
        transport.path(bytes, best, now, rtt_ms)
    }

    /// Takes the connection with the largest window, or opens one, and sends `bytes` at `now`.
    pub fn send(&mut self, transport: &Transport, bytes: u64, now: Time, rtt_ms: f64) -> (Path, Connection) {
        let open_since = transport.open_since(now);
        while self.idle.get(self.closed).is_some_and(|&(used, _)| used < open_since) {
            self.closed += 1;
        }
        if self.closed == self.idle.len() {
            self.clear();
        } else if self.closed > CLOSED_KEPT && 2 * self.closed > self.idle.len() {
            self.idle.drain(..self.closed);
            self.closed = 0;
        }
        let taken = match self.best(transport, open_since, now, rtt_ms) {
            // Mostly the latest.
            Some(i) if i + 1 == self.idle.len() => self.idle.pop(),
            Some(i) => Some(self.idle.remove(i)),
            None => None,
        };
        let taken = taken.map(|(_, connection)| connection);
        let path = transport.path(bytes, taken.as_ref(), now, rtt_ms);
        let opened = now + Span::from_ms(rtt_ms.max(0.0) * path.opening);
        (path, transport.after(bytes, taken.as_ref(), opened, rtt_ms))
    }

    /// Gives a connection back at `now`, never earlier than any before.
    #[inline]
    pub fn put(&mut self, connection: Connection, now: Time) {
        self.idle.push((now, connection));
    }

    /// Forgets all of them: the other side went away.
    pub fn clear(&mut self) {
        self.idle.clear();
        self.closed = 0;
    }

    /// Position of the open connection with the largest window among the latest; the later of equals.
    #[inline]
    fn best(&self, transport: &Transport, open_since: Time, now: Time, rtt_ms: f64) -> Option<usize> {
        let open = self.idle[self.closed..].iter().enumerate().rev().take(LOOKED_AT);
        let mut best = None;
        for (i, (_, connection)) in open.take_while(|(_, (used, _))| *used >= open_since) {
            let window = transport.window(connection, now, rtt_ms);
            if best.is_none_or(|(_, most)| window > most) {
                best = Some((i, window));
            }
        }
        best.map(|(i, _)| self.closed + i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RTT: f64 = 200.0;

    fn at(ms: f64) -> Time {
        Time::from_ms(ms)
    }

    /// The path of `bytes` on a connection that was answered `idle_ms` earlier, for `before` bytes.
    fn used(transport: &Transport, before: u64, idle_ms: f64, bytes: u64) -> Path {
        let mut connections = Connections::default();
        let (path, connection) = connections.send(transport, before, at(0.0), RTT);
        let answered = path.trips() * RTT;
        connections.put(connection, at(answered));
        connections.path(transport, bytes, at(answered + idle_ms), RTT)
    }

    #[test]
    fn rounds_are_the_published_logarithm() {
        for bytes in [0, 1, 200, 14_599, 14_600, 14_601, 43_800, 43_801, 102_200, 480_000, 10_000_000, u64::MAX] {
            for window in [1, 1_000, 14_600, 500_000] {
                let exact = (1.0 + bytes as f64 / window as f64).log2().ceil().max(1.0);
                assert_eq!(rounds(bytes, window), exact.min(64.0), "{bytes} B over {window} B");
            }
        }
        assert_eq!(rounds(5, 0), rounds(5, 1));
    }

    #[test]
    fn a_new_connection_and_one_idle_for_seconds_pay_what_the_kernel_pays() {
        let cubic = Transport::default();
        for (bytes, rounds) in [(200, 1.0), (14_000, 1.0), (30_000, 2.0), (60_000, 3.0), (120_000, 4.0), (480_000, 6.0)]
        {
            let fresh = Connections::default().path(&cubic, bytes, at(0.0), RTT);
            assert_eq!(fresh, Path { rounds, opening: 1.0 }, "{bytes} B on a new connection");
            assert_eq!(used(&cubic, bytes, 3_000.0, bytes), Path { rounds, opening: 0.0 }, "{bytes} B after 3 s");
            assert_eq!(used(&cubic, bytes, 1.0, bytes), Path { rounds: 1.0, opening: 0.0 }, "{bytes} B at once");
            assert_eq!(used(&cubic, 200, 1.0, bytes).rounds, rounds, "{bytes} B after small requests");
            let kept = Transport { congestion: Congestion::CubicKept, keep_alive_ms: 60_000.0, ..cubic };
            assert_eq!(used(&kept, bytes, 20_000.0, bytes).rounds, 1.0, "{bytes} B after 20 s without idle restart");
        }
    }

    /// Requests of a length, each sent when the answer to the one before arrives: the kernel's windows stay open, since a
    /// connection is idle from its last flight on (measured: 1.01 round trips at 30 kB, 1.04 at 480 kB).
    #[test]
    fn a_request_right_after_the_answer_to_the_one_before_takes_one_round_trip() {
        for bytes in [30_000, 80_000, 480_000] {
            let (mut connections, mut now, mut taken) = (Connections::default(), 0.0, Vec::new());
            for _ in 0..4 {
                let (path, connection) = connections.send(&Transport::default(), bytes, at(now), RTT);
                now += path.trips() * RTT + 1.0;
                connections.put(connection, at(now));
                taken.push(path.rounds);
            }
            assert_eq!(taken, [rounds(bytes, INITIAL_WINDOW), 1.0, 1.0, 1.0], "{bytes} B");
        }
    }

    #[test]
    fn bbr_pays_about_one_and_a_half_round_trips_however_long_it_was_idle() {
        let bbr = Transport { congestion: Congestion::Bbr, keep_alive_ms: 60_000.0, ..Transport::default() };
        for (bytes, measured) in [(200, 1.01), (14_000, 1.25), (30_000, 1.5), (480_000, 1.55)] {
            let path = used(&bbr, 200, 20_000.0, bytes);
            assert!((path.trips() - measured).abs() < 0.06, "{bytes} B: {path:?}");
        }
        assert_eq!(Connections::default().path(&bbr, 60_000, at(0.0), RTT), Path { rounds: 3.3, opening: 1.0 });
    }

    #[test]
    fn the_warmest_open_connection_is_taken_and_closed_ones_are_not() {
        let kept = Transport { congestion: Congestion::CubicKept, ..Transport::default() };
        let mut connections = Connections::default();
        let (_, warm) = connections.send(&kept, 300_000, at(0.0), RTT);
        let (_, cold) = connections.send(&kept, 200, at(0.0), RTT);
        connections.put(warm, at(10.0));
        connections.put(cold, at(20.0));
        assert_eq!(connections.send(&kept, 200_000, at(30.0), RTT).0, Path { rounds: 1.0, opening: 0.0 });
        assert_eq!(connections.path(&kept, 200_000, at(30.0), RTT), Path { rounds: 4.0, opening: 0.0 });
        assert_eq!(connections.path(&kept, 200, at(4_021.0), RTT).opening, 1.0, "closed after 4 s");
        connections.clear();
        assert_eq!(connections.path(&kept, 200, at(30.0), RTT).opening, 1.0);
    }

    proptest! {
        /// The connections that are taken, and what they carry, as from a plain list that drops closed ones at once.
        #[test]
        fn any_use_takes_the_connections_of_a_plain_list(
            steps in prop::collection::vec((0u8..4, 0u64..60_000, 0.0f64..700.0), 1..150),
            congestion in prop::sample::select(vec![Congestion::Cubic, Congestion::CubicKept, Congestion::Bbr]),
        ) {
            let transport = Transport { congestion, ..Transport::default() };
            let (mut connections, mut plain) = (Connections::default(), Vec::<(Time, Connection)>::new());
            let (mut used, mut now) = (Vec::new(), 0.0);
            for (kind, bytes, gap_ms) in steps {
                now += gap_ms;
                let time = at(now);
                if kind > 1 {
                    plain.retain(|(used, _)| *used + Span::from_ms(transport.keep_alive_ms) >= time);
                    let window = |i: &usize| transport.window(&plain[*i].1, time, RTT);
                    let best = (plain.len().saturating_sub(LOOKED_AT)..plain.len()).max_by_key(window);
                    let path = transport.path(bytes, best.map(|i| &plain[i].1), time, RTT);
                    prop_assert_eq!(connections.path(&transport, bytes, time, RTT), path);
                    let (taken, connection) = connections.send(&transport, bytes, time, RTT);
                    let before = best.map(|i| plain.remove(i).1);
                    let opened = time + Span::from_ms(RTT * path.opening);
                    let after = transport.after(bytes, before.as_ref(), opened, RTT);
                    prop_assert_eq!((taken, connection), (path, after));
                    used.push(connection);
                    prop_assert!(connections.idle.len() <= 2 * plain.len() + CLOSED_KEPT + 1);
                } else if !used.is_empty() {
                    let connection = used.remove(0);
                    connections.put(connection, time);
                    plain.push((time, connection));
                }
            }
        }
    }

    #[test]
    fn a_request_that_is_packed_pays_for_the_bytes_sent() {
        let packs = Transport { compression: 0.4, ..Transport::default() };
        let sent = |bytes| (packs.sent(bytes), packs.path(bytes, None, at(0.0), RTT).rounds);
        assert_eq!(sent(14_600), (14_600, 1.0), "one window is sent as it is");
        assert_eq!(sent(14_601), (5_841, 1.0));
        assert_eq!((sent(80_000), sent(320_000)), ((32_000, 2.0), (128_000, 4.0)));
        let after = packs.after(80_000, None, at(0.0), RTT);
        assert_eq!(after, Transport::default().after(32_000, None, at(0.0), RTT));
    }

    #[test]
    fn compression_begins_with_the_first_request_and_follows_the_next() {
        let first = learn_compression(1.0, 80_000, 32_000);
        assert_eq!((first, learn_compression(first, 80_000, 32_000)), (0.4, 0.4));
        assert!((learn_compression(first, 100, 80) - 0.45).abs() < 1e-12);
        let settled = (0..100).fold(first, |expected, _| learn_compression(expected, 1_000, 250));
        assert!((settled - 0.25).abs() < 1e-3, "{settled}");
        assert_eq!((learn_compression(1.0, 100, 120), learn_compression(1.0, 0, 0)), (1.0, 0.001));
    }

    #[test]
    fn numbers_without_meaning_are_refused_by_key() {
        let check = |transport: Transport| transport.check().unwrap_err().key;
        assert_eq!(check(Transport { opening_rounds: f64::NAN, ..Transport::default() }), "opening_rounds");
        assert_eq!(check(Transport { keep_alive_ms: -1.0, ..Transport::default() }), "keep_alive_ms");
        assert_eq!(check(Transport { initial_window: 0, ..Transport::default() }), "initial_window");
        assert_eq!(check(Transport { compression: 0.0, ..Transport::default() }), "compression");
    }
}
