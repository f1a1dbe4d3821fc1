//! CSV rows by column name, read a line at a time.

use super::row::MAX_TOKENS;
use crate::error::{Bad, excerpt};
use csv::StringRecord;

/// A CSV file whose first line names its columns.
#[derive(Debug, Default)]
pub(crate) struct Table {
    header: Option<StringRecord>,
    row: StringRecord,
}

impl Table {
    /// Takes the next line; returns false for the header. `need` are the required columns.
    pub(crate) fn line(&mut self, text: &str, need: &[&str]) -> Result<bool, Bad> {
        let mut record = StringRecord::new();
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .buffer_capacity(text.len() + 1)
            .trim(csv::Trim::All)
            .from_reader(text.as_bytes());
        if let Err(e) = reader.read_record(&mut record) {
            return Err(Bad::new("row", format!("{:?} is not CSV ({e})", excerpt(text))));
        }
        let Some(header) = &self.header else {
            for column in need {
                if !record.iter().any(|name| name.eq_ignore_ascii_case(column)) {
                    let problem =
                        format!("is missing from the header {:?}: the first line must name the columns", excerpt(text));
                    return Err(Bad::new(*column, problem));
                }
            }
            self.header = Some(record);
            return Ok(false);
        };
        if record.len() != header.len() {
            let problem = format!("has {} fields: the header has {}", record.len(), header.len());
            return Err(Bad::new("row", problem));
        }
        self.row = record;
        Ok(true)
    }

    /// The value in a column of the last line; `None` when the column is absent or the value empty.
    pub(crate) fn get(&self, column: &str) -> Option<&str> {
        let at = self.header.as_ref()?.iter().position(|name| name.eq_ignore_ascii_case(column))?;
        self.row.get(at).filter(|value| !value.is_empty())
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
        let names = self.header.iter().flatten();
        names.filter(|name| !known.iter().any(|k| k.eq_ignore_ascii_case(name)))
    }
}
