//! Maps ids that clients send back (of responses, files, batches) to the engine that issued them.
//!
//! Two generations of entries: those that were not used while the younger one filled up are dropped with the older one,
//! so that memory is bounded and ids in use stay.

use crate::upstream::replica::Upstream;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::{Arc, Weak};
use xxhash_rust::xxh3::xxh3_64;

/// Most entries of a generation, 32 bytes each.
const MOST: usize = 32_768;

/// Longest id that is read, bytes.
pub(crate) const LONGEST: usize = 512;

/// An id as it is kept.
pub(crate) fn key(id: &[u8]) -> u64 {
    xxh3_64(id)
}

/// The engines by the ids they made.
#[derive(Debug, Default)]
pub(crate) struct KeptIds(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: FxHashMap<u64, Weak<Upstream>>,
    old: FxHashMap<u64, Weak<Upstream>>,
}

impl KeptIds {
    /// An engine made something with this id.
    pub(crate) fn learn(&self, id: &str, engine: &Arc<Upstream>) {
        self.0.lock().put(key(id.as_bytes()), Arc::downgrade(engine));
    }

    /// The engine that made it, if it is known.
    pub(crate) fn engine(&self, key: u64) -> Option<Arc<Upstream>> {
        let mut both = self.0.lock();
        if let Some(engine) = both.young.get(&key) {
            return engine.upgrade();
        }
        let engine = both.old.remove(&key)?;
        let strong = engine.upgrade()?;
        both.put(key, engine);
        Some(strong)
    }
}

impl KeptIds {
    /// All hashes of ids with the slots of their engines, those used lately last.
    pub(crate) fn all(&self, slots: &[Arc<Upstream>]) -> Vec<(u64, u16)> {
        let both = self.0.lock();
        let slot = |(key, engine): (&u64, &Weak<Upstream>)| {
            let upstream = slots.get(engine.upgrade()?.id.index())?;
            std::ptr::eq(Arc::as_ptr(upstream), engine.as_ptr()).then_some((*key, upstream.id.0))
        };
        let mut all: Vec<_> = both.old.iter().filter_map(slot).collect();
        let older = all.len();
        all.extend(both.young.iter().filter_map(slot));
        all[..older].sort_unstable();
        all[older..].sort_unstable();
        all
    }

    /// Takes over an id that another process learned.
    pub(crate) fn restore(&self, key: u64, engine: &Arc<Upstream>) {
        self.0.lock().put(key, Arc::downgrade(engine));
    }
}

impl Generations {
    fn put(&mut self, key: u64, engine: Weak<Upstream>) {
        if self.young.len() >= MOST {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, engine);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::connect::Endpoint;
    use gorgo_core::ReplicaId;
    use gorgo_core::fleet::Kind;

    #[test]
    fn ids_lead_to_their_engine_and_are_bounded() {
        let endpoint = Endpoint::parse("http://e:1").unwrap();
        let engine = Arc::new(Upstream::new(ReplicaId(0), "e".to_owned(), Kind::Remote, endpoint));
        let ids = KeptIds::default();
        ids.learn("used", &engine);
        for n in 0..5 * MOST {
            ids.learn(&n.to_string(), &engine);
            assert!(ids.engine(key(b"used")).is_some());
        }
        assert!(ids.engine(key(b"0")).is_none());
        let both = ids.0.lock();
        assert!(both.young.len() <= MOST && both.old.len() <= MOST);
        drop(both);
        drop(engine);
        assert!(ids.engine(key(b"used")).is_none(), "an engine that is gone is not kept alive");
    }
}
