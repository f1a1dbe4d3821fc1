//! The event queue: ordered by time, then by order of scheduling, with a running hash over all events.
//!
//! It does what [`gorgo_core::TimeQueue`] does at half the cost: its heaps move 16 bytes an entry, while the events
//! stay in their slots. Polls (see `questions`) have a small heap of their own, in which the next event of a poll
//! replaces the top entry.

use super::key::Key;
use gorgo_core::Time;
use gorgo_core::digest::Edition;
use gorgo_core::router::Failure;

/// A reply on its way from a replica or peer to the router that dispatched the request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reply {
    FirstToken,
    Finished { cached_tokens: u32, output_tokens: u32 },
    Failed { failure: Failure, dispatches: u8 },
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    AtRouter {
        router: u16,
        key: Key,
    },
    AtEngine {
        replica: u16,
        key: Key,
    },
    CancelEngine {
        replica: u16,
        key: Key,
    },
    CancelPeer {
        router: u16,
        key: Key,
    },
    Wake {
        replica: u16,
    },
    ReplyAtRouter {
        router: u16,
        key: Key,
        attempt: u8,
        reply: Reply,
    },
    PatienceOver {
        key: Key,
    },
    WorkerFree,
    Timer {
        router: u16,
    },
    Sample,
    Fault {
        index: u16,
    },
    Restart {
        replica: u16,
    },
    /// What is next with a question: see [`super::questions`].
    Question {
        number: u32,
    },
    Signal(Signal),
}

impl From<Signal> for Event {
    fn from(signal: Signal) -> Self {
        Self::Signal(signal)
    }
}

/// Probes, and messages between routers, in transit.
#[derive(Debug, Clone, Copy)]
pub(super) enum Signal {
    Probe { router: u16, replica: u16 },
    Probed { router: u16, replica: u16, rtt_ms: Option<f32> },
    Share { router: u16 },
    Shared { from: u16, to: u16, slot: u32 },
    AskDigest { router: u16, target: u16 },
    ReadDigest { router: u16, target: u16, known: Option<Edition> },
    DigestReceived { router: u16, target: u16, slot: u32 },
}

#[derive(Debug, Clone, Default)]
pub(super) struct EventQueue {
    keys: Keys,
    events: Vec<Event>,
    free: Vec<u32>,
    /// Questions, each with its only event; the item is its number.
    questions: Keys,
    /// The question on top was popped. Its next event, which is mostly pushed at once, takes its place.
    popped: bool,
    pushed: u64,
    hash: u64,
    count: u64,
}

/// A heap of `time : 64 | sequence number : 38 | item : 26`, the least on top; the children of entry `i` are `2 i + 1` and
/// `2 i + 2`.
#[derive(Debug, Clone, Default)]
struct Keys(Vec<u128>);

const ITEM_BITS: u32 = 26;
const ITEMS: u64 = 1 << ITEM_BITS;
/// Greater than every key.
const NONE: u128 = u128::MAX;

fn key(at: Time, sequence: u64, item: u64) -> u128 {
    assert!(sequence >> (63 - ITEM_BITS) == 0 && item < ITEMS, "a run of 2^37 events, or 2^26 at once");
    u128::from(at.0) << 64 | u128::from(sequence << ITEM_BITS | item)
}

impl Keys {
    #[inline]
    fn least(&self) -> u128 {
        self.0.first().copied().unwrap_or(NONE)
    }

    #[inline]
    fn push(&mut self, key: u128) {
        let place = self.0.len();
        self.0.push(key);
        self.rise(place, key);
    }

    /// Removes the least key.
    fn pop(&mut self) {
        if let Some(last) = self.0.pop()
            && !self.0.is_empty()
        {
            self.replace(last);
        }
    }

    /// Puts `key` in the place of the least one: the hole on top sinks to the bottom along the lesser children, and the
    /// key, mostly of a late event, rises from there.
    #[inline]
    fn replace(&mut self, key: u128) {
        let heap = &mut self.0[..];
        let (mut hole, mut child) = (0, 1);
        while let Some(&[left, right]) = heap.get(child..).and_then(|rest| rest.first_chunk()) {
            let right_is_less = right < left;
            heap[hole] = if right_is_less { right } else { left };
            hole = child + usize::from(right_is_less);
            child = 2 * hole + 1;
        }
        if child < heap.len() {
            heap[hole] = heap[child];
            hole = child;
        }
        self.rise(hole, key);
    }

    /// Puts `key` at `place` or above it.
    #[inline]
    fn rise(&mut self, mut place: usize, key: u128) {
        let heap = &mut self.0[..];
        while place > 0 {
            let parent = (place - 1) / 2;
            if heap[parent] < key {
                break;
            }
            heap[place] = heap[parent];
            place = parent;
        }
        heap[place] = key;
    }
}

impl EventQueue {
    pub(super) fn push(&mut self, at: Time, event: impl Into<Event>) {
        let event = event.into();
        let slot = match self.free.pop() {
            Some(slot) => {
                self.events[slot as usize] = event;
                slot
            }
            None => {
                self.events.push(event);
                (self.events.len() - 1) as u32
            }
        };
        self.pushed += 1;
        self.keys.push(key(at, self.pushed, u64::from(slot)));
    }

    /// Schedules the next event of a question, which must have none.
    pub(super) fn push_question(&mut self, at: Time, number: u32) {
        self.pushed += 1;
        let key = key(at, self.pushed, u64::from(number));
        if std::mem::take(&mut self.popped) { self.questions.replace(key) } else { self.questions.push(key) }
    }

    #[inline]
    pub(super) fn next_time(&mut self) -> Option<Time> {
        if std::mem::take(&mut self.popped) {
            self.questions.pop();
        }
        let least = self.keys.least().min(self.questions.least());
        (least != NONE).then_some(Time((least >> 64) as u64))
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<(Time, Event)> {
        let at = self.next_time()?;
        let (event, question) = (self.keys.least(), self.questions.least());
        let low = event.min(question) as u64;
        self.hash_event(at, low >> ITEM_BITS);
        let item = (low & (ITEMS - 1)) as u32;
        if question < event {
            self.popped = true;
            return Some((at, Event::Question { number: item }));
        }
        self.keys.pop();
        self.free.push(item);
        Some((at, self.events[item as usize]))
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
    use gorgo_core::TimeQueue;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn events_come_out_as_of_a_time_queue(ops in prop::collection::vec((0u64..40, 0u8..4), 0..300)) {
            let (mut queue, mut plain) = (EventQueue::default(), TimeQueue::default());
            for (i, (at, kind)) in ops.into_iter().enumerate() {
                let number = i as u32;
                match kind {
                    0 => {
                        queue.push(Time(at), Event::Wake { replica: i as u16 });
                        plain.push(Time(at), number);
                    }
                    1 => {
                        queue.push_question(Time(at), number);
                        plain.push(Time(at), number);
                    }
                    _ => {
                        let popped = queue.pop().map(|(at, event)| match event {
                            Event::Wake { replica } => (at, u32::from(replica)),
                            Event::Question { number } => (at, number),
                            other => panic!("{other:?}"),
                        });
                        prop_assert_eq!(popped, plain.pop().map(|entry| (entry.at, entry.item)));
                    }
                }
                if kind == 3 {
                    prop_assert_eq!(queue.next_time(), plain.next_time());
                }
            }
        }
    }

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
        assert!(size_of::<Event>() <= 64, "{}", size_of::<Event>());
    }
}
