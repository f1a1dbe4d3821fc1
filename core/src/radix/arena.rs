//! Chunked storage for the nodes of a tree: growing never moves a node. A vector would copy megabytes when it grows,
//! and every request of the router would wait for the copy.

/// Nodes per chunk, as a power of two.
const BITS: u32 = 10;
const CHUNK: usize = 1 << BITS;

/// An append-only list.
#[derive(Debug, Clone)]
pub(super) struct Arena<T>(Vec<Vec<T>>);

impl<T> Arena<T> {
    /// An arena with one node.
    pub(super) fn new(first: T) -> Self {
        Self(vec![vec![first]])
    }

    pub(super) fn len(&self) -> usize {
        (self.0.len() - 1) * CHUNK + self.0[self.0.len() - 1].len()
    }

    /// Adds a node and returns its index.
    pub(super) fn push(&mut self, node: T) -> usize {
        let place = self.len();
        if place.is_multiple_of(CHUNK) {
            self.0.push(Vec::with_capacity(CHUNK));
        }
        self.0[place >> BITS].push(node);
        place
    }

    pub(super) fn get(&self, place: usize) -> Option<&T> {
        self.0.get(place >> BITS)?.get(place & (CHUNK - 1))
    }
}

impl<T> std::ops::Index<usize> for Arena<T> {
    type Output = T;

    fn index(&self, place: usize) -> &T {
        &self.0[place >> BITS][place & (CHUNK - 1)]
    }
}

impl<T> std::ops::IndexMut<usize> for Arena<T> {
    fn index_mut(&mut self, place: usize) -> &mut T {
        &mut self.0[place >> BITS][place & (CHUNK - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_in_order_and_stay_where_they_are() {
        let mut arena = Arena::new(0);
        let first = std::ptr::from_ref(&arena[0]);
        (1..3 * CHUNK).for_each(|n| assert_eq!(arena.push(n), n));
        assert_eq!(arena.len(), 3 * CHUNK);
        assert!((0..3 * CHUNK).all(|n| arena[n] == n && arena.get(n) == Some(&n)));
        assert_eq!(arena.get(3 * CHUNK), None);
        let second = std::ptr::from_ref(&arena[CHUNK]);
        arena[CHUNK] += 1;
        for n in 0..CHUNK {
            arena.push(n);
        }
        assert_eq!((arena[CHUNK], std::ptr::from_ref(&arena[CHUNK])), (CHUNK + 1, second));
        assert_ne!(first, second);
    }
}
