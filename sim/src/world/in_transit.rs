//! Messages in transit from one router to another. The event that delivers a message holds only its index here, since
//! events are small and copied.

/// Messages on their way.
#[derive(Debug, Clone)]
pub(super) struct InTransit<T> {
    sent: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for InTransit<T> {
    fn default() -> Self {
        Self { sent: Vec::new(), free: Vec::new() }
    }
}

impl<T> InTransit<T> {
    /// Keeps a message until it is taken, and returns its place.
    pub(super) fn put(&mut self, message: T) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.sent.push(None);
            (self.sent.len() - 1) as u32
        });
        self.sent[place as usize] = Some(message);
        place
    }

    /// The message at a place, which is free then; `None` if it was taken before.
    pub(super) fn take(&mut self, place: u32) -> Option<T> {
        let message = self.sent.get_mut(place as usize)?.take()?;
        self.free.push(place);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_and_a_message_taken_once() {
        let mut messages = InTransit::default();
        let places = ["a", "b"].map(|message| messages.put(message));
        assert_eq!([messages.take(places[1]), messages.take(places[1])], [Some("b"), None]);
        assert_eq!((messages.put("c"), messages.put("d")), (places[1], 2));
        assert_eq!([places[0], places[1], 2].map(|place| messages.take(place)), ["a", "c", "d"].map(Some));
        assert_eq!(messages.take(7), None);
    }
}
