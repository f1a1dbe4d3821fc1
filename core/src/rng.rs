//! Random streams: one seeded generator per concern, so that changing one setting does not change the draws of others.

use rand::SeedableRng;
pub use rand::rngs::ChaCha8Rng;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The generator of `concern` (for example `"network"`) number `index` in a run with `seed`.
///
/// ChaCha8 is named explicitly because its output is the same on every machine and in every version of `rand`.
pub fn stream(seed: u64, concern: &str, index: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ xxh3_64_with_seed(concern.as_bytes(), 0x676f_7267_6f00));
    rng.set_stream(index);
    rng
}

/// A generator that goes on as `rng` does.
pub fn copied(rng: &ChaCha8Rng) -> ChaCha8Rng {
    ChaCha8Rng::deserialize_state(&rng.serialize_state())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_are_repeatable_and_distinct() {
        let draw = |concern, index| stream(7, concern, index).next_u64();
        assert_eq!(draw("arrivals", 0), draw("arrivals", 0));
        assert_ne!(draw("arrivals", 0), draw("network", 0));
        assert_ne!(draw("arrivals", 0), draw("arrivals", 1));
    }

    #[test]
    fn a_copy_goes_on_from_where_it_was_made() {
        let mut rng = stream(7, "arrivals", 3);
        for _ in 0..7 {
            rng.next_u32();
        }
        let mut copy = copied(&rng);
        assert!((0..100).all(|_| rng.next_u32() == copy.next_u32()));
    }
}
