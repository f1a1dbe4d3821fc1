use super::*;
use proptest::prelude::*;

/// Inserts like a user of the tree would: walk, split, add the rest.
fn insert(tree: &mut Radix<u8, ()>, key: &[u8]) {
    let (mut at, mut rest) = (ROOT, key);
    while let Some(step) = tree.step(at, rest) {
        at = if step.whole { step.node } else { tree.split(step.node, step.symbols) };
        rest = &rest[step.symbols..];
    }
    if !rest.is_empty() {
        tree.add(at, rest, rest.len() as u32, ());
    }
}

fn matched(tree: &Radix<u8, ()>, key: &[u8]) -> usize {
    let (mut at, mut rest) = (ROOT, key);
    while let Some(step) = tree.step(at, rest) {
        rest = &rest[step.symbols..];
        if !step.whole {
            break;
        }
        at = step.node;
    }
    key.len() - rest.len()
}

proptest! {
    #[test]
    fn matches_like_a_list_of_strings(keys in prop::collection::vec("[ab]{0,9}", 1..40), probe in "[ab]{0,12}") {
        let mut tree = Radix::new(Some(1), ());
        for key in &keys {
            insert(&mut tree, key.as_bytes());
        }
        let naive = keys.iter().map(|k| common_prefix(k.as_bytes(), probe.as_bytes())).max().unwrap_or(0);
        prop_assert_eq!(matched(&tree, probe.as_bytes()), naive);
        let nodes = tree.subtree(ROOT);
        prop_assert_eq!(nodes.len(), tree.len());
        prop_assert_eq!(nodes.iter().map(|&n| tree.edge(n).len()).sum::<usize>(), tree.symbols());
        for &n in &nodes {
            prop_assert_eq!(tree.tokens(n) as usize, tree.edge(n).len());
            prop_assert_eq!(tree.children(n).count(), tree.child_count(n));
        }
    }
}

#[test]
fn partial_last_block_keeps_its_weight_when_split() {
    let mut tree = Radix::new(Some(512), ());
    let leaf = tree.add(ROOT, &[1u64, 2, 3], 2 * 512 + 100, ());
    let top = tree.split(leaf, 2);
    assert_eq!((tree.tokens(top), tree.tokens(leaf)), (1024, 100));
    assert_eq!(tree.parent(leaf), Some(top));
}

#[test]
fn removed_ids_are_reused_and_siblings_stay_linked() {
    let mut tree = Radix::new(Some(1), ());
    let ids: Vec<_> = (0u8..4).map(|s| tree.add(ROOT, &[s], 1, ())).collect();
    tree.remove(ids[1]);
    tree.remove(ids[3]);
    assert_eq!(tree.children(ROOT).collect::<Vec<_>>(), [ids[2], ids[0]]);
    let again = tree.add(ROOT, &[9], 1, ());
    assert_eq!(again, ids[3]);
    assert_eq!((tree.len(), tree.symbols()), (4, 3));
}

proptest! {
    #[test]
    fn the_common_prefix_is_that_of_a_comparison_one_by_one(
        a in prop::collection::vec(0u64..2, 0..300), b in prop::collection::vec(0u64..2, 0..300), same in 0usize..300
    ) {
        let b: Vec<u64> = a.iter().take(same).copied().chain(b).collect();
        let plain = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
        prop_assert_eq!(super::common_prefix(&a, &b), plain);
    }
}
