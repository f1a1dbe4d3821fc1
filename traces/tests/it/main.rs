//! The crate from outside: files on disk, every format, hostile bytes.
#![allow(clippy::unwrap_used)]

use gorgo_traces::geo::Weights;
use gorgo_traces::workload::{Format, Options, Per, UnknownPlaces, convert, lines::Lines, open, read_bytes, reader};
use proptest::prelude::*;
use std::io::Cursor;

const ROWS: [&str; 8] = [
    r#"{"timestamp":0,"session_id":"a","country":"FR","input_length":5,"output_length":2,"messages":[{"role":"user","content":"x"}]}"#,
    r#"{"timestamp":0,"input_length":5,"output_length":2,"hash_ids":[1]}"#,
    r#"{"chat_id":1,"parent_chat_id":-1,"timestamp":0,"input_length":5,"output_length":2,"type":"t","turn":1,"hash_ids":[1]}"#,
    r#"{"conversation":[{"role":"user","content":"x"},{"role":"assistant","content":"y"}],"timestamp":"2023-04-09","country":"FR"}"#,
    r#"{"prompt":"hello","hash":"x"}"#,
    r#"{"prompt":"[{\"role\":\"user\",\"content\":\"x\"}]","hash":"x","turn":1,"is_multi_turn":true}"#,
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44",
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,m,472,18,490,Conversation log",
];

const TEXT_FORMATS: [Format; 7] = [
    Format::Native,
    Format::Mooncake,
    Format::Bailian,
    Format::Azure,
    Format::Burstgpt,
    Format::Wildchat,
    Format::GuidellmPair,
];

/// Reads to the end in both modes; every outcome but a panic is fine, and what is read must be well-formed.
fn survives(bytes: &[u8], format: Option<Format>) -> Result<(), TestCaseError> {
    for skip_bad in [false, true] {
        let options = Options { format, skip_bad, ..Options::default() };
        match read_bytes("t", bytes, &options) {
            Err(e) => prop_assert!(!e.to_string().contains('\n'), "one sentence: {e}"),
            Ok(workload) => {
                prop_assert!(workload.requests.is_sorted_by_key(|r| r.at));
                for r in &workload.requests {
                    prop_assert!(r.input_tokens >= 1 && r.output_tokens >= 1 && r.turn >= 1);
                    prop_assert_eq!(r.blocks.len() as u32, r.input_tokens.div_ceil(r.block_tokens));
                    prop_assert!(r.place.is_none_or(gorgo_traces::geo::is_real));
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_reader_panics_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), format in prop::option::of(0usize..7)) {
        survives(&bytes, format.map(|i| TEXT_FORMATS[i]))?;
    }

    #[test]
    fn no_reader_panics_on_a_good_row_with_a_hole(
        row in 0usize..8, at in any::<prop::sample::Index>(), len in 0usize..12, put in "[0-9a-z\"{}\\[\\],:.\\-é ]{0,8}",
        format in prop::option::of(0usize..7),
    ) {
        let chars: Vec<char> = ROWS[row].chars().collect();
        let at = at.index(chars.len());
        let text: String = chars[..at].iter().copied().chain(put.chars()).chain(chars[(at + len).min(chars.len())..].iter().copied()).collect();
        survives(text.as_bytes(), format.map(|i| TEXT_FORMATS[i]))?;
        survives(format!("{text}\n{}", ROWS[row]).as_bytes(), None)?;
    }

    #[test]
    fn truncated_gzip_is_an_error_and_not_a_panic(cut in 20usize..2_000) {
        let bytes = gorgo_traces::shipped::find("azure-conv").unwrap().bytes;
        let outcome = read_bytes("t", &bytes[..cut], &Options::default());
        prop_assert!(outcome.is_err());
    }
}

#[test]
fn every_format_is_told_from_its_first_line() {
    let expected = [
        Format::Native,
        Format::Mooncake,
        Format::Bailian,
        Format::Wildchat,
        Format::GuidellmPair,
        Format::GuidellmPair,
        Format::Azure,
        Format::Burstgpt,
    ];
    for (row, format) in ROWS.into_iter().zip(expected) {
        let workload = read_bytes("t", row.as_bytes(), &Options::default()).unwrap();
        assert_eq!((workload.format, workload.requests.len()), (format, 1), "{row}");
    }
    let e = read_bytes("t", b"{\"a\":1}", &Options::default()).unwrap_err().to_string();
    assert!(
        e.starts_with("t: the format is not recognised from line 1, \"{\\\"a\\\":1}\"; name it with one of: native"),
        "{e}"
    );
    let batch = br#"{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"messages":[]}}"#;
    let e = read_bytes("t", batch, &Options::default()).unwrap_err().to_string();
    assert!(e.starts_with("t is a file of OpenAI's batch API") && e.contains("jq -c"), "{e}");
    let e = read_bytes("t", b"", &Options::default()).unwrap_err().to_string();
    assert!(e.starts_with("t: the format is not recognised from an empty file"), "{e}");
}

#[test]
fn a_bad_first_line_does_not_hide_the_format_when_bad_rows_are_skipped() {
    let text = format!("garbage\n{}", ROWS[1]);
    let workload = read_bytes("t", text.as_bytes(), &Options { skip_bad: true, ..Options::default() }).unwrap();
    assert_eq!((workload.format, workload.requests.len(), workload.seen.skipped), (Format::Mooncake, 1, 1));
}

#[test]
fn convert_writes_gzip_that_reads_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.jsonl.gz");
    let options = Options { first: Some(200), ..Options::default() };
    let before = convert("mooncake-conversation", &target, &options).unwrap();
    let after = open(&target.display().to_string(), &Options::default()).unwrap();
    assert_eq!((after.format, after.requests.len()), (Format::Native, 200));
    // Mooncake's own ids are already dense in order of appearance, so even they are equal.
    assert_eq!(before.requests, after.requests);
    let again = dir.path().join("again.jsonl.gz");
    convert("mooncake-conversation", &again, &options).unwrap();
    assert_eq!(std::fs::read(target).unwrap(), std::fs::read(again).unwrap(), "equal bytes every time");
}

#[test]
fn files_that_cannot_be_opened_say_what_can() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display().to_string();
    for (name, part) in [("/nowhere/x.jsonl", "No such file"), (folder.as_str(), "it is a folder")] {
        let e = open(name, &Options::default()).unwrap_err().to_string();
        assert!(
            e.contains(part) && e.contains("wildchat-located, mooncake-conversation, azure-conv, agentic-sessions"),
            "{e}"
        );
    }
}

#[test]
fn options_limit_rows_lengths_and_answers() {
    let options = Options {
        first: Some(1_000),
        max_input_tokens: Some(24_000),
        max_output_tokens: Some(128),
        ..Options::default()
    };
    let workload = open("mooncake-conversation", &options).unwrap();
    assert!(workload.requests.iter().all(|r| r.input_tokens <= 24_000 && r.output_tokens <= 128));
    let left_out = workload.seen.dropped["prompt longer than max_input_tokens"];
    assert_eq!((workload.seen.rows, workload.requests.len() as u64 + left_out), (1_000, 1_000));
    assert!(workload.notes.iter().any(|n| n.contains("longer than max_input_tokens")));
}

#[test]
fn a_trace_can_be_cut_to_a_duration() {
    let options = Options { duration_s: Some(60.0), ..Options::default() };
    let workload = open("mooncake-conversation", &options).unwrap();
    assert!(workload.requests.iter().all(|r| r.at.secs() <= 60.0) && workload.requests.len() > 100);
    let left_out = 12_031 - workload.requests.len();
    assert!(workload.notes.contains(&format!("{left_out} left out: later than duration_s")), "{:?}", workload.notes);
}

#[test]
fn a_damaged_parquet_file_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.parquet");
    for bytes in [&b"PAR1...."[..], b"PAR1", b"PAR1\xff\xff\xff\x7fPAR1"] {
        std::fs::write(&path, bytes).unwrap();
        let e = open(&path.display().to_string(), &Options::default()).unwrap_err().to_string();
        assert!(e.contains("rows.parquet"), "{e}");
    }
}

#[test]
fn unknown_places_stay_unknown_or_are_drawn_once_a_user() {
    let text = [1, 2, 1].map(|user| {
        format!(r#"{{"timestamp":0,"user_id":{user},"session_id":{user},"input_length":5,"output_length":2}}"#)
    });
    let read = |unknown_places, seed| {
        let options = Options { unknown_places, seed, ..Options::default() };
        read_bytes("t", text.join("\n").as_bytes(), &options).unwrap()
    };
    assert!(read(UnknownPlaces::Keep, 0).requests.iter().all(|r| r.place.is_none()));
    let drawn = read(UnknownPlaces::Draw(Weights::First10k), 0);
    assert!(drawn.requests.iter().all(|r| r.place.is_some() && r.country.is_some()));
    assert_eq!(drawn.requests[0].place, drawn.requests[2].place);
    assert_eq!(drawn.notes, ["3 requests without a place: drawn from WildChat's published shares"]);
    assert_eq!(drawn, read(UnknownPlaces::Draw(Weights::First10k), 0));
}

#[test]
fn a_streaming_reader_goes_on_after_a_bad_row() {
    let text = format!("{}\nnot json\n{}", ROWS[1], ROWS[1]);
    let lines = Lines::new("t", Cursor::new(text)).unwrap();
    let rows: Vec<_> = gorgo_traces::workload::Reader::new(lines, &Options::default()).unwrap().collect();
    assert_eq!(rows.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(reader("wildchat-located", &Options::default()).unwrap().count(), 663);
}

#[test]
fn one_prompt_a_conversation_has_far_less_reuse_than_one_a_turn() {
    use gorgo_traces::workload::stats::{Kept, Reuse};
    let turn = |role: &str, text: &str| format!(r#"{{"role":"{role}","content":"{}"}}"#, text.repeat(30));
    let conversation =
        [turn("user", "hello "), turn("assistant", "world "), turn("user", "again "), turn("assistant", "bye ")];
    let row = format!(r#"{{"conversation":[{}],"timestamp":"2023-04-09"}}"#, conversation.join(","));
    let reuse = |per| {
        let options = Options { per, ..Options::default() };
        Reuse::of(&read_bytes("t", row.as_bytes(), &options).unwrap().requests, Kept::PromptsAndAnswers).global
    };
    assert!(reuse(Per::Turn) > 0.4 && reuse(Per::Conversation) == 0.0 && reuse(Per::FirstPrompt) == 0.0);
}
