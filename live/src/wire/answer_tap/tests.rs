use super::*;
use proptest::prelude::*;

fn tap(text: &str) -> Tap {
    let mut tap = Tap::new(Framing::Events, true);
    tap.feed(text.as_bytes());
    tap
}

const CHAT: &str = concat!(
    ": keep-alive\n\n",
    "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\r\n\r\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"lo \\u00e9\"}}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n",
    "data: [DONE]\n\n"
);

#[test]
fn the_first_token_is_the_first_event_with_content() {
    let (role, rest) = CHAT.split_at(CHAT.find("Hel").unwrap());
    let mut tap = tap(role);
    assert!(!tap.content());
    tap.feed(rest.as_bytes());
    assert!(tap.content() && tap.done());
    assert_eq!(tap.answer(), Some("Hello é"));
    assert_eq!(tap.usage(), Usage { prompt_tokens: Some(9), output_tokens: Some(2), cached_tokens: Some(4) });
    assert_eq!((tap.events(), tap.error()), (5, None));
}

#[test]
fn tool_calls_reasoning_completions_and_responses_bear_content() {
    for event in [
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#,
        r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
        r#"{"choices":[{"index":0,"text":"x"}]}"#,
        r#"{"type":"response.output_text.delta","delta":"x"}"#,
        r#"{"text":"x","meta_info":{}}"#,
    ] {
        assert!(tap(&format!("data: {event}\n\n")).content(), "{event}");
    }
    for event in [
        r#"{"choices":[{"delta":{"role":"assistant","content":null,"tool_calls":null}}]}"#,
        r#"{"type":"response.created","response":{"id":"r"}}"#,
        r#"{"choices":[]}"#,
    ] {
        assert!(!tap(&format!("data: {event}\n\n")).content(), "{event}");
    }
}

#[test]
fn a_role_after_content_and_other_choices_leave_the_answer_as_it_is() {
    let events = [
        r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"One "}}]}"#,
        r#"{"choices":[{"index":1,"delta":{"role":"assistant","content":"Other"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"role":"assistant"}}]}"#,
        r#"{"choices":[{"delta":{"role":"assistant","content":null},"index":0}]}"#,
        r#"{"choices":[{"delta":{"content":"two"},"index":0},{"delta":{"content":"three"},"index":2}]}"#,
        r#"{"choices":[{"delta":{"content":" end","role":"assistant"},"index":null}]}"#,
    ];
    let tap = tap(&events.map(|event| format!("data: {event}\n\n")).concat());
    assert_eq!((tap.answer(), tap.choices(), tap.events()), (Some("One two end"), 3, 6));
    assert_eq!(self::tap("data: {\"choices\":[{\"text\":\"x\",\"index\":0}]}\n\n").choices(), 1);
}

#[test]
fn errors_inside_a_200_are_seen_with_their_code() {
    let full = "data: {\"error\":{\"object\":\"error\",\"message\":\"The request queue is full.\",\"type\":\"SERVICE_UNAVAILABLE\",\"param\":null,\"code\":503}}\n\ndata: [DONE]\n\n";
    assert_eq!(tap(full).error(), Some(503));
    assert_eq!(tap("data: {\"error\":{\"message\":\"boom 42\"}}\n\n").error(), Some(500));
    assert_eq!(
        tap("data: {\"text\":\"\",\"meta_info\":{\"finish_reason\":{\"type\":\"abort\",\"status_code\":400}}}\n\n")
            .error(),
        Some(400)
    );
}

#[test]
fn cumulative_and_incremental_generation_give_the_same_text() {
    let cumulative = tap("data: {\"text\":\"a\"}\n\ndata: {\"text\":\"ab c\"}\n\n");
    let incremental = tap("data: {\"text\":\"a\"}\n\ndata: {\"text\":\"b c\"}\n\n");
    assert_eq!((cumulative.answer(), incremental.answer()), (Some("ab c"), Some("ab c")));
}

#[test]
fn usage_of_a_whole_answer_is_read_at_its_end() {
    let mut tap = Tap::new(Framing::Json, true);
    tap.feed(br#"{"choices":[{"message":{"role":"assistant","content":"hi"}}],"usage":{"prompt_tok"#);
    tap.feed(br#"ens":3,"completion_tokens":1,"prompt_tokens_details":null}}"#);
    tap.end();
    assert_eq!(tap.usage(), Usage { prompt_tokens: Some(3), output_tokens: Some(1), cached_tokens: None });
    assert_eq!(tap.answer(), Some("hi"));
}

#[test]
fn an_event_without_end_is_dropped_and_the_next_is_read() {
    let mut tap = Tap::new(Framing::Events, true);
    tap.feed(b"data: ");
    for _ in 0..40 {
        tap.feed(&[b'x'; 100_000]);
        assert!(tap.frames.buffered() <= MAX_EVENT);
    }
    tap.feed(b"\n\ndata: [DONE]\n\n");
    assert!(tap.done());
}

#[test]
fn data_over_several_lines_is_one_event() {
    let tap = tap("data: {\"choices\":\ndata: [{\"text\":\"x\"}]}\n\n");
    assert_eq!((tap.answer(), tap.events()), (Some("x"), 1));
}

proptest! {
    #[test]
    fn cuts_do_not_matter(cut in 0usize..CHAT.len(), size in 1usize..40) {
        fuzz(&CHAT.as_bytes()[cut..]);
        let mut tap = Tap::new(Framing::Events, true);
        CHAT.as_bytes().chunks(size).for_each(|piece| tap.feed(piece));
        prop_assert_eq!(tap.answer(), Some("Hello é"));
    }

    #[test]
    fn no_input_panics(data in "(data: ?|\n|\r|\\{|\\}|\"|error|text|:|,|[a-z0-9]){0,60}") {
        fuzz(data.as_bytes());
    }
}
