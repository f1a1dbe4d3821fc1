use super::*;
use crate::workload::read_bytes;
use proptest::prelude::*;

fn bad(line: &str) -> String {
    let options = Options { format: Some(super::super::Format::Native), ..Options::default() };
    read_bytes("t.jsonl", line.as_bytes(), &options).unwrap_err().to_string()
}

#[test]
fn bad_rows_name_file_line_and_field() {
    insta::assert_snapshot!([
        r#"{"session_id":1}"#,
        r#"{"timestamp":-5,"input_length":3,"output_length":1}"#,
        r#"{"timestamp":1718000000000000000,"input_length":3,"output_length":1}"#,
        r#"{"timestamp":0,"input_length":0,"output_length":1}"#,
        r#"{"timestamp":0,"input_length":3,"output_length":"x"}"#,
        r#"{"timestamp":0,"input_length":30,"output_length":1,"hash_ids":[1,2]}"#,
        r#"{"timestamp":0,"input_length":30,"output_length":1,"hash_ids":[1.5]}"#,
        r#"{"timestamp":0,"input_length":30,"output_length":1,"lat":95,"lon":1}"#,
        r#"{"timestamp":0,"input_length":30,"output_length":1,"lat":5}"#,
        r#"{"timestamp":0,"input_length":30,"output_length":1,"session_id":[]}"#,
        r#"{"timestamp":0,"output_length":1,"messages":[{"role":"user"}]}"#,
        r#"{"timestamp":0,"output_length":1,"messages":[]}"#,
        r#"{"timestamp":0,"input_length":30,"output_length":40,"answer_hash_ids":[1]}"#,
        r#"{"timestamp":0,"input_length":3,"output_length":1,"router_tokens":0}"#,
        r#"{"timestamp":0,"input_length":3,"output_length":1,"refused":"maybe"}"#,
        r#"{"timestamp":"#,
    ].map(bad).join("\n"), @r#"
t.jsonl:1: timestamp is missing: every row needs a time
t.jsonl:1: timestamp is -5: it must be a time since the start of the trace, not negative
t.jsonl:1: timestamp is 1718000000000000000: it is too large for a time in ms; give --time-unit ns or us
t.jsonl:1: input_length is 0: it must be a whole number of tokens from 1 to 4194304
t.jsonl:1: output_length is "x": it must be a whole number of tokens from 1 to 4194304
t.jsonl:1: hash_ids holds 2 ids: 30 tokens in blocks of 512 make 1; block_tokens = 16 (--block-tokens 16) would fit
t.jsonl:1: hash_ids[0] is 1.5: it must be a block id: a whole number, not negative
t.jsonl:1: lat is 95: it must be degrees from -90 to 90
t.jsonl:1: lon is missing: a row with `lat` needs both coordinates, or neither
t.jsonl:1: session_id is []: it must be text or a whole number, not negative
t.jsonl:1: messages[0] is {"role":"user"}: it must be a message with a `content` text
t.jsonl:1: messages is []: it must be a list of messages, at least one
t.jsonl:1: answer_hash_ids holds 1 ids: prompt and answer add 3 whole blocks
t.jsonl:1: router_tokens is 0: it must be a whole number of tokens from 1 to 4194304
t.jsonl:1: refused is "maybe": it must be true or false
t.jsonl:1: row "{\"timestamp\":" is not JSON (EOF while parsing a value at line 1 column 13): each line must be one object
"#);
}

#[test]
fn countries_in_no_table_are_counted_with_the_first() {
    let row = |country: &str| format!(r#"{{"timestamp":0,"country":"{country}","input_length":9,"output_length":1}}"#);
    let text = ["UK", "USA", "Germny", "", "Frnce"].map(row).join("\n");
    let workload = read_bytes("t", text.as_bytes(), &Options::default()).unwrap();
    let codes: Vec<_> = workload.requests.iter().map(|r| r.country).collect();
    assert_eq!(codes, [Some(*b"GB"), Some(*b"US"), None, None, None]);
    let [note] = &workload.notes[..] else { panic!("{:?}", workload.notes) };
    assert!(note.starts_with("2 rows name a country") && note.contains("\"Germny\" in line 3"), "{note}");
}

#[test]
fn messages_of_a_later_turn_continue_the_chain_and_link_the_answer() {
    let long = "tell me about the history of the city of Haifa ".repeat(4);
    let answer = "Haifa is a port. ".repeat(20);
    let rows = [
        json!({"timestamp": 0, "session_id": "s", "output_length": 85, "messages": [{"role": "user", "content": long}]}),
        json!({"timestamp": 9, "session_id": "s", "output_length": 5, "messages": [
            {"role": "user", "content": long}, {"role": "assistant", "content": answer}, {"role": "user", "content": "more"}]}),
    ];
    let text = rows.map(|r| r.to_string()).join("\n");
    let workload = read_bytes("t", text.as_bytes(), &Options::default()).unwrap();
    let [a, b] = workload.requests.as_slice() else { panic!("two rows") };
    assert_eq!((a.turn, b.turn, a.input_tokens), (1, 2, 47));
    let whole = (a.input_tokens / 16) as usize;
    assert_eq!(a.blocks[..whole], b.blocks[..whole]);
    assert_eq!(a.answer_blocks.len(), answer_len(a));
    assert_eq!(a.answer_blocks[..], b.blocks[whole..whole + a.answer_blocks.len()]);
}

#[test]
fn places_come_from_coordinates_then_names_and_zero_zero_is_unknown() {
    let row = |extra: &str| format!(r#"{{"timestamp":0,"input_length":1,"output_length":1,{extra}}}"#);
    let text = [
        row(r#""lat":1.5,"lon":2.5,"country":"FR""#),
        row(r#""country":"United States","state":"Georgia""#),
        row(r#""lat":0,"lon":0,"country":"Türkiye""#),
        row(r#""lat":0.0,"lon":0.0"#),
    ];
    let requests = read_bytes("t", text.join("\n").as_bytes(), &Options::default()).unwrap().requests;
    assert_eq!((requests[0].country, requests[0].place), (Some(*b"FR"), Some(Place { lat: 1.5, lon: 2.5 })));
    assert!(requests[1].place.unwrap().lon < -80.0);
    assert_eq!(requests[2].place, geo::places::country_place(*b"TR"));
    assert_eq!((requests[3].country, requests[3].place), (None, None));
}

#[test]
fn unknown_fields_are_counted_and_reported() {
    let text = "{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"colour\":\"red\"}\n".repeat(3);
    let workload = read_bytes("t", text.as_bytes(), &Options::default()).unwrap();
    assert_eq!(workload.notes, ["unknown fields ignored: colour (3 rows)"]);
}

const SESSIONS: &str = r#"{"session_id":"s","timestamp":100,"input_length":2000,"output_length":40,"hash_ids":[0,1,2,3]}
{"session_id":"s","delay":500,"input_length":600,"output_length":30,"hash_ids":[10,11]}
{"session_id":"t","timestamp":300,"input_length":2000,"output_length":40,"hash_runs":[[0,3],[4,1]]}
{"session_id":"s","delay":1500.5,"input_length":500,"output_length":600,"hash_ids":[12]}"#;

#[test]
fn turns_with_a_delay_have_their_sessions_time_and_survive_writing() {
    let read = |text: &str, options: &Options| read_bytes("t", text.as_bytes(), options).unwrap();
    let requests = read(SESSIONS, &Options::default()).requests;
    let seen: Vec<_> = requests.iter().map(|r| (r.at.ms(), r.turn, r.delay.map(Span::ms), r.awaited)).collect();
    assert_eq!(
        seen,
        [(0.0, 1, None, true), (0.0, 2, Some(500.0), true), (0.0, 3, Some(1500.5), false), (200.0, 1, None, false)]
    );
    assert_eq!(requests[3].blocks[..], [0, 1, 2, 4]);
    let mut file = Vec::new();
    write("t", &mut file, &requests).unwrap();
    let again = read(std::str::from_utf8(&file).unwrap(), &Options::default());
    assert_eq!(
        again.requests.iter().map(|r| (r.at, r.delay, r.awaited)).collect::<Vec<_>>(),
        requests.iter().map(|r| (r.at, r.delay, r.awaited)).collect::<Vec<_>>()
    );
    let [note] = &again.notes[..] else { panic!("{:?}", again.notes) };
    assert!(note.starts_with("2 of 2 later turns have shorter prompts"), "{note}");
    let slow = read(SESSIONS, &Options { time_scale: 2.0, ..Options::default() }).requests;
    assert_eq!((slow[3].at.ms(), slow[1].delay), (400.0, Some(Span::from_ms(1000.0))));
    let drawn = read(SESSIONS, &Options { arrivals: crate::workload::Arrivals::Poisson(1.0), ..Options::default() });
    assert!(drawn.requests.iter().all(|r| r.delay.is_none() && !r.awaited));
    assert!(drawn.notes.iter().any(|note| note.contains("leaves no `delay`")), "{:?}", drawn.notes);
}

#[test]
fn added_rows_hold_the_session_before_them() {
    let options = Options { prompts: Prompts::Added, ..Options::default() };
    let requests = read_bytes("t", SESSIONS.as_bytes(), &options).unwrap().requests;
    let [a, b, c, other] = requests.as_slice() else { panic!("four rows") };
    assert_eq!((a.input_tokens, b.input_tokens, c.input_tokens), (2000, 2640, 3170));
    assert_eq!(a.blocks[..3], b.blocks[..3]);
    assert_eq!(b.blocks[..5], c.blocks[..5], "the whole blocks of the turn before");
    assert_eq!(a.blocks[..3], other.blocks[..3], "equal ids are equal prefixes across sessions");
    assert_ne!(a.blocks[3], other.blocks[3]);
    assert_eq!((c.answer_blocks.len(), answer_len(c)), (1, 1));
}

#[test]
fn a_delay_needs_a_session_and_a_closed_session_stays_closed() {
    let head = r#"{"session_id":1,"timestamp":0,"input_length":3,"output_length":1}"#;
    assert_eq!(
        bad(r#"{"delay":5,"input_length":3,"output_length":1}"#),
        "t.jsonl:1: session_id is missing: every row needs a session to have a `delay` after its turn before"
    );
    assert!(
        bad(&format!("{head}\n{}", r#"{"session_id":1,"delay":-5,"input_length":3,"output_length":1}"#))
            .contains("t.jsonl:2: delay is -5: it must be a time after the end of the turn before")
    );
    let closed = r#"{"session_id":1,"delay":5,"input_length":3,"output_length":1}"#;
    assert_eq!(
        bad(&format!("{head}\n{closed}\n{head}")),
        "t.jsonl:3: delay is missing: every row needs one in a session whose turn before has one"
    );
    assert!(
        bad(r#"{"timestamp":0,"input_length":30,"output_length":1,"hash_runs":[[1,99999999]]}"#)
            .contains("hash_runs[0] is [1,99999999]: it must be [first id, count]")
    );
}

#[test]
fn a_turn_is_counted_in_no_tokens() {
    let message = bad(r#"{"timestamp":0,"turn":0,"input_length":30,"output_length":1}"#);
    assert!(message.contains("turn is 0: it must be a whole number from 1 to "), "{message}");
}

#[test]
fn values_that_are_not_used_are_told() {
    let notes = |text: &str| read_bytes("t", text.as_bytes(), &Options::default()).unwrap().notes.join("\n");
    let said =
        r#"{"timestamp":0,"input_length":100,"output_length":5,"messages":[{"role":"user","content":"x","tokens":7}]}"#;
    assert!(notes(said).contains("input_length, too, which is not used"), "{}", notes(said));
    assert!(!notes(&said.replace("100", "7")).contains("input_length"), "the same length is no contradiction");
    let first = r#"{"timestamp":0,"session_id":1,"delay":9,"input_length":30,"output_length":1}"#;
    assert!(notes(first).contains("the `delay` of a session's first turn is not used"), "{}", notes(first));
    let turn = |at: u32, turn: u32| {
        format!(r#"{{"timestamp":{at},"session_id":1,"turn":{turn},"input_length":30,"output_length":1}}"#)
    };
    let back = notes(&[turn(0, 2), turn(5, 1)].join("\n"));
    assert!(back.contains("1 later turns have a lower number than the turn before them"), "{back}");
    assert!(!notes(&[turn(5, 2), turn(0, 1)].join("\n")).contains("lower number"), "rows in another order than times");
}

prop_compose! {
    fn any_request()(
        at in 0u64..1_000_000_000_000_000, session in 0u64..9, user in any::<u64>(), input in 1u32..200, output in 1u32..100,
        block in 1u32..40, max in prop::option::of(1u32..500), place in prop::option::of((-89_000..89_000, 1_000..179_000)),
        start in 0u64..3, answered in any::<bool>(), router_tokens in prop::option::of(1u32..300), refused in any::<bool>(),
    ) -> TraceRequest {
        let mut r = TraceRequest {
            at: Time(at), session, user, turn: 1, place: place.map(|(lat, lon)| Place { lat: f64::from(lat) / 1e3, lon: f64::from(lon) / 1e3 }),
            country: place.map(|_| *b"FR"), input_tokens: input, output_tokens: output, max_tokens: max,
            block_tokens: block, blocks: (0..u64::from(input.div_ceil(block))).map(|i| start * 1_000 + i).collect(),
            router_tokens, refused, answer_blocks: [].into(), delay: None, awaited: false,
        };
        if answered {
            r.answer_blocks = (0..answer_len(&r) as u64).map(|i| 50_000 + i).collect();
        }
        r
    }
}

/// Ids renamed by first appearance, which is what the writer does.
fn dense(requests: &[TraceRequest]) -> Vec<TraceRequest> {
    let mut names = BTreeMap::new();
    let mut name = |ids: &[u64]| -> Vec<u64> {
        ids.iter()
            .map(|&id| {
                let n = names.len() as u64;
                *names.entry(id).or_insert(n)
            })
            .collect()
    };
    requests
        .iter()
        .map(|r| TraceRequest {
            blocks: name(&r.blocks).into(),
            answer_blocks: name(&r.answer_blocks).into(),
            ..r.clone()
        })
        .collect()
}

proptest! {
    #[test]
    fn written_requests_read_back_the_same(requests in prop::collection::vec(any_request(), 1..12)) {
        let mut file = Vec::new();
        write("t", &mut file, &requests).unwrap();
        let lines = super::super::lines::Lines::new("t", std::io::Cursor::new(file)).unwrap();
        let read: Result<Vec<_>, _> = super::super::reader::Reader::new(lines, &Options::default()).unwrap().collect();
        prop_assert_eq!(read.unwrap(), dense(&requests));
    }
}
