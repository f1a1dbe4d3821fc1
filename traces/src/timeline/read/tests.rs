use super::*;

fn of(events: &str) -> Result<Timeline, TimelineError> {
    read(format!(r#"{{"traceEvents":[{events}]}}"#).as_bytes())
}

fn x(name: &str, tid: u64, ts: &str, dur: &str) -> String {
    format!(r#"{{"name":"{name}","ph":"X","pid":1,"tid":{tid},"ts":{ts},"dur":{dur}}}"#)
}

#[test]
fn microseconds_are_read_to_the_nanosecond() {
    assert_eq!(nanos("1234567890123456.789"), Some(1_234_567_890_123_456_789));
    assert_eq!(nanos("0.5"), Some(500));
    assert_eq!(nanos("1.5e3"), Some(1_500_000));
    assert_eq!([nanos("-1"), nanos("null"), nanos("99999999999999999999")], [None; 3]);
}

#[test]
fn depth_counts_the_spans_around() {
    let timeline =
        of(&[x("a", 1, "0", "10"), x("c", 1, "3", "7"), x("b", 1, "0", "3"), x("a", 2, "1", "1")].join(",")).unwrap();
    let depths: Vec<_> = timeline.spans.iter().map(|s| (s.name.as_str(), s.depth)).collect();
    assert_eq!(depths, [("a", 0), ("b", 1), ("c", 1), ("a", 0)]);
}

#[test]
fn crossing_spans_and_half_arrows_are_refused_by_name() {
    let crossing = of(&[x("a", 1, "0", "10"), x("b", 1, "5", "10")].join(",")).unwrap_err().to_string();
    assert!(crossing.contains("`a` and `b` of row 1"), "{crossing}");
    let half = of(r#"{"name":"d","ph":"s","id":7,"pid":1,"tid":1,"ts":0}"#).unwrap_err().to_string();
    assert!(half.contains("flow 7") && half.contains("0 ends"), "{half}");
}

#[test]
fn a_list_of_begins_and_ends_becomes_spans() {
    let event = |ph: &str, name: &str, ts: u32, id: &str, more: &str| {
        format!(r#"{{"name":"{name}","ph":"{ph}","pid":7,"tid":3,"ts":{ts},"args":{{"request_id":"{id}"{more}}}}}"#)
    };
    let events = [
        r#"{"name":"process_name","ph":"M","pid":7,"args":{"name":"node-a"}}"#.to_owned(),
        event("B", "request", 10, "a", ""),
        // Another request on the same row, as the hash has it, that crosses the first one.
        event("B", "request", 20, "b", ""),
        event("B", "queue", 30, "a", ""),
        event("E", "queue", 35, "a", ""),
        r#"{"name":"forward_flow","ph":"s","pid":7,"tid":3,"ts":31,"id":"a-b"}"#.to_owned(),
        event("E", "request", 50, "a", r#","status_code":200"#),
        event("E", "request", 80, "b", r#","status_code":503"#),
        event("B", "request", 90, "never ended", ""),
    ];
    let timeline = read(format!("\n [{}]", events.join(",")).as_bytes()).unwrap();
    let spans: Vec<_> = timeline.spans.iter().map(|s| (s.name.as_str(), s.start.0 / 1000, s.dur.0 / 1000)).collect();
    assert_eq!(spans, [("request", 10, 40), ("request", 20, 60), ("queue", 30, 5)]);
    assert_eq!(timeline.spans[1].args["status_code"], 503);
    assert_eq!(timeline.processes[&7], "node-a");
}

#[test]
fn bad_input_is_named() {
    let why = |text: &str| of(text).unwrap_err().to_string();
    assert!(why(&x("a", 1, "-3", "1")).contains("event 0") && why(&x("a", 1, "-3", "1")).contains("-3"));
    assert!(why(r#"{"name":"a","ph":"X","ts":1}"#).contains("`dur` of `a` is nothing"));
    assert!(matches!(read(&b"[1,2"[..]), Err(TimelineError::Json(_))));
    assert!(matches!(read(&[0x1f, 0x8b, 0, 0][..]), Err(TimelineError::Io(_))));
}
