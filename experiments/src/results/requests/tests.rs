use super::*;
use crate::results::test_data::run;

#[test]
fn rows_read_back_as_they_were() {
    let mut run = run("gorgo, \"a\"=1\n<script>", 7, 60);
    run.records[3].done = MaybeTime::NONE;
    run.records[3].status = Status::Failed;
    let mut text = Vec::new();
    write(&mut text, &run, true).unwrap();
    let arms = read(text.as_slice(), &run.names, usize::MAX).unwrap();
    assert_eq!(arms.len(), 1);
    assert_eq!((arms[0].arm.as_str(), arms[0].seed, &arms[0].names), (run.arm.as_str(), 7, &run.names));
    let shown = |records: &[RequestRecord]| format!("{records:?}");
    assert_eq!(shown(&arms[0].records), shown(&run.records));
}

#[test]
fn every_row_has_every_column_and_cells_with_commas_are_quoted() {
    let mut text = Vec::new();
    write(&mut text, &run("a,b", 1, 5), true).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.lines().nth(1).unwrap().starts_with("\"a,b\",least-load,edge,1,0,"), "{text}");
    let mut rows = csv::Reader::from_reader(text.as_bytes());
    assert!(rows.records().all(|row| row.unwrap().len() == COLUMNS.len()));
}

#[test]
fn a_bad_cell_is_named_by_line_column_and_value() {
    let mut text = Vec::new();
    write(&mut text, &run("a", 1, 2), true).unwrap();
    let text = String::from_utf8(text).unwrap();
    let why = |from: &str, to: &str| read(text.replacen(from, to, 1).as_bytes(), &Names::default(), 9).unwrap_err();
    assert_eq!(
        why(",finished,", ",finnished,"),
        "line 2, column `status` is `finnished`, not finished, rejected, timed-out, failed, cancelled or lost"
    );
    assert_eq!(
        why("a,least-load,edge,1,", "a,least-load,edge,-1,"),
        "line 2, column `seed` is `-1`, not a whole number in range"
    );
    assert!(why("arm,", "arn,").contains("other columns"));
    assert!(read(&b"\xff\xfe"[..], &Names::default(), 9).is_err());
}

#[test]
fn milliseconds_are_exact() {
    assert_eq!(nanos(&ms(1_234_567_890_123_456_789)), Some(1_234_567_890_123_456_789));
    assert_eq!((nanos("1.5"), nanos("2"), nanos("-1"), nanos("1e3")), (Some(1_500_000), Some(2_000_000), None, None));
}
