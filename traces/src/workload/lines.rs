//! Lines of a trace: plain or gzip (told by the first bytes), numbered, and bounded in length.

use crate::error::{TraceError, excerpt};
use flate2::bufread::GzDecoder;
use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::rc::Rc;

/// The longest line that is read. WildChat's longest conversations are below 2 MB; anything near this bound is not
/// a line of a trace.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// The most lines that one row of CSV may have.
const MAX_ROW_LINES: usize = 100_000;

/// Numbered lines of a source.
pub struct Lines {
    file: String,
    source: Box<dyn BufRead>,
    limit: usize,
    line: u64,
    over: bool,
    /// Whether a line with an open quote goes on in the next ones.
    quoted: bool,
    /// Lines that were read ahead, with their ends.
    ahead: VecDeque<Vec<u8>>,
    trailing: Rc<Cell<bool>>,
}

/// Packed or stored forms that are not unpacked here, by their first bytes.
const KINDS: [(&[u8], &str, &str); 8] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "packed with zstd", "unpack it with `zstd -d` first, or pack it with gzip"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "packed with xz", "unpack it with `xz -d` first, or pack it with gzip"),
    (b"BZh", "packed with bzip2", "unpack it with `bunzip2` first, or pack it with gzip"),
    (b"PK\x03\x04", "a zip archive", "unpack it with `unzip` and name a file of it"),
    (b"<<<<<<< ", "a file with Git's conflict marks", "resolve the conflict first"),
    (&[0xff, 0xfe], "UTF-16 text", "convert it to UTF-8, for example with `iconv -f UTF-16 -t UTF-8`"),
    (&[0xfe, 0xff], "UTF-16 text", "convert it to UTF-8, for example with `iconv -f UTF-16 -t UTF-8`"),
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the file itself",
        "fetch the content with `git lfs pull`",
    ),
];

/// The kind of a file that holds no lines of rows.
fn kind(head: &[u8]) -> Option<(&'static str, &'static str)> {
    if let Some((_, what, remedy)) = KINDS.iter().find(|(magic, _, _)| head.starts_with(magic)) {
        return Some((what, remedy));
    }
    if let [0x80, 2..=5, ..] = head {
        return Some(("a Python pickle", "load it in Python and write its rows as JSON lines"));
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some(("a tar archive", "unpack it with `tar -xf` and name a file of it"));
    }
    let text = head.strip_prefix("\u{feff}".as_bytes()).unwrap_or(head).trim_ascii_start();
    let first = text.split(|&b| b == b'\n').next().unwrap_or_default().trim_ascii_end();
    let starts = |sign: &[u8]| text.get(..sign.len()).is_some_and(|head| head.eq_ignore_ascii_case(sign));
    let holds = |sign: u8| first.contains(&sign);
    if starts(b"[") {
        return Some(("one JSON array", "write one object a line, for example with `jq -c '.[]' FILE > FILE.jsonl`"));
    }
    if first == b"{" {
        let remedy = "write each object on one line, for example with `jq -c . FILE > FILE.jsonl`";
        return Some(("JSON over several lines", remedy));
    }
    if starts(b"<!doctype html") || starts(b"<html") {
        return Some(("a web page, not the file itself", "download the raw file"));
    }
    // A header without a comma.
    if !holds(b',') && !holds(b'{') && !holds(b'"') {
        let parts = |sign: u8| first.iter().filter(|&&b| b == sign).count();
        if parts(b';') >= 2 {
            return Some(("a table with semicolons", "separate its columns by commas"));
        }
        if parts(b'\t') >= 2 {
            return Some(("a table with tabs", "separate its columns by commas"));
        }
    }
    None
}

/// The members of a gzip file one after the other. Bytes after the last member are left alone, as gzip does it.
struct Members<R: BufRead> {
    member: Option<GzDecoder<R>>,
    trailing: Rc<Cell<bool>>,
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let Some(member) = &mut self.member else { return Ok(0) };
            match member.read(out)? {
                0 if !out.is_empty() => {}
                n => return Ok(n),
            }
            let Some(ended) = self.member.take() else { return Ok(0) };
            let mut rest = ended.into_inner();
            let next = rest.fill_buf()?;
            if next.starts_with(&[0x1f, 0x8b]) || next == [0x1f] {
                self.member = Some(GzDecoder::new(rest));
            } else if !next.is_empty() {
                self.trailing.set(true);
            }
        }
    }
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("file", &self.file).field("line", &self.line).finish_non_exhaustive()
    }
}

/// Whether a quoted cell is open at the end of a piece of CSV. Rows of JSON have no cells.
fn is_open(bytes: &[u8]) -> bool {
    odd_quotes(bytes) && !bytes.trim_ascii_start().starts_with(b"{")
}

fn odd_quotes(bytes: &[u8]) -> bool {
    bytes.iter().filter(|&&b| b == b'"').count() % 2 == 1
}

impl Lines {
    /// Lines of `source`, which `file` names in messages. Unpacks gzip.
    ///
    /// # Errors
    /// When not even the first bytes can be read.
    pub fn new(file: &str, source: impl Read + 'static) -> Result<Self, TraceError> {
        let mut source = BufReader::new(source);
        let head = source.fill_buf().map_err(|source| TraceError::Read { file: file.to_owned(), line: 1, source })?;
        let trailing = Rc::new(Cell::new(false));
        let mut source: Box<dyn BufRead> = if head.starts_with(&[0x1f, 0x8b]) {
            let member = Some(GzDecoder::new(source));
            Box::new(BufReader::new(Members { member, trailing: Rc::clone(&trailing) }))
        } else {
            Box::new(source)
        };
        // An error here comes again with its line when the lines are read.
        if let Some((what, remedy)) = source.fill_buf().ok().and_then(kind) {
            return Err(TraceError::Kind { file: file.to_owned(), what, remedy });
        }
        let (limit, ahead) = (MAX_LINE_BYTES, VecDeque::new());
        Ok(Self { file: file.to_owned(), source, limit, line: 0, over: false, quoted: false, ahead, trailing })
    }

    /// From here on a line with an open quote goes on in the next ones: a cell of CSV may hold the ends of lines.
    pub(crate) fn join_quoted(&mut self) {
        self.quoted = true;
    }

    /// Whether bytes that are not gzip followed the last gzip member; known at the end.
    pub(crate) fn trailing(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.trailing)
    }

    /// The file's name.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// An error at line `line` of this file.
    pub(crate) fn bad(&self, line: u64, field: &str, problem: String) -> TraceError {
        TraceError::Row { file: self.file.clone(), line, field: field.to_owned(), problem }
    }

    /// Reads one line into `buffer`; 0 at the end. Stops early at the limit.
    fn fill(&mut self, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
        if let Some(line) = self.ahead.pop_front() {
            buffer.extend_from_slice(&line);
            return Ok(line.len());
        }
        let limit = self.limit as u64 + 1;
        (&mut self.source).take(limit).read_until(b'\n', buffer)
    }

    /// Appends the lines up to the one that closes the open quote, and returns their number. Where none does, the quote is
    /// a slip: it must not swallow the rest of the file, so that the lines are read one by one.
    fn close_quote(&mut self, buffer: &mut Vec<u8>) -> u64 {
        let (mut more, mut size) = (VecDeque::new(), buffer.len());
        loop {
            let mut line = Vec::new();
            // An error comes again when the line is read by itself.
            let read = self.fill(&mut line).unwrap_or(0);
            size += read;
            let closes = odd_quotes(&line);
            let whole = read > 0 && size <= self.limit && more.len() < MAX_ROW_LINES;
            if read > 0 {
                more.push_back(line);
            }
            if !whole {
                break;
            }
            if closes {
                more.iter().for_each(|line| buffer.extend_from_slice(line));
                return more.len() as u64;
            }
        }
        more.append(&mut self.ahead);
        self.ahead = more;
        0
    }

    /// Skips the rest of an over-long line.
    fn skip_line(&mut self) -> std::io::Result<()> {
        loop {
            let chunk = self.source.fill_buf()?;
            if chunk.is_empty() {
                return Ok(());
            }
            if let Some(at) = chunk.iter().position(|&b| b == b'\n') {
                self.source.consume(at + 1);
                return Ok(());
            }
            let n = chunk.len();
            self.source.consume(n);
        }
    }
}

impl Iterator for Lines {
    type Item = Result<(u64, String), TraceError>;

    /// The next line that is not blank.
    fn next(&mut self) -> Option<Self::Item> {
        while !self.over {
            self.line += 1;
            let mut buffer = Vec::new();
            let read = match self.fill(&mut buffer) {
                Ok(n) => n,
                Err(source) => {
                    self.over = true;
                    return Some(Err(TraceError::Read { file: self.file.clone(), line: self.line, source }));
                }
            };
            if read == 0 {
                self.over = true;
                return None;
            }
            if buffer.last() != Some(&b'\n') && buffer.len() > self.limit {
                let problem = format!("is longer than {} bytes: no row is; split or drop it", self.limit);
                self.over = self.skip_line().is_err();
                return Some(Err(self.bad(self.line, "row", problem)));
            }
            let line = self.line;
            if self.quoted && is_open(&buffer) {
                self.line += self.close_quote(&mut buffer);
            }
            match String::from_utf8(buffer) {
                Ok(text) => {
                    let text = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\u{feff}');
                    if !text.is_empty() {
                        return Some(Ok((line, text.to_owned())));
                    }
                }
                Err(e) => {
                    let shown = excerpt(&String::from_utf8_lossy(e.as_bytes()));
                    let problem = format!("is not UTF-8 text ({shown:?}): convert the file to UTF-8");
                    return Some(Err(self.bad(line, "row", problem)));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::{Cursor, Write};

    fn lines(bytes: &[u8]) -> Vec<Result<(u64, String), String>> {
        let lines = Lines::new("t", Cursor::new(bytes.to_vec())).unwrap();
        lines.map(|l| l.map_err(|e| e.to_string())).collect()
    }

    #[test]
    fn blank_lines_are_skipped_but_counted() {
        assert_eq!(lines(b"\xef\xbb\xbfa\r\n\n b "), [Ok((1, "a".into())), Ok((3, "b".into()))]);
    }

    #[test]
    fn gzip_is_told_by_its_first_bytes() {
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(b"one\ntwo\n").unwrap();
        let packed = gz.finish().unwrap();
        assert_eq!(lines(&packed), [Ok((1, "one".into())), Ok((2, "two".into()))]);
        let cut = lines(&packed[..packed.len() - 9]);
        assert!(cut.last().unwrap().as_ref().unwrap_err().starts_with("t:3: reading failed"), "{cut:?}");
    }

    #[test]
    fn members_follow_one_another_and_other_bytes_after_them_are_only_noted() {
        let pack = |text: &[u8]| {
            let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
            gz.write_all(text).unwrap();
            gz.finish().unwrap()
        };
        let two = [pack(b"one\n"), pack(b"two\n")].concat();
        for (bytes, noted) in [(two.clone(), false), ([two, b"\0\0 junk\n".to_vec()].concat(), true)] {
            let lines = Lines::new("t", Cursor::new(bytes)).unwrap();
            let trailing = lines.trailing();
            let texts: Vec<String> = lines.map(|l| l.unwrap().1).collect();
            assert_eq!((texts, trailing.get()), (vec!["one".to_owned(), "two".to_owned()], noted));
        }
    }

    #[test]
    fn what_holds_no_lines_is_told_by_its_kind() {
        let message = |bytes: &[u8]| Lines::new("t", Cursor::new(bytes.to_vec())).unwrap_err().to_string();
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (bytes, word) in [
            (&b"\x28\xb5\x2f\xfd rest"[..], "zstd -d"),
            (b"\xfd7zXZ\0", "xz -d"),
            (b"PK\x03\x04", "unzip"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"\xef\xbb\xbf [{\"a\": 1}]", "one object a line"),
            (b"{\r\n  \"timestamp\": 0\r\n}\n", "jq -c ."),
            (b"\n<!DOCTYPE HTML><html>", "download the raw file"),
            (b"<<<<<<< HEAD\n{}\n", "conflict"),
            (b"\x80\x04\x95\x10", "pickle"),
            (b"TIMESTAMP;ContextTokens;GeneratedTokens\n1;2;3\n", "separate its columns by commas"),
            (b"a\tb\tc\n1\t2\t3\n", "separate its columns by commas"),
            (&tar[..], "tar -xf"),
        ] {
            assert!(message(bytes).contains(word), "{}", message(bytes));
        }
    }

    #[test]
    fn a_quoted_cell_may_hold_the_ends_of_lines_and_a_lone_quote_swallows_nothing() {
        let joined = |text: &str, limit: usize| -> Vec<(u64, String)> {
            let mut lines = Lines::new("t", Cursor::new(text.as_bytes().to_vec())).unwrap();
            lines.limit = limit;
            lines.join_quoted();
            lines.map(Result::unwrap).collect()
        };
        let row = |line: u64, text: &str| (line, text.to_owned());
        assert_eq!(
            joined("a,b\n\"x\n\n  y\",1\nz,2\n{\"q\": \"\\\"\"}\n", 1_000),
            [row(1, "a,b"), row(2, "\"x\n\n  y\",1"), row(5, "z,2"), row(6, "{\"q\": \"\\\"\"}")]
        );
        assert_eq!(joined("\"x,1\ny,2\nz,3", 1_000), [row(1, "\"x,1"), row(2, "y,2"), row(3, "z,3")]);
        assert_eq!(joined("\"x,1\ny,2\nz\",3", 8), [row(1, "\"x,1"), row(2, "y,2"), row(3, "z\",3")]);
    }

    #[test]
    fn an_endless_line_is_refused_and_the_next_one_read() {
        let mut lines = Lines::new("t", Cursor::new(b"0123456789abcdef\nok\n".to_vec())).unwrap();
        lines.limit = 8;
        let first = lines.next().unwrap().unwrap_err().to_string();
        assert_eq!(first, "t:1: row is longer than 8 bytes: no row is; split or drop it");
        assert_eq!(lines.next().unwrap().unwrap(), (2, "ok".to_owned()));
    }

    #[test]
    fn bytes_that_are_no_text_are_a_bad_row() {
        let found = lines(b"\xfe\xfd\nok");
        assert!(found[0].as_ref().unwrap_err().starts_with("t:1: row is not UTF-8 text"));
        assert_eq!(found[1], Ok((2, "ok".into())));
    }
}
