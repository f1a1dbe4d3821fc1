//! JSON read in place: values are passed over, strings are handed out as they lie in the text.
//!
//! As strict as `serde_json`, but searching for quotes and escapes by vectors: the strings of a prompt are nearly the
//! whole body, and a byte at a time they would be the dearest part of a request.

use memchr::memchr2;

/// Deepest nesting that is read.
const DEPTH: u8 = 127;

/// What is wrong, and at which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wrong {
    what: &'static str,
    at: usize,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

type Read<T> = Result<T, Wrong>;

/// A string between its quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    raw: &'a [u8],
    escaped: bool,
}

impl<'a> Text<'a> {
    /// Its bytes where they lie, unless there are escapes in it.
    pub(crate) fn plain(&self) -> Option<&'a [u8]> {
        (!self.escaped).then_some(self.raw)
    }

    /// Whether it is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Whether it is this word.
    pub(crate) fn is(&self, word: &[u8]) -> bool {
        self.raw == word
    }

    /// Its bytes piece by piece, escapes resolved. [`Reader::text`] has checked them.
    pub(crate) fn pieces(&self, mut take: impl FnMut(&[u8])) {
        let mut rest = self.raw;
        if !self.escaped {
            return take(rest);
        }
        while let Some(at) = memchr::memchr(b'\\', rest) {
            take(&rest[..at]);
            let (char, used) = unescape(&rest[at..]).unwrap_or(('\u{fffd}', 1));
            take(char.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &rest[at + used..];
        }
        take(rest);
    }

    /// At most `most` bytes of it, whole characters.
    pub(crate) fn short(&self, most: usize) -> String {
        let mut bytes = Vec::new();
        // A character of six bytes here is one of at least one byte there.
        let head = Self { raw: &self.raw[..self.raw.len().min(6 * most + 12)], escaped: self.escaped };
        head.pieces(|piece| bytes.extend_from_slice(piece));
        bytes.truncate(most);
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let mut bytes = error.into_bytes();
                bytes.truncate(valid);
                String::from_utf8(bytes).unwrap_or_default()
            }
        }
    }
}

/// The character of an escape at the start of `text`, and the bytes it takes.
fn unescape(text: &[u8]) -> Option<(char, usize)> {
    let char = match text.get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let unit = |at: usize| {
                let digits = text.get(at..at + 4)?;
                digits.iter().try_fold(0u32, |sum, &d| Some(sum << 4 | char::from(d).to_digit(16)?))
            };
            let first = unit(2)?;
            if !(0xd800..0xdc00).contains(&first) {
                return char::from_u32(first).map(|char| (char, 6));
            }
            let second = unit(8).filter(|_| text.get(6..8) == Some(b"\\u"))?;
            if !(0xdc00..0xe000).contains(&second) {
                return None;
            }
            return char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)).map(|char| (char, 12));
        }
        _ => return None,
    };
    Some((char, 2))
}

/// What a value is, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `{`
    Object,
    /// `[`
    Array,
    /// `"`
    Text,
    /// Digits.
    Number,
    /// `true`, `false` or `null`.
    Word,
}

/// Reads a text from its start to its end.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: u8,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `text`.
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    #[cold]
    fn wrong<T>(&self, what: &'static str) -> Read<T> {
        let what = if self.at >= self.text.len() { "it ends too early" } else { what };
        Err(Wrong { what, at: self.at })
    }

    fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    fn eat(&mut self, byte: u8) -> bool {
        let here = self.peek() == Some(byte);
        self.at += usize::from(here);
        here
    }

    /// What stands next.
    pub(crate) fn kind(&mut self) -> Read<Kind> {
        match self.peek() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::Text),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f' | b'n') => Ok(Kind::Word),
            _ => self.wrong("no value"),
        }
    }

    /// Nothing but white space is left.
    pub(crate) fn end(&mut self) -> Read<()> {
        if self.peek().is_some() { self.wrong("more than one value") } else { Ok(()) }
    }

    /// Objects and arrays that are open around what stands next.
    pub(crate) fn depth(&self) -> u8 {
        self.depth
    }

    /// The first key of the object that stands next.
    pub(crate) fn first_key(&self) -> Option<Text<'a>> {
        let mut ahead = self.clone();
        if ahead.eat(b'{') { ahead.text().ok() } else { None }
    }

    /// Every member of an object; `member` must read the value.
    pub(crate) fn object(&mut self, mut member: impl FnMut(&mut Self, Text<'a>) -> Read<()>) -> Read<()> {
        self.list(b'{', b'}', |json| {
            let key = json.text()?;
            if !json.eat(b':') {
                return json.wrong("no colon");
            }
            member(json, key)
        })
    }

    /// Every element of an array; `element` must read it.
    pub(crate) fn array(&mut self, element: impl FnMut(&mut Self) -> Read<()>) -> Read<()> {
        self.list(b'[', b']', element)
    }

    fn list(&mut self, open: u8, close: u8, mut item: impl FnMut(&mut Self) -> Read<()>) -> Read<()> {
        if !self.eat(open) {
            return self.wrong("another kind of value");
        }
        if self.depth >= DEPTH {
            return self.wrong("nesting deeper than 127");
        }
        self.depth += 1;
        if !self.eat(close) {
            loop {
                item(self)?;
                if self.eat(close) {
                    break;
                }
                if !self.eat(b',') {
                    return self.wrong("neither a comma nor an end");
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// A string.
    pub(crate) fn text(&mut self) -> Read<Text<'a>> {
        if !self.eat(b'"') {
            return self.wrong("no string");
        }
        let (start, mut escaped) = (self.at, false);
        // Keys and words are short: to set up vectors for them would cost more than to look at eight bytes at a time.
        for (n, word) in self.text[start..].as_chunks::<8>().0.iter().take(4).enumerate() {
            let Some(found) = first_special(u64::from_le_bytes(*word)) else { continue };
            let length = 8 * n + found;
            if word[found] != b'"' {
                break;
            }
            self.at = start + length + 1;
            return Ok(Text { raw: &self.text[start..start + length], escaped });
        }
        loop {
            let Some(found) = memchr2(b'"', b'\\', &self.text[self.at..]) else {
                self.at = self.text.len();
                return self.wrong("");
            };
            self.at += found;
            if self.text[self.at] == b'"' {
                break;
            }
            escaped = true;
            let Some((_, used)) = unescape(&self.text[self.at..]) else { return self.wrong("an invalid escape") };
            self.at += used;
        }
        let raw = &self.text[start..self.at];
        if !raw.chunks(256).all(are_plain) {
            if raw.iter().any(|&byte| byte < b' ') {
                return self.wrong("a control character in the string that ends");
            }
            if let Err(error) = std::str::from_utf8(raw) {
                return Err(Wrong { what: "bytes that are no UTF-8", at: start + error.valid_up_to() });
            }
        }
        self.at += 1;
        Ok(Text { raw, escaped })
    }

    /// Whether a null stands next, still to be read.
    pub(crate) fn null(&mut self) -> Read<bool> {
        Ok(self.kind()? == Kind::Word && self.text[self.at] == b'n')
    }

    /// Passes over any value.
    pub(crate) fn pass(&mut self) -> Read<()> {
        self.skip().map(drop)
    }

    /// A string or null.
    pub(crate) fn text_or_null(&mut self) -> Read<Option<Text<'a>>> {
        if self.null()? { self.skip().map(|_| None) } else { self.text().map(Some) }
    }

    /// A count of 32 bits or null.
    pub(crate) fn count_or_null(&mut self) -> Read<Option<u32>> {
        if self.null()? {
            return self.skip().map(|_| None);
        }
        match self.number()?.map(u32::try_from) {
            Some(Ok(count)) => Ok(Some(count)),
            _ => self.wrong("no count of tokens"),
        }
    }

    /// A whole number of a few digits and no sign, as nearly all are. Reads nothing if it is another.
    fn short_number(&mut self) -> Option<i128> {
        let (mut number, mut length) = (0u32, 0);
        let rest = &self.text[self.at..];
        while let Some(digit) = rest.get(length).filter(|byte| byte.is_ascii_digit()) {
            if length == 9 {
                return None;
            }
            number = 10 * number + u32::from(digit - b'0');
            length += 1;
        }
        let zero_first = length > 1 && rest[0] == b'0';
        if length == 0 || zero_first || matches!(rest.get(length), Some(b'.' | b'e' | b'E')) {
            return None;
        }
        self.at += length;
        Some(number.into())
    }

    /// A whole number, if it is one of 64 bits; `None` for any other number.
    pub(crate) fn number(&mut self) -> Read<Option<i128>> {
        self.peek();
        if let Some(number) = self.short_number() {
            return Ok(Some(number));
        }
        let start = self.at;
        let digits = |json: &mut Self| {
            let before = json.at;
            while json.text.get(json.at).is_some_and(u8::is_ascii_digit) {
                json.at += 1;
            }
            json.at - before
        };
        let negative = self.eat(b'-');
        let first = self.text.get(self.at).copied();
        let whole = digits(self);
        if whole == 0 || (first == Some(b'0') && whole > 1) {
            return self.wrong("a number of another form");
        }
        let mut integer = true;
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            integer = false;
            if digits(self) == 0 {
                return self.wrong("a number of another form");
            }
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            integer = false;
            self.at += usize::from(matches!(self.text.get(self.at), Some(b'+' | b'-')));
            if digits(self) == 0 {
                return self.wrong("a number of another form");
            }
        }
        if !integer || whole > 20 {
            return Ok(None);
        }
        let digits = &self.text[start + usize::from(negative)..self.at];
        let value = digits.iter().fold(0i128, |value, d| value * 10 + i128::from(d - b'0'));
        let value = if negative { -value } else { value };
        Ok((i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&value).then_some(value))
    }

    /// Passes over any value and gives its text.
    pub(crate) fn skip(&mut self) -> Read<&'a [u8]> {
        let kind = self.kind()?;
        let start = self.at;
        match kind {
            Kind::Object => self.object(|json, _| json.skip().map(drop))?,
            Kind::Array => self.array(|json| json.skip().map(drop))?,
            Kind::Text => drop(self.text()?),
            Kind::Number => drop(self.number()?),
            Kind::Word => {
                let rest = &self.text[self.at..];
                let word = [&b"true"[..], b"false", b"null"].into_iter().find(|word| rest.starts_with(word));
                let Some(word) = word else { return self.wrong("an unknown word") };
                self.at += word.len();
            }
        }
        Ok(&self.text[start..self.at])
    }
}

/// Where among eight bytes the first stands that ends a string or needs a look: a quote, a backslash, a control
/// character, a part of a character of more bytes.
fn first_special(word: u64) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // The highest bit of each byte tells. Above the first that is right others may be wrong: a borrow passed.
    let is = |byte: u8| {
        let rest = word ^ (ONES * u64::from(byte));
        rest.wrapping_sub(ONES) & !rest
    };
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let found = (is(b'"') | is(b'\\') | control | word) & (ONES * 0x80);
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// Whether each byte is a whole character that a string may hold as it is. Without a branch a byte, so that it becomes
/// vector code.
fn are_plain(bytes: &[u8]) -> bool {
    // In this order control characters and those of more bytes come first.
    bytes.iter().fold(u8::MAX, |least, &byte| least.min(byte ^ 0x80)) >= b' ' ^ 0x80
}

#[cfg(test)]
mod tests {
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
        assert_eq!(whole(text).is_ok(), theirs.is_ok(), "{:?}: {:?}", String::from_utf8_lossy(text), whole(text));
    }

    #[test]
    fn bytes_that_are_no_utf_8_are_found_wherever_they_are() {
        let long = "x".repeat(300);
        for (before, after) in [("{\"", "\": 1}"), ("[\"", "\"]"), ("[", "]"), ("", ""), ("[\"é\\n", "\"]"), ("1", "")]
        {
            for bad in
                [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", "é€😀".as_bytes(), b"\x1f", b"\x7f"]
            {
                for pad in ["", "x", &long] {
                    let text = [before.as_bytes(), pad.as_bytes(), bad, pad.as_bytes(), after.as_bytes()].concat();
                    accepts_what_serde_json_does(&text);
                }
            }
        }
        let wrong = whole(b"[\"ab\xff\"]").unwrap_err();
        assert_eq!(wrong, Wrong { what: "bytes that are no UTF-8", at: 4 });
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
            let short = read.short(most);
            prop_assert!(text.starts_with(&short) && short.len() <= most && short.len() + 4 > most.min(text.len()));
        }
    }
}
