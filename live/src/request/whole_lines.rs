//! Buffers a partial line of an event stream until the line is complete: if the replica breaks off within a line, the
//! client does not get half an event before the error event.

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use memchr::memrchr2;
use std::collections::VecDeque;

/// Most bytes held back; a longer line is passed on in pieces.
const MOST: usize = 64 << 10;

/// The end of the last complete line.
fn end_of_lines(data: &[u8]) -> usize {
    // Engines nearly always write whole events.
    if data.last() == Some(&b'\n') { data.len() } else { memrchr2(b'\n', b'\r', data).map_or(0, |at| at + 1) }
}

/// Whether these bytes end with a whole event.
pub(super) fn ends_event(data: &[u8]) -> bool {
    [&b"\n\n"[..], b"\r\n\r\n", b"\r\r"].iter().any(|end| data.ends_with(end))
}

/// The line that is not complete.
#[derive(Debug, Default)]
pub(super) struct WholeLines(BytesMut);

impl WholeLines {
    /// What can be passed on of the data so far; empty if nothing can.
    pub(super) fn pass(&mut self, mut data: Bytes) -> Bytes {
        let end = end_of_lines(&data);
        if self.0.is_empty() && end == data.len() {
            return data;
        }
        let tail = data.split_off(end);
        let whole = if data.is_empty() || self.0.is_empty() {
            data
        } else {
            let mut joined = std::mem::take(&mut self.0);
            joined.extend_from_slice(&data);
            joined.freeze()
        };
        self.0.extend_from_slice(&tail);
        if whole.is_empty() && self.0.len() > MOST { self.rest() } else { whole }
    }

    /// What is held back.
    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.0).freeze()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Takes from `held` what ends with a whole line, or all if it is too long to hold back.
pub(super) fn take(held: &mut VecDeque<Frame<Bytes>>) -> VecDeque<Frame<Bytes>> {
    let ready = std::mem::take(held);
    let last = ready.iter().rposition(|frame| frame.data_ref().is_some_and(|data| end_of_lines(data) > 0));
    let all: usize = ready.iter().filter_map(Frame::data_ref).map(Bytes::len).sum();
    if all > MOST {
        return ready;
    }
    let mut passes = VecDeque::new();
    for (i, frame) in ready.into_iter().enumerate() {
        match frame.into_data() {
            Ok(mut data) if Some(i) == last => {
                let tail = data.split_off(end_of_lines(&data));
                passes.push_back(Frame::data(data));
                if !tail.is_empty() {
                    held.push_back(Frame::data(tail));
                }
            }
            Ok(data) if last.is_some_and(|last| i < last) => passes.push_back(Frame::data(data)),
            Ok(data) => held.push_back(Frame::data(data)),
            Err(frame) => passes.push_back(frame),
        }
    }
    passes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_passes_ends_with_a_line_and_all_of_it_passes(text in "[ab\r\n]{0,60}", size in 1usize..9) {
            let (mut lines, mut passed) = (WholeLines::default(), Vec::new());
            let (mut held, mut taken) = (VecDeque::new(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                let out = lines.pass(Bytes::copy_from_slice(piece));
                prop_assert!(matches!(out.last(), None | Some(b'\n' | b'\r')));
                passed.extend_from_slice(&out);
                held.push_back(Frame::data(Bytes::copy_from_slice(piece)));
                take(&mut held).into_iter().for_each(|frame| taken.extend_from_slice(&frame.into_data().unwrap()));
                prop_assert_eq!(&taken, &passed);
            }
            passed.extend_from_slice(&lines.rest());
            prop_assert_eq!(passed, text.as_bytes());
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_not_kept() {
        let mut lines = WholeLines::default();
        let half = Bytes::from(vec![b'x'; MOST / 2 + 1]);
        assert!(lines.pass(half.clone()).is_empty());
        assert_eq!(lines.pass(half).len(), MOST + 2);
        assert!(lines.is_empty());
    }
}
