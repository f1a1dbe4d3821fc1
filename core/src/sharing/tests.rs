use super::*;

fn path(replica: u16, symbols: &[u64]) -> Path {
    Path { replica: ReplicaId(replica), symbols: symbols.into(), tokens: 16 * symbols.len() as u32 }
}

/// Delivers all batches of `from` (peer 0 of `to`, whose peer 0 it is) and what is asked for, until both are quiet.
fn deliver(from: &mut Sharing, to: &mut Sharing) -> Vec<Path> {
    let mut heard = Vec::new();
    loop {
        let batch = from.batch(0);
        if batch.is_empty() {
            return heard;
        }
        let mut missing = Vec::new();
        heard.extend(to.receive(Some(0), batch, &mut missing));
        from.asked(0, &missing);
    }
}

fn pair() -> (Sharing, Sharing) {
    (Sharing::new(1, Limits::default()), Sharing::new(1, Limits::default()))
}

#[test]
fn a_peer_gets_only_what_is_below_the_deepest_symbol_it_knows() {
    let (mut a, mut b) = pair();
    a.learned(path(0, &[1, 2, 3]));
    assert_eq!(a.batch(0)[0].tail, [1, 2, 3]);
    a.learned(path(1, &[1, 2, 3, 4]));
    a.learned(path(1, &[1, 2, 7]));
    a.learned(path(2, &[1, 2, 3]));
    let batch = a.batch(0);
    let sent: Vec<_> = batch.iter().map(|n| (n.replica.0, n.parent, n.tail.as_slice(), n.tokens)).collect();
    assert_eq!(sent, [(1, Some(3), &[4][..], 64), (1, Some(2), &[7][..], 48), (2, Some(3), &[][..], 48)]);
    // What a peer told is known to it, too.
    b.learned(path(0, &[1, 2, 9]));
    let told = b.batch(0);
    let mut a = Sharing::new(1, Limits::default());
    assert_eq!(a.receive(Some(0), told, &mut Vec::new()), [path(0, &[1, 2, 9])]);
    a.learned(path(0, &[1, 2, 5]));
    assert_eq!(a.batch(0)[0].parent, Some(2));
}

#[test]
fn lost_batches_and_restarted_peers_are_made_good_by_questions() {
    let (mut a, mut b) = pair();
    a.learned(path(0, &[1, 2, 3]));
    assert_eq!(a.batch(0).len(), 1, "lost on the way");
    a.learned(path(0, &[1, 2, 3, 4]));
    assert_eq!(deliver(&mut a, &mut b), [path(0, &[1, 2, 3, 4])]);
    assert_eq!((b.stats().missing, a.stats().asked, a.stats().unknown), (1, 1, 0));
    let mut restarted = Sharing::new(1, Limits::default());
    a.learned(path(3, &[1, 2, 3, 4]));
    assert_eq!(deliver(&mut a, &mut restarted), [path(3, &[1, 2, 3, 4])]);
}

#[test]
fn a_full_queue_drops_the_oldest_and_counts_it_for_each_peer() {
    let limits = Limits { queue: 3, ..Limits::default() };
    let mut a = Sharing::new(2, limits);
    (0..3).for_each(|i| a.learned(path(0, &[i])));
    assert_eq!(a.batch(0).len(), 3);
    (3..5).for_each(|i| a.learned(path(0, &[i])));
    assert_eq!(a.stats().dropped, 2, "peer 0 had got both");
    assert_eq!(a.batch(1).iter().map(|n| n.tail[0]).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!((a.batch(0).len(), a.waiting()), (2, 0));
    let mut b = Sharing::new(1, Limits { queue_symbols: 10, ..limits });
    b.learned(path(0, &[1; 8]));
    b.learned(path(0, &[2; 8]));
    assert_eq!((b.waiting(), b.stats().dropped), (1, 1));
}

#[test]
fn tables_and_batches_are_bounded_and_a_forgotten_path_is_counted() {
    let limits = Limits { symbols: 64, ..Limits::default() };
    let (mut a, mut b) = (Sharing::new(1, limits), Sharing::new(1, limits));
    let long: Vec<u64> = (1_000..1_020).collect();
    for i in 0..200u64 {
        a.learned(path(0, &[&long[..], &[i]].concat()));
        assert_eq!(deliver(&mut a, &mut b).len(), 1);
        assert!(a.paths.len() <= 64 && b.paths.len() <= 64);
    }
    a.asked(0, &[Missing { replica: ReplicaId(0), end: 5, tokens: 1 }]);
    assert_eq!(a.stats().unknown, 1);
    let mut c = Sharing::new(1, Limits::default());
    (0..10).for_each(|i| c.learned(path(0, &(i * 10_000..(i + 1) * 10_000).collect::<Vec<_>>())));
    assert_eq!((c.batch(0).len(), c.batch(0).len()), (6, 4), "10,000 symbols each, 65,536 a batch");
}

#[test]
fn nothing_is_told_of_a_slot_that_another_replica_has_by_now() {
    let mut a = Sharing::new(2, Limits::default());
    [(0, 1), (1, 2), (0, 3)].iter().for_each(|&(replica, symbol)| a.learned(path(replica, &[symbol])));
    assert_eq!(a.batch(1).len(), 3);
    a.forget(ReplicaId(0));
    assert_eq!(a.batch(0).iter().map(|n| n.tail[0]).collect::<Vec<_>>(), [2]);
    assert_eq!((a.batch(0).len(), a.waiting(), a.queue_symbols), (0, 0, 0));
}

#[test]
fn a_circle_of_parents_is_no_path() {
    let mut a = Sharing::new(1, Limits::default());
    let news = |parent, tail: &[u64]| News { replica: ReplicaId(0), parent, tail: tail.to_vec(), tokens: 1 };
    let mut missing = Vec::new();
    a.receive(Some(0), vec![news(None, &[1, 2, 1])], &mut missing);
    a.receive(Some(0), vec![news(Some(1), &[2, 1, 3])], &mut missing);
    for end in [1, 2, 3] {
        assert!(a.paths.path(end).is_none_or(|path| path.len() <= MAX_PATH));
    }
    assert!(a.receive(None, vec![news(None, &[])], &mut missing).is_empty());
}
