use super::*;
use gorgo_core::ReplicaId;
use gorgo_core::router::{DecisionRecord, ScoredCandidate};
use smallvec::SmallVec;

pub(crate) fn row(id: &str, ttft: f64) -> RequestEntry {
    RequestEntry {
        request_id: SmallVec::from_slice(id.as_bytes()),
        session: 0,
        prompt_bytes: 400,
        prompt_tokens: 100,
        counted_tokens: Some(110),
        output_tokens: 7,
        predicted_cached_tokens: 64,
        cached_tokens: Some(55),
        held_tokens: None,
        arrived: Time::from_ms(10.0),
        dispatched: Some(Time::from_ms(12.0)),
        first_token: Some(Time::from_ms(10.0 + ttft)),
        done: Time::from_ms(100.0),
        rtt_ms: 5.0,
        predicted_ttft_ms: Some(20.0),
        replica: Some(RoutedReplica { slot: 0, name: "a".into() }),
        attempts: 1,
        hops: 0,
        status_code: 200,
        end: EndReason::Finished,
        streamed: true,
        decision: DecisionSummary::default(),
    }
}

#[test]
fn rows_are_exported_quoted_and_bounded() {
    let table = RequestLog::new(2);
    for id in ["old", "x,\"y", "z"] {
        table.push(Arc::new(row(id, 30.0)));
    }
    let csv = table.csv(&["b".to_owned(), "a".to_owned()], |_| "2024-02-29T12:34:56.789Z".to_owned());
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].contains(",a_prefix_hit,a_matched_len,b_prefix_hit,b_matched_len,a_cost,b_cost,status_code"));
    assert_eq!(
        lines[1],
        "\"x,\"\"y\",2024-02-29T12:34:56.789Z,400,100,5.000,30.000,90.000,2.000,,0,0,a,a,false,0,false,0,,,200,true,,20.000,64,55,110,7,1,0,finished"
    );
    let columns = lines[0].split(',').count();
    assert_eq!(lines[2].split(',').count(), columns);
}

#[test]
fn a_rows_decision_fills_the_columns_of_the_replicas_it_saw() {
    use gorgo_core::RequestId;
    use gorgo_core::decide::ReplicaState;
    use gorgo_core::policy::{CostTerms, RequestInfo};
    let seen = |slot, cached_tokens, total| {
        let state = ReplicaState { cached_tokens, waiting_tokens: 70, running_tokens: 80, ..ReplicaState::default() };
        let terms = CostTerms { prefill: 3.5, total, ..CostTerms::default() };
        ScoredCandidate { candidate: state.candidate(ReplicaId(slot)), terms, rtt_age_ms: None }
    };
    let record = DecisionRecord {
        id: RequestId(1),
        at: Time::ZERO,
        info: RequestInfo::default(),
        fence: None,
        policy: "gorgo",
        chosen: Some(1),
        reason: None,
        own: Some(1),
        odds: 1.0,
        names: Arc::from(["left".into(), "a".into()]),
        candidates: vec![seen(0, 0, 20.25), seen(1, 64, 10.5)],
    };
    let table = RequestLog::new(1);
    table.push(Arc::new(RequestEntry { decision: DecisionSummary::of(&record), ..row("r", 30.0) }));
    let csv = table.csv(&["a".to_owned()], |_| "t".to_owned());
    let (head, line) = csv.split_once('\n').unwrap();
    assert!(head.contains(",a_prefix_hit,a_matched_len,left_prefix_hit,left_matched_len,a_cost,left_cost,"));
    assert!(line.contains(",3.500,70,80,a,a,true,64,false,0,10.500,20.250,200,"), "{line}");
}

#[test]
fn the_summary_has_true_means_and_quantiles() {
    let table = RequestLog::new(100);
    assert_eq!(table.summary()["count"], 0);
    (1..=100).for_each(|i| table.push(Arc::new(row("r", f64::from(i)))));
    table.push(Arc::new(RequestEntry { end: EndReason::AfterFirstToken, ..row("f", 900.0) }));
    let summary = table.summary();
    assert_eq!((&summary["count"], &summary["fail_count"]), (&json!(100), &json!(1)));
    assert_eq!(summary["ttft_ms"]["p50"], json!(51.0));
    assert_eq!(summary["avg_prefix_cache_hit_ratios"]["a"], json!(0.5));
    table.enable(false);
    table.push(Arc::new(row("r", 1.0)));
    assert_eq!((table.clear(), table.summary()["metrics_collection_enabled"].clone()), (100, json!(false)));
}
