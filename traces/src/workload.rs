//! Request traces: reading, arranging in time, statistics, generation.
//!
//! Reading order: [`options`] (what can be asked), `format` (names of formats) → [`lines`], [`mod@reader`] (streaming), `parser` (what each
//! format implements), `row`, `table`, `messages` (rows of JSON and of CSV, chat messages), [`blocks`] (block ids) → the formats ([`native`],
//! [`mooncake`], [`bailian`], [`azure`], [`burstgpt`], `columns`, [`wildchat`], [`guidellm_pair`]) → [`arrange`] (arrival times,
//! places, answers) → [`stats`], [`generate`] and [`marginals`], [`prepare`].

pub mod arrange;
pub mod azure;
pub mod bailian;
pub mod blocks;
pub mod burstgpt;
mod columns;
mod format;
pub mod generate;
pub mod guidellm_pair;
pub mod lines;
pub mod marginals;
mod messages;
pub mod mooncake;
pub mod native;
pub mod options;
mod parser;
pub mod prepare;
pub mod reader;
mod row;
pub mod stats;
mod table;
pub mod wildchat;

pub use format::Format;
pub use options::{Arrivals, Options, Per, Prompts, TimeUnit, UnknownPlaces};
pub use parser::Seen;
pub use reader::Reader;

use crate::error::TraceError;
use flate2::{Compression, write::GzEncoder};
use gorgo_core::request::TraceRequest;
use lines::Lines;
use stats::stamps::Stamps;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

/// A trace that is ready to run: requests in order of arrival.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// The file or built-in name.
    pub name: String,
    /// The format it was read from.
    pub format: Format,
    /// Requests by arrival; equal times keep the file's order.
    pub requests: Vec<TraceRequest>,
    /// Counts and remarks of the reader.
    pub seen: Seen,
    /// Its times as the file holds them.
    pub stamps: Stamps,
    /// Remarks for the user, one sentence each: skipped rows, unknown fields, changed times.
    pub notes: Vec<String>,
}

/// Reads a trace from a file, or a built-in one by its name ([`crate::shipped`]). A built-in name wins over a file of
/// that name in the current folder; write `./name` for the file.
///
/// # Errors
/// When it cannot be opened, an option is out of range, the format is unknown, a row is bad (unless `skip_bad`) or
/// no request is left.
pub fn open(name: &str, options: &Options) -> Result<Workload, TraceError> {
    arrange::arrange(reader(name, options)?, options)
}

/// As [`open`], without what depends on a seed: [`arrange::draw`] completes it, as often as wanted.
///
/// # Errors
/// As [`open`].
pub fn open_undrawn(name: &str, options: &Options) -> Result<Workload, TraceError> {
    arrange::collect(reader(name, options)?, options)
}

/// Reads a trace in any format and writes it as native rows; gzip when the target's name ends in `.gz`.
///
/// # Errors
/// As [`open`], or when the target cannot be written.
pub fn convert(source: &str, target: &Path, options: &Options) -> Result<Workload, TraceError> {
    let workload = open(source, options)?;
    save(target, &workload.requests)?;
    Ok(workload)
}

/// Writes requests as native rows; gzip when the target's name ends in `.gz`, standard output when it is `-`.
///
/// # Errors
/// When the target cannot be written.
pub fn save(target: &Path, requests: &[TraceRequest]) -> Result<(), TraceError> {
    if target == Path::new("-") {
        return native::write("standard output", BufWriter::new(std::io::stdout().lock()), requests);
    }
    let name = target.display().to_string();
    let out = BufWriter::new(File::create(target).map_err(|source| TraceError::Write { file: name.clone(), source })?);
    if name.ends_with(".gz") {
        let mut packed = GzEncoder::new(out, Compression::best());
        native::write(&name, &mut packed, requests)?;
        packed.finish().and_then(|mut out| out.flush()).map_err(|source| TraceError::Write { file: name, source })
    } else {
        native::write(&name, out, requests)
    }
}

/// A streaming reader of a file or a built-in trace. It applies the options on rows and lengths; times, places and
/// answers of [`open`] need the whole trace.
///
/// # Errors
/// As [`open`], but row errors come from the reader.
pub fn reader(name: &str, options: &Options) -> Result<Reader, TraceError> {
    if let Some(trace) = crate::shipped::find(name) {
        return Reader::new(Lines::new(name, trace.bytes)?, options);
    }
    options.check()?;
    match source(name)? {
        Source::Parquet => parquet_reader(name, options),
        Source::Text(_) if options.format == Some(Format::Parquet) => parquet_reader(name, options),
        Source::Text(lines) => Reader::new(lines, options),
    }
}

/// A digest of a file's bytes: another content, another digest.
///
/// # Errors
/// When it cannot be read.
pub fn digest(name: &str) -> Result<u64, TraceError> {
    let fail = |source| TraceError::Open { file: name.to_owned(), builtin: crate::shipped::names(), source };
    let mut file = File::open(name).map_err(fail)?;
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(fail)? {
            0 => return Ok(hash.digest()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Kind of a file, from its first bytes.
pub(crate) enum Source {
    /// Lines of text, unpacked.
    Text(Lines),
    /// Parquet, to be opened by name.
    Parquet,
}

pub(crate) fn source(name: &str) -> Result<Source, TraceError> {
    let fail = |source| TraceError::Open { file: name.to_owned(), builtin: crate::shipped::names(), source };
    if name == "-" {
        return Ok(Source::Text(Lines::new("standard input", std::io::stdin())?));
    }
    let mut file = File::open(name).map_err(fail)?;
    if file.metadata().map_err(fail)?.is_dir() {
        return Err(fail(std::io::Error::other("it is a folder")));
    }
    let mut magic = Vec::new();
    (&mut file).take(512).read_to_end(&mut magic).map_err(fail)?;
    if magic.starts_with(b"PAR1") {
        return Ok(Source::Parquet);
    }
    Ok(Source::Text(Lines::new(name, std::io::Cursor::new(magic).chain(file))?))
}

fn parquet_reader(name: &str, options: &Options) -> Result<Reader, TraceError> {
    Reader::over_rows(name.to_owned(), Format::Parquet, parquet_rows(name)?, options)
}

/// Reads a trace from memory; `name` stands for it in messages.
///
/// # Errors
/// As [`open`].
pub fn read_bytes(name: &str, bytes: &[u8], options: &Options) -> Result<Workload, TraceError> {
    let lines = Lines::new(name, std::io::Cursor::new(bytes.to_vec()))?;
    arrange::arrange(Reader::new(lines, options)?, options)
}

mod parquet;
pub(crate) use parquet::rows as parquet_rows;
