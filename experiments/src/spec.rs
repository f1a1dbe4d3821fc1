//! Experiment files: settings, arms, varied settings and seeds.
//!
//! The file is a table of settings shared by all arms, a list of `[[arms]]` that change some of them, and an optional
//! `[vary]` that crosses the arms with values of any settings. What is written later in this list wins: the file, an arm,
//! `[vary]`, the command line (`overrides`). Reading is strict: an unknown key, or one that reaches no arm, is an error that
//! names the nearest known one.

use gorgo_core::settings::{durations_in_table, merge_tables, parse_assignment, renamed_presets, set_key};
use gorgo_core::suggest::did_you_mean;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

mod error;
mod generate;
pub mod live;
pub mod measure;
mod overrides;
mod plan;
mod policy;
mod resolved;
pub mod run;
mod schema;
mod unused;
mod vary;
pub mod workload;

use overrides::Parts;

pub use error::SpecError;
pub use live::LiveSpec;
pub use plan::PlannedArm;
pub use run::RunSpec;
pub use schema::experiment_schema;
pub use workload::WorkloadSpec;

/// Keys of the file that are not settings of a run.
const FILE_KEYS: [&str; 8] = ["title", "question", "expect", "seeds", "baseline", "arms", "vary", "cloud"];

/// An experiment as written, with overrides applied.
#[derive(Debug, Clone)]
pub struct Experiment {
    /// File name for messages.
    pub file: String,
    /// Folder that relative paths start from.
    pub dir: PathBuf,
    /// One line.
    pub title: String,
    /// The question it answers.
    pub question: String,
    /// The expected result.
    pub expect: String,
    /// Seeds of every arm.
    pub seeds: Vec<u64>,
    /// Name of the arm others are compared with; the first when absent.
    pub baseline: Option<String>,
    /// `[cloud]`: the machines of live runs, where the file names some. No part of what the results are of.
    pub cloud: Option<Table>,
    /// Remarks for the user: settings under old names.
    pub notes: Vec<String>,
    /// Trace files with a digest of their content, see [`Self::read_digests`].
    digests: Vec<(String, u64)>,
    /// Settings of all arms.
    base: Table,
    /// Name and settings of each arm.
    arms: Vec<(Option<String>, Table)>,
    /// Settings crossed with the arms.
    vary: Vec<(String, Vec<Value>)>,
}

impl Experiment {
    /// Reads a file; `sets` are `key=value` overrides, `vary` further crossed settings as `key=values`.
    ///
    /// # Errors
    /// When the file cannot be read or is malformed.
    pub fn load(path: &Path, sets: &[String], vary: &[String]) -> Result<Self, SpecError> {
        let bytes = std::fs::read(path).map_err(|source| SpecError::Read { path: path.to_owned(), source })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = good.iter().filter(|&&b| b == b'\n').count() + 1;
            let message = format!("line {line}: is not UTF-8 text; save the file as UTF-8");
            SpecError::Syntax { file: path.display().to_string(), message }
        })?;
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        Self::parse(&path.display().to_string(), dir, &text, sets, vary)
    }

    /// As [`Self::load`], from text.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(file: &str, dir: PathBuf, text: &str, sets: &[String], vary: &[String]) -> Result<Self, SpecError> {
        let syntax = |e: toml::de::Error| SpecError::Syntax { file: file.to_owned(), message: one_line(&e, text) };
        let mut base: Table = text.parse().map_err(syntax)?;
        durations_in_table(&mut base);
        let sets = sets.iter().map(|set| parse_assignment(set)).collect::<Result<Vec<_>, _>>()?;
        overrides::vary_is_not_lost(&sets).map_err(SpecError::Vary)?;
        let (of_file, of_runs): (Vec<_>, Vec<_>) = sets.into_iter().partition(|(key, _)| of_file(key));
        for (key, value) in of_file {
            set_key(&mut base, &key, value)?;
        }
        let mut notes = renamed_presets(&base);
        let bad =
            |place: &str, message: String| SpecError::Key { file: file.to_owned(), place: place.to_owned(), message };
        let mut word = |key: &str| match base.remove(key) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(bad(key, format!("is {other}; it must be a text in quotes"))),
        };
        let (title, question, expect, baseline) =
            (word("title")?, word("question")?, word("expect")?, word("baseline")?);
        let cloud = match base.remove("cloud") {
            None => None,
            Some(Value::Table(table)) => Some(table),
            Some(other) => return Err(bad("cloud", format!("is {other}; write a table [cloud]"))),
        };
        let seeds = seeds(base.remove("seeds")).map_err(|m| bad("seeds", m))?;
        let mut arms: Vec<(Option<String>, Table)> = match base.remove("arms") {
            None => vec![(None, Table::new())],
            Some(Value::Array(list)) if !list.is_empty() => {
                list.into_iter().map(arm).collect::<Result<_, _>>().map_err(|m| bad("arms", m))?
            }
            Some(other) => return Err(bad("arms", format!("is {other}; write one [[arms]] table for each arm"))),
        };
        let mut crossed = vary::from_table(base.remove("vary")).map_err(|m| bad("vary", m))?;
        let mut given: Vec<String> = Vec::new();
        for text in vary {
            let (key, values) = vary::parse(text).map_err(SpecError::Vary)?;
            if of_runs.iter().any(|(set, _)| *set == key) || given.contains(&key) {
                return Err(SpecError::Vary(format!("`{key}` is given twice, by --vary {text} and before; keep one")));
            }
            given.push(key.clone());
            crossed.retain(|(k, _)| *k != key);
            notes.extend(renamed_presets(&Table::from_iter([(key.clone(), Value::Array(values.clone()))])));
            crossed.push((key, values));
        }
        for (key, value) in &of_runs {
            notes.extend(renamed_presets(&Table::from_iter([(key.clone(), value.clone())])));
            let names = arm_names(&base, &arms);
            let mut parts = Parts { base: &mut base, arms: &mut arms, vary: &mut crossed };
            parts.set(key, value, &names).map_err(|message| SpecError::Override { key: key.clone(), message })?;
        }
        // One order from every source, so that the kept experiment gives its arms the same names again.
        crossed.sort_by(|(a, _), (b, _)| a.cmp(b));
        let known: Vec<&str> = RunSpec::keys().iter().copied().chain(FILE_KEYS).collect();
        for (place, keys) in std::iter::once(("the file", &base)).chain(arms.iter().map(|(_, t)| ("an arm", t))) {
            if let Some(key) = keys.keys().find(|k| !RunSpec::keys().contains(&k.as_str())) {
                let message = match FILE_KEYS.contains(&key.as_str()) {
                    true => format!("`{key}` belongs at the top of the file, above [[arms]]"),
                    false => format!("unknown key `{key}`; {}", did_you_mean(key, known.iter().copied())),
                };
                return Err(bad(place, message));
            }
        }
        let baseline = Some(baseline).filter(|b| !b.is_empty());
        Ok(Self {
            file: file.to_owned(),
            dir,
            title,
            question,
            expect,
            seeds,
            baseline,
            cloud,
            notes,
            digests: Vec::new(),
            base,
            arms,
            vary: crossed,
        })
    }
}

/// Whether a key of the command line is written into the file as it stands: keys of the file and what lies in them,
/// except single arms and varied settings, which `overrides` finds.
fn of_file(key: &str) -> bool {
    match key.split_once('.') {
        None => FILE_KEYS.contains(&key),
        Some((head, _)) => FILE_KEYS.contains(&head) && !["arms", "vary"].contains(&head),
    }
}

/// The settings of an arm: its own laid over those of all arms.
fn settings_of(base: &Table, own: &Table) -> Table {
    let mut arm = base.clone();
    let policy = policy::merged(base.get("policy"), own.get("policy"));
    merge_tables(&mut arm, own);
    arm.extend(policy.map(|policy| ("policy".to_owned(), policy)));
    arm
}

/// The names of the arms, given or made from what sets them apart.
fn arm_names(base: &Table, arms: &[(Option<String>, Table)]) -> Vec<String> {
    let describe = |(name, own): &(Option<String>, Table)| {
        let describe = || run::default_name(&settings_of(base, own), own.contains_key("topology"));
        name.clone().unwrap_or_else(describe)
    };
    arms.iter().map(describe).collect()
}

/// Most seeds that are given by their number.
const MOST_SEEDS: i64 = 1_000;

fn seeds(value: Option<Value>) -> Result<Vec<u64>, String> {
    let wrong = |v: &dyn std::fmt::Display| {
        format!("{v} is not a list of seeds; give a number of seeds or a list such as [1, 2, 3]")
    };
    match value {
        None => Ok((1..=5).collect()),
        Some(Value::Integer(n)) if (1..=MOST_SEEDS).contains(&n) => Ok((1..=n as u64).collect()),
        Some(Value::Integer(n)) => {
            Err(format!("{n} must be a number of seeds from 1 to {MOST_SEEDS}, or a list such as [1, 2, 3]"))
        }
        Some(Value::Array(list)) if !list.is_empty() => {
            let mut seeds = Vec::new();
            for v in list {
                let number = v.as_integer().and_then(|i| u64::try_from(i).ok());
                let seed = number.or_else(|| v.as_str()?.parse().ok()).ok_or_else(|| wrong(&v))?;
                if seeds.contains(&seed) {
                    return Err(format!("seed {seed} is listed twice"));
                }
                seeds.push(seed);
            }
            Ok(seeds)
        }
        Some(other) => Err(wrong(&other)),
    }
}

fn arm(value: Value) -> Result<(Option<String>, Table), String> {
    let Value::Table(mut settings) = value else { return Err(format!("{value} is not a table; write [[arms]]")) };
    match settings.remove("name") {
        None => Ok((None, settings)),
        Some(Value::String(name)) if !name.trim().is_empty() => Ok((Some(name), settings)),
        Some(other) => Err(format!("name = {other} is not a name")),
    }
}

/// A TOML error in one line, with its line number.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    let at = error.span().map_or(0, |s| s.start.min(text.len()));
    let line = text.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1;
    let message = error.message().replace('\n', " ");
    // The parser's message on a key that stands twice does not name it.
    let key = error.span().and_then(|span| text.get(span)).filter(|_| message == "duplicate key");
    let key = key.map_or_else(String::new, |key| format!(" `{key}`; keep one"));
    format!("line {line}: {message}{key}")
}

#[cfg(test)]
mod tests;
