//! What the router reads of a request's body: the prompt and five fields, in one pass, copying nothing.
//!
//! The body itself goes on to the engine byte for byte. Strings without escapes are hashed where they lie in the
//! body; strings with escapes pass through the parser's scratch space.

use crate::prompt::{Blocks, Prompt};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use xxhash_rust::xxh3::xxh3_64;

/// What a body says.
#[derive(Debug, Clone)]
pub struct Extract {
    /// The prompt: rendered messages with their roles, the prompt, the input, or token ids.
    pub prompt: Prompt,
    /// `model`, at most 128 bytes of it.
    pub model: Option<String>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Hash of `user`, `session_id`, `conversation_id`, `prompt_cache_key` or `safety_identifier`, the first of
    /// them in the body; 0 for none.
    pub session: u64,
    /// SGLang's request id, with which the request can be aborted.
    pub rid: Option<String>,
}

/// Reads a JSON body; `seed` keys the hashes of the prompt's blocks.
///
/// # Errors
/// One sentence when the body is no JSON object, is cut short, is not UTF-8 or nests deeper than 128.
pub fn extract(body: &[u8], seed: u64) -> Result<Extract, String> {
    let mut found = Found { blocks: Blocks::new(seed), model: None, stream: false, session: 0, rid: None };
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = Body(&mut found).deserialize(&mut json).and_then(|()| json.end());
    read.map_err(|error| format!("the body is not the JSON object this endpoint takes: {error}"))?;
    let Found { blocks, model, stream, session, rid } = found;
    Ok(Extract { prompt: blocks.finish(), model, stream, session, rid })
}

struct Found {
    blocks: Blocks,
    model: Option<String>,
    stream: bool,
    session: u64,
    rid: Option<String>,
}

/// Tags of what stands before the text.
const MODEL: u64 = 1;
const TOOLS: u64 = 2;
const SALT: u64 = 3;
const INSTRUCTIONS: u64 = 4;

struct Body<'a>(&'a mut Found);

impl<'de> DeserializeSeed<'de> for Body<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Body<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let found = self.0;
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::Text => map.next_value_seed(Text { blocks: &mut found.blocks, depth: 0 })?,
                Key::Model => {
                    if let Some(model) = map.next_value_seed(Short)? {
                        found.blocks.before(MODEL, model.as_bytes(), false);
                        found.model = Some(model);
                    }
                }
                Key::Stream => found.stream = map.next_value_seed(Flag)?,
                Key::Session => {
                    if let Some(name) = map.next_value_seed(Short)?.filter(|name| !name.is_empty())
                        && found.session == 0
                    {
                        found.session = session_hash(name.as_bytes());
                    }
                }
                Key::Rid => found.rid = map.next_value_seed(Short)?,
                Key::Before(tag, weigh) => {
                    let raw: &RawValue = map.next_value()?;
                    if raw.get() != "null" {
                        found.blocks.before(tag, raw.get().as_bytes(), weigh);
                    }
                }
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// A session's key as policies see it, never 0.
pub fn session_hash(name: &[u8]) -> u64 {
    xxh3_64(name).max(1)
}

enum Key {
    Text,
    Model,
    Stream,
    Session,
    Rid,
    Before(u64, bool),
    Other,
}

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E: Error>(self, key: &str) -> Result<Key, E> {
                Ok(match key {
                    "messages" | "prompt" | "input" | "text" | "input_ids" => Key::Text,
                    "model" => Key::Model,
                    "stream" => Key::Stream,
                    "user" | "session_id" | "conversation_id" | "prompt_cache_key" | "safety_identifier" => {
                        Key::Session
                    }
                    "rid" => Key::Rid,
                    "tools" | "functions" => Key::Before(TOOLS, true),
                    "instructions" => Key::Before(INSTRUCTIONS, true),
                    "extra_key" | "cache_salt" | "chat_template_kwargs" | "lora_path" => Key::Before(SALT, false),
                    _ => Key::Other,
                })
            }
        }
        json.deserialize_identifier(Name)
    }
}

/// Any value that holds prompt text: a string, token ids, parts, messages, or lists of them.
struct Text<'a> {
    blocks: &'a mut Blocks,
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, token ids, messages or parts of messages")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.blocks.text(text.as_bytes());
        Ok(())
    }

    fn visit_u64<E: Error>(self, token: u64) -> Result<(), E> {
        self.blocks.token(token);
        Ok(())
    }

    fn visit_i64<E: Error>(self, token: i64) -> Result<(), E> {
        self.blocks.token(token as u64);
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { blocks, depth } = self;
        while list.next_element_seed(Text { blocks: &mut *blocks, depth: depth.saturating_add(1) })?.is_some() {}
        Ok(())
    }

    /// A message or a part of one. A role that stands after its content is taken where it stands: such a client
    /// still matches its own earlier turns, only not the router's guess of the answer.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { blocks, depth } = self;
        while let Some(key) = map.next_key::<Part>()? {
            match key {
                Part::Role => {
                    let role = map.next_value_seed(Short)?;
                    blocks.role(role.unwrap_or_default().as_bytes());
                }
                Part::Text => map.next_value_seed(Text { blocks: &mut *blocks, depth: depth.saturating_add(1) })?,
                Part::Raw => {
                    let raw: &RawValue = map.next_value()?;
                    if raw.get() != "null" {
                        blocks.text(raw.get().as_bytes());
                    }
                }
                Part::Media => {
                    // An image's bytes are no text; its identity is.
                    let raw: &RawValue = map.next_value()?;
                    blocks.text(&xxh3_64(raw.get().as_bytes()).to_le_bytes());
                }
                Part::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

enum Part {
    Role,
    Text,
    Raw,
    Media,
    Other,
}

impl<'de> serde::Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Part;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E: Error>(self, key: &str) -> Result<Part, E> {
                Ok(match key {
                    "role" => Part::Role,
                    "content" | "text" | "output" | "refusal" => Part::Text,
                    "tool_calls" | "function_call" | "arguments" | "name" | "tool_call_id" => Part::Raw,
                    "image_url" | "input_audio" | "file" | "video_url" | "audio_url" => Part::Media,
                    _ => Part::Other,
                })
            }
        }
        json.deserialize_identifier(Name)
    }
}

/// A short text; anything else is read over, since judging the body is the engine's business.
struct Short;

impl<'de> DeserializeSeed<'de> for Short {
    type Value = Option<String>;
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<String>, D::Error> {
        let raw = <&RawValue as serde::Deserialize>::deserialize(json)?;
        let text: Option<String> = serde_json::from_str(raw.get()).ok();
        Ok(text.map(|mut text| {
            let end = (0..=128.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
            text.truncate(end);
            text
        }))
    }
}

struct Flag;

impl<'de> DeserializeSeed<'de> for Flag {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        let raw = <&RawValue as serde::Deserialize>::deserialize(json)?;
        Ok(raw.get() == "true")
    }
}

/// Entry point of the fuzzer: must never panic, and must not depend on anything but its input.
pub fn fuzz(data: &[u8]) {
    let (a, b) = (extract(data, 1), extract(data, 1));
    assert_eq!(a.map(|e| e.prompt.symbols).ok(), b.map(|e| e.prompt.symbols).ok());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn symbols(body: &str) -> std::sync::Arc<[u64]> {
        extract(body.as_bytes(), 1).unwrap().prompt.symbols
    }

    #[test]
    fn strings_and_parts_of_equal_text_are_equal_prompts() {
        let long = "word ".repeat(40);
        let string = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{long}"}}]}}"#);
        let parts =
            format!(r#"{{"messages":[{{"role":"user","content":[{{"type":"text","text":"{long}"}}]}}],"model":"m"}}"#);
        assert_eq!(symbols(&string), symbols(&parts));
        let escaped = string.replace("word", "\\u0077ord");
        assert_eq!(symbols(&string), symbols(&escaped));
        assert_ne!(symbols(&string), symbols(&string.replace("user", "system")));
        assert_ne!(symbols(&string), symbols(&string.replace(r#""m""#, r#""n""#)));
    }

    #[test]
    fn fields_are_read_and_unknown_ones_passed_over() {
        let body = r#"{"stream":true,"model":"llama","user":"u7","rid":"r-1","x":{"deep":[1,{"y":null}]},
            "prompt":"hello","temperature":0.1}"#;
        let found = extract(body.as_bytes(), 1).unwrap();
        assert!(found.stream);
        assert_eq!((found.model.as_deref(), found.rid.as_deref()), (Some("llama"), Some("r-1")));
        assert_eq!(found.session, session_hash(b"u7"));
        assert_eq!(found.prompt.bytes, 5);
    }

    #[test]
    fn token_arrays_count_exactly_and_share_prefixes() {
        let ids = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
        let short = extract(format!(r#"{{"prompt":[{}]}}"#, ids(100)).as_bytes(), 1).unwrap().prompt;
        let long = extract(format!(r#"{{"input_ids":[{}]}}"#, ids(120)).as_bytes(), 1).unwrap().prompt;
        assert_eq!((short.tokens(4.0), long.tokens(4.0)), (100, 120));
        assert_eq!(short.symbols[..short.whole], long.symbols[..short.whole]);
        assert_eq!(extract(br#"{"prompt":[[1,2],[3]]}"#, 1).unwrap().prompt.tokens(4.0), 3);
    }

    #[test]
    fn tools_and_tool_calls_belong_to_the_prompt() {
        let plain = r#"{"messages":[{"role":"user","content":"q"}]}"#;
        let tools = r#"{"messages":[{"role":"user","content":"q"}],"tools":[{"type":"function"}]}"#;
        let calls = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":null,"tool_calls":[{"id":"1"}]}]}"#;
        assert_ne!(symbols(plain), symbols(tools));
        assert!(
            extract(calls.as_bytes(), 1).unwrap().prompt.bytes > extract(plain.as_bytes(), 1).unwrap().prompt.bytes
        );
    }

    #[test]
    fn broken_bodies_are_refused_in_one_sentence() {
        let deep = format!(r#"{{"messages":{}}}"#, "[".repeat(100_000));
        for body in [
            &br#"{"prompt":"cut"#[..],
            b"[1]",
            b"\"text\"",
            b"",
            b"{} {}",
            b"{\"prompt\":\"\xff\xfe\"}",
            deep.as_bytes(),
        ] {
            let message = extract(body, 1).unwrap_err();
            assert!(message.starts_with("the body is not the JSON object this endpoint takes: "), "{message}");
            assert!(message.len() < 200, "{message}");
        }
    }

    #[test]
    fn odd_types_are_left_to_the_engine() {
        assert!(extract(br#"{"model":7,"stream":"yes","user":[],"messages":"x","rid":null}"#, 1).is_ok());
    }

    proptest! {
        #[test]
        fn no_input_panics(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz(&data);
        }

        #[test]
        fn any_text_is_hashed_as_it_is_whatever_the_escapes(text in any::<String>()) {
            let body = serde_json::json!({"prompt": text}).to_string();
            let mut blocks = Blocks::new(1);
            blocks.text(text.as_bytes());
            prop_assert_eq!(symbols(&body), blocks.finish().symbols);
        }
    }
}
