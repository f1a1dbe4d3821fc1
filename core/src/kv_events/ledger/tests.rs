use super::*;
use proptest::prelude::*;

fn stored(hashes: &[u64], parent: Option<u64>, tag: Option<u64>) -> CacheEvent {
    let blocks = StoredBlocks { hashes: hashes.to_vec(), parent, block_tokens: 16, tag, ..StoredBlocks::default() };
    CacheEvent::Stored(blocks)
}

fn removed(hashes: &[u64]) -> CacheEvent {
    CacheEvent::Removed { hashes: hashes.to_vec(), group: None }
}

fn apply(ledger: &mut Ledger, ms: f64, events: &[CacheEvent]) -> Vec<CacheChange> {
    let mut changes = Vec::new();
    ledger.apply(Time::from_ms(ms), events, &mut changes);
    changes
}

#[test]
fn copies_are_counted_and_the_last_one_ends_residence() {
    let mut ledger = Ledger::default();
    ledger.begin(true);
    apply(&mut ledger, 0.0, &[stored(&[1, 2], None, None), stored(&[1], None, None)]);
    assert_eq!((ledger.summary().blocks, ledger.summary().tokens), (2, 32));
    apply(&mut ledger, 40.0, &[removed(&[1])]);
    assert_eq!(ledger.summary().tokens, 32, "another copy stays");
    apply(&mut ledger, 100.0, &[removed(&[1])]);
    assert_eq!((ledger.summary().tokens, ledger.summary().residence_ms), (16, Some(100.0)));
}

#[test]
fn what_is_resident_when_blocks_are_removed_is_what_fits() {
    let mut ledger = Ledger::default();
    ledger.begin(true);
    let all: Vec<u64> = (1..=100).collect();
    assert!(apply(&mut ledger, 0.0, &[stored(&all, None, None)]).is_empty(), "a cache that is not full tells nothing");
    let full = apply(&mut ledger, 1.0, &[removed(&[100]), stored(&[200], None, None)]);
    assert_eq!(full, [CacheChange::Measured(Some(1_600))]);
    assert!(apply(&mut ledger, 2.0, &[removed(&[99])]).is_empty(), "a small change is not told");
    let smaller = apply(&mut ledger, 3.0, &[removed(&[98, 97, 96, 95])]);
    assert!(smaller.is_empty(), "the level before the batch counts, too");
    assert_eq!(apply(&mut ledger, 4.0, &[removed(&[94])]), [CacheChange::Measured(Some(1_520))]);
    let grown: Vec<u64> = (300..340).collect();
    assert_eq!(apply(&mut ledger, 5.0, &[stored(&grown, None, None)]), [CacheChange::Measured(Some(2_144))]);
    let cleared = apply(&mut ledger, 6.0, &[CacheEvent::Cleared]);
    assert_eq!(cleared, [CacheChange::Cleared, CacheChange::Measured(None)]);
    assert_eq!((ledger.summary().blocks, ledger.summary().capacity), (0, None));
}

#[test]
fn a_stream_joined_late_measures_only_after_all_older_blocks_went() {
    let mut ledger = Ledger::default();
    apply(&mut ledger, 0.0, &[stored(&[1, 2, 3], None, None)]);
    assert!(apply(&mut ledger, 1.0, &[removed(&[77]), removed(&[1])]).is_empty());
    assert!(!ledger.summary().complete);
    let turned = apply(&mut ledger, 2.0, &[removed(&[2])]);
    assert_eq!(turned, [CacheChange::Measured(Some(32))], "as many known ones went as are left");
    let lost = apply(&mut ledger, 3.0, &[removed(&[78])]);
    assert_eq!(lost, [CacheChange::Measured(None)]);
}

#[test]
fn a_removed_block_of_a_tagged_dispatch_cuts_its_path_once() {
    let mut ledger = Ledger::default();
    ledger.begin(true);
    let path: Arc<[u64]> = (0..8).collect();
    ledger.dispatched(5, Arc::clone(&path), 60);
    apply(&mut ledger, 0.0, &[stored(&[1, 2], None, Some(5)), stored(&[3, 4], Some(2), Some(5))]);
    assert_eq!(ledger.held(5), Some(0));
    ledger.finished(5, Arc::clone(&path), 64);
    let changes = apply(&mut ledger, 1.0, &[removed(&[4]), removed(&[3])]);
    assert_eq!(changes[0], CacheChange::Evicted { symbols: Arc::clone(&path), keep: 4 });
    assert_eq!(ledger.summary().cuts, 1);
    // The next turn found the first two blocks and stored one more.
    ledger.dispatched(6, Arc::clone(&path), 64);
    apply(&mut ledger, 2.0, &[stored(&[9], Some(2), Some(6))]);
    assert_eq!(ledger.held(6), Some(32));
    // A block that is stored again in the same batch is not gone.
    let changes = apply(&mut ledger, 3.0, &[removed(&[2]), stored(&[2], Some(1), Some(6))]);
    assert!(!changes.iter().any(|change| matches!(change, CacheChange::Evicted { .. })), "{changes:?}");
}

#[test]
fn unknown_tags_parents_and_partial_groups_place_and_count_nothing() {
    let mut ledger = Ledger::default();
    ledger.begin(true);
    ledger.dispatched(5, Arc::from([1, 2]), 32);
    apply(&mut ledger, 0.0, &[stored(&[1], Some(99), Some(5)), stored(&[2], None, Some(6))]);
    assert_eq!(ledger.held(5), None);
    let window = StoredBlocks {
        hashes: vec![7, 8],
        block_tokens: 16,
        group: Some(1),
        is_partial: true,
        ..StoredBlocks::default()
    };
    apply(&mut ledger, 1.0, &[CacheEvent::Stored(window)]);
    let of_group = CacheEvent::Removed { hashes: vec![1, 7], group: Some(1) };
    let changes = apply(&mut ledger, 2.0, &[of_group, removed(&[1, 2])]);
    assert_eq!(changes, [CacheChange::Measured(Some(32))]);
    assert_eq!((ledger.summary().removed_unknown, ledger.summary().cuts), (0, 0));
}

proptest! {
    #[test]
    fn equals_a_naive_count(
        events in prop::collection::vec((0u8..12, prop::collection::vec(0u64..12, 0..5)), 0..80)
    ) {
        let mut ledger = Ledger::default();
        ledger.begin(true);
        let mut naive = [0u32; 12];
        for (kind, hashes) in events {
            match kind {
                0 => {
                    naive = [0; 12];
                    apply(&mut ledger, 0.0, &[CacheEvent::Cleared]);
                }
                1..=6 => {
                    hashes.iter().for_each(|&hash| naive[hash as usize] += 1);
                    apply(&mut ledger, 0.0, &[stored(&hashes, None, None)]);
                }
                _ => {
                    for &hash in &hashes {
                        naive[hash as usize] = naive[hash as usize].saturating_sub(1);
                    }
                    apply(&mut ledger, 0.0, &[removed(&hashes)]);
                }
            }
            let blocks = naive.iter().filter(|copies| **copies > 0).count() as u64;
            let summary = ledger.summary();
            prop_assert_eq!((summary.blocks, summary.tokens), (blocks, 16 * blocks));
        }
    }
}
