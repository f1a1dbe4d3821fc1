//! CSV rows by column name, read a line at a time.

use super::row::MAX_TOKENS;
use crate::error::{Bad, excerpt};
use csv_core::{ReadRecordResult, Reader};
use std::collections::BTreeSet;

/// A CSV file whose first line names its columns.
#[derive(Debug, Default)]
pub(crate) struct Table {
    csv: Cells,
    header: Option<Vec<String>>,
}

/// The cells of one line. The reader and its buffers serve all lines of a file.
#[derive(Debug)]
struct Cells {
    reader: Box<Reader>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    text: String,
    /// Where each cell begins and ends in `text`, without the blanks around it.
    cells: Vec<(usize, usize)>,
}

impl Default for Cells {
    fn default() -> Self {
        let (text, cells) = (String::new(), Vec::new());
        Self { reader: Box::new(Reader::new()), bytes: vec![0; 1024], ends: vec![0; 32], text, cells }
    }
}

impl Cells {
    /// Splits a line; false when a quoted cell does not end in it.
    fn read(&mut self, line: &str) -> bool {
        self.reader.reset();
        let mut input = line.as_bytes();
        let (mut written, mut count) = (0, 0);
        let mut open = line.bytes().filter(|&b| b == b'"').count() % 2 == 1;
        loop {
            let (result, read, out, ends) =
                self.reader.read_record(input, &mut self.bytes[written..], &mut self.ends[count..]);
            input = &input[read..];
            written += out;
            count += ends;
            match result {
                ReadRecordResult::OutputFull => self.bytes.resize(self.bytes.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::Record | ReadRecordResult::End => break,
            }
        }
        // Cut at cells, UTF-8 stays UTF-8: cells end at ASCII bytes.
        self.text.clear();
        match std::str::from_utf8(&self.bytes[..written]) {
            Ok(text) => self.text.push_str(text),
            Err(_) => open = true,
        }
        self.cells.clear();
        let mut start = 0;
        for &end in &self.ends[..count] {
            let cell = self.text.get(start..end).unwrap_or_default();
            let lead = cell.len() - cell.trim_start().len();
            self.cells.push((start + lead, start + lead + cell.trim().len()));
            start = end;
        }
        !open
    }

    fn get(&self, at: usize) -> Option<&str> {
        self.cells.get(at).and_then(|&(start, end)| self.text.get(start..end))
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.cells.len()).filter_map(|at| self.get(at))
    }
}

/// The cells of a line that may be a header.
pub(crate) fn header(line: &str) -> Vec<String> {
    let mut cells = Cells::default();
    if cells.read(line) { cells.iter().map(str::to_owned).collect() } else { Vec::new() }
}

impl Table {
    /// Takes the next line; returns false for the header. `need` are the required columns.
    pub(crate) fn line(&mut self, text: &str, need: &[&str]) -> Result<bool, Bad> {
        if !self.csv.read(text) {
            return Err(Bad::new("row", format!("{:?} is not CSV: a quote is not closed", excerpt(text))));
        }
        let Some(header) = &self.header else {
            for column in need {
                if !self.csv.iter().any(|name| name.eq_ignore_ascii_case(column)) {
                    let problem =
                        format!("is missing from the header {:?}: the first line must name the columns", excerpt(text));
                    return Err(Bad::new(*column, problem));
                }
            }
            // Which of the two holds the values, only the user knows.
            let mut names = BTreeSet::new();
            if let Some(name) = self.csv.iter().find(|name| !name.is_empty() && !names.insert(name.to_lowercase())) {
                let problem =
                    format!("stands twice in the header {:?}: rename or remove one of the columns", excerpt(text));
                return Err(Bad::new(excerpt(name), problem));
            }
            self.header = Some(self.csv.iter().map(str::to_owned).collect());
            return Ok(false);
        };
        if self.csv.cells.len() != header.len() {
            let problem = format!("has {} fields: the header has {}", self.csv.cells.len(), header.len());
            return Err(Bad::new("row", problem));
        }
        Ok(true)
    }

    /// Names and values of the last line; empty values are left out.
    pub(crate) fn cells(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = self.header.iter().flatten().map(String::as_str);
        names.zip(self.csv.iter()).filter(|(_, value)| !value.is_empty())
    }

    /// The value in a column of the last line; `None` when the column is absent or the value empty.
    pub(crate) fn get(&self, column: &str) -> Option<&str> {
        let at = self.header.as_ref()?.iter().position(|name| name.eq_ignore_ascii_case(column))?;
        self.csv.get(at).filter(|value| !value.is_empty())
    }

    /// A token count from 0 on.
    pub(crate) fn tokens(&self, column: &str) -> Result<u32, Bad> {
        let value = self.get(column).unwrap_or_default();
        let whole = value.strip_suffix(".0").unwrap_or(value); // some exports write integers as floats
        whole.parse().ok().filter(|&n| n <= MAX_TOKENS).ok_or_else(|| {
            Bad::new(column, format!("is {:?}: it must be a whole number of tokens up to {MAX_TOKENS}", excerpt(value)))
        })
    }

    /// Columns of the file, for the note on those no reader knows.
    pub(crate) fn unknown<'a>(&'a self, known: &'a [&str]) -> impl Iterator<Item = &'a str> {
        let names = self.header.iter().flatten().map(String::as_str);
        names.filter(|name| !known.iter().any(|k| k.eq_ignore_ascii_case(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_cut_unquoted_and_trimmed_with_one_reader_for_all_lines() {
        let mut table = Table::default();
        assert_eq!(table.line("\"A\", b ,C", &["a"]), Ok(false));
        let long = "x".repeat(5_000);
        assert_eq!(table.line(&format!("\"1, \"\"one\"\"\",é,{long}"), &[]), Ok(true));
        assert_eq!((table.get("a"), table.get("B"), table.get("c")), (Some("1, \"one\""), Some("é"), Some(&long[..])));
        assert_eq!(table.line("2,,", &[]), Ok(true));
        assert_eq!((table.get("a"), table.get("b")), (Some("2"), None));
        assert!(table.line("\"open,1,2", &[]).is_err() && table.line("1,2", &[]).is_err());
        for twice in ["Time,n,n", "n,Time,N"] {
            let message = Table::default().line(twice, &["n"]).unwrap_err();
            assert!(message.field.eq_ignore_ascii_case("n") && message.problem.contains("twice"), "{message:?}");
        }
        assert_eq!(Table::default().line("n,,", &["n"]), Ok(false), "columns without a name are not read");
        assert_eq!(header("\"TIMESTAMP\",\"x y\""), ["TIMESTAMP", "x y"]);
    }
}
