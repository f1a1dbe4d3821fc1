//! Splits a stream of server-sent events into the data of each event, whatever the chunk boundaries.

use memchr::memchr2;

/// Longest event that is read, bytes.
pub(super) const MAX_EVENT: usize = 1 << 20;

/// What an event's data is passed on as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Its first line, which is mostly all of it.
    First,
    /// All of its lines, at its end.
    All,
    /// Nothing: it is longer than [`MAX_EVENT`].
    TooLong,
    /// All lines of an event whose name is `error`, or of a field `error`, as llama.cpp sends it.
    Error,
}

/// May stand before the first line.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The state between two chunks of a stream.
///
/// Data that is complete in one line, as engines send it, is passed on in place. `event` returns whether the data was
/// complete; if not, all lines of the event are passed on at its end, once, so that the cost stays linear.
#[derive(Debug, Default)]
pub(super) struct SseFrames {
    /// The beginning of a line whose end has not come.
    pending: Vec<u8>,
    /// The data of an event that spans several lines.
    joined: Vec<u8>,
    /// Whether the first line was read.
    has_begun: bool,
    /// Whether the last line ended with CR, of which LF is then a part.
    after_cr: bool,
    /// Whether the current line is longer than [`MAX_EVENT`] and is skipped.
    skipping: bool,
    /// Whether the current event is too long to join.
    too_long: bool,
    /// Whether the current event is an error by its name or field.
    is_error: bool,
    /// Whether the current event has a name, so that data will follow.
    is_named: bool,
}

impl SseFrames {
    /// Reads the next bytes of the stream. LF, CR and CRLF end a line.
    pub(super) fn feed(&mut self, mut chunk: &[u8], event: &mut dyn FnMut(&[u8], Part) -> bool) {
        while let Some(end) = memchr2(b'\n', b'\r', chunk) {
            let (line, is_cr, rest) = (&chunk[..end], chunk[end] == b'\r', &chunk[end + 1..]);
            chunk = rest;
            let ended = std::mem::replace(&mut self.after_cr, is_cr);
            if ended && !is_cr && line.is_empty() && self.pending.is_empty() && !self.skipping {
                continue;
            }
            if std::mem::take(&mut self.skipping) {
                self.pending.clear();
                event(&[], Part::TooLong);
            } else if self.pending.is_empty() {
                self.line(line, event);
            } else {
                let mut whole = std::mem::take(&mut self.pending);
                whole.extend_from_slice(line);
                self.line(&whole, event);
                whole.clear();
                self.pending = whole;
            }
        }
        if self.pending.len() + chunk.len() > MAX_EVENT {
            self.skipping = true;
            self.pending.clear();
        } else if !self.skipping {
            self.pending.extend_from_slice(chunk);
        }
    }

    /// Reads a last line without an end, and an event that no empty line ends.
    pub(super) fn end(&mut self, event: &mut dyn FnMut(&[u8], Part) -> bool) {
        let rest = std::mem::take(&mut self.pending);
        if !self.skipping {
            self.line(&rest, event);
        }
        self.event_end(event);
    }

    /// Whether no event is begun.
    pub(super) fn is_between(&self) -> bool {
        !self.skipping
            && !self.is_named
            && !self.is_error
            && self.plain(&self.pending).first().is_none_or(|byte| b":ri".contains(byte))
    }

    /// Bytes kept of the current event.
    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.pending.len() + self.joined.len()
    }

    /// A line without the byte order mark of the stream.
    fn plain<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        line.strip_prefix(BYTE_ORDER_MARK).filter(|_| !self.has_begun).unwrap_or(line)
    }

    fn line(&mut self, line: &[u8], event: &mut dyn FnMut(&[u8], Part) -> bool) {
        let line = self.plain(line);
        self.has_begun = true;
        if line.is_empty() {
            return self.event_end(event);
        }
        let value = |name: &[u8]| line.strip_prefix(name).map(|value| value.strip_prefix(b" ").unwrap_or(value));
        self.is_named |= line.starts_with(b"event");
        self.is_error |= line[0] == b'e' && (value(b"event:") == Some(b"error") || line.starts_with(b"error:"));
        let Some(data) = value(b"data:").or_else(|| value(b"error:")) else { return };
        if self.too_long {
            return;
        }
        if self.joined.is_empty() {
            if self.is_error || !event(data, Part::First) {
                self.joined.extend_from_slice(data);
            }
        } else if self.joined.len() + data.len() < MAX_EVENT {
            self.joined.push(b'\n');
            self.joined.extend_from_slice(data);
        } else {
            self.too_long = true;
        }
    }

    fn event_end(&mut self, event: &mut dyn FnMut(&[u8], Part) -> bool) {
        let too_long = std::mem::take(&mut self.too_long);
        self.is_named = false;
        if std::mem::take(&mut self.is_error) {
            event(&self.joined, Part::Error);
        } else if too_long {
            event(&[], Part::TooLong);
        } else if !self.joined.is_empty() {
            event(&self.joined, Part::All);
        }
        self.joined.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes handed to the reader of events, for a stream of one event in `lines` lines.
    fn bytes_read(lines: usize) -> usize {
        let text = format!("data: {{\"a\":[1,\n{}data: 1]}}\n\n", "data: 1,\n".repeat(lines));
        let mut frames = SseFrames::default();
        let mut read = 0;
        frames.feed(text.as_bytes(), &mut |data, _| {
            read += data.len();
            data.ends_with(b"}")
        });
        assert_eq!(frames.buffered(), 0);
        read
    }

    #[test]
    fn an_event_of_many_lines_is_read_once() {
        for lines in [10, 100, 1_000, 10_000, 100_000] {
            let whole = "{\"a\":[1,".len() * 2 + 3 * lines + 4;
            assert!((whole - 1..=whole).contains(&bytes_read(lines)), "{lines}: {} of {whole}", bytes_read(lines));
        }
    }

    #[test]
    fn every_end_of_a_line_is_read_whatever_the_chunks() {
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("event: a{end}data: {{{end}data: }}{end}{end}: b{end}{end}data: []{end}{end}");
            for size in 1..text.len() {
                let (mut frames, mut read) = (SseFrames::default(), Vec::new());
                for chunk in text.as_bytes().chunks(size) {
                    frames.feed(chunk, &mut |data, part| {
                        read.push((String::from_utf8(data.to_vec()).unwrap(), part));
                        data == b"[]"
                    });
                }
                let expected = [("{", Part::First), ("{\n}", Part::All), ("[]", Part::First)];
                assert_eq!(read, expected.map(|(data, part)| (data.to_owned(), part)), "{end:?} {size}");
                assert!(frames.is_between());
            }
        }
    }

    #[test]
    fn a_byte_order_mark_before_the_first_line_is_no_part_of_it() {
        let text = "\u{feff}data: {}\n\n\u{feff}data: []\n\n";
        for size in 1..text.len() {
            let (mut frames, mut read) = (SseFrames::default(), 0);
            for chunk in text.as_bytes().chunks(size) {
                frames.feed(chunk, &mut |data, _| {
                    assert_eq!(data, b"{}");
                    read += 1;
                    true
                });
            }
            assert_eq!(read, 1);
        }
    }

    #[test]
    fn an_event_beyond_the_limit_is_dropped_and_the_next_one_read() {
        let long = format!("data: {{\n{}\ndata: {{}}\n\n", "data: 12345678\n".repeat(MAX_EVENT / 8));
        let mut frames = SseFrames::default();
        let (mut whole, mut joined) = (0, 0);
        frames.feed(long.as_bytes(), &mut |data, part| {
            joined += usize::from(part == Part::All);
            whole += usize::from(data == b"{}");
            data == b"{}"
        });
        assert_eq!((whole, joined), (1, 0));
    }
}
