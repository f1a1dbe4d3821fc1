use super::*;
use proptest::prelude::*;

fn tap(text: &str) -> AnswerTap {
    let mut tap = AnswerTap::new(Framing::Events, true);
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
    assert_eq!((tap.tokens(), tap.error()), (2, None));
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
    assert_eq!((tap.answer(), tap.choices(), tap.tokens()), (Some("One two end"), 3, 4));
    assert_eq!(self::tap("data: {\"choices\":[{\"text\":\"x\",\"index\":0}]}\n\n").choices(), 1);
}

#[test]
fn errors_inside_a_200_are_seen_with_their_code() {
    let full = "data: {\"error\":{\"object\":\"error\",\"message\":\"The request queue is full.\",\"type\":\"SERVICE_UNAVAILABLE\",\"param\":null,\"code\":503}}\n\ndata: [DONE]\n\n";
    assert_eq!(tap(full).error(), Some(Failure::Overloaded { retry_after_s: None }));
    assert_eq!(tap("data: {\"error\":{\"message\":\"boom 42\"}}\n\n").error(), Some(Failure::Server(500)));
    assert_eq!(
        tap("data: {\"text\":\"\",\"meta_info\":{\"finish_reason\":{\"type\":\"abort\",\"status_code\":400}}}\n\n")
            .error(),
        Some(Failure::Client)
    );
}

#[test]
fn told_errors_are_judged_by_type_and_code_wherever_the_dialect_puts_them() {
    let full = Failure::Overloaded { retry_after_s: None };
    for (event, failure) in [
        (
            r#"{"error":{"message":"maximum is 4096","type":"invalid_request_error","code":"context_length_exceeded"}}"#,
            Failure::Client,
        ),
        (r#"{"error":{"message":"try 500 tokens","type":"BadRequestError","code":null}}"#, Failure::Client),
        (r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, full),
        (r#"{"type":"error","code":"rate_limit_exceeded","message":"slow down"}"#, full),
        (
            r#"{"type":"response.failed","response":{"id":"r","error":{"code":"server_error","message":"503"}}}"#,
            Failure::Server(500),
        ),
        (r#"{"object":"error","message":"m","type":"NotFoundError","code":404}"#, Failure::Client),
        (r#"{"error":"out of memory at 404"}"#, Failure::Server(500)),
        (r#"{"error":"Input validation error: 500","error_type":"validation"}"#, Failure::Client),
        (r#"{"error":"Template error: syntax error","error_type":"template_error"}"#, Failure::Client),
        (r#"{"error":"Model is overloaded","error_type":"overloaded"}"#, full),
        (r#"{"detail":[{"loc":["body"],"msg":"m","type":"int_parsing"}]}"#, Failure::Client),
        (r#"{"detail":"Internal Server Error"}"#, Failure::Server(500)),
        (r#"{"choices":[{"delta":{},"finish_reason":"error","error":{"code":400}}]}"#, Failure::Client),
        (r#"{"error":{"message":"m","type":"image_parse_error"}}"#, Failure::Client),
        (r#"{"error":{"message":"m","type":"tool_use_failed"}}"#, Failure::Client),
        (r#"{"error":{"message":"m","status":"FAILED_PRECONDITION"}}"#, Failure::Client),
        (r#"{"error":"Request failed during generation: CUDA","error_type":"generation"}"#, Failure::Server(500)),
        (r#"{"text":"","meta_info":{"finish_reason":{"type":"abort","err_type":"BadRequestError"}}}"#, Failure::Client),
    ] {
        let tap = tap(&format!("data: {event}\n\n"));
        assert_eq!((tap.error(), tap.content()), (Some(failure), false), "{event}");
    }
    for text in [
        "event: error\ndata: boom\n\n",
        "event:error\r\ndata: {\"message\":\"boom\",\"code\":500}\r\n\r\n",
        "error: {\"code\":500,\"message\":\"Compute error\"}\n\n",
        "event: error\n\n",
        "data: {\"detail\":\"Internal Server Error\"}\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"abort\"}]}\n\n",
    ] {
        let tap = tap(text);
        assert_eq!((tap.error(), tap.content()), (Some(Failure::Server(500)), false), "{text}");
    }
    assert_eq!(
        tap("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n").error(),
        Some(Failure::Overloaded { retry_after_s: None })
    );
    let begun = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    let aborted = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"abort\"}]}\n\n";
    for text in [
        "event: error_rate\ndata: {\"x\":1}\n\n",
        "data: {\"detail\":\"x\",\"choices\":[]}\n\n",
        &format!("{begun}{aborted}"),
        "event: error\n: no\n",
    ] {
        assert_eq!(tap(text).error(), None, "{text}");
    }
    for event in
        [r#"{"error":null,"choices":[]}"#, r#"{"error":{},"choices":[]}"#, r#"{"code":"500 lines","choices":[]}"#]
    {
        assert_eq!(tap(&format!("data: {event}\n\n")).error(), None, "{event}");
    }
}

/// Anthropic's messages, as an engine streams them.
const MESSAGES: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"content\":[],",
    "\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":20,\"output_tokens\":0}}}\n\n",
    "event: ping\ndata: {\"type\":\"ping\"}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi \"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"you\"}}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"input_tokens\":5,\"output_tokens\":2}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
);

#[test]
fn anthropics_messages_have_their_first_token_text_and_usage() {
    let (preamble, rest) = MESSAGES.split_at(MESSAGES.find("event: content_block_delta").unwrap());
    let mut tap = tap(preamble);
    assert!(!tap.content() && !tap.has_only_heartbeats());
    tap.feed(rest.as_bytes());
    assert!(tap.content() && tap.done());
    assert_eq!((tap.answer(), tap.error()), (Some("Hi you"), None));
    assert_eq!(tap.usage(), Usage { prompt_tokens: Some(25), output_tokens: Some(2), cached_tokens: Some(20) });
}

#[test]
fn whole_answers_of_every_dialect_have_their_text() {
    for (body, text) in [
        (r#"{"choices":[{"message":{"role":"assistant","content":"hi","tool_calls":null}}]}"#, Some("hi")),
        (
            r#"{"object":"response","id":"r","error":null,"output":[{"type":"message","content":[{"type":"output_text","text":"hi"}]}]}"#,
            Some("hi"),
        ),
        (
            r#"{"type":"message","content":[{"type":"text","text":"hi"}],"usage":{"input_tokens":1,"output_tokens":1}}"#,
            Some("hi"),
        ),
        // Reasoning and tool calls lie between the prompt and the text in the engine's cache.
        (r#"{"choices":[{"message":{"content":"hi","reasoning_content":"hm"}}]}"#, None),
        (r#"{"choices":[{"message":{"content":"hi","audio":{"id":"a"}}}]}"#, None),
        (
            r#"{"object":"response","output":[{"type":"reasoning","summary":[]},{"type":"message","content":[{"type":"output_text","text":"hi"}]}]}"#,
            None,
        ),
        (r#"{"type":"message","content":[{"type":"thinking","thinking":"hm"},{"type":"text","text":"hi"}]}"#, None),
    ] {
        let mut tap = AnswerTap::new(Framing::Json, true);
        assert!(tap.whole(body.as_bytes()));
        assert_eq!((tap.answer(), tap.error(), tap.content()), (text, None, true), "{body}");
    }
}

#[test]
fn what_is_no_known_preamble_is_content() {
    for event in [
        r#"{"choices":[{"delta":{"role":"assistant","refusal":"I cannot"}}]}"#,
        r#"{"choices":[{"delta":{"audio":{"data":"AAA"}}}]}"#,
        r#"{"choices":[{"delta":{"reasoning":"hm"}}]}"#,
        r#"{"choices":[{"delta":{"content":[{"type":"thinking"}]}}]}"#,
        r#"{"type":"response.refusal.delta","delta":"no"}"#,
        r#"{"type":"response.web_search_call.searching","item_id":"w"}"#,
        r#"{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"hm"}}"#,
        r#"{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{"}}"#,
        r#"{"token":{"id":5,"text":"x"},"generated_text":null}"#,
        r#"{"x":1}"#,
        "hello",
        "[1,2]",
    ] {
        assert!(tap(&format!("data: {event}\n\n")).content(), "{event}");
    }
    for event in [
        r#"{"choices":[{"delta":{"role":"assistant","content":"","refusal":null,"annotations":[],"audio":null}}]}"#,
        r#"{"type":"response.in_progress","response":{"id":"r","error":null}}"#,
        r#"{"type":"response.output_item.added","item":{"type":"message"}}"#,
        r#"{"text":"","meta_info":{"id":"a"},"output_ids":[]}"#,
        r#"{"usage":{"prompt_tokens":1}}"#,
        "",
    ] {
        assert!(!tap(&format!("data: {event}\n\n")).content(), "{event}");
    }
}

#[test]
fn an_error_is_judged_whatever_stands_beside_it() {
    for rest in [
        r#""jsonrpc":"2.0","id":1"#,
        r#""type":500"#,
        r#""text":[]"#,
        r#""object":1"#,
        r#""choices":{}"#,
        r#""choices":[{"index":"0"}]"#,
        r#""choices":[null]"#,
        r#""usage":"""#,
        r#""usage":{"prompt_tokens":-1}"#,
        r#""usage":{"prompt_tokens":1.5,"prompt_tokens_details":[]}"#,
        r#""meta_info":[]"#,
    ] {
        for event in
            [format!(r#"{{{rest},"error":{{"code":400}}}}"#), format!(r#"[{{"error":{{"code":400}},{rest}}}]"#)]
        {
            let tap = tap(&format!("data: {event}\n\n"));
            assert_eq!((tap.error(), tap.content()), (Some(Failure::Client), false), "{event}");
        }
        let tap = &mut AnswerTap::new(Framing::Json, true);
        assert!(tap.whole(format!(r#"{{{rest},"error":{{"code":400}}}}"#).as_bytes()));
        assert_eq!(tap.error(), Some(Failure::Client), "{rest}");
    }
    // Without an error they are what an unknown dialect says.
    for event in [r#"{"text":["x"]}"#, r#"{"choices":{"x":1}}"#, r#"{"choices":[{"text":["x"]}]}"#, r#"{"type":5}"#] {
        let tap = tap(&format!("data: {event}\n\n"));
        assert_eq!((tap.error(), tap.content()), (None, true), "{event}");
    }
}

#[test]
fn heartbeats_are_told_from_a_beginning() {
    for (text, only) in [
        (": hm\n\n:", true),
        ("", true),
        ("da", false),
        ("event: x\n", false),
        (": a\n\nretry: 5\n", true),
        ("data:\n\n", true),
        ("event: ping\ndata: {\"type\": \"ping\"}\n\n", true),
        ("event: keepalive\ndata: {}\n\n", true),
        ("data: {\"type\":\"keepalive\"}\n\n", true),
        ("event: ping\ndata: {\"type\": \"ping\"}\n\ndata: {\"type\":\"message_start\"}\n\n", false),
        ("data: hello\n\n", false),
        ("data: [DONE]\n\n", false),
    ] {
        assert_eq!(tap(text).has_only_heartbeats(), only, "{text:?}");
    }
}

#[test]
fn an_event_of_many_lines_costs_no_more_than_its_length() {
    // Each line made the parser read all lines before it again: 4 MB of them took minutes.
    let mut tap = AnswerTap::new(Framing::Events, true);
    tap.feed("data: {\"a\": [\n".as_bytes());
    for _ in 0..100_000 {
        tap.feed(b"data: 1,\n");
    }
    assert!(!tap.content() && tap.frames.buffered() <= MAX_EVENT);
    tap.feed(b"data: 1]}\n\n");
    assert_eq!((tap.content(), tap.tokens()), (true, 1));
}

#[test]
fn a_stream_with_choices_lacks_its_end_until_it_has_one() {
    let begun = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    assert!(tap(begun).lacks_end() && !tap("data: hello\n\n").lacks_end());
    assert!(!tap(&format!("{begun}data: [DONE]\n\n")).lacks_end());
    let finish = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    assert!(!tap(&format!("{begun}{finish}")).lacks_end());
    let other = "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"y\"}}]}\n\n";
    assert!(tap(&format!("{begun}{other}{finish}")).lacks_end(), "another choice goes on");
}

#[test]
fn streams_of_typed_events_and_of_generate_lack_their_end_until_they_tell_it() {
    let end = |kind: &str| format!(r#"{{"type":"{kind}"}}"#);
    for (begun, ends) in [
        (r#"{"type":"message_start","message":{}}"#, vec![end("message_stop"), end("error")]),
        (r#"{"type":"content_block_delta","delta":{"text":"x"}}"#, vec![end("message_stop")]),
        (
            r#"{"type":"response.output_text.delta","delta":"x"}"#,
            vec![end("response.completed"), end("response.incomplete"), end("response.failed")],
        ),
        (
            r#"{"text":"x","meta_info":{"finish_reason":null}}"#,
            vec![r#"{"text":"xy","meta_info":{"finish_reason":{"type":"stop"}}}"#.to_owned(), "[DONE]".to_owned()],
        ),
    ] {
        assert!(tap(&format!("data: {begun}\n\n")).lacks_end(), "{begun}");
        for end in ends {
            assert!(!tap(&format!("data: {begun}\n\ndata: {end}\n\n")).lacks_end(), "{begun} {end}");
        }
    }
    assert!(!tap("data: {\"text\":\"x\",\"meta_info\":{}}\n\n").lacks_end(), "it never tells");
}

#[test]
fn cumulative_and_incremental_generation_give_the_same_text() {
    let cumulative = tap("data: {\"text\":\"a\"}\n\ndata: {\"text\":\"ab c\"}\n\n");
    let incremental = tap("data: {\"text\":\"a\"}\n\ndata: {\"text\":\"b c\"}\n\n");
    assert_eq!((cumulative.answer(), incremental.answer()), (Some("ab c"), Some("ab c")));
}

#[test]
fn counts_of_anthropics_streams_are_those_of_the_start_unless_it_has_none() {
    let usage = |start: &str, end: &str| {
        let start = format!("data: {{\"type\":\"message_start\",\"message\":{{\"usage\":{start}}}}}\n\n");
        tap(&format!("{start}data: {{\"type\":\"message_delta\",\"usage\":{end}}}\n\n")).usage()
    };
    let read = |prompt, cached| Usage { prompt_tokens: Some(prompt), output_tokens: Some(7), cached_tokens: cached };
    let end = r#"{"input_tokens":100,"cache_read_input_tokens":40,"output_tokens":7}"#;
    assert_eq!(usage(r#"{"input_tokens":0,"output_tokens":0}"#, end), read(140, Some(40)));
    assert_eq!(usage(r#"{"input_tokens":140,"output_tokens":0}"#, end), read(140, Some(40)));
    assert_eq!(
        usage(
            r#"{"input_tokens":10,"cache_read_input_tokens":90,"output_tokens":0}"#,
            r#"{"input_tokens":10,"output_tokens":7}"#
        ),
        read(100, Some(90))
    );
}

#[test]
fn the_answers_to_a_batch_are_read_together() {
    let answers = |elements: &[&str]| {
        let mut tap = AnswerTap::new(Framing::Json, true);
        assert!(tap.whole(format!("[{}]", elements.join(",")).as_bytes()));
        tap
    };
    let good = r#"{"text":"x","meta_info":{"prompt_tokens":50,"completion_tokens":3,"cached_tokens":20,"finish_reason":{"type":"stop"}}}"#;
    let full = r#"{"text":"","meta_info":{"finish_reason":{"type":"abort","status_code":503}}}"#;
    let tap = answers(&[good, good]);
    let usage = Usage { prompt_tokens: Some(100), output_tokens: Some(6), cached_tokens: Some(40) };
    assert_eq!((tap.usage(), tap.error(), tap.answer()), (usage, None, None));
    assert_eq!(answers(&[full, full]).error(), Some(Failure::Overloaded { retry_after_s: None }));
    assert_eq!(answers(&[full, good]).error(), None);
    assert_eq!(answers(&["[0.1,0.2]", "[0.3]"]).error(), None);
}

#[test]
fn events_without_a_token_count_as_none() {
    let choice = |delta: &str| format!("data: {{\"choices\":[{{\"delta\":{delta}}}]}}\n\n");
    let [role, a, b] =
        ["{\"role\":\"assistant\",\"content\":\"\"}", "{\"content\":\"a\"}", "{\"content\":\"b\"}"].map(choice);
    let end = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    assert_eq!(tap(&format!("{role}{a}{b}{end}")).tokens(), 2);
}

#[test]
fn usage_of_a_whole_answer_is_read_at_its_end() {
    let mut tap = AnswerTap::new(Framing::Json, true);
    tap.feed(br#"{"choices":[{"message":{"role":"assistant","content":"hi"}}],"usage":{"prompt_tok"#);
    tap.feed(br#"ens":3,"completion_tokens":1,"prompt_tokens_details":null}}"#);
    tap.end();
    assert_eq!(tap.usage(), Usage { prompt_tokens: Some(3), output_tokens: Some(1), cached_tokens: None });
    assert_eq!(tap.answer(), Some("hi"));
}

#[test]
fn an_event_without_end_is_dropped_and_the_next_is_read() {
    let mut tap = AnswerTap::new(Framing::Events, true);
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
    assert_eq!((tap.answer(), tap.tokens()), (Some("x"), 1));
}

proptest! {
    #[test]
    fn cuts_do_not_matter(cut in 0usize..CHAT.len(), size in 1usize..40) {
        fuzz(&CHAT.as_bytes()[cut..]);
        let mut tap = AnswerTap::new(Framing::Events, true);
        CHAT.as_bytes().chunks(size).for_each(|piece| tap.feed(piece));
        prop_assert_eq!(tap.answer(), Some("Hello é"));
    }

    #[test]
    fn no_input_panics(data in "(data: ?|\n|\r|\\{|\\}|\"|error|text|:|,|[a-z0-9]){0,60}") {
        fuzz(data.as_bytes());
    }
}
