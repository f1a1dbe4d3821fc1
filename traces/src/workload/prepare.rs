//! gotoni's trace from WildChat rows: `wildchat_guidellm.jsonl` and `wildchat_location_lookup.json`, with its options
//! and hashes. Two things differ on purpose: every prompt line also carries its own place, because hashes collide; and
//! an unknown place is left out of both files instead of becoming (0, 0).

use super::Source;
use super::guidellm_pair::{LOOKUP_FILE, PROMPTS_FILE, hash_messages, hash_prompt};
use super::messages::Message;
use super::native::whereabouts;
use super::parser::Rows;
use super::wildchat::Conversation;
use crate::error::TraceError;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// gotoni's options of the preparation, with its defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    /// Rows to read (`--num-samples`).
    pub num_samples: u64,
    /// Leave out prompts with fewer characters (`--min-prompt-length`).
    pub min_prompt_length: usize,
    /// One line a user message with the history before it, instead of the first prompt alone (`--multi-turn`).
    pub multi_turn: bool,
    /// Leave out conversations with fewer user messages (`--min-turns`).
    pub min_turns: usize,
    /// Leave out conversations with more (`--max-turns`).
    pub max_turns: Option<usize>,
    /// Count bad rows and go on (`--skip-bad`).
    pub skip_bad: bool,
}

impl Default for Prepare {
    fn default() -> Self {
        Self {
            num_samples: 10_000,
            min_prompt_length: 10,
            multi_turn: false,
            min_turns: 1,
            max_turns: None,
            skip_bad: false,
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prepared {
    /// The prompts.
    pub prompts_file: PathBuf,
    /// The places.
    pub lookup_file: PathBuf,
    /// Conversations read.
    pub conversations: u64,
    /// Bad rows skipped.
    pub skipped: u64,
    /// Prompts written.
    pub prompts: u64,
    /// Prompts left out as too short.
    pub too_short: u64,
    /// Conversations left out by their number of turns.
    pub other_turns: u64,
    /// Prompts without a known place.
    pub unknown_place: u64,
    /// Keys of the lookup; fewer than prompts because hashes collide.
    pub lookup_keys: usize,
    /// Different places.
    pub locations: usize,
    /// The ten places with most prompts.
    pub top: Vec<(String, u64)>,
}

impl fmt::Display for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "conversations read: {} ({} bad rows skipped)", self.conversations, self.skipped)?;
        writeln!(f, "prompts written:    {} to {}", self.prompts, self.prompts_file.display())?;
        writeln!(f, "left out:           {} too short, {} conversations by turns", self.too_short, self.other_turns)?;
        writeln!(f, "lookup entries:     {} to {}", self.lookup_keys, self.lookup_file.display())?;
        writeln!(f, "unique locations:   {} ({} prompts without a known place)", self.locations, self.unknown_place)?;
        writeln!(f, "top places:")?;
        for (place, n) in &self.top {
            writeln!(f, "  {n:>6}  {place}")?;
        }
        Ok(())
    }
}

/// Reads WildChat rows (JSON lines, `.gz` too; Parquet with the `parquet` feature) and writes the pair into `dir`.
///
/// # Errors
/// When the source cannot be read, a row is bad (unless skipped), or the files cannot be written.
pub fn prepare(source: &str, dir: &Path, options: &Prepare) -> Result<Prepared, TraceError> {
    let lines: Rows = match super::source(source)? {
        Source::Text(lines) => Box::new(lines),
        Source::Parquet => super::parquet_rows(source)?,
    };
    let mut done =
        Prepared { prompts_file: dir.join(PROMPTS_FILE), lookup_file: dir.join(LOOKUP_FILE), ..Prepared::default() };
    let written = |path: &Path| {
        let file = path.display().to_string();
        move |source| TraceError::Write { file, source }
    };
    std::fs::create_dir_all(dir).map_err(written(dir))?;
    let mut prompts = BufWriter::new(File::create(&done.prompts_file).map_err(written(&done.prompts_file))?);
    let mut lookup: BTreeMap<String, Value> = BTreeMap::new();
    let mut places: BTreeMap<String, u64> = BTreeMap::new();
    for line in lines.take(usize::try_from(options.num_samples).unwrap_or(usize::MAX)) {
        let read = line.and_then(|(line, text)| {
            let bad = |b: crate::error::Bad| TraceError::Row {
                file: source.to_owned(),
                line,
                field: b.field,
                problem: b.problem,
            };
            let conversation = Conversation::parse(&text).map_err(bad)?;
            let located = conversation.located();
            let (_, place) = whereabouts(&located).map_err(bad)?;
            Ok((conversation, located, place))
        });
        done.conversations += 1;
        let (conversation, located, place) = match read {
            Ok(found) => found,
            Err(e) if options.skip_bad && e.is_row() => {
                done.skipped += 1;
                continue;
            }
            Err(e) => return Err(e),
        };
        let turns = conversation.messages.iter().filter(|m| m.role == "user").count();
        if turns < options.min_turns || options.max_turns.is_some_and(|most| turns > most) {
            done.other_turns += 1;
            continue;
        }
        let name = |field| located.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (country, state) = (name("country"), name("state"));
        for (mut row, hash) in rows(&conversation.messages, options, &mut done.too_short) {
            match place {
                Some(place) => {
                    let at = json!({"lat": place.lat, "lon": place.lon, "country": country, "state": state});
                    if let Value::Object(fields) = &at {
                        row.extend(fields.clone());
                    }
                    lookup.insert(hash, at);
                    let label = if state.is_empty() { country.clone() } else { format!("{state}, {country}") };
                    *places.entry(label).or_default() += 1;
                }
                None => done.unknown_place += 1,
            }
            writeln!(prompts, "{}", Value::Object(row)).map_err(written(&done.prompts_file))?;
            done.prompts += 1;
        }
    }
    prompts.flush().map_err(written(&done.prompts_file))?;
    done.lookup_keys = lookup.len();
    done.locations = places.len();
    let text = Value::Object(lookup.into_iter().collect()).to_string();
    std::fs::write(&done.lookup_file, text).map_err(written(&done.lookup_file))?;
    done.top = places.into_iter().collect();
    done.top.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
    done.top.truncate(10);
    Ok(done)
}

/// The prompt lines of a conversation with their hashes.
fn rows(messages: &[Message], options: &Prepare, too_short: &mut u64) -> Vec<(Map<String, Value>, String)> {
    let mut rows = Vec::new();
    for (turn, (at, message)) in messages.iter().enumerate().filter(|(_, m)| m.role == "user").enumerate() {
        if turn > 0 && !options.multi_turn {
            break;
        }
        if message.content.chars().count() < options.min_prompt_length {
            *too_short += 1;
            continue;
        }
        let (fields, hash) = if options.multi_turn {
            let history = &messages[..=at];
            let list: Vec<_> = history.iter().map(|m| json!({"role": m.role, "content": m.content})).collect();
            let hash = hash_messages(&message.content, history.iter().map(|m| m.role.as_str()));
            let prompt = Value::Array(list).to_string();
            (json!({"prompt": prompt, "hash": hash, "turn": turn + 1, "is_multi_turn": true}), hash)
        } else {
            let hash = hash_prompt(&message.content);
            (json!({"prompt": message.content, "hash": hash}), hash)
        };
        if let Value::Object(fields) = fields {
            rows.push((fields, hash));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Options, open};

    fn source(dir: &Path) -> String {
        let row = |country: &str, state: &str, messages: &[(&str, &str)]| {
            let list: Vec<_> =
                messages.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
            json!({"conversation": list, "timestamp": "2023-04-09T00:00:00Z", "country": country, "state": state})
                .to_string()
        };
        let two = [
            ("user", "Plan a week in Rome"),
            ("assistant", "Day one: the forum."),
            ("user", "And in Naples, too?"),
            ("assistant", "Pizza."),
        ];
        let rows = [
            row("United States", "Georgia", &two),
            row("United States", "Georgia", &two[..2]),
            row("Atlantis", "", &[("user", "Where am I, please?"), ("assistant", "At sea.")]),
            row("Japan", "Tokyo", &[("user", "short"), ("assistant", "ok")]),
        ];
        let path = dir.join("rows.jsonl");
        std::fs::write(&path, rows.join("\n")).unwrap();
        path.display().to_string()
    }

    #[test]
    fn single_turn_writes_first_prompts_and_never_zero_zero() {
        let dir = tempfile::tempdir().unwrap();
        let done = prepare(&source(dir.path()), dir.path(), &Prepare::default()).unwrap();
        assert_eq!((done.conversations, done.prompts, done.too_short, done.unknown_place), (4, 3, 1, 1));
        assert_eq!((done.lookup_keys, done.locations), (1, 1));
        assert_eq!(done.top, [("Georgia, United States".to_owned(), 2)]);
        assert!(done.to_string().contains("     2  Georgia, United States"));
        let lookup: Value = serde_json::from_str(&std::fs::read_to_string(&done.lookup_file).unwrap()).unwrap();
        let entry = &lookup[hash_prompt("Plan a week in Rome")];
        assert!(entry["lat"].as_f64().unwrap() > 30.0 && entry["country"] == "United States");
    }

    #[test]
    fn multi_turn_keeps_history_and_reads_back_as_conversations() {
        let dir = tempfile::tempdir().unwrap();
        let options = Prepare { multi_turn: true, min_turns: 2, ..Prepare::default() };
        let done = prepare(&source(dir.path()), dir.path(), &options).unwrap();
        assert_eq!((done.prompts, done.other_turns), (2, 3));
        let workload = open(&done.prompts_file.display().to_string(), &Options::default()).unwrap();
        assert_eq!(workload.requests.iter().map(|r| (r.session, r.turn)).collect::<Vec<_>>(), [(0, 1), (0, 2)]);
        assert!(workload.requests.iter().all(|r| r.country == Some(*b"US")));
        assert_eq!(workload.notes.len(), 1, "hashes fit, no unknown field: {:?}", workload.notes);
    }

    #[test]
    fn sources_that_cannot_be_used_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let e = prepare("/nowhere/rows.jsonl", dir.path(), &Prepare::default()).unwrap_err().to_string();
        assert!(e.starts_with("/nowhere/rows.jsonl cannot be opened"), "{e}");
        let path = dir.path().join("bad.jsonl");
        std::fs::write(&path, "{}\n").unwrap();
        let path = path.display().to_string();
        let e = prepare(&path, dir.path(), &Prepare::default()).unwrap_err().to_string();
        assert!(e.ends_with("bad.jsonl:1: conversation is missing: every row needs the list of its messages"), "{e}");
        let skipped = prepare(&path, dir.path(), &Prepare { skip_bad: true, ..Prepare::default() }).unwrap();
        assert_eq!((skipped.skipped, skipped.prompts), (1, 0));
    }
}
