//! Reads the prompt and five fields of a request body in one pass.
//!
//! The body goes on to the engine byte for byte. Strings without escapes are hashed in place.

use crate::kept_ids;
use crate::models::LONGEST_NAME;
use crate::wire::json::{JsonError, Kind, Reader, Text};
use crate::wire::prompt_blocks::{Blocks, Prompt, Texts};
use memchr::memmem;
use xxhash_rust::xxh3::xxh3_64;

/// The fields of a request body that the router uses.
#[derive(Debug, Clone)]
pub(crate) struct RequestFields {
    /// The prompt: rendered messages with their roles, the prompt, the input, or token ids.
    pub prompt: Prompt,
    /// `model`.
    pub model: Option<String>,
    /// SGLang's `lora_path`: an adapter, the first of several.
    pub adapter: Option<String>,
    /// Hash of `user`, `session_id`, `conversation_id`, `prompt_cache_key` or `safety_identifier`, the first of
    /// them in the body; 0 for none.
    pub session: u64,
    /// SGLang's request id, with which the request can be aborted.
    pub rid: Option<String>,
    /// Whether the answer is to be a stream.
    pub streams: bool,
    /// The key of what an engine keeps and the request names: `previous_response_id`, `conversation`, `input_file_id`.
    pub kept: Option<u64>,
}

/// Longest role or name of a session that is read, bytes.
const SHORT: usize = 128;

/// Tags of what stands before the text.
const MODEL: u64 = 1;
const TOOLS: u64 = 2;
const SALT: u64 = 3;
const INSTRUCTIONS: u64 = 4;

/// Reads a JSON body; `seed` keys the hashes of the prompt's blocks.
///
/// # Errors
/// One sentence when the body is no JSON object, is cut short, is not UTF-8 or nests deeper than 127.
pub(crate) fn extract(body: &[u8], seed: u64) -> Result<RequestFields, String> {
    let mut blocks = Blocks::with_room(seed, body.len());
    let found = read(body, &mut blocks);
    let found = found.map_err(|wrong| format!("the body is not the JSON object this endpoint takes: {wrong}"))?;
    let model = found.model.clone().map_err(|LongName| LongName::SENTENCE.to_owned())?;
    let mut fields = found.with(blocks.finish(), model);
    // Files lie in parts of messages, stores of files in tools, and nearly no prompt has one.
    let names = |key: &[u8]| memmem::find(body, key).is_some();
    if fields.kept.is_none() && (names(b"file_id") || names(b"vector_store_id")) {
        fields.kept = nested_id(&mut Reader::new(body)).ok().flatten();
    }
    Ok(fields)
}

/// The text of a prompt from byte `from` of its hashed stream on, for counting.
pub(crate) fn texts(body: &[u8], seed: u64, from: u64) -> Result<Texts, String> {
    let mut blocks = Blocks::keeping(seed, from);
    read(body, &mut blocks).map_err(|wrong| wrong.to_string())?;
    Ok(blocks.into_texts())
}

/// What a body says beside its prompt.
struct Fields {
    model: Result<Option<String>, LongName>,
    adapter: Option<String>,
    session: u64,
    rid: Option<String>,
    streams: bool,
    kept: Option<u64>,
}

impl Fields {
    fn with(self, prompt: Prompt, model: Option<String>) -> RequestFields {
        let Self { model: _, adapter, session, rid, streams, kept } = self;
        RequestFields { prompt, model, adapter, session, rid, streams, kept }
    }
}

fn read(body: &[u8], blocks: &mut Blocks) -> Result<Fields, JsonError> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body); // a byte order mark, which engines read over
    let (mut model, mut adapter, mut rid, mut kept) = (Ok(None), None, None, None);
    let (mut session, mut streams) = (0, false);
    let mut json = Reader::new(body);
    json.object(|json, key| {
        match &*key.whole() {
            b"messages" | b"prompt" | b"input" | b"text" | b"input_ids" | b"query" | b"documents" | b"text_1"
            | b"text_2" => prompt_text(json, blocks)?,
            b"model" => {
                // Engines take the last of several.
                model = model_name(json)?;
                if let Ok(Some(name)) = &model {
                    blocks.before(MODEL, name.as_bytes(), false);
                }
            }
            b"user" | b"session_id" | b"prompt_cache_key" | b"safety_identifier" => {
                let name = short(json)?.filter(|name| !name.is_empty());
                if let Some(name) = name.filter(|_| session == 0) {
                    session = session_hash(name.as_bytes());
                }
            }
            b"rid" => rid = bounded_id(json)?,
            key @ (b"previous_response_id" | b"input_file_id" | b"conversation" | b"conversation_id") => {
                let id = kept_id(json)?;
                if key == b"conversation_id" && session == 0 {
                    session = id.as_ref().map_or(0, |id| session_hash(id.as_bytes()));
                }
                kept = kept.or(id.map(|id| kept_ids::key(id.as_bytes())));
            }
            b"stream" => streams = json.skip()? == b"true",
            b"tools" | b"functions" => drop(before(json, blocks, TOOLS, true)?),
            b"instructions" => drop(before(json, blocks, INSTRUCTIONS, true)?),
            b"extra_key" | b"cache_salt" | b"chat_template_kwargs" => drop(before(json, blocks, SALT, false)?),
            b"lora_path" => adapter = first_text(before(json, blocks, SALT, false)?),
            _ => drop(json.skip()?),
        }
        Ok(())
    })?;
    json.end()?;
    Ok(Fields { model, adapter, session, rid, streams, kept })
}

/// The name of a model that is longer than any that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LongName;

impl LongName {
    /// What a client is told.
    pub(crate) const SENTENCE: &str = "`model` is longer than 512 bytes; name one of /v1/models";
}

/// The name of a model; `None` for a value that is no text.
pub(super) fn model_name(json: &mut Reader<'_>) -> Result<Result<Option<String>, LongName>, JsonError> {
    if json.kind()? != Kind::Text {
        return json.skip().map(|_| Ok(None));
    }
    Ok(json.text()?.bounded(LONGEST_NAME).map(Some).ok_or(LongName))
}

/// The key of a file, or of a store of files, that some part of a body names.
fn nested_id(json: &mut Reader<'_>) -> Result<Option<u64>, JsonError> {
    let mut found = None;
    match json.kind()? {
        Kind::Object => json.object(|json, key| {
            let inner = match &*key.whole() {
                b"file_id" | b"vector_store_id" => bounded_id(json)?.map(|id| kept_ids::key(id.as_bytes())),
                b"vector_store_ids" => first_text(json.skip()?).map(|id| kept_ids::key(id.as_bytes())),
                _ => nested_id(json)?,
            };
            found = found.or(inner);
            Ok(())
        })?,
        Kind::Array => json.array(|json| {
            found = found.or(nested_id(json)?);
            Ok(())
        })?,
        _ => drop(json.skip()?),
    }
    Ok(found)
}

/// An id, or an object with one.
pub(super) fn kept_id(json: &mut Reader<'_>) -> Result<Option<String>, JsonError> {
    if json.kind()? != Kind::Object {
        return bounded_id(json).map(|id| id.filter(|id| !id.is_empty()));
    }
    let mut id = None;
    json.object(|json, key| {
        match &*key.whole() {
            b"id" => id = bounded_id(json)?,
            _ => json.pass()?,
        }
        Ok(())
    })?;
    Ok(id)
}

/// A session's key as policies see it, never 0.
pub(crate) fn session_hash(name: &[u8]) -> u64 {
    xxh3_64(name).max(1)
}

/// An id; none of what is no text, or longer than ids are.
fn bounded_id(json: &mut Reader<'_>) -> Result<Option<String>, JsonError> {
    if json.kind()? != Kind::Text {
        return json.skip().map(|_| None);
    }
    Ok(json.text()?.bounded(kept_ids::LONGEST))
}

/// A short text; anything else is read over, since judging the body is the engine's business.
fn short(json: &mut Reader<'_>) -> Result<Option<String>, JsonError> {
    if json.kind()? == Kind::Text {
        return json.text().map(|text| Some(text.short(SHORT)));
    }
    json.skip().map(|_| None)
}

fn role(json: &mut Reader<'_>, blocks: &mut Blocks) -> Result<(), JsonError> {
    if json.kind()? != Kind::Text {
        blocks.role(b"");
        return json.pass();
    }
    let text = json.text()?;
    match text.plain().filter(|role| role.len() <= SHORT) {
        Some(role) => blocks.role(role),
        None => blocks.role(text.short(SHORT).as_bytes()),
    }
    Ok(())
}

/// Hashes a value before the prompt, and returns it.
fn before<'a>(json: &mut Reader<'a>, blocks: &mut Blocks, tag: u64, weigh: bool) -> Result<&'a [u8], JsonError> {
    let raw = json.skip()?;
    if raw != b"null" {
        blocks.before(tag, raw, weigh);
    }
    Ok(raw)
}

/// A text, or the first one of a list (a batch has one for each prompt).
pub(super) fn first_text(raw: &[u8]) -> Option<String> {
    let mut json = Reader::new(raw);
    let mut first = None;
    let mut take = |json: &mut Reader<'_>| match json.kind()? {
        Kind::Text if first.is_none() => json.text().map(|text| first = text.bounded(LONGEST_NAME)),
        _ => json.skip().map(drop),
    };
    let read = match json.kind().ok()? {
        Kind::Array => json.array(take),
        _ => take(&mut json),
    };
    read.ok().and(first).filter(|name| !name.is_empty())
}

/// Any value that holds prompt text: a string, token ids, parts, messages, or lists of them.
fn prompt_text(json: &mut Reader<'_>, blocks: &mut Blocks) -> Result<(), JsonError> {
    match json.kind()? {
        Kind::Text => blocks.text(&json.decoded()?),
        Kind::Number => {
            if let Some(token) = json.number()? {
                blocks.token(token as u64);
            }
        }
        Kind::Literal => drop(json.skip()?),
        Kind::Array => json.array(|json| prompt_text(json, blocks))?,
        Kind::Object => {
            let late = late_role(json)?;
            if let Some(role) = &late {
                blocks.role(role.as_bytes());
            }
            json.object(|json, key| part(json, key, late.is_some(), blocks))?;
        }
    }
    Ok(())
}

/// The role of a message that names it after something else. Templates put it first whatever the order of the keys,
/// and so does the router's own guess of the next turn. Most messages begin with it and are not read twice.
fn late_role(json: &Reader<'_>) -> Result<Option<String>, JsonError> {
    /// A message lies in a list of the body; deeper objects are parts of one, and reading those ahead at every depth
    /// would cost the square of it.
    const MESSAGE: u8 = 2;
    if json.depth() != MESSAGE || json.first_key().is_none_or(|key| key.is(b"role")) {
        return Ok(None);
    }
    let mut role = None;
    json.clone().object(|json, key| {
        if *key.whole() == *b"role" && role.is_none() {
            role = Some(short(json)?.unwrap_or_default());
        } else {
            json.skip()?;
        }
        Ok(())
    })?;
    Ok(role)
}

/// A member of a message or of a part of one; `spoken` if its role was taken before it.
fn part(json: &mut Reader<'_>, key: Text<'_>, spoken: bool, blocks: &mut Blocks) -> Result<(), JsonError> {
    match &*key.whole() {
        b"role" if spoken => drop(json.skip()?),
        b"role" => role(json, blocks)?,
        b"content" | b"text" | b"output" | b"refusal" => prompt_text(json, blocks)?,
        b"tool_calls" | b"function_call" | b"arguments" | b"name" | b"tool_call_id" => {
            let raw = json.skip()?;
            if raw != b"null" {
                blocks.text(raw);
            }
        }
        b"image_url" | b"input_audio" | b"file" | b"video_url" | b"audio_url" => {
            // An image's bytes are no text; its identity is.
            let raw = json.skip()?;
            blocks.text(&xxh3_64(raw).to_le_bytes());
        }
        _ => drop(json.skip()?),
    }
    Ok(())
}

/// Entry point of the fuzzer: must never panic, and must not depend on anything but its input.
#[cfg(any(test, feature = "testkit"))]
pub fn fuzz(data: &[u8]) {
    let (a, b) = (extract(data, 1), extract(data, 1));
    assert_eq!(a.map(|e| e.prompt.symbols).ok(), b.map(|e| e.prompt.symbols).ok());
}

#[cfg(test)]
mod tests;
