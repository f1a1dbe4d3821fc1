use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const R: [ReplicaId; 3] = [ReplicaId(0), ReplicaId(1), ReplicaId(2)];

fn index(budget: u64) -> PrefixIndex<u8> {
    PrefixIndex::new(Some(1), budget, usize::MAX)
}

fn insert(index: &mut PrefixIndex<u8>, key: &str, replica: ReplicaId) {
    index.insert(key.as_bytes(), key.len() as u32, replica);
}

fn lookup(index: &PrefixIndex<u8>, key: &str) -> [u32; 3] {
    let mut matched = [9; 3];
    index.lookup(key.as_bytes(), &mut matched);
    matched
}

#[test]
fn a_split_keeps_the_owners_of_the_shared_prefix() {
    let mut index = index(1000);
    insert(&mut index, "SYS.A", R[0]);
    insert(&mut index, "SYS.B", R[0]);
    insert(&mut index, "SYS.Bx", R[1]);
    assert_eq!(lookup(&index, "SYS.Z"), [4, 4, 0]);
    assert_eq!(lookup(&index, "SYS.B"), [5, 5, 0]);
    assert_eq!(lookup(&index, "SYS.Bxy"), [5, 6, 0]);
    assert_eq!(lookup(&index, ""), [0, 0, 0]);
}

#[test]
fn evicts_least_recently_used_leaves_first_and_stays_within_budget() {
    let mut index = index(10);
    insert(&mut index, "aaaa1", R[0]);
    insert(&mut index, "aaaa2", R[0]); // holds aaaa 1 2 = 6
    insert(&mut index, "aaaa1", R[0]); // touch
    insert(&mut index, "bbbbb", R[0]); // 11 > 10: the leaf "2" goes
    assert_eq!(lookup(&index, "aaaa2")[0], 4);
    assert_eq!(lookup(&index, "aaaa1")[0], 5);
    assert_eq!(index.tokens(R[0]), 10);
    insert(&mut index, &"c".repeat(50), R[0]); // never fits
    assert!(index.tokens(R[0]) <= 10);
}

#[test]
fn truncate_drops_what_the_engine_no_longer_has_but_not_what_came_later() {
    let mut index = index(1000);
    insert(&mut index, "abcdef", R[0]);
    insert(&mut index, "abcdXY", R[0]);
    let then = index.stamp();
    insert(&mut index, "abcdXY", R[0]);
    insert(&mut index, "abcdef", R[1]);
    index.truncate(b"abcdef", 2, R[0], then);
    assert_eq!(lookup(&index, "abcdef"), [4, 6, 0], "the fresh path keeps its prefix");
    assert_eq!(lookup(&index, "abcdXY")[0], 6);
    index.truncate(b"abcdXY", 3, R[0], index.stamp());
    assert_eq!(lookup(&index, "abcdXY")[0], 3);
    assert_eq!(index.tokens(R[0]), 3);
}

#[test]
fn forget_and_clear_leave_nothing_behind() {
    let mut index = index(1000);
    insert(&mut index, "hello world", R[0]);
    insert(&mut index, "hello there", R[1]);
    index.forget(R[0]);
    assert_eq!(lookup(&index, "hello world"), [0, 6, 0]);
    assert_eq!(index.tokens(R[0]), 0);
    assert!(index.nodes() > 0);
    index.clear();
    let stats = index.stats();
    assert_eq!((stats.nodes, stats.leaves, stats.total_server_refs), (1, 1, 0));
    assert_eq!(index.bytes(), PrefixIndex::<u8>::new(None, 1, 1).bytes());
}

#[test]
fn the_byte_bound_holds_over_all_replicas() {
    let mut index: PrefixIndex<u8> = PrefixIndex::new(Some(1), u64::MAX, 20_000);
    for i in 0..500u32 {
        let key = format!("{i:03}{}", "x".repeat(300));
        index.insert(key.as_bytes(), key.len() as u32, R[i as usize % 3]);
        assert!(index.bytes() <= 20_000);
    }
    assert_eq!(lookup(&index, "499x")[1], 4, "the newest survives");
    assert_eq!(lookup(&index, "000x")[0], 0, "the oldest is gone");
}

#[test]
fn eight_figures_follow_the_documented_definitions() {
    let mut index = index(1000);
    insert(&mut index, "SYS.A", R[0]);
    insert(&mut index, "SYS.B", R[1]);
    let s = index.stats();
    assert_eq!((s.nodes, s.leaves, s.max_depth, s.total_server_refs, s.unique_server_count), (4, 2, 5, 4, 2));
    assert_eq!((s.avg_depth, s.avg_branching, s.avg_prefix_len), (5.0, 1.5, 1.5));
}

/// What the index promises, written the slow way: for each replica the set of prefixes (as strings) it holds with
/// their last use; leaves are strings that prefix no other.
#[derive(Default)]
struct Naive {
    held: [BTreeMap<String, u64>; 3],
    clock: u64,
}

impl Naive {
    fn insert(&mut self, key: &str, replica: usize) {
        self.clock += 1;
        for end in 1..=key.len() {
            self.held[replica].insert(key[..end].to_owned(), self.clock);
        }
    }
    fn lookup(&self, key: &str) -> [u32; 3] {
        std::array::from_fn(|r| {
            (1..=key.len()).rev().find(|&end| self.held[r].contains_key(&key[..end])).unwrap_or(0) as u32
        })
    }
    fn cut(&mut self, key: &str, keep: usize, replica: usize) {
        self.truncate(key, keep, replica, u64::MAX);
    }
    fn truncate(&mut self, key: &str, tokens: usize, replica: usize, since: u64) {
        let Some(cut) = key.get(..(tokens + 1).min(key.len())).filter(|c| c.len() > tokens) else { return };
        self.held[replica].retain(|k, used| !k.starts_with(cut) || *used > since);
    }
}

#[derive(Debug, Clone)]
enum Op {
    Insert(String, usize),
    Truncate(String, usize, usize, u64),
    Cut(String, usize, usize),
    Forget(usize),
    Lookup(String),
}

fn op() -> impl Strategy<Value = Op> {
    let key = "[ab]{1,8}";
    prop_oneof![
        5 => (key, 0..3usize).prop_map(|(k, r)| Op::Insert(k, r)),
        2 => (key, 0..8usize, 0..3usize, 0..4u64).prop_map(|(k, n, r, back)| Op::Truncate(k, n, r, back)),
        2 => (key, 0..9usize, 0..3usize).prop_map(|(k, n, r)| Op::Cut(k, n, r)),
        1 => (0..3usize).prop_map(Op::Forget),
        4 => "[ab]{0,10}".prop_map(Op::Lookup),
    ]
}

proptest! {
    /// Without a budget the index equals the naive model after any operations.
    #[test]
    fn equals_a_naive_model(ops in prop::collection::vec(op(), 1..80)) {
        let (mut index, mut naive) = (index(u64::MAX), Naive::default());
        for op in ops {
            match op {
                Op::Insert(k, r) => { insert(&mut index, &k, R[r]); naive.insert(&k, r); }
                Op::Truncate(k, n, r, back) => {
                    let since = naive.clock.saturating_sub(back);
                    index.truncate(k.as_bytes(), n as u32, R[r], Stamp(since));
                    naive.truncate(&k, n, r, since);
                }
                Op::Cut(k, n, r) => { index.cut(k.as_bytes(), n, R[r]); naive.cut(&k, n, r); }
                Op::Forget(r) => { index.forget(R[r]); naive.held[r].clear(); }
                Op::Lookup(k) => prop_assert_eq!(lookup(&index, &k), naive.lookup(&k)),
            }
            for (replica, held) in R.into_iter().zip(&naive.held) {
                prop_assert_eq!(index.tokens(replica), held.len() as u64);
            }
        }
    }

    /// With a budget: bounded always, owners of a child own its parent, counts agree with the tree.
    #[test]
    fn stays_bounded_and_consistent(ops in prop::collection::vec(op(), 1..120), budget in 1..30u64) {
        let mut index = index(budget);
        for op in ops {
            match op {
                Op::Insert(k, r) => insert(&mut index, &k, R[r]),
                Op::Truncate(k, n, r, _) => index.truncate(k.as_bytes(), n as u32, R[r], index.stamp()),
                Op::Cut(k, n, r) => index.cut(k.as_bytes(), n, R[r]),
                Op::Forget(r) => index.forget(R[r]),
                Op::Lookup(k) => { lookup(&index, &k); }
            }
            let nodes = index.tree.subtree(ROOT);
            for (slot, replica) in R.into_iter().enumerate() {
                let owned: Vec<_> = nodes.iter().copied().filter(|&n| index.tree.value(n).get(replica).is_some()).collect();
                let tokens: u64 = owned.iter().map(|&n| u64::from(index.tree.tokens(n))).sum();
                prop_assert_eq!(tokens, index.tokens(replica));
                prop_assert!(tokens <= budget);
                if let Some(h) = index.holdings.get(slot) {
                    prop_assert_eq!(h.nodes, owned.len());
                    prop_assert!(h.leaves.len() <= 2 * h.nodes + 65);
                }
                for &node in &owned {
                    let parent = index.tree.parent(node).unwrap();
                    prop_assert!(parent == ROOT || index.tree.value(parent).get(replica).is_some());
                    let below = index.tree.children(node).filter(|&c| index.tree.value(c).get(replica).is_some()).count();
                    prop_assert_eq!(index.tree.value(node).get(replica).unwrap().children as usize, below);
                }
            }
            for &node in nodes.iter().filter(|&&n| n != ROOT) {
                prop_assert!(!index.tree.value(node).set.is_empty());
            }
        }
    }
}
