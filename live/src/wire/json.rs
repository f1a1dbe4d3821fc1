//! A pull parser for JSON that reads in place: values are skipped, strings are returned as they stand in the body.
//!
//! As strict as `serde_json`. The strings of a prompt are nearly the whole body, so they are searched by vectors.
//!
//! Measured against `jiter` 0.19 (callgrind instructions to extract what the router reads, block hashes included): an
//! 80 kB prompt without escapes takes 129,500 (jiter 172,700), an 82 kB chat with an escape every 32 bytes 619,600
//! (567,300), an 85 kB chat with one every 11 bytes 1,443,700 (1,422,400). The break-even lies at about one escape in
//! 70 bytes, so neither is faster for all prompts; this one stays, since it also reads members as raw slices and ahead
//! of themselves (`late_role`), and brings no dependencies.

use memchr::memchr2;

mod text;

use std::borrow::Cow;
pub(crate) use text::Text;
use text::{are_plain, first_special, has_control, push, unescape};

/// Deepest nesting that is read.
const DEPTH: u8 = 127;

/// A syntax error and its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JsonError {
    what: &'static str,
    at: usize,
}

impl std::fmt::Display for JsonError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

type Read<T> = Result<T, JsonError>;

/// The kind of a value, by its first byte.
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
    Literal,
}

/// Reads a JSON text from its start to its end.
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
        Err(JsonError { what, at: self.at })
    }

    #[inline]
    fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    #[inline]
    fn eat(&mut self, byte: u8) -> bool {
        let here = self.peek() == Some(byte);
        self.at += usize::from(here);
        here
    }

    /// The kind of the next value.
    #[inline]
    pub(crate) fn kind(&mut self) -> Read<Kind> {
        match self.peek() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::Text),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f' | b'n') => Ok(Kind::Literal),
            _ => self.wrong("no value"),
        }
    }

    /// Checks that only white space is left.
    #[inline]
    pub(crate) fn end(&mut self) -> Read<()> {
        if self.peek().is_some() { self.wrong("more than one value") } else { Ok(()) }
    }

    /// Number of objects and arrays around the next value.
    pub(crate) fn depth(&self) -> u8 {
        self.depth
    }

    /// The first key of the next value, if that is an object with one.
    pub(crate) fn first_key(&self) -> Option<Text<'a>> {
        let mut ahead = self.clone();
        if ahead.eat(b'{') { ahead.text().ok() } else { None }
    }

    /// Reads an object; `member` must read each value.
    #[inline]
    pub(crate) fn object(&mut self, mut member: impl FnMut(&mut Self, Text<'a>) -> Read<()>) -> Read<()> {
        self.list(b'{', b'}', |json| {
            let key = json.text()?;
            if !json.eat(b':') {
                return json.wrong("no colon");
            }
            member(json, key)
        })
    }

    /// Reads an array; `element` must read each element.
    #[inline]
    pub(crate) fn array(&mut self, element: impl FnMut(&mut Self) -> Read<()>) -> Read<()> {
        self.list(b'[', b']', element)
    }

    #[inline]
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

    /// Reads a string.
    pub(crate) fn text(&mut self) -> Read<Text<'a>> {
        if !self.eat(b'"') {
            return self.wrong("no string");
        }
        let (start, mut escaped) = (self.at, false);
        // Keys are short: setting up vectors would cost more than looking at eight bytes at a time.
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
        self.check(raw, start)?;
        self.at += 1;
        Ok(Text { raw, escaped })
    }

    /// Reads a string and resolves its escapes, in one pass and one piece: a prompt is nearly the whole body.
    pub(crate) fn decoded(&mut self) -> Read<Cow<'a, [u8]>> {
        if !self.eat(b'"') {
            return self.wrong("no string");
        }
        let (start, mut out) = (self.at, Vec::new());
        loop {
            let Some(length) = memchr2(b'"', b'\\', &self.text[self.at..]) else {
                self.at = self.text.len();
                return self.wrong("");
            };
            let piece = &self.text[self.at..self.at + length];
            self.at += length;
            if self.text[self.at] == b'"' {
                self.check(&self.text[start..self.at], start)?;
                self.at += 1;
                if out.is_empty() {
                    return Ok(Cow::Borrowed(piece));
                }
                out.extend_from_slice(piece);
                return Ok(Cow::Owned(out));
            }
            let Some((char, used)) = unescape(&self.text[self.at..]) else { return self.wrong("an invalid escape") };
            if out.is_empty() {
                out.reserve(2 * piece.len() + 64);
            }
            out.extend_from_slice(piece);
            push(&mut out, char);
            self.at += used;
        }
    }

    /// Checks that a string may hold these bytes, which begin at `start`.
    fn check(&self, bytes: &[u8], start: usize) -> Read<()> {
        if bytes.chunks(256).all(are_plain) {
            return Ok(());
        }
        if has_control(bytes) {
            return self.wrong("a control character in the string that ends");
        }
        std::str::from_utf8(bytes)
            .map(drop)
            .map_err(|error| JsonError { what: "bytes that are no UTF-8", at: start + error.valid_up_to() })
    }

    /// Whether the next value is null; does not read it.
    #[inline]
    pub(crate) fn null(&mut self) -> Read<bool> {
        Ok(self.kind()? == Kind::Literal && self.text[self.at] == b'n')
    }

    /// Skips any value.
    pub(crate) fn pass(&mut self) -> Read<()> {
        self.skip().map(drop)
    }

    /// Reads a string; `None` for any other value.
    #[inline]
    pub(crate) fn text_or_none(&mut self) -> Read<Option<Text<'a>>> {
        if self.kind()? == Kind::Text { self.text().map(Some) } else { self.skip().map(|_| None) }
    }

    /// Reads a 32-bit count; `None` for any other value. Some servers write counts as `20.0`.
    #[inline]
    pub(crate) fn count_or_none(&mut self) -> Read<Option<u32>> {
        if self.kind()? != Kind::Number {
            return self.skip().map(|_| None);
        }
        let start = self.at;
        Ok(match self.number()? {
            Some(number) => u32::try_from(number).ok(),
            None => whole(&self.text[start..self.at]),
        })
    }

    /// Reads a whole number of a few digits without a sign, as nearly all are; reads nothing if it is another.
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

    /// Reads a number; `None` unless it is a 64-bit integer.
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

    /// Skips any value and returns its text.
    pub(crate) fn skip(&mut self) -> Read<&'a [u8]> {
        let kind = self.kind()?;
        let start = self.at;
        match kind {
            Kind::Object => self.object(|json, _| json.skip().map(drop))?,
            Kind::Array => self.array(|json| json.skip().map(drop))?,
            Kind::Text => drop(self.text()?),
            Kind::Number => drop(self.number()?),
            Kind::Literal => {
                let rest = &self.text[self.at..];
                let word = [&b"true"[..], b"false", b"null"].into_iter().find(|word| rest.starts_with(word));
                let Some(word) = word else { return self.wrong("an unknown word") };
                self.at += word.len();
            }
        }
        Ok(&self.text[start..self.at])
    }
}

/// A number with a fraction or an exponent that is a 32-bit count all the same.
#[cold]
fn whole(raw: &[u8]) -> Option<u32> {
    let number = std::str::from_utf8(raw).ok()?.parse::<f64>().ok()?;
    (number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number)).then_some(number as u32)
}

#[cfg(test)]
mod tests;
