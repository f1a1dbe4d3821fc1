//! Batches written down byte by byte.
//!
//! The layouts are those of the engines' sources: vLLM's `distributed/kv_events.py` (msgspec structs with
//! `array_like=True, omit_defaults=True, tag=True` to 0.23; maps with `type` from 0.24) and SGLang's
//! `disaggregation/kv_events.py`. MessagePack: `9x` array, `8x` map, `ax` text, `cb` float, `cd`/`ce`/`cf` and
//! `d1`/`d3` numbers, `c4` bytes, `c0` nil.

use super::*;
use gorgo_core::Time;
use gorgo_core::kv_events::{CacheChange, Ledger};
use proptest::prelude::*;
use std::collections::BTreeSet;
use xxhash_rust::xxh3::xxh3_64;

fn text(text: &str) -> Vec<u8> {
    assert!(text.len() < 32);
    [&[0xa0 | text.len() as u8], text.as_bytes()].concat()
}

fn u64_(value: u64) -> Vec<u8> {
    [&[0xcf][..], &value.to_be_bytes()].concat()
}

fn i64_(value: i64) -> Vec<u8> {
    [&[0xd3][..], &value.to_be_bytes()].concat()
}

fn array(items: &[Vec<u8>]) -> Vec<u8> {
    assert!(items.len() < 16);
    [&[0x90 | items.len() as u8][..], &items.concat()].concat()
}

fn map(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    assert!(items.len() < 16);
    let pairs: Vec<u8> = items.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [&[0x80 | items.len() as u8][..], &pairs].concat()
}

const NIL: u8 = 0xc0;

fn of(events: &[Vec<u8>], rank: Option<u8>) -> Vec<u8> {
    let time = [&[0xcb][..], &1_764_000_000.25f64.to_be_bytes()].concat();
    let mut parts = vec![time, array(events)];
    parts.extend(rank.map(|rank| vec![rank]));
    array(&parts)
}

fn tokens() -> Vec<u8> {
    array(&[vec![0x01], vec![0xcd, 0x12, 0x34], vec![0xce, 0, 1, 0xe2, 0x40]])
}

fn stored(hashes: &[u64], parent: Option<u64>) -> StoredBlocks {
    StoredBlocks { hashes: hashes.to_vec(), parent, block_tokens: 16, ..StoredBlocks::default() }
}

#[test]
fn vllm_to_0_23_arrays_with_trailing_defaults_left_out() {
    let (a, b) = (0xfedc_ba98_7654_3210, 7);
    let first = array(&[text("BlockStored"), array(&[u64_(a), u64_(b)]), vec![NIL], tokens(), vec![0x10], vec![NIL]]);
    let medium = array(&[
        text("BlockStored"),
        array(&[vec![0x05]]),
        u64_(b),
        tokens(),
        vec![0x10],
        vec![NIL],
        text("GPU"),
        vec![NIL],
        array(&[vec![NIL]]),
        vec![0x01],
        text("full_attention"),
        vec![NIL],
    ]);
    let removed = array(&[text("BlockRemoved"), array(&[u64_(a)]), text("GPU")]);
    let short = array(&[text("BlockRemoved"), array(&[u64_(a)])]);
    let cleared = array(&[text("AllBlocksCleared")]);
    let batch = batch(&of(&[first, medium, removed, short, cleared], None)).unwrap();
    assert_eq!(batch.skipped, 0);
    let expected = [
        CacheEvent::Stored(stored(&[a, b], None)),
        CacheEvent::Stored(StoredBlocks { group: Some(1), ..stored(&[5], Some(7)) }),
        CacheEvent::Removed { hashes: vec![a], group: None },
        CacheEvent::Removed { hashes: vec![a], group: None },
        CacheEvent::Cleared,
    ];
    assert_eq!(batch.events, expected);
}

#[test]
fn vllm_from_0_24_maps_with_the_session_of_a_dispatch() {
    let first = map(&[
        ("type", text("BlockStored")),
        ("block_hashes", array(&[u64_(1), u64_(2)])),
        ("parent_block_hash", vec![NIL]),
        ("token_ids", tokens()),
        ("block_size", vec![0x10]),
        ("lora_id", vec![NIL]),
        ("medium", text("GPU")),
        ("locality", text("local")),
        ("session_id", text("gorgo-00000000000000ff")),
        ("lookahead_token_ids", array(&[vec![0x01]])),
    ]);
    let removed =
        map(&[("block_hashes", array(&[u64_(2)])), ("group_idx", vec![0x02]), ("type", text("BlockRemoved"))]);
    let cleared = map(&[("type", text("AllBlocksCleared"))]);
    let batch = batch(&of(&[first, removed, cleared], Some(0))).unwrap();
    let expected = [
        CacheEvent::Stored(StoredBlocks { tag: Some(0xff), ..stored(&[1, 2], None) }),
        CacheEvent::Removed { hashes: vec![2], group: Some(2) },
        CacheEvent::Cleared,
    ];
    assert_eq!((batch.events.as_slice(), batch.skipped), (&expected[..], 0));
}

#[test]
fn sglang_maps_and_older_arrays_with_signed_hashes() {
    let newer = map(&[
        ("type", text("BlockStored")),
        ("block_hashes", array(&[i64_(-3)])),
        ("parent_block_hash", i64_(-9)),
        ("token_ids", tokens()),
        ("block_size", vec![0x10]),
        ("lora_id", vec![NIL]),
        ("medium", text("GPU")),
        ("cache_salt", text("s")),
        ("session_id", text("a conversation")),
    ]);
    let dict = map(&[("session_id", text("x"))]);
    let hashes = array(&[vec![0xff], i64_(-3)]);
    let older = array(&[text("BlockStored"), hashes, vec![NIL], tokens(), vec![0x10], vec![NIL], text("GPU"), dict]);
    let elsewhere =
        map(&[("type", text("BlockRemoved")), ("block_hashes", array(&[i64_(-3)])), ("medium", text("CPU_PINNED"))]);
    let batch = batch(&of(&[newer, older, elsewhere], Some(1))).unwrap();
    let expected = [
        CacheEvent::Stored(stored(&[-3i64 as u64], Some(-9i64 as u64))),
        CacheEvent::Stored(stored(&[-1i64 as u64, -3i64 as u64], None)),
    ];
    assert_eq!((batch.events.as_slice(), batch.skipped), (&expected[..], 0));
}

#[test]
fn hashes_as_bytes_are_names_like_any_other() {
    let digest = [&[0xc4, 32][..], &[9; 32]].concat();
    let event = |kind: &str| map(&[("type", text(kind)), ("block_hashes", array(std::slice::from_ref(&digest)))]);
    let batch = batch(&of(&[event("BlockRemoved")], None)).unwrap();
    assert_eq!(batch.events, [CacheEvent::Removed { hashes: vec![xxh3_64(&[9; 32])], group: None }]);
}

#[test]
fn blocks_of_windows_are_told_apart() {
    let event = map(&[
        ("type", text("BlockStored")),
        ("block_hashes", array(&[vec![0x01]])),
        ("parent_block_hash", vec![NIL]),
        ("block_size", vec![0x10]),
        ("group_idx", vec![0x01]),
        ("kv_cache_spec_kind", text("sliding_window")),
    ]);
    let expected = StoredBlocks { group: Some(1), is_partial: true, ..stored(&[1], None) };
    assert_eq!(batch(&of(&[event], None)).unwrap().events, [CacheEvent::Stored(expected)]);
}

#[test]
fn an_unknown_event_or_field_costs_only_itself() {
    let removed = map(&[
        ("colour", map(&[("deep", array(&[array(&[vec![0x01]])]))])),
        ("type", text("BlockRemoved")),
        ("block_hashes", array(&[vec![0x07]])),
    ]);
    let odd = [
        array(&[text("BlockMoved"), array(&[vec![0x01]])]),
        map(&[("type", vec![0x07])]),
        map(&[("type", text("BlockStored"))]),
        array(&[text("BlockRemoved"), array(&[text("no hash")])]),
        array(&[]),
        vec![0x05],
        vec![0xd4, 0x01, 0x02], // an extension type
    ];
    let all: Vec<Vec<u8>> = odd.iter().cloned().chain([removed]).collect();
    let batch = batch(&of(&all, None)).unwrap();
    assert_eq!(batch.events, [CacheEvent::Removed { hashes: vec![7], group: None }]);
    assert_eq!(batch.skipped, odd.len() as u32);
}

#[test]
fn what_is_no_batch_is_an_error() {
    let cut = of(&[array(&[text("AllBlocksCleared")])], None);
    let deep = [vec![0x91; 100], vec![0xc0]].concat();
    let promised = [0x92, 0xc0, 0xdd, 0xff, 0xff, 0xff, 0xff];
    for bytes in [&[][..], &[0xc0], &[0x90], &[0x92, 0xc0, 0x05], &cut[..cut.len() - 1], &deep, &promised] {
        assert!(batch(bytes).is_err(), "{bytes:x?}");
    }
    assert!(batch(&vec![0; MAX_BYTES + 1]).unwrap_err().to_string().contains("too many"));
}

/// All batches that vLLM 0.32.0 (CPU build, a random model of two layers, 80 blocks of 32 tokens) published for eleven
/// prompts of 415 tokens, seven of them tagged by a router: the number and the length of each batch, big-endian, then its
/// bytes as they were on the wire.
const RECORDED: &[u8] = include_bytes!("vllm-0.32.bin");

#[test]
fn a_stream_recorded_from_vllm_0_32_is_read_whole() {
    let (mut rest, mut ledger) = (RECORDED, Ledger::default());
    let mut changes = Vec::new();
    let (mut tags, mut numbers) = (BTreeSet::new(), Vec::new());
    while let Some((head, after)) = rest.split_first_chunk::<12>() {
        numbers.push(u64::from_be_bytes(head[..8].try_into().unwrap()));
        let length = u32::from_be_bytes(head[8..].try_into().unwrap()) as usize;
        let read = batch(&after[..length]).unwrap();
        assert_eq!(read.skipped, 0);
        for event in &read.events {
            if let CacheEvent::Stored(StoredBlocks { tag: Some(tag), block_tokens: 32, .. }) = event {
                tags.insert(*tag);
                ledger.dispatched(*tag, (0..40).collect(), 415);
            }
        }
        if numbers.len() == 1 {
            ledger.begin(true);
        }
        ledger.apply(Time::ZERO, &read.events, &mut changes);
        rest = &after[length..];
    }
    assert_eq!(numbers, (0..25).collect::<Vec<u64>>());
    let seen = ledger.summary();
    assert_eq!((seen.stored, seen.removed, seen.removed_unknown, seen.blocks), (119, 41, 0, 78));
    assert_eq!((tags.len(), seen.tagged, seen.capacity), (7, 67, Some(2_528)));
    let cuts: Vec<usize> = changes
        .iter()
        .filter_map(|change| if let CacheChange::Evicted { keep, .. } = change { Some(*keep) } else { None })
        .collect();
    assert_eq!(cuts.len() as u64, seen.cuts);
    assert!(cuts.contains(&0), "a prompt was evicted whole: {cuts:?}");
}

#[test]
fn only_tags_of_routers_are_tags() {
    assert_eq!(tag_of("gorgo-00000000000000ff"), Some(255));
    for other in ["", "gorgo-", "gorgo-ff", "gorgo-zz000000000000ff", "x-00000000000000ff"] {
        assert_eq!(tag_of(other), None, "{other}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz(&bytes);
        fuzz(&of(&[bytes], None));
    }

    #[test]
    fn no_change_of_a_batch_panics(at in 0usize..400, byte in any::<u8>()) {
        let event = map(&[
            ("type", text("BlockStored")),
            ("block_hashes", array(&[u64_(1), u64_(2)])),
            ("parent_block_hash", vec![NIL]),
            ("token_ids", tokens()),
            ("block_size", vec![0x10]),
            ("session_id", text("gorgo-00000000000000ff")),
        ]);
        let mut bytes = of(&[event, array(&[text("BlockRemoved"), array(&[u64_(1)])])], Some(0));
        let at = at % bytes.len();
        bytes[at] = byte;
        fuzz(&bytes);
    }
}
