//! The bytes of a snapshot: a head in JSON, the rows of the index as little-endian numbers, a checksum.
//!
//! ```text
//! "gorgosnp" | version u32 | length of the head u32 | head | nodes | symbols | owners | ids | xxh3 of all before u64
//! ```

use super::{Kept, MOST, SeedMark};
use crate::discovery::discovered::Sets;
use gorgo_core::fleet::SavedRates;
use gorgo_core::prefix::{SavedIndex, SavedNode, SavedOwner};
use gorgo_core::router::{SavedReplica, Snapshot};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"gorgosnp";
const VERSION: u32 = 1;
/// Bytes before the head and after the rows.
const FRAME: usize = 16 + 8;
/// Bytes of an id.
const ID: usize = 10;
/// Longest snapshot that is read: the prefixes, the head, the ids.
pub(crate) const LONGEST: usize = MOST + (8 << 20);

/// Why bytes are no snapshot that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Unreadable {
    #[error("it is not a snapshot")]
    Other,
    #[error("it has version {0}, and this program reads version {VERSION}")]
    Version(u32),
    #[error("it is damaged")]
    Damaged,
}

#[derive(Serialize, Deserialize)]
struct Head {
    unix_ms: u64,
    router: String,
    seed: SeedMark,
    replicas: Vec<SavedReplica>,
    rates: SavedRates,
    bytes_per_token: Vec<(String, f64)>,
    /// Programs before had none.
    #[serde(default)]
    discovered: Sets,
    nodes: usize,
    symbols: usize,
    owners: usize,
    ids: usize,
}

/// The snapshot as bytes.
pub(crate) fn encode(kept: &Kept) -> Vec<u8> {
    let index = &kept.core.index;
    let head = Head {
        unix_ms: kept.unix_ms,
        router: kept.router.clone(),
        seed: kept.seed.clone(),
        replicas: kept.core.replicas.clone(),
        rates: kept.core.rates.clone(),
        bytes_per_token: kept.bytes_per_token.clone(),
        discovered: kept.discovered.clone(),
        nodes: index.nodes.len(),
        symbols: index.symbols.len(),
        owners: index.owners.len(),
        ids: kept.ids.len(),
    };
    let head = serde_json::to_vec(&head).unwrap_or_default();
    let mut out = Vec::with_capacity(FRAME + head.len() + index.bytes() + ID * kept.ids.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(head.len() as u32).to_le_bytes());
    out.extend_from_slice(&head);
    for row in &index.nodes {
        for number in [row.parent, row.symbols, row.tokens, row.owners] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
    index.symbols.iter().for_each(|symbol| out.extend_from_slice(&symbol.to_le_bytes()));
    let owners = index.owners.iter().map(|owner| (owner.used, owner.replica));
    for (number, replica) in owners.chain(kept.ids.iter().copied()) {
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&replica.to_le_bytes());
    }
    let sum = xxh3_64(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// The snapshot in these bytes.
///
/// # Errors
/// When they are no snapshot, of another version, or damaged.
pub(crate) fn decode(bytes: &[u8]) -> Result<Kept, Unreadable> {
    if !bytes.starts_with(MAGIC) || bytes.len() < FRAME {
        return Err(Unreadable::Other);
    }
    let version = u32_at(&bytes[8..]);
    if version != VERSION {
        return Err(Unreadable::Version(version));
    }
    let (all, sum) = bytes.split_at(bytes.len() - 8);
    if xxh3_64(all) != u64_at(sum) {
        return Err(Unreadable::Damaged);
    }
    let length = u32_at(&bytes[12..]) as usize;
    let (head, rows) = all[16..].split_at_checked(length).ok_or(Unreadable::Damaged)?;
    let head: Head = serde_json::from_slice(head).map_err(|_| Unreadable::Damaged)?;
    let size = |count: usize, each: usize| count.checked_mul(each).ok_or(Unreadable::Damaged);
    let mut rows = rows;
    let mut take = |bytes: usize| {
        let (here, rest) = rows.split_at_checked(bytes).ok_or(Unreadable::Damaged)?;
        rows = rest;
        Ok(here)
    };
    let (nodes, symbols) = (take(size(head.nodes, 16)?)?, take(size(head.symbols, 8)?)?);
    let (owners, ids) = (take(size(head.owners, ID)?)?, take(size(head.ids, ID)?)?);
    let pair = |row: &[u8]| (u64_at(row), u16::from_le_bytes([row[8], row[9]]));
    let index = SavedIndex {
        nodes: nodes
            .chunks_exact(16)
            .map(|row| SavedNode {
                parent: u32_at(row),
                symbols: u32_at(&row[4..]),
                tokens: u32_at(&row[8..]),
                owners: u32_at(&row[12..]),
            })
            .collect(),
        symbols: symbols.chunks_exact(8).map(u64_at).collect(),
        owners: owners.chunks_exact(ID).map(pair).map(|(used, replica)| SavedOwner { replica, used }).collect(),
    };
    if !rows.is_empty() || !index.is_sound() {
        return Err(Unreadable::Damaged);
    }
    Ok(Kept {
        unix_ms: head.unix_ms,
        router: head.router,
        seed: head.seed,
        bytes_per_token: head.bytes_per_token,
        ids: ids.chunks_exact(ID).map(pair).collect(),
        discovered: head.discovered,
        core: Snapshot { replicas: head.replicas, rates: head.rates, index },
    })
}

fn u32_at(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |four| u32::from_le_bytes(*four))
}

fn u64_at(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::DiscoveredEndpoint;
    use gorgo_core::ReplicaId;
    use gorgo_core::prefix::PrefixIndex;
    use proptest::prelude::*;

    fn kept() -> Kept {
        let mut index = PrefixIndex::<u64>::new(None, u64::MAX, usize::MAX);
        for i in 0..40 {
            index.insert(&[1, 2, 3, i % 7, i], 80, ReplicaId((i % 3) as u16));
        }
        let replicas =
            ["a", "b", "c"].map(|name| SavedReplica { name: name.to_owned(), ..SavedReplica::default() }).to_vec();
        Kept {
            unix_ms: 1_700_000_000_000,
            router: "0123".to_owned(),
            seed: SeedMark::Own(u64::MAX),
            bytes_per_token: vec![("m".to_owned(), 3.7)],
            ids: vec![(u64::MAX, 2), (7, 0)],
            discovered: [("file".to_owned(), vec![DiscoveredEndpoint::new("a", "http://a:1")])].into(),
            core: Snapshot { replicas, rates: SavedRates::default(), index: index.save(usize::MAX) },
        }
    }

    #[test]
    fn a_snapshot_survives_and_each_damage_is_found() {
        let bytes = encode(&kept());
        assert_eq!(decode(&bytes).unwrap(), kept());
        for at in [16, 40, bytes.len() / 2, bytes.len() - 9, bytes.len() - 1] {
            let mut spoiled = bytes.clone();
            spoiled[at] ^= 0x10;
            assert_eq!(decode(&spoiled), Err(Unreadable::Damaged), "byte {at}");
        }
        for length in [0, 7, 23, 24, bytes.len() / 3, bytes.len() - 1] {
            assert!(decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        let mut newer = bytes;
        newer[8] = 9;
        assert_eq!(decode(&newer), Err(Unreadable::Version(9)));
        assert_eq!(decode(b"# Changes over the admin API of a router"), Err(Unreadable::Other));
    }

    proptest! {
        /// A peer may send anything, with a checksum that fits.
        #[test]
        fn whatever_comes_is_read_or_refused(head in ".{0,200}", rows in prop::collection::vec(any::<u8>(), 0..200), at in 0..400usize, to: u8) {
            let seal = |bytes: &mut Vec<u8>| {
                let sum = xxh3_64(bytes);
                bytes.extend_from_slice(&sum.to_le_bytes());
            };
            let mut made = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &(head.len() as u32).to_le_bytes(), head.as_bytes(), &rows].concat();
            seal(&mut made);
            let _ = decode(&made);
            let mut spoiled = encode(&kept());
            spoiled.truncate(spoiled.len() - 8);
            let at = at % spoiled.len();
            spoiled[at] = to;
            seal(&mut spoiled);
            let _ = decode(&spoiled);
        }
    }
}
