//! WildChat as published: Parquet rows, read one by one and handed to the JSON reader.

use super::parser::Rows;
use crate::error::TraceError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::fs::File;

/// Rows of a Parquet file as JSON text.
pub(crate) fn rows(name: &str) -> Result<Rows, TraceError> {
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
    Ok(Box::new(texts))
}

#[cfg(test)]
mod tests {
    use crate::workload::{Format, Options, open};
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    const SCHEMA: &str = "message wildchat {
        optional binary conversation_hash (UTF8);
        optional int64 timestamp (TIMESTAMP(MICROS,true));
        optional binary country (UTF8);
        optional group conversation (LIST) { repeated group list { optional group element {
            optional binary content (UTF8);
            optional binary role (UTF8);
        } } }
    }";

    /// Two conversations of one turn, as the published file nests them.
    fn write(path: &std::path::Path) {
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let file = std::fs::File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::default())).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let text = |words: &[&str]| words.iter().map(|w| ByteArray::from(*w)).collect::<Vec<_>>();
        let flat = [1i16, 1];
        let (nested, again) = ([4i16; 4], [0i16, 1, 0, 1]);
        let columns = [
            Some((text(&["h1", "h2"]), false)),
            None, // the stamps
            Some((text(&["Germany", "Japan"]), false)),
            Some((text(&["first question", "an answer", "second question", "another"]), true)),
            Some((text(&["user", "assistant", "user", "assistant"]), true)),
        ];
        for column in columns {
            let mut out = group.next_column().unwrap().unwrap();
            match column {
                None => {
                    let stamps = [1_680_998_573_000_000, 1_680_998_600_000_000];
                    out.typed::<Int64Type>().write_batch(&stamps, Some(&flat), None).unwrap();
                }
                Some((values, false)) => {
                    out.typed::<ByteArrayType>().write_batch(&values, Some(&flat), None).unwrap();
                }
                Some((values, true)) => {
                    out.typed::<ByteArrayType>().write_batch(&values, Some(&nested), Some(&again)).unwrap();
                }
            }
            out.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn published_rows_are_read_like_their_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        write(&path);
        let workload = open(&path.display().to_string(), &Options::default()).unwrap();
        assert_eq!((workload.format, workload.requests.len()), (Format::Parquet, 2));
        assert_eq!(workload.requests.iter().map(|r| r.country).collect::<Vec<_>>(), [Some(*b"DE"), Some(*b"JP")]);
        // 27 s between the ends of the answers, which differ in length by one token of 25 ms.
        assert_eq!(workload.requests[1].at.ms(), 27_000.0 + 25.0);
        assert!(workload.notes.is_empty(), "{:?}", workload.notes);
    }

    #[test]
    fn a_file_that_only_begins_like_parquet_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        std::fs::write(&path, b"PAR1 and then nothing of the kind").unwrap();
        let e = open(&path.display().to_string(), &Options::default()).unwrap_err().to_string();
        assert!(e.contains("rows.parquet:1: reading failed"), "{e}");
    }
}
