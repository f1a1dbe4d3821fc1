use super::*;
use crate::ReplicaId;
use proptest::prelude::*;

const OWN: ReplicaId = ReplicaId(1);
const PEER: ReplicaId = ReplicaId(0);

fn own() -> ReplicaSet {
    let mut own = ReplicaSet::EMPTY;
    own.insert(OWN);
    own
}

fn index(budget: u64) -> PrefixIndex<u64> {
    PrefixIndex::new(Some(1), budget, 1 << 30)
}

/// Seconds.
fn at(s: u64) -> Time {
    Time(s * 1_000_000_000)
}

/// The path of a turn of a conversation: symbols that name their block and all before it.
fn path(conversation: u64, length: u64) -> Vec<u64> {
    (1..=length).map(|depth| (conversation << 32) | depth).collect()
}

/// The digest as a peer has it that asks for the first time.
fn whole(digest: &Digest, now: Time) -> ReceivedDigest {
    let mut heard = ReceivedDigest::default();
    assert!(heard.take(&digest.since(now, None), now));
    heard
}

/// Deepest keys that a digest has of this path.
fn depth(heard: &ReceivedDigest, path: &[u64]) -> u32 {
    heard.view(at(0), path, path.len() as u32, 1.0).map_or(0, |view| view.tokens)
}

proptest! {
    /// Whenever a peer asks, it has the whole digest afterwards: by changes, and after a restart of the other.
    #[test]
    fn changes_add_up_to_the_whole(
        steps in prop::collection::vec((0u64..12, 1u64..30, 0u8..10), 1..200), every in 1usize..5
    ) {
        let (mut index, mut digest, mut heard) = (index(120), Digest::new(7, every), ReceivedDigest::default());
        for (i, (conversation, length, kind)) in steps.into_iter().enumerate() {
            let (path, now) = (path(conversation, length), at(i as u64));
            match kind {
                0 => index.truncate(&path, length as u32 / 2, OWN, index.stamp()),
                1 => index.insert(&path, length as u32, PEER),
                2 => digest = Digest::new(8 + i as u64, every),
                3 | 4 => {
                    digest.collect(now, &index, &own());
                    let update = digest.since(now, heard.edition());
                    prop_assert!(update.added.is_sorted() && update.removed.is_sorted());
                    prop_assert!(heard.take(&update, now));
                    prop_assert_eq!(&heard, &whole(&digest, now));
                }
                _ => {
                    index.insert(&path, length as u32, OWN);
                    digest.learned(&path);
                }
            }
        }
    }

    /// A digest never claims what no own engine holds, and never tells what it was not allowed to tell.
    #[test]
    fn what_is_told_is_held_and_allowed(
        steps in prop::collection::vec((0u64..8, 1u64..30, any::<bool>()), 1..60), every in 1usize..5
    ) {
        let (mut index, mut digest) = (index(100), Digest::new(7, every));
        let mut allowed = FxHashMap::<u64, u64>::default();
        for (i, (conversation, length, may_be_told)) in steps.into_iter().enumerate() {
            index.insert(&path(conversation, length), length as u32, OWN);
            index.insert(&path(conversation, length + 9), length as u32 + 9, PEER);
            if may_be_told {
                digest.learned(&path(conversation, length));
                let longest = allowed.entry(conversation).or_default();
                *longest = length.max(*longest);
            }
            digest.collect(at(i as u64), &index, &own());
            let heard = whole(&digest, at(0));
            for conversation in 0..8 {
                let (path, mut held) = (path(conversation, 50), [0; 2]);
                index.lookup(&path, &mut held);
                let most = u64::from(held[OWN.index()]).min(allowed.get(&conversation).copied().unwrap_or(0));
                let told = u64::from(depth(&heard, &path));
                prop_assert!(told <= most && told % every as u64 == 0, "{told} of {most}");
            }
        }
    }
}

#[test]
fn each_kilobyte_has_a_key_and_a_prompt_matches_down_to_its_deepest() {
    let (mut index, mut digest) = (index(1_000), Digest::new(7, 4));
    index.insert(&path(1, 11), 11, OWN);
    digest.learned(&path(1, 11));
    digest.collect(at(0), &index, &own());
    let heard = whole(&digest, at(0));
    assert_eq!((digest.keys(), heard.keys()), (2, 2));
    assert_eq!([3, 4, 7, 8, 11, 40].map(|length| depth(&heard, &path(1, length))), [0, 4, 4, 8, 8, 8]);
    assert_eq!(depth(&heard, &path(2, 40)), 0);
}

#[test]
fn what_it_tells_halves_with_each_half_life() {
    let (mut index, mut digest) = (index(10_000), Digest::new(7, 1));
    index.insert(&path(1, 1_000), 1_000, OWN);
    digest.learned(&path(1, 1_000));
    digest.collect(at(0), &index, &own());
    let heard = whole(&digest, at(0));
    let view = |s, half_life_ms| heard.view(at(s), &path(1, 2_000), 4_000, half_life_ms).unwrap();
    assert_eq!(view(0, 30e3), DigestView { tokens: 2_000, age_ms: 0.0 });
    assert_eq!([30, 60, 3_000].map(|s| view(s, 30e3).tokens), [1_000, 500, 0]);
    assert_eq!(view(0, 0.0).tokens, 0, "a half-life of 0 switches it off");
}

#[test]
fn a_digest_that_is_too_large_leaves_out_the_deepest_keys() {
    let (mut index, mut digest) = (index(1 << 30), Digest::new(7, 1));
    let long = MAX_KEYS as u64 + 100;
    for (conversation, length) in [(1, 50), (2, long)] {
        index.insert(&path(conversation, length), length as u32, OWN);
        digest.learned(&path(conversation, length));
    }
    digest.collect(at(0), &index, &own());
    assert_eq!((digest.keys(), digest.left_out()), (MAX_KEYS, 150));
    let heard = whole(&digest, at(0));
    assert_eq!((depth(&heard, &path(1, 50)), depth(&heard, &path(2, long))), (50, MAX_KEYS as u32 - 50));
    // What may be told is bounded, too; what does not fit is not told.
    (3..9).for_each(|conversation| digest.learned(&path(conversation, long)));
    assert_eq!(digest.may_tell.len(), MAX_MAY_TELL);
}

#[test]
fn changes_are_kept_for_a_while_and_within_a_bound() {
    let (mut index, mut digest) = (index(1 << 20), Digest::new(7, 1));
    let mut grow = |digest: &mut Digest, i: u64, length| {
        index.insert(&path(i, length), length as u32, OWN);
        digest.learned(&path(i, length));
        digest.collect(at(i), &index, &own());
        digest.edition.number
    };
    let first = grow(&mut digest, 1, 100);
    let since = |digest: &Digest, number| digest.since(at(0), Some(Edition { author: 7, number })).since;
    for i in 2..2 + MAX_CHANGES as u64 {
        grow(&mut digest, i, 1);
    }
    assert_eq!(since(&digest, first), Some(first));
    grow(&mut digest, 90, 1);
    assert_eq!(since(&digest, first), None, "too old");
    assert_eq!(since(&digest, first + 1), Some(first + 1));
    assert_eq!(since(&digest, 4_000), None, "an edition of the future is another process'");
    grow(&mut digest, 91, MAX_CHANGED_KEYS as u64 + 1);
    assert_eq!((digest.changes.len(), digest.changed_keys), (0, 0), "a change beyond the bound is not kept");
    let last = digest.edition.number;
    assert_eq!(digest.since(at(0), Some(digest.edition)).bytes(), 180, "nothing changed");
    assert_eq!(since(&digest, last - 1), None);
}

#[test]
fn questions_close_together_get_one_edition() {
    let (mut index, mut digest) = (index(1_000), Digest::new(7, 1));
    digest.collect(at(1), &index, &own());
    index.insert(&path(1, 5), 5, OWN);
    digest.learned(&path(1, 5));
    digest.collect(Time(at(1).0 + FRESH.0 - 1), &index, &own());
    assert_eq!((digest.keys(), digest.since(at(3), None).age), (0, Span(2_000_000_000)));
    digest.collect(Time(at(1).0 + FRESH.0), &index, &own());
    assert_eq!(digest.keys(), 5);
}

#[test]
fn an_answer_that_does_not_fit_empties_the_digest_and_all_is_asked_for() {
    let edition = |number| Edition { author: 7, number };
    let update = |number, since, added: &[u64]| Update {
        edition: edition(number),
        since,
        every: 1,
        age: Span::ZERO,
        added: added.to_vec(),
        removed: Vec::new(),
    };
    let first = update(1, None, &[1, 2]);
    let fits = |second: &Update| {
        let mut heard = ReceivedDigest::default();
        assert!(heard.take(&first, at(0)));
        let fits = heard.take(second, at(1));
        (fits, heard.keys(), heard.edition().map(|edition| edition.number))
    };
    assert_eq!(fits(&update(2, Some(1), &[3])), (true, 3, Some(2)));
    assert_eq!(fits(&update(1, None, &[9])), (true, 1, Some(1)), "another process begins anew");
    let refused = (false, 0, None);
    assert_eq!(fits(&update(3, Some(2), &[3])), refused, "an edition between was missed");
    assert_eq!(fits(&Update { every: 2, ..update(2, Some(1), &[3]) }), refused);
    assert_eq!(fits(&Update { every: 0, ..update(2, None, &[3]) }), refused);
    assert_eq!(fits(&Update { edition: Edition { author: 8, number: 2 }, ..update(2, Some(1), &[]) }), refused);
    let many: Vec<u64> = (0..=MAX_KEYS as u64).collect();
    assert_eq!(fits(&update(2, None, &many)), refused);
}
