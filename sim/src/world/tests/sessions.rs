//! Turns that wait for the end of the turn before them.

use super::*;
use gorgo_core::turns::link;

/// Three sessions that start together; their turns have these delays, ms.
fn sessions(delays: &[f64]) -> Vec<TraceRequest> {
    let mut all = Vec::new();
    for session in 0..3 {
        for (turn, &delay) in [0.0].iter().chain(delays).enumerate() {
            let row = request(50.0, session * 100, 600 + 200 * turn as u32, 30, FRANKFURT);
            let delay = (turn > 0).then(|| Span::from_ms(delay));
            all.push(TraceRequest { session, delay, ..row });
        }
    }
    link(&mut all);
    all
}

/// The records of each session in order of sending.
fn by_session(outcome: &Outcome) -> Vec<Vec<&RequestRecord>> {
    (0..3)
        .map(|session| {
            let mut own: Vec<_> = outcome.records.iter().filter(|r| r.session == session).collect();
            own.sort_by_key(|r| r.sent);
            own
        })
        .collect()
}

#[test]
fn a_turn_is_sent_exactly_its_delay_after_the_end_of_the_one_before_it() {
    for topology in [Topology::Proxy { site: 0 }, Topology::Edge] {
        let delays = [500.0, 0.0, 120_000.0];
        let out = go(&world(&TWO, topology), "gorgo", &sessions(&delays));
        assert_eq!((out.records.len(), finished(&out)), (12, 12));
        for turns in by_session(&out) {
            let waited: Vec<Span> =
                turns.windows(2).map(|pair| pair[1].scheduled - pair[0].done.get().unwrap()).collect();
            assert_eq!(waited, delays.map(Span::from_ms));
        }
        let again = go(&world(&TWO, topology), "gorgo", &sessions(&delays));
        assert_eq!(out.event_hash, again.event_hash);
    }
}

#[test]
fn a_turn_that_fails_does_not_end_its_session() {
    let mut config = world(&TWO, Topology::Proxy { site: 0 });
    config.patience_ms = Some(1.0);
    let out = go(&config, "gorgo", &sessions(&[500.0, 20.0]));
    assert_eq!((out.records.len(), finished(&out)), (9, 0));
}

#[test]
fn no_turn_is_sent_after_the_end_and_the_rest_of_its_session_neither() {
    let mut config = world(&TWO, Topology::Proxy { site: 0 });
    config.until = Some(Time::from_ms(20_000.0));
    let out = go(&config, "gorgo", &sessions(&[500.0, 60_000.0, 0.0]));
    assert_eq!(out.records.len(), 6);
    assert!(out.records.iter().all(|r| r.sent.ms() <= 20_000.0));
}

#[test]
fn a_client_of_few_workers_serves_the_turns_of_sessions_too() {
    let mut config = world(&TWO, Topology::Proxy { site: 0 });
    config.client = Client::Bounded { workers: 1 };
    let out = go(&config, "gorgo", &sessions(&[500.0, 0.0]));
    assert_eq!(finished(&out), 9);
    let mut sent: Vec<_> = out.records.iter().collect();
    sent.sort_by_key(|r| r.sent);
    assert!(sent.windows(2).all(|pair| pair[1].sent >= pair[0].done.get().unwrap()), "one at a time");
}
