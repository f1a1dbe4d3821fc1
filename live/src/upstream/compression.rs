//! How far the bodies of requests to peer routers are packed: the length that decisions expect.

use gorgo_core::network::learn_compression;
use parking_lot::Mutex;

/// The learned length of packed bodies, as a share of the plain ones.
#[derive(Debug)]
pub(crate) struct Compression(Mutex<f64>);

impl Default for Compression {
    fn default() -> Self {
        Self(Mutex::new(1.0))
    }
}

impl Compression {
    /// The share to expect, in hundredths: each change is passed to the core.
    pub(crate) fn expected(&self) -> f64 {
        ((*self.0.lock() * 100.0).round() / 100.0).max(0.01)
    }

    pub(crate) fn learn(&self, plain: usize, packed: usize) {
        let mut expected = self.0.lock();
        *expected = learn_compression(*expected, plain as u64, packed as u64);
    }
}
