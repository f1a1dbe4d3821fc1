//! SHA-256 as hexadecimal digits.

use sha2::{Digest, Sha256};
use std::fmt::Write;

/// The digest of `bytes`.
pub fn of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
