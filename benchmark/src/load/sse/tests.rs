use super::*;
use proptest::prelude::*;

const STREAM: &str = concat!(
    ": a comment\n\n",
    "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"caf\\u00e9 \u{20ac}\"}}]}\r\n\r\n",
    "data: {\"choices\":[{\"text\":\"x\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n",
    "data: [DONE]\n\n",
);

proptest! {
    #[test]
    fn the_pieces_do_not_matter(mut cuts in prop::collection::vec(0usize..STREAM.len(), 0..12)) {
        cuts.sort_unstable();
        cuts.push(STREAM.len());
        let (mut parser, mut events, mut start) = (EventParser::default(), Vec::new(), 0);
        for cut in cuts {
            parser.feed(&STREAM.as_bytes()[start..cut], |event| events.push(event)).unwrap();
            start = cut;
        }
        prop_assert_eq!(events, [StreamEvent::Other, StreamEvent::Content, StreamEvent::Content, StreamEvent::Other, StreamEvent::Done]);
        prop_assert_eq!(parser.counts, TokenCounts { prompt: Some(9), output: Some(2), cached: Some(4) });
    }

    #[test]
    fn arbitrary_bytes_give_the_same_result_in_one_piece_and_byte_by_byte(
        lines in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..20),
            "data: ?(\\[DONE\\]|\\{\"text\":\"[ab]{0,3}\"\\}|\\{\\}|x)\r?\n\r?\n".prop_map(String::into_bytes),
        ], 0..20)
    ) {
        let bytes = lines.concat();
        let parse = |piece_bytes: usize| {
            let (mut parser, mut events) = (EventParser::default(), Vec::new());
            let mut pieces = bytes.chunks(piece_bytes);
            let read = pieces.try_for_each(|piece| parser.feed(piece, |event| events.push(event)));
            let result = read.map_err(|error| error.to_string());
            (events, result, parser.counts)
        };
        prop_assert_eq!(parse(bytes.len().max(1)), parse(1));
    }
}

#[test]
fn cumulative_text_counts_when_it_grows_and_errors_are_errors() {
    let stream = "data: {\"text\":\"a\",\"meta_info\":{\"prompt_tokens\":3,\"completion_tokens\":1,\"cached_tokens\":0}}\n\ndata: {\"text\":\"a\",\"meta_info\":{}}\n\ndata: {\"error\":{\"message\":\"full\",\"code\":503}}\n\ndata: {\"error\":{\"code\":\"queue_full\"}}\n\n";
    let mut events = Vec::new();
    EventParser::default().feed(stream.as_bytes(), |event| events.push(event)).unwrap();
    let full = StreamEvent::Error { message: "full".to_owned(), status: Some(503) };
    let worded = StreamEvent::Error { message: "an error without a message".to_owned(), status: None };
    assert_eq!(events, [StreamEvent::Content, StreamEvent::Other, full, worded]);
    assert!(EventParser::default().feed(b"data: nonsense\n\n", |_| {}).unwrap_err().to_string().contains("nonsense"));
}

#[test]
fn what_was_generated_counts_by_any_name_and_other_events_say_nothing() {
    use StreamEvent::{Content, Other};
    let choice = |members: &str| format!("data: {{\"choices\":[{{{members}}}]}}\n\n");
    for (stream, expected) in [
        (choice("\"delta\":{\"thinking\":\"hm\"}"), Content),
        (choice("\"delta\":{\"reasoning_details\":[{\"text\":\"hm\"}]}"), Content),
        (choice("\"delta\":{\"role\":\"assistant\",\"content\":\"\"}"), Other),
        (choice("\"text\":\"\",\"token_ids\":[5]"), Content),
        ("data: {\"output_ids\":[5],\"meta_info\":{\"completion_tokens\":1}}\n\n".to_owned(), Content),
        ("event: ping\ndata: 12:00\n\n".to_owned(), Other),
        ("event: progress\ndata: [1]\n\n".to_owned(), Other),
    ] {
        let mut events = Vec::new();
        EventParser::default().feed(stream.as_bytes(), |event| events.push(event)).unwrap();
        assert_eq!(events, [expected], "{stream}");
    }
}

#[test]
fn an_empty_reason_to_finish_is_none_and_counts_may_have_a_fraction() {
    for reason in ["\"\"", "\"null\"", "null"] {
        let mut parser = EventParser::default();
        let event = format!("data: {{\"choices\":[{{\"text\":\"x\",\"finish_reason\":{reason}}}]}}\n\n");
        parser.feed(event.as_bytes(), |_| {}).unwrap();
        assert!(!parser.finished, "{reason}");
    }
    let mut parser = EventParser::default();
    let usage = b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":20.0,\"completion_tokens\":\"x\"}}\n\n";
    parser.feed(usage, |_| {}).unwrap();
    assert_eq!(parser.counts, TokenCounts { prompt: Some(20), output: None, cached: None });
}

#[test]
fn errors_without_a_member_error_are_told() {
    for (stream, message, status) in [
        ("data: {\"object\":\"error\",\"message\":\"boom\",\"code\":503}\n\n", "boom", Some(503)),
        ("data: {\"detail\":\"Internal Server Error\"}\n\n", "Internal Server Error", None),
    ] {
        let mut events = Vec::new();
        EventParser::default().feed(stream.as_bytes(), |event| events.push(event)).unwrap();
        assert_eq!(events, [StreamEvent::Error { message: message.to_owned(), status }], "{stream}");
    }
}

#[test]
fn an_event_named_error_is_one_whatever_its_data() {
    for (stream, message, status) in [
        ("event: error\ndata: {\"message\":\"boom\",\"code\":500}\n\n", "boom", Some(500)),
        ("event: error\ndata: boom\n\n", "boom", None),
        ("data: {\"x\":1}\nevent:error\n\n", "{\"x\":1}", None),
        ("event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"full\"}}\n\n", "full", None),
        ("error: {\"code\":500,\"message\":\"Compute error\"}\n\n", "Compute error", Some(500)),
    ] {
        let expected = StreamEvent::Error { message: message.to_owned(), status };
        assert_eq!(read(stream).0, [expected], "{stream}");
    }
    assert_eq!(read("event: message\ndata: {\"choices\":[]}\n\n").0, [StreamEvent::Other]);
}

/// Events and whether the answer is complete.
fn read(stream: &str) -> (Vec<StreamEvent>, bool) {
    let (mut parser, mut events) = (EventParser::default(), Vec::new());
    parser.feed(stream.as_bytes(), |event| events.push(event)).unwrap();
    parser.end(|event| events.push(event)).unwrap();
    (events, parser.finished)
}

#[test]
fn whatever_a_model_generates_is_content_and_a_role_is_not() {
    for delta in [
        r#"{"content":"a"}"#,
        r#"{"reasoning":"a"}"#,
        r#"{"reasoning_content":"a","content":null}"#,
        r#"{"refusal":"no"}"#,
        r#"{"tool_calls":[{"index":0,"function":{"name":"f"}}]}"#,
        r#"{"content":[{"type":"text","text":"a"}]}"#,
    ] {
        let (events, _) = read(&format!("data: {{\"choices\":[{{\"delta\":{delta}}}]}}\n\n"));
        assert_eq!(events, [StreamEvent::Content], "{delta}");
    }
    for delta in [r#"{"role":"assistant","content":""}"#, r#"{"tool_calls":[],"refusal":null}"#, "null"] {
        let (events, _) = read(&format!("data: {{\"choices\":[{{\"delta\":{delta}}}]}}\n\n"));
        assert_eq!(events, [StreamEvent::Other], "{delta}");
    }
}

#[test]
fn every_valid_event_stream_is_read() {
    let token = r#"{"choices":[{"delta":{"content":"a"}}]}"#;
    for (stream, contents) in [
        (format!("data:\n\ndata: {token}\n\n"), 1),
        (format!("data\n\nretry: 1000\nid: 1\n\ndata:{token}\n\n"), 1),
        ("event: x\ndata: {\"choices\":\ndata: [{\"text\":\"a\"}]}\n\n".to_owned(), 1),
        (format!("\u{feff}data: {token}\r\rdata: {token}\r\n\r\n"), 2),
        (format!(": ping\n\ndata: {token}\n\ndata: {token}"), 2),
    ] {
        let (events, _) = read(&stream);
        assert_eq!(events, vec![StreamEvent::Content; contents], "{stream:?}");
    }
    let (events, _) = read("data: {\"error\":\"overloaded\"}\n\n");
    assert_eq!(events, [StreamEvent::Error { message: "overloaded".to_owned(), status: None }]);
}

#[test]
fn a_finish_reason_ends_an_answer_as_done_does() {
    assert!(!read("data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}\n\n").1);
    assert!(read("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n").1);
    assert!(read("data: {\"text\":\"a\",\"meta_info\":{\"finish_reason\":{\"type\":\"length\"}}}\n\n").1);
}

#[test]
fn an_answer_that_the_engine_gave_up_is_an_error() {
    let told = |reason: &str| format!("the engine ended the answer with finish reason `{reason}`");
    for (stream, message, status) in [
        (r#"{"choices":[{"text":"a","finish_reason":"abort"}]}"#, told("abort"), None),
        (r#"{"choices":[{"delta":{},"finish_reason":"error"}]}"#, told("error"), None),
        (r#"{"text":"a","meta_info":{"finish_reason":{"type":"abort","message":""}}}"#, told("abort"), None),
        (
            r#"{"text":"","meta_info":{"finish_reason":{"type":"abort","message":"full","status_code":503}}}"#,
            "full".to_owned(),
            Some(503),
        ),
    ] {
        let (events, finished) = read(&format!("data: {stream}\n\ndata: [DONE]\n\n"));
        assert_eq!(events, [StreamEvent::Error { message, status }, StreamEvent::Done], "{stream}");
        assert!(!finished, "{stream}");
    }
}
