//! Reads logs of one JSON value a line whose writer may have been killed within a line.
//!
//! A line that is no JSON is left out: a torn last one, and a few broken ones before it. A kill leaves at most one of them, so
//! a file with more is of another kind, and is refused. A line that is JSON and says something wrong is the reader's
//! business: no kill writes it.

use serde::de::IgnoredAny;
use std::io::{self, BufRead, Read};

/// The longest line, bytes: a decision of a large fleet.
pub(super) const MAX_LINE: usize = 16 << 20;

/// Of so many lines one may be broken; one may be in any file.
const LINES_PER_BROKEN: u64 = 20;

/// Why the lines of a log cannot be read.
#[derive(Debug)]
pub enum LineError<E> {
    /// The line of this number cannot be read at all.
    Io(u64, io::Error),
    /// The reader refuses the line of this number.
    Line(u64, E),
    /// Too many lines are no JSON: the number of the first one, and what is wrong.
    Broken(u64, String),
}

/// A line that is no JSON.
struct Broken {
    line: u64,
    why: String,
}

/// Gives each line that is not empty, with its number, to `line_of`; an error about a line that is no JSON is none. Returns
/// a notice of what was left out.
///
/// # Errors
/// As [`LineError`] says.
pub fn read_lines<E>(
    mut input: impl BufRead,
    mut line_of: impl FnMut(u64, &str) -> Result<(), E>,
) -> Result<Option<String>, LineError<E>> {
    let (mut bytes, mut line, mut read) = (Vec::new(), 0, 0);
    let (mut broken, mut first): (u64, Option<Broken>) = (0, None);
    let mut torn: Option<Broken> = None;
    loop {
        bytes.clear();
        let length = Read::take(&mut input, MAX_LINE as u64).read_until(b'\n', &mut bytes);
        if length.map_err(|error| LineError::Io(line + 1, error))? == 0 {
            break;
        }
        line += 1;
        if let Some(was_torn) = torn.take() {
            // It had no end because it is longer than a line may be.
            broken += 1;
            first.get_or_insert(was_torn);
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        read += 1;
        let why = match std::str::from_utf8(&bytes) {
            Err(error) => error.to_string(),
            Ok(text) => match line_of(line, text) {
                Ok(()) => continue,
                Err(error) => match no_json(text) {
                    Some(why) => why,
                    None => return Err(LineError::Line(line, error)),
                },
            },
        };
        if bytes.ends_with(b"\n") {
            broken += 1;
            first.get_or_insert(Broken { line, why });
        } else {
            torn = Some(Broken { line, why });
        }
    }
    let good = read - broken - u64::from(torn.is_some());
    if let Some(Broken { line, why }) = first.as_ref().filter(|_| good == 0 || broken > 1.max(read / LINES_PER_BROKEN))
    {
        let count = if broken == 1 { String::new() } else { format!(", the first of {broken} such lines of {read}") };
        return Err(LineError::Broken(*line, format!("is not JSON ({why}){count}")));
    }
    let torn = torn.map(|Broken { line, .. }| format!("the last line, {line}, is torn and left out"));
    let broken = first.map(|Broken { line, why }| {
        let (lines, are) = if broken == 1 { ("line", "is") } else { ("lines", "are") };
        format!("{broken} {lines} of {read} {are} no JSON and left out, the first is line {line} ({why})")
    });
    let notices: Vec<String> = broken.into_iter().chain(torn).collect();
    Ok((!notices.is_empty()).then(|| notices.join("; ")))
}

/// Why a text is no JSON; `None` if it is some, or is what Python writes in place of numbers: no kill does.
pub fn no_json(text: &str) -> Option<String> {
    let error = serde_json::from_str::<IgnoredAny>(text).err()?;
    no_json_number(text).is_none().then(|| error.to_string())
}

/// `NaN` or `Infinity` outside of the strings of a line.
pub(super) fn no_json_number(text: &str) -> Option<&'static str> {
    let (mut quoted, mut escaped) = (false, false);
    for (i, sign) in text.char_indices() {
        match sign {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            'N' | 'I' if !quoted => {
                let word = ["NaN", "Infinity"].into_iter().find(|word| text[i..].starts_with(word));
                if word.is_some() {
                    return word;
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that are read, and the notice.
    fn read(text: &[u8]) -> Result<(Vec<String>, Option<String>), LineError<String>> {
        let mut lines = Vec::new();
        let notice = read_lines(text, |_, line| {
            serde_json::from_str::<IgnoredAny>(line).map_err(|error| error.to_string())?;
            if line.contains("wrong") {
                return Err("says something wrong".to_owned());
            }
            lines.push(line.trim_end().to_owned());
            Ok(())
        })?;
        Ok((lines, notice))
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_a_whole_one_without_an_end_is_not() {
        for torn in ["{\"a", "{\"a\": \"\u{e9}", "{"] {
            // Within a character, too.
            let cut = if torn.is_ascii() { torn.len() } else { torn.len() - 1 };
            let (lines, notice) = read(&[b"{}\n\n{}\n", &torn.as_bytes()[..cut]].concat()).unwrap();
            assert_eq!(lines.len(), 2);
            assert_eq!(notice.unwrap(), "the last line, 4, is torn and left out");
        }
        assert_eq!(read(b"{}\n{}").unwrap(), (vec!["{}".to_owned(), "{}".to_owned()], None));
        let (lines, notice) = read(b"{\"a").unwrap();
        assert!(lines.is_empty() && notice.is_some(), "a router that was killed at its first line");
    }

    #[test]
    fn a_broken_line_is_left_out_and_a_file_with_many_is_refused() {
        let text = "{}\n".repeat(60);
        let (lines, notice) = read(format!("{{}}\n{{\"a{text}\0\0\n{{").as_bytes()).unwrap();
        assert_eq!(lines.len(), 60);
        let notice = notice.unwrap();
        assert!(notice.starts_with("2 lines of 63 are no JSON and left out, the first is line 2 ("), "{notice}");
        assert!(notice.ends_with("; the last line, 63, is torn and left out"), "{notice}");
        for (many, first) in [("no log\n".to_owned(), 1), (format!("{text}x\nx\nx\nx\n"), 61)] {
            let Err(LineError::Broken(line, why)) = read(many.as_bytes()) else { panic!("{many} is read") };
            assert!(line == first && why.starts_with("is not JSON"), "{line}: {why}");
        }
    }

    #[test]
    fn a_line_that_no_kill_writes_is_refused() {
        for text in ["{}\n\"wrong\"\n{}\n", "{}\n{\"a\": NaN}\n{}\n"] {
            assert!(matches!(read(text.as_bytes()), Err(LineError::Line(2, _))), "{text}");
        }
    }
}
