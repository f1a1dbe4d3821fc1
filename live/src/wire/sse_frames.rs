//! Splits a stream of server-sent events into the data of each event, wherever the chunks are cut.

use memchr::memchr;

/// Longest event that is read, bytes.
pub(super) const MAX_EVENT: usize = 1 << 20;

/// The state between two chunks of a stream.
///
/// Data that is complete in one line, as engines send it, is passed on in place. `event` gets the data and whether it
/// is the event's first line, and returns whether the data was complete; if not, the next line is appended to it.
#[derive(Debug, Default)]
pub(super) struct SseFrames {
    /// The beginning of a line whose end has not come.
    pending: Vec<u8>,
    /// The data of an event that spans several lines.
    joined: Vec<u8>,
    /// Whether the current line is longer than [`MAX_EVENT`] and is skipped.
    skipping: bool,
}

impl SseFrames {
    /// Reads the next bytes of the stream.
    pub(super) fn feed(&mut self, mut chunk: &[u8], event: &mut dyn FnMut(&[u8], bool) -> bool) {
        while let Some(end) = memchr(b'\n', chunk) {
            let (line, rest) = (&chunk[..end], &chunk[end + 1..]);
            chunk = rest;
            if std::mem::take(&mut self.skipping) {
                self.pending.clear();
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

    /// Reads a last line without an end.
    pub(super) fn end(&mut self, event: &mut dyn FnMut(&[u8], bool) -> bool) {
        let rest = std::mem::take(&mut self.pending);
        if !self.skipping {
            self.line(&rest, event);
        }
    }

    /// Bytes kept of the current event.
    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.pending.len() + self.joined.len()
    }

    fn line(&mut self, line: &[u8], event: &mut dyn FnMut(&[u8], bool) -> bool) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            self.joined.clear();
            return;
        }
        let Some(data) = line.strip_prefix(b"data:") else { return };
        let data = data.strip_prefix(b" ").unwrap_or(data);
        if self.joined.is_empty() {
            if !event(data, true) {
                self.joined.extend_from_slice(data);
            }
        } else if self.joined.len() + data.len() < MAX_EVENT {
            self.joined.push(b'\n');
            self.joined.extend_from_slice(data);
            if event(&self.joined, false) {
                self.joined.clear();
            }
        }
    }
}
