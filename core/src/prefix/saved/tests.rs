use super::*;
use proptest::prelude::*;

const R: [ReplicaId; 3] = [ReplicaId(0), ReplicaId(1), ReplicaId(2)];

fn index(budget: u64, bytes: usize) -> PrefixIndex<u8> {
    PrefixIndex::new(None, budget, bytes)
}

fn lookup(index: &PrefixIndex<u8>, key: &str) -> [u32; 3] {
    let mut matched = [9; 3];
    index.lookup(key.as_bytes(), &mut matched);
    matched
}

fn same() -> Vec<Option<ReplicaId>> {
    R.map(Some).to_vec()
}

/// The leaves of the index in the order of eviction, oldest first.
fn evictions(index: &PrefixIndex<u8>) -> Vec<[u64; 3]> {
    let mut index = index.clone();
    let left = |index: &PrefixIndex<u8>| R.map(|replica| index.tokens(replica));
    let mut seen = vec![left(&index)];
    while index.evict_oldest() {
        seen.push(left(&index));
    }
    seen
}

#[test]
fn what_must_go_is_the_least_recently_used() {
    let mut from = index(u64::MAX, usize::MAX);
    for i in 0..200u32 {
        let key = format!("{i:03}{}", "x".repeat(100));
        from.insert(key.as_bytes(), 40, R[i as usize % 3]);
    }
    for (rows, bytes, budget) in
        [(5_000, usize::MAX, u64::MAX), (usize::MAX, 8_000, u64::MAX), (usize::MAX, usize::MAX, 400)]
    {
        let saved = from.save(rows);
        assert!(saved.bytes() <= rows);
        let mut to = index(budget, bytes);
        assert!(to.restore(&saved, &same()));
        assert!(to.bytes() <= bytes && R.iter().all(|&replica| to.tokens(replica) <= budget));
        let held: Vec<bool> =
            (0..200).map(|i| lookup(&to, &format!("{i:03}{}", "x".repeat(100)))[i % 3] == 40).collect();
        let first = held.iter().position(|held| *held).unwrap();
        assert!(
            first > 100 && first < 195 && held[first..].iter().all(|held| *held),
            "{rows} {bytes} {budget}: from {first}"
        );
    }
}

#[test]
fn a_replica_that_is_gone_is_left_out_and_slots_may_change() {
    let mut from = index(u64::MAX, usize::MAX);
    from.insert(b"SYS.A", 5, R[0]);
    from.insert(b"SYS.B", 5, R[1]);
    let mut to = index(u64::MAX, usize::MAX);
    assert!(to.restore(&from.save(usize::MAX), &[None, Some(R[2])]));
    assert_eq!(lookup(&to, "SYS.B"), [0, 0, 5]);
    assert_eq!(lookup(&to, "SYS.A"), [0, 0, 4]);
}

#[test]
fn rows_that_contradict_themselves_change_nothing() {
    let mut from = index(u64::MAX, usize::MAX);
    from.insert(b"SYS.A", 5, R[0]);
    from.insert(b"SYS.B", 5, R[1]);
    let good = from.save(usize::MAX);
    let bad: [fn(&mut SavedIndex<u8>); 5] = [
        |saved| saved.nodes[1].parent = 9,
        |saved| saved.nodes[0].symbols = 0,
        |saved| saved.nodes[0].symbols = u32::MAX,
        |saved| saved.nodes[2].owners = 2,
        |saved| saved.symbols.truncate(3),
    ];
    for spoil in bad {
        let mut saved = good.clone();
        spoil(&mut saved);
        let mut to = index(u64::MAX, usize::MAX);
        assert!(!to.restore(&saved, &same()) && to.nodes() == 0, "{saved:?}");
    }
}

#[derive(Debug, Clone)]
enum Op {
    Insert(String, u32, usize),
    Truncate(String, u32, usize),
    Forget(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => ("[ab]{1,8}", 1..60u32, 0..3usize).prop_map(|(k, tokens, r)| Op::Insert(k, tokens, r)),
        1 => ("[ab]{1,8}", 0..20u32, 0..3usize).prop_map(|(k, n, r)| Op::Truncate(k, n, r)),
        1 => (0..3usize).prop_map(Op::Forget),
    ];
    prop::collection::vec(op, 0..60)
}

fn run(index: &mut PrefixIndex<u8>, ops: &[Op]) {
    for op in ops {
        match op {
            Op::Insert(k, tokens, r) => index.insert(k.as_bytes(), *tokens, R[*r]),
            Op::Truncate(k, n, r) => index.truncate(k.as_bytes(), *n, R[*r], index.stamp()),
            Op::Forget(r) => index.forget(R[*r]),
        }
    }
}

proptest! {
    /// An empty index that takes over the rows answers as the one that made them, and evicts in the same order.
    #[test]
    fn an_index_survives_being_saved(before in ops(), after in ops(), keys in prop::collection::vec("[ab]{0,10}", 1..20)) {
        let mut from = index(u64::MAX, usize::MAX);
        run(&mut from, &before);
        let saved = from.save(usize::MAX);
        let mut to = index(u64::MAX, usize::MAX);
        prop_assert!(to.restore(&saved, &same()));
        for key in &keys {
            prop_assert_eq!(lookup(&from, key), lookup(&to, key));
        }
        prop_assert_eq!(evictions(&from), evictions(&to));
        run(&mut from, &after);
        run(&mut to, &after);
        for key in &keys {
            prop_assert_eq!(lookup(&from, key), lookup(&to, key));
        }
    }

    /// Any rows, taken over beside anything: bounded, consistent, no panic.
    #[test]
    fn whatever_the_rows_the_index_stays_consistent(
        before in ops(),
        rows in prop::collection::vec((0..6u32, 0..4u32, 0..50u32, 0..3u32), 0..30),
        symbols in prop::collection::vec(0..3u8, 120),
        owners in prop::collection::vec((0..5u16, any::<u64>()), 120),
        budget in 1..100u64,
        sound in any::<bool>(),
    ) {
        let mut index = index(budget, 20_000);
        run(&mut index, &before);
        let nodes: Vec<SavedNode> = rows
            .iter()
            .enumerate()
            .map(|(at, &(back, symbols, tokens, owners))| {
                let parent = if sound { (at as u32).saturating_sub(back) } else { back };
                SavedNode { parent, symbols: if sound { symbols.max(1) } else { symbols }, tokens, owners }
            })
            .collect();
        let sum = |part: fn(&SavedNode) -> u32| nodes.iter().map(part).sum::<u32>() as usize;
        let saved = SavedIndex {
            symbols: symbols[..sum(|n| n.symbols)].to_vec(),
            owners: owners[..sum(|n| n.owners)].iter().map(|&(replica, used)| SavedOwner { replica, used }).collect(),
            nodes,
        };
        prop_assert!(index.restore(&saved, &same()) || !sound);
        prop_assert!(index.bytes() <= 20_000);
        for (slot, replica) in R.into_iter().enumerate() {
            let owned: Vec<NodeId> =
                index.tree.subtree(ROOT).into_iter().filter(|&n| index.tree.value(n).get(replica).is_some()).collect();
            let tokens: u64 = owned.iter().map(|&n| u64::from(index.tree.tokens(n))).sum();
            prop_assert_eq!(tokens, index.tokens(replica));
            prop_assert!(tokens <= budget);
            prop_assert_eq!(index.holdings.get(slot).map_or(0, |h| h.nodes), owned.len());
            for &node in &owned {
                let below = index.tree.children(node).filter(|&c| index.tree.value(c).get(replica).is_some()).count();
                prop_assert_eq!(index.tree.value(node).get(replica).unwrap().children as usize, below);
                let parent = index.tree.parent(node).unwrap();
                prop_assert!(parent == ROOT || index.tree.value(parent).get(replica).is_some());
            }
        }
    }
}
