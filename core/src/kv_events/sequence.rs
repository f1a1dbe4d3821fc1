//! Sequence numbers of batches: detects gaps, duplicates and a restarted publisher.

/// What a batch's number shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The batch that was expected; any, if none was.
    Next,
    /// It was taken before.
    Again,
    /// Batches before it are missing, from this number on.
    Gap(u64),
    /// Numbers restart: another process publishes.
    NewProcess,
}

/// The numbers of one publisher's batches, which rise by 1 from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sequence {
    next: Option<u64>,
}

impl Sequence {
    /// The number that is expected; `None` before the first batch.
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// The number taken last.
    pub fn last(&self) -> Option<u64> {
        self.next.map(|next| next - 1)
    }

    /// Judges a number without taking it. While replayed and live batches are `merged`, a number that was taken before
    /// only comes twice; in a live stream, which is in order, it means that the publisher restarted.
    pub fn judge(&self, number: u64, merged: bool) -> Arrival {
        match self.next {
            Some(next) if number < next && merged => Arrival::Again,
            Some(next) if number < next => Arrival::NewProcess,
            Some(next) if number > next => Arrival::Gap(next),
            _ => Arrival::Next,
        }
    }

    /// Takes a number: the next one is expected from now on.
    pub fn take(&mut self, number: u64) {
        self.next = Some(number.saturating_add(1));
    }

    /// Expects any number.
    pub fn reset(&mut self) {
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_repeats_and_new_processes_are_told_apart() {
        let mut sequence = Sequence::default();
        assert_eq!((sequence.judge(7, false), sequence.last()), (Arrival::Next, None));
        sequence.take(7);
        assert_eq!(sequence.judge(8, false), Arrival::Next);
        assert_eq!(sequence.judge(10, false), Arrival::Gap(8));
        assert_eq!((sequence.judge(7, true), sequence.judge(7, false)), (Arrival::Again, Arrival::NewProcess));
        assert_eq!(sequence.judge(0, false), Arrival::NewProcess);
        sequence.reset();
        assert_eq!(sequence.judge(0, false), Arrival::Next);
        sequence.take(u64::MAX);
        assert_eq!(sequence.next(), Some(u64::MAX));
    }
}
