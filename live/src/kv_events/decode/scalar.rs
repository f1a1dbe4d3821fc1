//! Single values of an event, whatever MessagePack type they have: numbers, texts, hashes, and lists of block hashes.

use super::MAX_HASHES;
use serde::Deserializer;
use serde::de::{Deserialize, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use xxhash_rust::xxh3::xxh3_64;

/// Methods of a visitor that takes any scalar, passing each to `self.scalar`.
macro_rules! any_scalar {
    () => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a field of a KV event")
        }
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok(self.scalar(Scalar::Other))
        }
        fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
            Ok(self.scalar(Scalar::Number(value)))
        }
        fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
            Ok(self.scalar(Scalar::Number(value as u64))) // SGLang's hashes are signed; only equality counts
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok(self.scalar(Scalar::Other))
        }
        fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
            Ok(self.scalar(Scalar::Text(text)))
        }
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok(self.scalar(Scalar::Other))
        }
        fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
            Ok(self.scalar(Scalar::Bytes(bytes)))
        }
        fn visit_bytes<E>(self, _: &[u8]) -> Result<Self::Value, E> {
            Ok(self.scalar(Scalar::Other))
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(self.scalar(Scalar::Nil))
        }
        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(self.scalar(Scalar::Nil))
        }
        fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Self::Value, D::Error> {
            IgnoredAny::deserialize(inner)?;
            Ok(self.scalar(Scalar::Other))
        }
    };
}

pub(super) use any_scalar;

pub(super) fn skip_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

pub(super) fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

/// A scalar; of anything else only that it was there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar<'de> {
    Nil,
    Number(u64),
    Text(&'de str),
    Bytes(&'de [u8]),
    Other,
}

impl<'de> Scalar<'de> {
    /// As a block's hash: a number, or bytes of any length.
    pub(super) fn hash(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Bytes(bytes) => Some(xxh3_64(bytes)),
            _ => None,
        }
    }

    pub(super) fn number(self) -> Option<u32> {
        match self {
            Self::Number(number) => u32::try_from(number).ok(),
            _ => None,
        }
    }

    pub(super) fn text(self) -> Option<&'de str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl ScalarVisitor {
    fn scalar(self, scalar: Scalar<'_>) -> Scalar<'_> {
        scalar
    }
}

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;
    any_scalar!();

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        skip_seq(seq).map(|()| Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        skip_map(map).map(|()| Scalar::Other)
    }
}

/// A list of hashes; `None` if it is something else, or holds something else.
pub(super) struct Hashes(pub(super) Option<Vec<u64>>);

impl<'de> Deserialize<'de> for Hashes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HashesVisitor)
    }
}

struct HashesVisitor;

impl HashesVisitor {
    fn scalar(self, _: Scalar<'_>) -> Hashes {
        Hashes(None)
    }
}

impl<'de> Visitor<'de> for HashesVisitor {
    type Value = Hashes;
    any_scalar!();

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut all = Some(Vec::new());
        while let Some(scalar) = seq.next_element::<Scalar<'de>>()? {
            match (&mut all, scalar.hash()) {
                (Some(hashes), Some(hash)) if hashes.len() < MAX_HASHES => hashes.push(hash),
                _ => all = None,
            }
        }
        Ok(Hashes(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        skip_map(map).map(|()| Hashes(None))
    }
}
