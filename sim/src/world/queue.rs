//! The event queue: by time, then by order of scheduling, with a running hash over what it hands out.

use super::key::Key;
use gorgo_core::fleet::EngineReport;
use gorgo_core::router::Failure;
use gorgo_core::{Time, TimeQueue};

/// News travelling back from a replica or peer to the router that dispatched there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Back {
    First,
    Done { cached_tokens: u32, output_tokens: u32 },
    Failed(Failure),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Ev {
    AtRouter { router: u16, key: Key },
    AtEngine { replica: u16, key: Key },
    CancelEngine { replica: u16, key: Key },
    CancelPeer { router: u16, key: Key },
    Wake { replica: u16 },
    Back { router: u16, key: Key, attempt: u8, back: Back },
    Leave { key: Key },
    Freed,
    Timer { router: u16 },
    Sample,
    Fault { index: u16 },
    Restart { replica: u16 },
    Scrape { router: u16, replica: u16 },
    ScrapeRead { router: u16, replica: u16, asked: Time },
    Scraped { router: u16, replica: u16, asked: Time, report: Option<EngineReport> },
    Probe { router: u16, replica: u16 },
    Probed { router: u16, replica: u16, rtt_ms: Option<f32> },
    Ask { router: u16, peer: u16 },
    Asked { router: u16, peer: u16, asked: Time },
    Told { router: u16, peer: u16, asked: Time, load: PeerWords },
}

/// A peer's report in as few words as an event should carry.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerWords {
    pub(super) waiting: u32,
    pub(super) waiting_tokens: u32,
    pub(super) waiting_uncached: u32,
    pub(super) running: u32,
    pub(super) running_tokens: u32,
    pub(super) queued: u32,
    pub(super) healthy: bool,
}

#[derive(Debug, Default)]
pub(super) struct EventQueue {
    queue: TimeQueue<Ev>,
    hash: u64,
    count: u64,
}

impl EventQueue {
    pub(super) fn push(&mut self, at: Time, event: Ev) {
        self.queue.push(at, event);
    }

    pub(super) fn next_time(&self) -> Option<Time> {
        self.queue.next_time()
    }

    pub(super) fn pop(&mut self) -> Option<(Time, Ev)> {
        let entry = self.queue.pop()?;
        self.note(entry.at, entry.sequence);
        Some((entry.at, entry.item))
    }

    /// Mixes an event into the hash. The sequence number stands for the event: two runs that schedule different
    /// things give the same number at the same time only by having done the same until then.
    pub(super) fn note(&mut self, at: Time, what: u64) {
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
        queue.push(Time(5), Ev::Wake { replica: 1 });
        queue.push(Time(3), Ev::Wake { replica: 2 });
        queue.push(Time(5), Ev::Wake { replica: 3 });
        let order: Vec<u16> = std::iter::from_fn(|| queue.pop())
            .map(|(_, e)| if let Ev::Wake { replica } = e { replica } else { 0 })
            .collect();
        assert_eq!(order, [2, 1, 3]);
        assert_eq!(queue.digest().1, 3);
    }

    #[test]
    fn an_event_fits_a_cache_line() {
        assert!(size_of::<Scheduled<Ev>>() <= 64, "{}", size_of::<Scheduled<Ev>>());
    }
}
