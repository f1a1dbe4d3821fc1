use super::*;
use gorgo_core::decide::ReplicaState;
use gorgo_core::fleet::Learned;
use gorgo_core::off_policy::Outcome;
use gorgo_core::policy::{CostTerms, RequestInfo};
use gorgo_core::{ReplicaId, RequestId, Time};

#[test]
fn learned_rates_are_logged_for_the_policy_that_reads_them() {
    let learned = Learned { offset_ms: -7.25, quantiles: [0.9, 1.2, 1.4], ..Learned::default() };
    let candidate = ReplicaState { learned, ..ReplicaState::default() }.candidate(ReplicaId(0));
    let scored = ScoredCandidate { candidate, terms: CostTerms::default(), rtt_age_ms: None };
    let logged = |policy| {
        let record = DecisionRecord {
            id: RequestId(1),
            at: Time::ZERO,
            info: RequestInfo::default(),
            fence: None,
            policy,
            chosen: Some(0),
            reason: None,
            own: None,
            odds: 1.0,
            names: Arc::from([Arc::from("a")]),
            candidates: vec![scored.clone()],
        };
        [false, true].map(|is_judged| state(&record, is_judged)["replicas"][0]["learned"].clone())
    };
    let [plain, judged] = logged("predictive");
    assert_eq!(plain, json!({"offset_ms": -7.25}), "what is not learned yet is left out");
    assert_eq!(judged, json!({"offset_ms": -7.25, "quantiles": [0.9, 1.2, 1.4]}));
    assert_eq!(logged("stargate")[0], plain);
    assert_eq!(logged("gorgo")[1], Value::Null);
}

#[test]
fn an_explored_decision_is_logged_with_its_odds_and_its_outcome_follows() {
    let mut record = DecisionRecord {
        id: RequestId(7),
        at: Time::ZERO,
        info: RequestInfo::default(),
        fence: None,
        policy: "gorgo",
        chosen: Some(1),
        reason: Some("explored"),
        own: Some(0),
        odds: 0.005,
        names: Arc::from([Arc::from("a"), Arc::from("b")]),
        candidates: (0..2)
            .map(|slot| ScoredCandidate {
                candidate: ReplicaState::default().candidate(ReplicaId(slot)),
                terms: CostTerms::default(),
                rtt_age_ms: None,
            })
            .collect(),
    };
    let logged = state(&record, true);
    assert_eq!((&logged["decision"]["odds"], &logged["decision"]["own"]), (&json!(0.005), &json!("a")));
    record.odds = 1.0;
    assert_eq!(state(&record, false)["decision"].get("odds"), None);
    let row = crate::observe::request_log::tests::row("x", 25.0);
    let end = outcome(&record, &row);
    assert_eq!((end.id.as_str(), end.ttft_ms), ("7", row.ttft_ms()));
    assert_eq!(Outcome::parse(&end.line()).unwrap(), Some(end));
}

#[test]
fn the_latest_the_slowest_and_the_worst_predicted_are_found() {
    let kept = Explanations::new(10);
    let record = || {
        Arc::new(DecisionRecord {
            id: RequestId(1),
            at: Time::ZERO,
            info: RequestInfo::default(),
            fence: None,
            policy: "gorgo",
            chosen: None,
            reason: None,
            own: None,
            odds: 1.0,
            names: Arc::from([]),
            candidates: Vec::new(),
        })
    };
    assert!(kept.pick(Order::Latest).is_none());
    for (id, ttft, predicted) in [("slow", 90.0, Some(85.0)), ("wrong", 30.0, Some(500.0)), ("last", 10.0, None)] {
        let mut row = crate::observe::request_log::tests::row(id, ttft);
        row.predicted_ttft_ms = predicted;
        kept.push(&Arc::new(row), Some(record()), Vec::new());
    }
    let picked = |order| kept.pick(order).unwrap()["request_id"].clone();
    assert_eq!(picked(Order::Latest), "last");
    assert_eq!(picked(Order::Slowest), "slow");
    assert_eq!(picked(Order::Worst), "wrong");
}

#[test]
fn the_header_is_one_line_of_numbers_to_a_tenth() {
    let candidate = ReplicaState { cached_tokens: 4096, ..ReplicaState::default() }.candidate(ReplicaId(0));
    let terms = CostTerms {
        network: 25.04,
        prefill: 10.16,
        waiting: -3.0,
        running: -0.01,
        total: 1e300,
        ..CostTerms::default()
    };
    let record = DecisionRecord {
        id: RequestId(1),
        at: Time::ZERO,
        info: RequestInfo { prompt_tokens: 5200, ..RequestInfo::default() },
        fence: None,
        policy: "gorgo",
        chosen: Some(0),
        reason: Some("word"),
        own: Some(0),
        odds: 1.0,
        names: Arc::from([]),
        candidates: vec![ScoredCandidate { candidate, terms, rtt_age_ms: None }],
    };
    let expected = "gorgo a total=1000000000000000.0 network=25.0 prefill=10.2 waiting=-3.0 running=0.0 \
        cached=4096/5200 reason=word";
    assert_eq!(header(&record, "a").unwrap(), expected);
    assert!(header(&record, "a\nb").is_none());
}
