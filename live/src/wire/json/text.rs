//! Strings of a JSON text: where they end, and what their escapes stand for.

use memchr::memchr;
use std::borrow::Cow;

/// More than the bytes of one character: a text of more bytes than a bound is told from one that is cut there.
const LONGEST_CHAR: usize = 4;

/// A string as it stands in the body, without its quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(super) raw: &'a [u8],
    pub(super) escaped: bool,
}

impl<'a> Text<'a> {
    /// Its bytes in place; `None` if it has escapes.
    pub(crate) fn plain(&self) -> Option<&'a [u8]> {
        (!self.escaped).then_some(self.raw)
    }

    /// Whether it is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Whether it is written exactly as `word`.
    pub(crate) fn is(&self, word: &[u8]) -> bool {
        self.raw == word
    }

    /// Passes its bytes to `take`, escapes resolved. [`Reader::text`](super::Reader::text) has checked them.
    pub(crate) fn pieces(&self, mut take: impl FnMut(&[u8])) {
        if self.escaped { take(&self.unescaped()) } else { take(self.raw) }
    }

    /// The text if it has at most `most` bytes; the beginning of a longer one is another one's name.
    pub(crate) fn bounded(&self, most: usize) -> Option<String> {
        Some(self.short(most + LONGEST_CHAR)).filter(|text| text.len() <= most)
    }

    /// Its bytes, escapes resolved.
    pub(crate) fn whole(&self) -> Cow<'a, [u8]> {
        if self.escaped { Cow::Owned(self.unescaped()) } else { Cow::Borrowed(self.raw) }
    }

    /// Its bytes with all escapes resolved.
    fn unescaped(&self) -> Vec<u8> {
        let (mut out, mut rest) = (Vec::with_capacity(self.raw.len()), self.raw);
        while let Some(at) = memchr(b'\\', rest) {
            out.extend_from_slice(&rest[..at]);
            let (char, used) = unescape(&rest[at..]).unwrap_or(('\u{fffd}', 1));
            push(&mut out, char);
            rest = &rest[at + used..];
        }
        out.extend_from_slice(rest);
        out
    }

    /// Its first `most` bytes, rounded down to whole characters.
    pub(crate) fn short(&self, most: usize) -> String {
        let mut bytes = Vec::new();
        // An escape of six bytes stands for at least one byte.
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

/// The characters of escapes of two bytes, by the second one; 0 for any other byte.
const SHORT_ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    (table[b'"' as usize], table[b'\\' as usize], table[b'/' as usize]) = (b'"', b'\\', b'/');
    (table[b'b' as usize], table[b'f' as usize], table[b'n' as usize]) = (0x08, 0x0c, b'\n');
    (table[b'r' as usize], table[b't' as usize]) = (b'\r', b'\t');
    table
};

/// The character that the escape at the start of `text` stands for, and the length of the escape.
#[inline]
pub(super) fn unescape(text: &[u8]) -> Option<(char, usize)> {
    match SHORT_ESCAPES[usize::from(*text.get(1)?)] {
        0 => unescape_unicode(text),
        byte => Some((char::from(byte), 2)),
    }
}

/// Appends a character in UTF-8.
#[inline]
pub(super) fn push(out: &mut Vec<u8>, char: char) {
    if char.is_ascii() {
        out.push(char as u8);
    } else {
        out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// The same as [`unescape`] for `\u` and four hexadecimal digits, or two of them for a surrogate pair.
fn unescape_unicode(text: &[u8]) -> Option<(char, usize)> {
    if text.get(1) != Some(&b'u') {
        return None;
    }
    let unit = |at: usize| {
        let digits = text.get(at..at + 4)?;
        digits.iter().try_fold(0u32, |sum, &digit| Some(sum << 4 | char::from(digit).to_digit(16)?))
    };
    let first = unit(2)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first).map(|char| (char, 6));
    }
    let second = unit(8).filter(|_| text.get(6..8) == Some(b"\\u"))?;
    if !(0xdc00..0xe000).contains(&second) {
        return None;
    }
    char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)).map(|char| (char, 12))
}

/// The high bit of the first byte of `word` that is `byte`. Bits of later bytes may be wrong: a borrow passes them.
fn matches(word: u64, byte: u8) -> u64 {
    let rest = word ^ (ONES * u64::from(byte));
    rest.wrapping_sub(ONES) & !rest & HIGH
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x80 * ONES;

/// Which of the eight bytes has the first high bit.
fn position(bits: u64) -> Option<usize> {
    (bits != 0).then(|| bits.trailing_zeros() as usize / 8)
}

/// The first of eight bytes that ends a string or needs a check: a quote, a backslash, a control character, a part of
/// a longer character.
pub(super) fn first_special(word: u64) -> Option<usize> {
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    position(matches(word, b'"') | matches(word, b'\\') | (control | word) & HIGH)
}

/// Whether every byte is a printable ASCII character. Without a branch per byte, so that it compiles to vector code.
pub(super) fn are_plain(bytes: &[u8]) -> bool {
    // In this order control characters and parts of longer characters come first.
    bytes.iter().fold(u8::MAX, |least, &byte| least.min(byte ^ 0x80)) >= b' ' ^ 0x80
}

/// Whether a byte is a control character.
pub(super) fn has_control(bytes: &[u8]) -> bool {
    bytes.chunks(256).any(|chunk| chunk.iter().fold(u8::MAX, |least, &byte| least.min(byte)) < b' ')
}
