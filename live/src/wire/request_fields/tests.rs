use super::*;
use proptest::prelude::*;

fn symbols(body: &str) -> std::sync::Arc<[u64]> {
    extract(body.as_bytes(), 1).unwrap().prompt.symbols
}

#[test]
fn strings_and_parts_of_equal_text_are_equal_prompts() {
    let long = "word ".repeat(40);
    let string = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{long}"}}]}}"#);
    let parts =
        format!(r#"{{"messages":[{{"role":"user","content":[{{"type":"text","text":"{long}"}}]}}],"model":"m"}}"#);
    assert_eq!(symbols(&string), symbols(&parts));
    let escaped = string.replace("word", "\\u0077ord");
    assert_eq!(symbols(&string), symbols(&escaped));
    assert_ne!(symbols(&string), symbols(&string.replace("user", "system")));
    assert_ne!(symbols(&string), symbols(&string.replace(r#""m""#, r#""n""#)));
}

#[test]
fn fields_are_read_and_unknown_ones_passed_over() {
    let body = r#"{"stream":true,"model":"llama","user":"u7","rid":"r-1","x":{"deep":[1,{"y":null}]},
            "prompt":"hello","temperature":0.1}"#;
    let found = extract(body.as_bytes(), 1).unwrap();
    assert_eq!((found.model.as_deref(), found.rid.as_deref()), (Some("llama"), Some("r-1")));
    assert_eq!(found.session, session_hash(b"u7"));
    assert_eq!(found.prompt.bytes, 5);
}

#[test]
fn token_arrays_count_exactly_and_share_prefixes() {
    let ids = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let short = extract(format!(r#"{{"prompt":[{}]}}"#, ids(100)).as_bytes(), 1).unwrap().prompt;
    let long = extract(format!(r#"{{"input_ids":[{}]}}"#, ids(120)).as_bytes(), 1).unwrap().prompt;
    assert_eq!((short.tokens(4.0), long.tokens(4.0)), (100, 120));
    assert_eq!(short.symbols[..short.whole], long.symbols[..short.whole]);
    assert_eq!(extract(br#"{"prompt":[[1,2],[3]]}"#, 1).unwrap().prompt.tokens(4.0), 3);
}

#[test]
fn tools_and_tool_calls_belong_to_the_prompt() {
    let plain = r#"{"messages":[{"role":"user","content":"q"}]}"#;
    let tools = r#"{"messages":[{"role":"user","content":"q"}],"tools":[{"type":"function"}]}"#;
    let calls =
        r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":null,"tool_calls":[{"id":"1"}]}]}"#;
    assert_ne!(symbols(plain), symbols(tools));
    assert!(extract(calls.as_bytes(), 1).unwrap().prompt.bytes > extract(plain.as_bytes(), 1).unwrap().prompt.bytes);
}

#[test]
fn a_role_after_its_content_is_the_same_message_and_matches_the_learned_answer() {
    let (long, reply) = ("word ".repeat(40), "reply ".repeat(40));
    let first = format!(r#"{{"messages":[{{"role":"user","content":"{long}"}}"#);
    let turned = format!(r#"{{"messages":[{{"content":"{long}","name":"n","role":"user"}}"#);
    assert_eq!(symbols(&format!("{}]}}", first.replace("}", r#","name":"n"}"#))), symbols(&format!("{turned}]}}")));
    let answer = extract(format!("{first}]}}").as_bytes(), 1).unwrap().prompt.answer(&reply, true, 50, 50);
    let next = format!(r#"{first},{{"content":"{reply}","role":"assistant"}},{{"content":"more","role":"user"}}]}}"#);
    let next = symbols(&next);
    assert_eq!(next[answer.keep..][..answer.tail.len()], answer.tail[..]);
    assert!(answer.keep > 2 && answer.tail.len() > 3);
}

#[test]
fn broken_bodies_are_refused_in_one_sentence() {
    let deep = format!(r#"{{"messages":{}}}"#, "[".repeat(100_000));
    for body in
        [&br#"{"prompt":"cut"#[..], b"[1]", b"\"text\"", b"", b"{} {}", b"{\"prompt\":\"\xff\xfe\"}", deep.as_bytes()]
    {
        let message = extract(body, 1).unwrap_err();
        assert!(message.starts_with("the body is not the JSON object this endpoint takes: "), "{message}");
        assert!(message.len() < 200, "{message}");
    }
}

#[test]
fn the_model_is_the_one_that_engines_read_and_no_name_is_cut_to_anothers() {
    let model = |body: &str| extract(body.as_bytes(), 1).map(|found| found.model);
    assert_eq!(model(r#"{"model":"a","model":"b"}"#), Ok(Some("b".to_owned())));
    assert_eq!(model(r#"{"model":"a","model":null}"#), Ok(None));
    assert_eq!(model(r#"{"m\u006fdel":"b"}"#), Ok(Some("b".to_owned())));
    let named = |name: &str| model(&format!(r#"{{"model":"{name}"}}"#));
    let longest = "x".repeat(512);
    assert_eq!(named(&longest), Ok(Some(longest.clone())));
    for long in ["x".repeat(513), "x".repeat(511) + "\u{e9}", longest + "\u{1f600}"] {
        assert_eq!(named(&long), Err(LongName::SENTENCE.to_owned()));
    }
    let rid = |rid: &str| extract(format!(r#"{{"rid":"{rid}"}}"#).as_bytes(), 1).unwrap().rid;
    assert_eq!((rid("r").as_deref(), rid(&"r".repeat(513))), (Some("r"), None), "its beginning is another request's");
}

#[test]
fn files_in_parts_of_a_message_are_found() {
    let kept = |part: &str| {
        extract(format!(r#"{{"input":[{{"role":"user","content":[{part}]}}]}}"#).as_bytes(), 1).unwrap().kept
    };
    let key = Some(kept_ids::key(b"f-1"));
    assert_eq!(kept(r#"{"type":"input_file","file_id":"f-1"}"#), key);
    assert_eq!(kept(r#"{"type":"file","file":{"file_id":"f-1"}}"#), key);
    assert_eq!(kept(r#"{"type":"text","text":"file_id"}"#), None);
    let in_tools = |tool: &str| extract(format!(r#"{{"input":"x","tools":[{tool}]}}"#).as_bytes(), 1).unwrap().kept;
    assert_eq!(in_tools(r#"{"type":"file_search","vector_store_ids":["f-1","f-2"]}"#), key);
    assert_eq!(in_tools(r#"{"type":"file_search","vector_store_ids":[]}"#), None);
}

#[test]
fn the_first_adapter_of_lora_path_is_read() {
    let adapter = |path: &str| extract(format!(r#"{{"text":"x","lora_path":{path}}}"#).as_bytes(), 1).unwrap().adapter;
    assert_eq!((adapter(r#""fr""#).as_deref(), adapter(r#"[null,"fr","de"]"#).as_deref()), (Some("fr"), Some("fr")));
    for none in ["null", r#""""#, "[]", "7", r#"{"fr":"de"}"#, "[[\"fr\"]]"] {
        assert_eq!(adapter(none), None, "{none}");
    }
}

#[test]
fn odd_types_are_left_to_the_engine() {
    assert!(extract(br#"{"model":7,"stream":"yes","user":[],"messages":"x","rid":null}"#, 1).is_ok());
}

proptest! {
    #[test]
    fn no_input_panics(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz(&data);
    }

    #[test]
    fn any_text_is_hashed_as_it_is_whatever_the_escapes(text in any::<String>()) {
        let body = serde_json::json!({"prompt": text}).to_string();
        let mut blocks = Blocks::new(1);
        blocks.text(text.as_bytes());
        prop_assert_eq!(symbols(&body), blocks.finish().symbols);
    }
}
