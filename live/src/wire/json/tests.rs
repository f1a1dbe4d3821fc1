use super::*;
use proptest::prelude::*;
use serde_json::Value;

proptest! {
    #[test]
    fn the_first_special_byte_of_eight_is_found(word in prop::array::uniform8(prop_oneof![
        any::<u8>(), Just(b'a'), Just(b'!'), Just(b'#'), Just(b'['), Just(b']'), Just(b' '), Just(0x1f), Just(0x7f)
    ])) {
        let naive = word.iter().position(|&byte| matches!(byte, b'"' | b'\\') || !(b' '..0x80).contains(&byte));
        prop_assert_eq!(first_special(u64::from_le_bytes(word)), naive);
    }
}

fn whole(text: &[u8]) -> Read<()> {
    let mut json = Reader::new(text);
    json.skip()?;
    json.end()
}

fn accepts_what_serde_json_does(text: &[u8]) {
    let theirs = serde_json::from_slice::<Value>(text);
    if theirs.as_ref().is_err_and(|error| error.to_string().contains("out of range")) {
        return; // we do not ask what a number is worth
    }
    if text.first() == Some(&b'"') {
        let mut json = Reader::new(text);
        let decoded = json.decoded().is_ok() && json.end().is_ok();
        assert_eq!(decoded, theirs.is_ok(), "{:?}", String::from_utf8_lossy(text));
    }
    assert_eq!(whole(text).is_ok(), theirs.is_ok(), "{:?}: {:?}", String::from_utf8_lossy(text), whole(text));
}

#[test]
fn bytes_that_are_no_utf_8_are_found_wherever_they_are() {
    let long = "x".repeat(300);
    for (before, after) in [("{\"", "\": 1}"), ("[\"", "\"]"), ("[", "]"), ("", ""), ("[\"é\\n", "\"]"), ("1", "")] {
        for bad in [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", "é€😀".as_bytes(), b"\x1f", b"\x7f"]
        {
            for pad in ["", "x", &long] {
                let text = [before.as_bytes(), pad.as_bytes(), bad, pad.as_bytes(), after.as_bytes()].concat();
                accepts_what_serde_json_does(&text);
            }
        }
    }
    let wrong = whole(b"[\"ab\xff\"]").unwrap_err();
    assert_eq!(wrong, JsonError { what: "bytes that are no UTF-8", at: 4 });
}

#[test]
fn edges_of_the_grammar() {
    for text in [
        "",
        " ",
        "{}",
        "[]",
        "[1,]",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "01",
        "-",
        "-0",
        "1.",
        ".5",
        "1e",
        "1e+",
        "1E-7",
        "-1.5e+10",
        "truex",
        "tru",
        "null",
        "nul",
        "\"",
        "\"\\\"",
        "\"\\q\"",
        "\"\t\"",
        "\"\\u12\"",
        "\"\\ud83d\\ude00\"",
        "[1 2]",
        "[1]]",
        "{\"a\":1 \"b\":2}",
        "\u{feff}1",
        "+1",
        "[-]",
        "- 1",
    ] {
        accepts_what_serde_json_does(text.as_bytes());
    }
    assert_eq!(whole(b"{\"a\":\"cut").unwrap_err().to_string(), "it ends too early at byte 9");
}

#[test]
fn nesting_is_bounded_as_in_serde_json() {
    for depth in 120..135 {
        accepts_what_serde_json_does(format!("{}{}", "[".repeat(depth), "]".repeat(depth)).as_bytes());
    }
}

#[test]
fn integers_of_64_bits_are_read_and_other_numbers_passed_over() {
    let read = |text: &str| Reader::new(text.as_bytes()).number().unwrap();
    assert_eq!(
        (read("18446744073709551615"), read("-9223372036854775808")),
        (Some(u64::MAX.into()), Some(i64::MIN.into()))
    );
    assert_eq!((read("18446744073709551616"), read("1.0"), read("1e3"), read(" 7")), (None, None, None, Some(7)));
}

proptest! {
    #[test]
    fn no_input_panics_and_all_is_judged_as_by_serde_json(text in "(\\{|\\}|\\[|\\]|,|:|\"|\\\\u[0-9a-f]{3,4}|\\\\n|\\\\|[0-9.eE+-]{1,3}|true|null|a|é| ){0,14}") {
        accepts_what_serde_json_does(text.as_bytes());
    }

    #[test]
    fn strings_come_out_as_they_went_in(text in any::<String>(), ascii in any::<bool>(), most in 0usize..40) {
        let json = Value::from(text.clone()).to_string();
        let json = if ascii { json.chars().map(|c| if c.is_ascii() { c.to_string() } else {
            c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
        }).collect() } else { json };
        let read = Reader::new(json.as_bytes()).text().unwrap();
        let mut out = Vec::new();
        read.pieces(|piece| out.extend_from_slice(piece));
        prop_assert_eq!(&out, text.as_bytes());
        prop_assert_eq!(Reader::new(json.as_bytes()).decoded().unwrap(), text.as_bytes());
        let short = read.short(most);
        prop_assert!(text.starts_with(&short) && short.len() <= most && short.len() + 4 > most.min(text.len()));
    }
}
