//! The event queue: ordered by time, then by order of scheduling, with a running hash over all events.

use super::key::Key;
use super::peer_message::PeerMessage;
use gorgo_core::fleet::EngineReport;
use gorgo_core::router::Failure;
use gorgo_core::{Time, TimeQueue};

/// A reply on its way from a replica or peer to the router that dispatched the request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reply {
    FirstToken,
    Finished { cached_tokens: u32, output_tokens: u32 },
    Failed(Failure),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    AtRouter { router: u16, key: Key },
    AtEngine { replica: u16, key: Key },
    CancelEngine { replica: u16, key: Key },
    CancelPeer { router: u16, key: Key },
    Wake { replica: u16 },
    ReplyAtRouter { router: u16, key: Key, attempt: u8, reply: Reply },
    PatienceOver { key: Key },
    WorkerFree,
    Timer { router: u16 },
    Sample,
    Fault { index: u16 },
    Restart { replica: u16 },
    Signal(Signal),
}

impl From<Signal> for Event {
    fn from(signal: Signal) -> Self {
        Self::Signal(signal)
    }
}

/// Scrapes, probes and peer reports in transit. `asked` is the time when the router sent its request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Signal {
    Scrape { router: u16, replica: u16 },
    ScrapeRead { router: u16, replica: u16, asked: Time },
    Scraped { router: u16, replica: u16, asked: Time, report: Option<EngineReport> },
    Probe { router: u16, replica: u16 },
    Probed { router: u16, replica: u16, rtt_ms: Option<f32> },
    AskPeer { router: u16, peer: u16 },
    PeerReportRead { router: u16, peer: u16, asked: Time },
    PeerReportArrived { router: u16, peer: u16, asked: Time, message: PeerMessage },
    Share { router: u16 },
    Shared { from: u16, to: u16, slot: u32 },
}

#[derive(Debug, Default)]
pub(super) struct EventQueue {
    queue: TimeQueue<Event>,
    hash: u64,
    count: u64,
}

impl EventQueue {
    pub(super) fn push(&mut self, at: Time, event: impl Into<Event>) {
        self.queue.push(at, event.into());
    }

    pub(super) fn next_time(&self) -> Option<Time> {
        self.queue.next_time()
    }

    pub(super) fn pop(&mut self) -> Option<(Time, Event)> {
        let entry = self.queue.pop()?;
        self.hash_event(entry.at, entry.sequence);
        Some((entry.at, entry.item))
    }

    /// Mixes an event into the hash. Its sequence number identifies it: two runs have the same number at the same time only
    /// if they scheduled the same events before.
    pub(super) fn hash_event(&mut self, at: Time, what: u64) {
        self.count += 1;
        for word in [at.0, what] {
            self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    pub(super) fn digest(&self) -> (u64, u64) {
        (self.hash, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_core::time_queue::Scheduled;

    #[test]
    fn equal_times_come_in_order_of_scheduling() {
        let mut queue = EventQueue::default();
        queue.push(Time(5), Event::Wake { replica: 1 });
        queue.push(Time(3), Event::Wake { replica: 2 });
        queue.push(Time(5), Event::Wake { replica: 3 });
        let order: Vec<u16> = std::iter::from_fn(|| queue.pop())
            .map(|(_, e)| if let Event::Wake { replica } = e { replica } else { 0 })
            .collect();
        assert_eq!(order, [2, 1, 3]);
        assert_eq!(queue.digest().1, 3);
    }

    #[test]
    fn an_event_fits_a_cache_line() {
        assert!(size_of::<Scheduled<Event>>() <= 64, "{}", size_of::<Scheduled<Event>>());
    }
}
