//! WildChat as published: Parquet rows, read one by one and handed to the JSON reader.

use super::options::{Format, Options};
use super::reader::Reader;
use crate::error::TraceError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::fs::File;

/// A reader of a Parquet file of WildChat rows.
pub(crate) fn reader(name: &str, options: &Options) -> Result<Reader, TraceError> {
    let io = |e: parquet::errors::ParquetError| TraceError::Read {
        file: name.to_owned(),
        line: 1,
        source: std::io::Error::other(e.to_string()),
    };
    let file = File::open(name).map_err(|source| TraceError::Open {
        file: name.to_owned(),
        builtin: crate::shipped::names(),
        source,
    })?;
    let file_reader: Box<dyn FileReader> = Box::new(SerializedFileReader::new(file).map_err(io)?);
    let rows = parquet::record::reader::RowIter::from_file_into(file_reader);
    let file = name.to_owned();
    let texts = rows.enumerate().map(move |(i, row)| {
        let line = i as u64 + 1;
        let row = row.map_err(|e| TraceError::Read {
            file: file.clone(),
            line,
            source: std::io::Error::other(e.to_string()),
        })?;
        Ok((line, row.to_json_value().to_string()))
    });
    Reader::over_rows(name.to_owned(), Format::Parquet, Box::new(texts), options)
}
