//! The answer of `GET /lb/digest`: JSON, with keys as base64 of their bytes.

use crate::sharing::message::{from_text, to_text};
use gorgo_core::Span;
use gorgo_core::digest::{Edition, Update};
use serde::{Deserialize, Serialize};

/// The meaning of the fields; another one is refused.
pub(crate) const VERSION: u32 = 1;

/// A digest of prefixes, or what changed in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DigestMessage {
    pub version: u32,
    /// Names the hash seed without telling it.
    pub key_id: String,
    pub edition: Edition,
    /// The edition that is changed; absent where `added` is the whole digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Blocks of the prompt between two keys.
    pub every: u32,
    /// How long ago the keys were collected, ms.
    pub age_ms: f64,
    pub added: String,
    pub removed: String,
}

impl DigestMessage {
    pub(crate) fn new(update: &Update, key_id: &str) -> Self {
        Self {
            version: VERSION,
            key_id: key_id.to_owned(),
            edition: update.edition,
            since: update.since,
            every: update.every,
            age_ms: update.age.ms(),
            added: to_text(&update.added),
            removed: to_text(&update.removed),
        }
    }

    /// The answer in a body, for a router with this seed; a sentence if it is none.
    pub(crate) fn read(body: &[u8], key_id: &str) -> Result<Update, String> {
        let message: Self =
            serde_json::from_slice(body).map_err(|error| format!("its answer cannot be read: {error}"))?;
        if (message.version, message.key_id.as_str()) != (VERSION, key_id) {
            return Err("its answer is of another version or hash seed".to_owned());
        }
        let keys = |text: &str| from_text(text).ok_or("keys in its answer are damaged");
        Ok(Update {
            edition: message.edition,
            since: message.since,
            every: message.every,
            age: Span::from_ms(message.age_ms),
            added: keys(&message.added)?,
            removed: keys(&message.removed)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_the_way_and_a_damaged_one_is_told() {
        let update = Update {
            edition: Edition { author: u64::MAX, number: 3 },
            since: Some(2),
            every: 16,
            age: Span::from_ms(12.5),
            added: (0..500).map(|i| u64::MAX - i).collect(),
            removed: vec![7],
        };
        let body = serde_json::to_vec(&DigestMessage::new(&update, "0123456789abcdef")).unwrap();
        assert_eq!(DigestMessage::read(&body, "0123456789abcdef"), Ok(update.clone()));
        let estimated = update.bytes() as usize;
        assert!(body.len().abs_diff(estimated) < 32, "{} bytes, estimated {estimated}", body.len());
        let text = String::from_utf8(body).unwrap();
        let damaged = text.replacen("\"removed\":\"", "\"removed\":\"!", 1);
        let cut = &text[..text.len() / 2];
        let newer = text.replacen("\"version\":1", "\"version\":2", 1);
        for (body, why) in
            [(&*damaged, "damaged"), (cut, "cannot be read"), (&newer, "another version"), ("", "cannot")]
        {
            let told = DigestMessage::read(body.as_bytes(), "0123456789abcdef").unwrap_err();
            assert!(told.contains(why), "{told}");
        }
        assert!(DigestMessage::read(text.as_bytes(), "another").unwrap_err().contains("hash seed"));
    }
}
