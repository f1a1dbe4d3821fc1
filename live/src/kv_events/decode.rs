//! Batches of KV events as MessagePack: vLLM's arrays (to 0.23) and maps (from 0.24), SGLang's maps and older arrays.
//!
//! Fields are read by position or by name into one form. Token ids are skipped without being stored. An event or a
//! field of an unknown kind costs only itself; a batch that is no MessagePack is an error, since removals may be lost
//! with it.

mod scalar;

use gorgo_core::kv_events::{CacheEvent, StoredBlocks};
use rmp_serde::decode::Error;
use scalar::{Hashes, Scalar, any_scalar, skip_map, skip_seq};
use serde::Deserializer;
use serde::de::{Deserialize, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Longest batch that is read, bytes: a million tokens as published by vLLM take 6 MB.
pub(crate) const MAX_BYTES: usize = 32 << 20;
/// Most events of a batch that are read.
const MAX_EVENTS: usize = 1 << 16;
/// Most hashes of an event that are read.
const MAX_HASHES: usize = 1 << 20;
/// Deepest nesting that is followed; known events have 4 levels.
const MAX_DEPTH: usize = 16;
/// Blocks in memory of other kinds (CPU, disks) are not ready for use.
const MEDIUM: &str = "GPU";
/// What begins the session ids by which a router names its dispatches; 16 hexadecimal digits follow.
pub(crate) const TAG: &str = "gorgo-";

/// A batch.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Batch {
    pub(crate) events: Vec<CacheEvent>,
    /// Events of kinds that are not known, or without the fields they need.
    pub(crate) skipped: u32,
}

/// Reads a batch.
///
/// # Errors
/// When the bytes are too many, or no batch.
pub(crate) fn batch(bytes: &[u8]) -> Result<Batch, Error> {
    if bytes.len() > MAX_BYTES {
        return Err(Error::Syntax(format!("{} bytes are too many; {MAX_BYTES} are read", bytes.len())));
    }
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    reader.set_max_depth(MAX_DEPTH);
    let found = reader.deserialize_any(BatchVisitor)?;
    found.ok_or_else(|| Error::Syntax("no list of events".to_owned()))
}

/// The tag that a session id holds.
pub(crate) fn tag_of(session: &str) -> Option<u64> {
    let digits = session.strip_prefix(TAG).filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// The fields of an event that are read.
#[derive(Default)]
struct Fields<'de> {
    kind: Option<&'de str>,
    hashes: Option<Vec<u64>>,
    /// `Some(None)` for the first block of a prompt.
    parent: Option<Option<u64>>,
    block_tokens: Option<u32>,
    medium: Option<&'de str>,
    group: Option<u32>,
    spec: Option<&'de str>,
    session: Option<&'de str>,
}

/// The names of an event's fields in the order of the array forms.
fn order(kind: &str) -> &'static [&'static str] {
    match kind {
        "BlockStored" => &[
            "block_hashes",
            "parent_block_hash",
            "token_ids",
            "block_size",
            "lora_id",
            "medium",
            "lora_name",
            "extra_keys",
            "group_idx",
            "kv_cache_spec_kind",
        ],
        "BlockRemoved" => &["block_hashes", "medium", "group_idx"],
        _ => &[],
    }
}

/// Where the value of a field goes.
enum Slot {
    Hashes,
    Scalar,
    Skipped,
}

impl<'de> Fields<'de> {
    fn slot(name: &str) -> Slot {
        match name {
            "block_hashes" => Slot::Hashes,
            "type" | "parent_block_hash" | "block_size" | "medium" | "group_idx" | "kv_cache_spec_kind"
            | "session_id" => Slot::Scalar,
            _ => Slot::Skipped,
        }
    }

    fn set(&mut self, name: &str, value: Scalar<'de>) {
        match name {
            "type" => self.kind = value.text(),
            "parent_block_hash" => {
                self.parent = match value {
                    Scalar::Nil => Some(None),
                    other => other.hash().map(Some),
                }
            }
            "block_size" => self.block_tokens = value.number(),
            "medium" => self.medium = value.text(),
            "group_idx" => self.group = value.number(),
            "kv_cache_spec_kind" => self.spec = value.text(),
            "session_id" => self.session = value.text(),
            _ => {}
        }
    }

    /// The event; `Err` if it is of another kind or lacks a field, `Ok(None)` if it is about other memory.
    fn event(self) -> Result<Option<CacheEvent>, ()> {
        let other = |medium: &str| !medium.eq_ignore_ascii_case(MEDIUM);
        match self.kind {
            Some("AllBlocksCleared") => Ok(Some(CacheEvent::Cleared)),
            Some("BlockStored" | "BlockRemoved") if self.medium.is_some_and(other) => Ok(None),
            Some("BlockRemoved") => Ok(Some(CacheEvent::Removed { hashes: self.hashes.ok_or(())?, group: self.group })),
            Some("BlockStored") => Ok(Some(CacheEvent::Stored(StoredBlocks {
                hashes: self.hashes.ok_or(())?,
                parent: self.parent.ok_or(())?,
                block_tokens: self.block_tokens.filter(|tokens| *tokens > 0).ok_or(())?,
                tag: self.session.and_then(tag_of),
                group: self.group,
                is_partial: self.spec.is_some_and(|spec| spec != "full_attention"),
            }))),
            _ => Err(()),
        }
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl FieldsVisitor {
    fn scalar<'de>(self, _: Scalar<'de>) -> Fields<'de> {
        Fields::default()
    }
}

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;
    any_scalar!();

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut fields =
            Fields { kind: seq.next_element::<Scalar<'de>>()?.and_then(Scalar::text), ..Fields::default() };
        for name in order(fields.kind.unwrap_or_default()) {
            let there = match Fields::slot(name) {
                Slot::Hashes => seq.next_element::<Hashes>()?.map(|Hashes(hashes)| fields.hashes = hashes),
                Slot::Scalar => seq.next_element::<Scalar<'de>>()?.map(|value| fields.set(name, value)),
                Slot::Skipped => seq.next_element::<IgnoredAny>()?.map(drop),
            };
            if there.is_none() {
                return Ok(fields);
            }
        }
        skip_seq(seq)?;
        Ok(fields)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<Scalar<'de>>()? {
            let name = name.text().unwrap_or_default();
            match Fields::slot(name) {
                Slot::Hashes => Hashes(fields.hashes) = map.next_value()?,
                Slot::Scalar => fields.set(name, map.next_value()?),
                Slot::Skipped => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(fields)
    }
}

/// The list of events.
struct Events;

impl Events {
    fn scalar(self, _: Scalar<'_>) -> Option<Batch> {
        None
    }
}

impl<'de> DeserializeSeed<'de> for Events {
    type Value = Option<Batch>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Events {
    type Value = Option<Batch>;
    any_scalar!();

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut batch = Batch::default();
        while let Some(fields) = seq.next_element::<Fields<'de>>()? {
            match fields.event() {
                Ok(Some(event)) if batch.events.len() < MAX_EVENTS => batch.events.push(event),
                Ok(None) => {}
                Ok(Some(_)) | Err(()) => batch.skipped += 1,
            }
        }
        Ok(Some(batch))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        skip_map(map).map(|()| None)
    }
}

/// A batch: `[time, [event, ...], rank?, ...]`, or a map with `events`.
struct BatchVisitor;

impl BatchVisitor {
    fn scalar(self, _: Scalar<'_>) -> Option<Batch> {
        None
    }
}

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = Option<Batch>;
    any_scalar!();

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        if seq.next_element::<IgnoredAny>()?.is_none() {
            return Ok(None);
        }
        let batch = seq.next_element_seed(Events)?.flatten();
        skip_seq(seq)?;
        Ok(batch)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut batch = None;
        while let Some(name) = map.next_key::<Scalar<'de>>()? {
            match name.text() {
                Some("events") => batch = map.next_value_seed(Events)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(batch)
    }
}

/// Any bytes are read or refused.
#[cfg(test)]
fn fuzz(data: &[u8]) {
    if let Ok(batch) = batch(data) {
        assert!(batch.events.len() <= MAX_EVENTS);
    }
}

#[cfg(test)]
mod tests;
