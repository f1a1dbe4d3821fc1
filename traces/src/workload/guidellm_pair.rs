//! gotoni's pair: `wildchat_guidellm.jsonl` (`prompt`, `hash`, and for conversations `turn`, `is_multi_turn`) with
//! `wildchat_location_lookup.json` (`hash` to `lat`, `lon`, `country`, `state`).
//!
//! The hash looks at 100 characters and a length, so templated prompts collide and the lookup keeps one place for
//! them all. Rows written by this crate carry their own place as well, and it wins.

use super::blocks::{BLOCK_TOKENS, BlockChain};
use super::messages::{self, Message};
use super::native::{counting, noted_whereabouts};
use super::options::Options;
use super::parser::{Parser, Sink};
use super::row::{JsonRow, missing};
use crate::error::{Bad, TraceError};
use gorgo_core::Time;
use gorgo_core::request::TraceRequest;
use md5::{Digest, Md5};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Name of the lookup that belongs to the prompts.
pub const LOOKUP_FILE: &str = "wildchat_location_lookup.json";
/// Name of the prompts.
pub const PROMPTS_FILE: &str = "wildchat_guidellm.jsonl";

const KNOWN: [&str; 10] =
    ["prompt", "hash", "turn", "is_multi_turn", "country", "state", "city", "lat", "lon", "output_tokens"];

/// Requests per second of a file without times: the load generator's default in gotoni's scripts.
pub const RATE_WITHOUT_TIMES: f64 = 5.0;

/// gotoni's hash of a single prompt: the first 16 hex digits of md5 over "first 100 characters:length in
/// characters". Characters are Unicode code points.
pub fn hash_prompt(prompt: &str) -> String {
    let start: String = prompt.chars().take(100).collect();
    hex16(&format!("{start}:{}", prompt.chars().count()))
}

/// gotoni's hash of a conversation: the same over "first 100 characters of the last user message:number of
/// messages:length of that message".
pub fn hash_messages<'a>(last_user: &str, messages: impl Iterator<Item = &'a str>) -> String {
    let start: String = last_user.chars().take(100).collect();
    hex16(&format!("{start}:{}:{}", messages.count(), last_user.chars().count()))
}

fn hex16(text: &str) -> String {
    Md5::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Debug)]
pub(crate) struct GuidellmPair {
    options: Options,
    lookup: BTreeMap<String, JsonRow>,
    session: u64,
    held: Option<(TraceRequest, Vec<Message>)>, // the last row waits for the next, which may hold its answer
}

impl GuidellmPair {
    pub(crate) fn new(file: &str, options: &Options) -> Result<Self, TraceError> {
        let lookup = match lookup_path(file, options) {
            Some(path) => read_lookup(&path)?,
            None => BTreeMap::new(),
        };
        Ok(Self { options: options.clone(), lookup, session: 0, held: None })
    }

    /// Symbols and count of an answer that the next row shows.
    fn release(&mut self, next: Option<&[Message]>, sink: &mut Sink) -> bool {
        let Some((mut request, messages)) = self.held.take() else { return false };
        let continued = next.filter(|n| n.len() > messages.len() && n.starts_with(&messages));
        if let Some(answer) = continued.map(|n| &n[messages.len()]).filter(|m| m.role == "assistant") {
            request.output_tokens = answer.symbols(counting(&self.options)).len() as u32;
        }
        sink.ready.push_back(request);
        continued.is_some()
    }
}

/// The lookup file: the given one, else the default name beside the prompts if that exists.
fn lookup_path(file: &str, options: &Options) -> Option<PathBuf> {
    let beside = Path::new(file).with_file_name(LOOKUP_FILE);
    options.lookup.clone().or_else(|| beside.is_file().then_some(beside))
}

fn read_lookup(path: &Path) -> Result<BTreeMap<String, JsonRow>, TraceError> {
    let file = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|source| TraceError::Read { file: file.clone(), line: 1, source })?;
    let bad = |field: &str, problem: String| TraceError::Row {
        file: file.clone(),
        line: 1,
        field: field.to_owned(),
        problem,
    };
    let parsed: Value = serde_json::from_str(&text).map_err(|e| bad("lookup", format!("is not JSON: {e}")))?;
    let Value::Object(entries) = parsed else {
        return Err(bad("lookup", "is not a JSON object: it must map hashes to places".to_owned()));
    };
    let entry = |(hash, value): (String, Value)| match value {
        Value::Object(place) => Ok((hash, JsonRow(place))),
        other => Err(bad(&hash, format!("is {other}: each hash must map to an object of lat, lon, country, state"))),
    };
    entries.into_iter().map(entry).collect()
}

impl Parser for GuidellmPair {
    fn row(&mut self, number: u64, text: &str, sink: &mut Sink) -> Result<(), Bad> {
        let row = JsonRow::parse(text)?;
        let prompt = row.text("prompt")?.ok_or_else(|| missing("prompt", "a text"))?;
        let hash = row.text("hash")?.ok_or_else(|| missing("hash", "the hash of its prompt"))?;
        let multi = row.get("is_multi_turn").is_some_and(|v| v == &Value::Bool(true));
        let (messages, own_hash) = if multi {
            let list: Value = serde_json::from_str(prompt).map_err(|e| {
                Bad::new("prompt", format!("is not a JSON list of messages ({e}), though is_multi_turn is true"))
            })?;
            let messages = messages::parse("prompt", &list)?;
            let last = messages.iter().rev().find(|m| m.role == "user").map_or("", |m| m.content.as_str());
            let hash = hash_messages(last, messages.iter().map(|m| m.role.as_str()));
            (messages, hash)
        } else {
            (vec![Message { role: "user".to_owned(), content: prompt.to_owned(), tokens: None }], hash_prompt(prompt))
        };
        if own_hash != hash {
            sink.seen.drop_one("hash that does not belong to its prompt (kept, place by the hash as written)");
        }
        let own_place = row.get("country").is_some() || row.get("lat").is_some();
        let source = if own_place { Some(&row) } else { self.lookup.get(hash) };
        let (country, place) = source.map_or(Ok((None, None)), |row| noted_whereabouts(row, sink))?;
        sink.seen.texts = true;
        let turn = row.tokens("turn", 0)?.unwrap_or(1).max(1);
        let last_user = messages.iter().rev().find(|m| m.role == "user").map_or("", |m| m.content.as_str());
        if last_user.trim().chars().count() < self.options.min_chars {
            sink.seen.drop_one("user message shorter than min_chars");
            return Ok(());
        }
        let block_tokens = self.options.block_tokens.unwrap_or(BLOCK_TOKENS);
        let mut chain = BlockChain::new(block_tokens);
        messages.iter().for_each(|m| chain.extend(m.symbols(counting(&self.options))));
        if !self.release(Some(&messages), sink) {
            self.session = number;
        }
        row.unknown(&KNOWN).for_each(|name| sink.seen.unknown(name));
        let request = TraceRequest {
            at: Time::ZERO,
            session: self.session,
            user: self.session,
            turn,
            place,
            country,
            input_tokens: u32::try_from(chain.tokens()).unwrap_or(u32::MAX),
            output_tokens: row.tokens("output_tokens", 1)?.unwrap_or(self.options.default_output_tokens),
            max_tokens: None,
            block_tokens,
            blocks: chain.ids(),
            router_tokens: None,
            refused: false,
            answer_blocks: [].into(),
            delay: None,
            awaited: false,
        };
        self.held = Some((request, messages));
        Ok(())
    }

    fn finish(&mut self, sink: &mut Sink) {
        self.release(None, sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{open, read_bytes};
    use serde_json::json;

    #[test]
    fn hashes_have_gotonis_check_values() {
        assert_eq!(hash_prompt("Hello, world!"), "ff8939704ae3e803");
        assert_eq!(hash_prompt("héllo"), "992ca8145ab99fdf");
        assert_eq!(hash_messages("How are you?", ["user", "assistant", "user"].into_iter()), "a682606b63d2d7e1");
    }

    #[test]
    fn hashes_collide_on_templates_as_they_did() {
        let template = "x".repeat(100);
        assert_eq!(hash_prompt(&format!("{template} Rome")), hash_prompt(&format!("{template} Oslo")));
    }

    #[test]
    fn the_lookup_beside_the_file_gives_places_and_a_rows_own_place_wins() {
        let dir = tempfile::tempdir().unwrap();
        let hash = hash_prompt("hello there");
        let lookup = json!({&hash: {"lat": 0.0, "lon": 0.0, "country": "Germany", "state": ""}});
        std::fs::write(dir.path().join(LOOKUP_FILE), lookup.to_string()).unwrap();
        let rows = [
            json!({"prompt": "hello there", "hash": hash}),
            json!({"prompt": "hello there", "hash": hash, "country": "Japan"}),
            json!({"prompt": "something else", "hash": hash_prompt("something else")}),
        ];
        let path = dir.path().join(PROMPTS_FILE);
        std::fs::write(&path, rows.map(|r| r.to_string()).join("\n")).unwrap();
        let requests = open(&path.display().to_string(), &Options::default()).unwrap().requests;
        let codes: Vec<_> = requests.iter().map(|r| r.country).collect();
        assert_eq!(codes, [Some(*b"DE"), Some(*b"JP"), None]);
        assert!(requests[0].place.is_some_and(crate::geo::is_real), "never (0, 0)");
        assert_eq!(requests.iter().map(|r| r.at.ms()).collect::<Vec<_>>(), [0.0, 200.0, 400.0]);
    }

    #[test]
    fn turns_of_one_conversation_are_one_session_with_known_answers() {
        let row = |messages: Value, turn: u32| {
            let list: Vec<Value> = messages.as_array().unwrap().clone();
            let last = list.last().unwrap()["content"].as_str().unwrap().to_owned();
            let hash = hash_messages(&last, list.iter().map(|_| "m"));
            json!({"prompt": messages.to_string(), "hash": hash, "turn": turn, "is_multi_turn": true}).to_string()
        };
        let m = |role: &str, content: &str| json!({"role": role, "content": content});
        let answer = "An answer of some length, to fill more than one block. ".repeat(4);
        let rows = [
            row(json!([m("user", "first question")]), 1),
            row(json!([m("user", "first question"), m("assistant", &answer), m("user", "and then?")]), 2),
            row(json!([m("user", "another person")]), 1),
        ];
        let workload = read_bytes("t", rows.join("\n").as_bytes(), &Options::default()).unwrap();
        let [a, b, c] = workload.requests.as_slice() else { panic!("three rows") };
        assert_eq!((a.session == b.session, b.session == c.session), (true, false));
        assert_eq!((a.turn, b.turn, a.output_tokens, b.output_tokens), (1, 2, 55, 256));
        assert_eq!(a.answer_blocks[..], b.blocks[..3], "4 + 55 tokens fill three whole blocks");
        assert_eq!(workload.notes, ["the format has no times: 5 requests per second, evenly"]);
    }

    #[test]
    fn bad_rows_and_lookups_are_named() {
        let message = |row: &str| read_bytes("g", row.as_bytes(), &Options::default()).unwrap_err().to_string();
        assert_eq!(message(r#"{"prompt":5,"hash":"x"}"#), "g:1: prompt is 5: it must be text");
        let multi = r#"{"prompt":"[","hash":"x","is_multi_turn":true}"#;
        assert!(message(multi).starts_with("g:1: prompt is not a JSON list of messages"));
        let dir = tempfile::tempdir().unwrap();
        let lookup = dir.path().join("l.json");
        std::fs::write(&lookup, "[]").unwrap();
        let options = Options { lookup: Some(lookup), ..Options::default() };
        let e = read_bytes("g", br#"{"prompt":"a","hash":"x"}"#, &options).unwrap_err().to_string();
        assert!(e.ends_with("lookup is not a JSON object: it must map hashes to places"), "{e}");
    }
}
