use super::*;
use crate::workload::{Format, read_bytes};

const ROW: &str = r#"{"conversation_hash":"x","timestamp":"2023-04-09T00:10:00Z","country":"United States","state":"Georgia",
        "hashed_ip":"abc","conversation":[{"role":"user","content":"Tell me about block caches, please.","tokens":40},
        {"role":"assistant","content":"They keep blocks of a prompt.","tokens":100},
        {"role":"user","content":"Thanks","tokens":2},{"role":"assistant","content":"Welcome.","tokens":20}]}"#;

fn read(options: &Options) -> Vec<TraceRequest> {
    read_bytes("w", ROW.replace('\n', " ").as_bytes(), options).unwrap().requests
}

#[test]
fn conversations_of_sharegpt_and_lmsys_need_no_times() {
    let sharegpt = r#"{"id":"a","conversations":[{"from":"human","value":"hello there"},{"from":"gpt","value":"hi"},{"from":"human","value":"more"},{"from":"gpt","value":"fine"}]}
{"id":"b","conversations":[{"from":"human","value":"hello there"},{"from":"gpt","value":"hi"}]}"#;
    let workload = read_bytes("s", sharegpt.as_bytes(), &Options::default()).unwrap();
    assert_eq!(workload.format, Format::Sharegpt);
    let found: Vec<_> = workload.requests.iter().map(|r| (r.session, r.turn)).collect();
    assert_eq!(found, [(0, 1), (1, 1), (0, 2)]);
    assert_eq!((workload.requests[0].at.secs(), workload.requests[1].at.secs()), (0.0, 1.0));
    assert!(workload.notes[0].starts_with("conversations without times"), "{:?}", workload.notes);
    let lmsys = r#"{"conversation_id":"x","model":"m","conversation":[{"role":"user","content":"hello"},{"role":"assistant","content":"hi"}],"turn":1}"#;
    assert_eq!(read_bytes("l", lmsys.as_bytes(), &Options::default()).unwrap().requests.len(), 1);
}

#[test]
fn a_conversation_of_unknown_roles_is_counted_with_its_reason() {
    let robot = r#"{"id":"a","conversations":[{"from":"robot","value":"x"},{"from":"gpt","value":"y"}]}"#;
    let human = robot.replace("robot", "human");
    let message = read_bytes("r", robot.as_bytes(), &Options::default()).unwrap_err().to_string();
    assert!(message.contains("1 left out: conversation without a message of the role `user`"), "{message}");
    let notes = read_bytes("r", format!("{human}\n{robot}").as_bytes(), &Options::default()).unwrap().notes.join("\n");
    assert!(notes.contains("1 conversations have a message of a role that is not known"), "{notes}");
    assert!(notes.contains("\"robot\" in line 2") && notes.contains("1 left out: conversation without"), "{notes}");
}

#[test]
fn each_turn_is_a_request_whose_prompt_begins_with_the_turn_before() {
    let [a, b] = read(&Options::default()).try_into().unwrap();
    assert_eq!((a.input_tokens, a.output_tokens, b.input_tokens, b.output_tokens), (40, 100, 142, 20));
    assert_eq!(a.blocks[..2], b.blocks[..2]);
    assert_eq!(a.answer_blocks[..], b.blocks[2..8], "140 tokens are 8 whole blocks, 2 of them the prompt's");
    assert!(a.place.unwrap().lon < -80.0);
    // The last answer ends at the row's stamp; one think time and two answers lie before.
    assert_eq!(b.at - a.at, Span(100 * ANSWER_NS_PER_TOKEN) + THINK);
    assert_eq!((a.turn, b.turn, a.user), (1, 2, b.user));
}

#[test]
fn the_cut_decides_what_is_a_request() {
    let cut = |per| read(&Options { per, ..Options::default() }).iter().map(|r| r.input_tokens).collect::<Vec<_>>();
    assert_eq!(cut(Per::Turn), [40, 142]);
    assert_eq!(cut(Per::Conversation), [142]);
    assert_eq!(cut(Per::FirstPrompt), [40]);
    let long = read(&Options { min_chars: 10, ..Options::default() });
    assert_eq!(long.iter().map(|r| r.turn).collect::<Vec<_>>(), [1], "\"Thanks\" has 6 characters");
}

#[test]
fn stamps_of_answers_win_over_the_walk_back() {
    let mut row: Value = serde_json::from_str(&ROW.replace('\n', " ")).unwrap();
    row["conversation"][1]["timestamp"] = "2023-04-09T00:00:02.5Z".into();
    let requests = read_bytes("w", row.to_string().as_bytes(), &Options::default()).unwrap().requests;
    assert_eq!(requests[1].at.secs(), 600.0 - 0.5, "the first request left at 00:00:00, the last answer took 0.5 s");
}

#[test]
fn users_are_told_by_address_and_header() {
    let rows = ["a", "b", "a"].map(|ip| ROW.replace('\n', " ").replace("abc", ip)).join("\n");
    let workload = read_bytes("w", rows.as_bytes(), &Options { per: Per::FirstPrompt, ..Options::default() }).unwrap();
    assert_eq!(workload.format, Format::Wildchat);
    assert_eq!(workload.requests.iter().map(|r| r.user).collect::<Vec<_>>(), [0, 1, 0]);
}

#[test]
fn bad_rows_name_the_field() {
    let options = Options { format: Some(Format::Wildchat), ..Options::default() };
    let message = |row: &str| read_bytes("w", row.as_bytes(), &options).unwrap_err().to_string();
    assert_eq!(message("{}"), "w:1: conversation is missing: every row needs the list of its messages");
    let row =
        r#"{"conversation":[{"role":"user","content":"x"},{"role":"assistant","content":"y"}],"timestamp":"soon"}"#;
    assert!(message(row).starts_with("w:1: timestamp is \"soon\": it must be a calendar time"));
    assert!(message(r#"{"conversation":[{"role":"user","content":4}]}"#).starts_with("w:1: conversation[0] is {"));
}

#[test]
fn a_row_without_a_country_takes_its_messages_or_stays_unknown() {
    let unknown = ROW.replace('\n', " ").replace("United States", "").replace("Georgia", "");
    let requests = read_bytes("w", unknown.as_bytes(), &Options::default()).unwrap().requests;
    assert_eq!((requests[0].country, requests[0].place), (None, None));
    let mut row: Value = serde_json::from_str(&unknown).unwrap();
    row["country"] = Value::Null;
    row["conversation"][0]["country"] = "Germany".into();
    let requests = read_bytes("w", row.to_string().as_bytes(), &Options::default()).unwrap().requests;
    assert_eq!(requests[0].country, Some(*b"DE"));
}
