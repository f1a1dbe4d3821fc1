//! The native trace: one JSON object a line, a superset of Mooncake's.
//!
//! | field | meaning |
//! |---|---|
//! | `timestamp` | ms since the start of the trace |
//! | `delay` | instead of `timestamp`, in a session's later turns: ms from the end of the turn before to this one |
//! | `session_id`, `user_id` | text or whole number; absent: the row is a session, the session a user |
//! | `turn` | 1-based; absent: counted per session |
//! | `country`, `state`, `city`, `lat`, `lon` | where the user is; coordinates win, (0, 0) counts as unknown |
//! | `input_length`, `output_length`, `max_tokens` | tokens |
//! | `hash_ids`, `block_size` | chained ids of the prompt's blocks, 512 tokens unless told |
//! | `hash_runs` | instead of `hash_ids`: runs of ids as `[first, count]`; a last block that is not full may have none |
//! | `answer_hash_ids` | ids of the whole blocks that prompt and answer add after the prompt's whole blocks |
//! | `messages` | instead of `hash_ids`: `{role, content, tokens?}`; the prompt length is then counted from them |
//! | `router_tokens` | prompt tokens as the router counts them, where it counts other than the engine |
//! | `refused` | true: engines answer 400 before any work |
//! | `model`, `language` | ignored |
//!
//! With the option `prompts = "added"`, lengths, ids and messages are what a turn adds to the prompts and answers of its
//! session before it. Fields beyond these are ignored, counted and reported. A row with neither ids nor messages shares no prefix.

use super::blocks::{BLOCK_TOKENS, BlockChain, Counting, mix};
use super::messages::{self, Message};
use super::options::{Options, Prompts, TimeUnit};
use super::parser::{Parser, Sink, answer_len};
use super::row::{JsonRow, MAX_TOKENS, check_blocks, missing, wrong};
use crate::error::{Bad, TraceError};
use crate::geo::{self, is_real};
use gorgo_core::request::{Place, TraceRequest};
use gorgo_core::{Span, Time};
use rustc_hash::FxHashMap;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;

pub(crate) const KNOWN: [&str; 22] = [
    "timestamp",
    "delay",
    "session_id",
    "user_id",
    "turn",
    "country",
    "state",
    "city",
    "lat",
    "lon",
    "input_length",
    "output_length",
    "max_tokens",
    "hash_ids",
    "hash_runs",
    "block_size",
    "answer_hash_ids",
    "messages",
    "router_tokens",
    "refused",
    "model",
    "language",
];

/// Block size of rows with ids but without a size: Mooncake's.
pub const DEFAULT_BLOCK_SIZE: u32 = 512;

#[derive(Debug)]
pub(crate) struct Native {
    options: Options,
    sessions: BTreeMap<u64, Session>,
}

/// What is known of a session from its rows so far.
#[derive(Debug)]
struct Session {
    turn: u32,
    at_ms: f64,
    /// Its turns wait for each other.
    closed: bool,
    /// Prompts and answers so far, where rows hold what is added.
    history: Option<BlockChain>,
}

impl Native {
    pub(crate) fn new(options: &Options) -> Self {
        Self { options: options.clone(), sessions: BTreeMap::new() }
    }
}

/// The prompt of a row that shares nothing with any other.
pub(crate) fn own_blocks(row: u64, tokens: u32, block_tokens: u32) -> std::sync::Arc<[u64]> {
    let start = mix(0x6f77_6e00, row);
    (0..tokens.div_ceil(block_tokens)).map(|i| mix(start, u64::from(i))).collect()
}

/// How options want text counted.
pub(crate) fn counting(options: &Options) -> Counting {
    options.bytes_per_token.map_or(Counting::Script, Counting::BytesPerToken)
}

/// As [`whereabouts`]; counts names of countries that are in no table.
pub(crate) fn noted_whereabouts(row: &JsonRow, sink: &mut Sink) -> Result<(Option<[u8; 2]>, Option<Place>), Bad> {
    let found = whereabouts(row)?;
    if let (None, Some(name)) = (found.0, row.text("country")?.map(str::trim).filter(|name| !name.is_empty())) {
        sink.seen.unknown_country(name, sink.line);
    }
    Ok(found)
}

/// Country and place of a row: coordinates if they are real, else names.
pub(crate) fn whereabouts(row: &JsonRow) -> Result<(Option<[u8; 2]>, Option<Place>), Bad> {
    let names = geo::locate(row.text("country")?, row.text("state")?, row.text("city")?);
    let (lat, lon) = (row.number("lat")?, row.number("lon")?);
    for (field, value, most) in [("lat", lat, 90.0), ("lon", lon, 180.0)] {
        if value.is_some_and(|v| v.abs() > most) {
            let shown = row.get(field).cloned().unwrap_or_default();
            return Err(wrong(field, &shown, &format!("must be degrees from -{most} to {most}")));
        }
    }
    for (field, value, other) in [("lat", lat, lon), ("lon", lon, lat)] {
        if value.is_none() && other.is_some() {
            let has = if field == "lat" { "lon" } else { "lat" };
            return Err(Bad::new(field, format!("is missing: a row with `{has}` needs both coordinates, or neither")));
        }
    }
    let given = lat.zip(lon).map(|(lat, lon)| Place { lat, lon }).filter(|&p| is_real(p));
    Ok((names.country, given.or(names.place)))
}

impl Parser for Native {
    fn row(&mut self, number: u64, text: &str, sink: &mut Sink) -> Result<(), Bad> {
        let mut row = JsonRow::parse(text)?;
        row.has_all(&self.options.columns)?;
        row.rename(&self.options.columns);
        self.parsed(number, &row, self.options.time_unit.map_or(1.0, TimeUnit::ms), sink)
    }
}

impl Native {
    /// The time of a row and the delay of a turn that waits for the one before it, ms. Such a turn has its session's time.
    fn times(&self, row: &JsonRow, session: u64, unit_ms: f64, sink: &mut Sink) -> Result<(f64, Option<f64>), Bad> {
        let at = row.time_ms("timestamp", unit_ms)?;
        let delay = row.number("delay")?.map(|delay| delay * unit_ms);
        if let (Some(shown), Some(ms)) = (row.get("delay"), delay)
            && !(0.0..1.5e13).contains(&ms)
        {
            return Err(wrong("delay", shown, "must be a time after the end of the turn before, not negative"));
        }
        if delay.is_some() && row.get("session_id").is_none() {
            return Err(missing("session_id", "a session to have a `delay` after its turn before"));
        }
        match (self.sessions.get(&session), at, delay) {
            (Some(before), at, Some(delay)) => {
                if at.is_some_and(|at| at != before.at_ms) {
                    sink.seen.remark("times of turns with a `delay` are not used: they wait for the turn before them");
                }
                Ok((before.at_ms, Some(delay)))
            }
            (Some(before), _, None) if before.closed => {
                Err(missing("delay", "one in a session whose turn before has one"))
            }
            // A session's first turn waits for nothing.
            (_, Some(at), given) => {
                if given.is_some_and(|delay| delay > 0.0) {
                    sink.seen.remark("the `delay` of a session's first turn is not used: no turn is before it");
                }
                Ok((at, None))
            }
            (_, None, Some(delay)) => {
                sink.seen.remark("the `delay` of a session's first turn is its time, because it has no `timestamp`");
                Ok((delay, None))
            }
            (_, None, None) => Err(missing("timestamp", "a time")),
        }
    }

    /// Reads a row whose times are in units of `unit_ms`.
    pub(crate) fn parsed(&mut self, number: u64, row: &JsonRow, unit_ms: f64, sink: &mut Sink) -> Result<(), Bad> {
        let session = row.id("session_id")?.unwrap_or(number);
        let (at_ms, delay) = self.times(row, session, unit_ms, sink)?;
        let user = row.id("user_id")?.unwrap_or(session);
        let (country, place) = noted_whereabouts(row, sink)?;
        let output_tokens = row.need_tokens("output_length", 1)?;
        let given_block = row.tokens("block_size", 1)?;
        let mut symbols = None;
        let (ids, runs) = match row.ids("hash_ids")? {
            Some(ids) => (Some(ids), false),
            None => (row.id_runs("hash_runs")?, true),
        };
        let textless = |has: &str| format!("are missing: min_chars needs texts, and this row has {has} only");
        let (mut input_tokens, mut block_tokens, mut blocks) = if let Some(mut ids) = ids {
            if self.options.min_chars > 0 {
                return Err(Bad::new("messages", textless("block ids")));
            }
            let block = given_block.or(self.options.block_tokens).unwrap_or(DEFAULT_BLOCK_SIZE);
            let input = row.need_tokens("input_length", 1)?;
            if runs && input % block > 0 && ids.len() == (input / block) as usize {
                ids.push(mix(0x7061_7274, number)); // a partial block without an id is like no other
            }
            check_blocks(if runs { "hash_runs" } else { "hash_ids" }, ids.len(), input, block)?;
            (input, block, ids.into())
        } else if let Some(list) = row.get("messages") {
            let block = given_block.or(self.options.block_tokens).unwrap_or(BLOCK_TOKENS);
            let messages = messages::parse("messages", list)?;
            sink.seen.texts = true;
            let last_user = messages.iter().rev().find(|m| m.role == "user").map_or("", |m| m.content.as_str());
            if last_user.trim().chars().count() < self.options.min_chars {
                sink.seen.drop_one("last user message shorter than min_chars");
                return Ok(());
            }
            let mut chain = BlockChain::new(block);
            let counting = counting(&self.options);
            let all: Vec<u64> = messages.iter().flat_map(|m: &Message| m.symbols(counting)).collect();
            chain.extend(all.iter().copied());
            symbols = Some(all);
            let tokens = u32::try_from(chain.tokens()).unwrap_or(u32::MAX);
            if row.tokens("input_length", 0)?.is_some_and(|given| given != tokens) {
                sink.seen.remark(
                    "rows with messages have an input_length, too, which is not used: their prompts are counted from the \
                     messages; give `tokens` of each message, or leave the messages out",
                );
            }
            (tokens, block, chain.ids())
        } else {
            if self.options.min_chars > 0 {
                return Err(Bad::new("messages", textless("lengths")));
            }
            let block = given_block.or(self.options.block_tokens).unwrap_or(BLOCK_TOKENS);
            let input = row.need_tokens("input_length", 1)?;
            (input, block, own_blocks(number, input, block))
        };
        let turn = row.whole("turn", 1, "")?;
        let mut history = None;
        if self.options.prompts == Prompts::Added {
            let before = self.sessions.get_mut(&session).and_then(|s| s.history.take());
            let mut chain = before.unwrap_or_else(|| BlockChain::new(block_tokens));
            if chain.tokens() + u64::from(input_tokens) + u64::from(output_tokens) > u64::from(MAX_TOKENS) {
                let problem = format!("makes, with its session before it, more than {MAX_TOKENS} tokens");
                return Err(Bad::new("input_length", problem));
            }
            match symbols {
                Some(symbols) => chain.extend(symbols),
                None => chain.extend((0..input_tokens).map(|i| mix(blocks[(i / block_tokens) as usize], u64::from(i)))),
            }
            (input_tokens, block_tokens, blocks) = (chain.tokens() as u32, chain.block_tokens(), chain.ids());
            history = Some(chain);
        }
        let mut request = TraceRequest {
            at: Time::from_ms(at_ms),
            session,
            user,
            turn: 0,
            place,
            country,
            input_tokens,
            output_tokens,
            max_tokens: row.tokens("max_tokens", 1)?,
            block_tokens,
            blocks,
            router_tokens: row.tokens("router_tokens", 1)?,
            refused: row.flag("refused")?,
            answer_blocks: [].into(),
            delay: delay.map(Span::from_ms),
            awaited: false,
        };
        if request.max_tokens.is_some_and(|most| most < output_tokens) {
            sink.seen.remark("rows have an output_length above their max_tokens, at which an engine ends the answer");
        }
        if let Some(chain) = &mut history {
            let (whole, answer) = (chain.whole_len(), mix(session, number));
            chain.extend((0..output_tokens).map(|i| mix(answer, u64::from(i))));
            request.answer_blocks = chain.whole_from(whole);
        } else if let Some(ids) = row.ids("answer_hash_ids")? {
            let need = answer_len(&request);
            if ids.len() != need {
                let problem = format!("holds {} ids: prompt and answer add {need} whole blocks", ids.len());
                return Err(Bad::new("answer_hash_ids", problem));
            }
            request.answer_blocks = ids.into();
        }
        let known = Session { turn: 0, at_ms, closed: false, history: None };
        let state = self.sessions.entry(session).or_insert(known);
        state.turn = turn.unwrap_or(state.turn.saturating_add(1));
        (state.history, state.closed) = (history, state.closed || delay.is_some());
        request.turn = state.turn;
        row.unknown(&KNOWN).for_each(|name| sink.seen.unknown(name));
        sink.ready.push_back(request);
        Ok(())
    }
}

/// Writes requests as native rows. Block ids become small numbers in the order of their first appearance, which
/// keeps their structure and makes files small; times are written to the nanosecond and degrees to the metre.
///
/// # Errors
/// When `out` cannot be written; `file` names it.
pub fn write<'a>(
    file: &str,
    mut out: impl Write,
    requests: impl IntoIterator<Item = &'a TraceRequest>,
) -> Result<(), TraceError> {
    let mut names: FxHashMap<u64, u64> = FxHashMap::default(); // looked up only, never iterated
    let mut name = |ids: &[u64]| -> Vec<u64> {
        let mut dense = Vec::with_capacity(ids.len());
        for &id in ids {
            let next = names.len() as u64;
            dense.push(*names.entry(id).or_insert(next));
        }
        dense
    };
    for request in requests {
        let line = to_row(request, &name(&request.blocks), &name(&request.answer_blocks));
        writeln!(out, "{line}").map_err(|source| TraceError::Write { file: file.to_owned(), source })?;
    }
    out.flush().map_err(|source| TraceError::Write { file: file.to_owned(), source })
}

/// Five decimals are a metre; more would only be digits.
fn degrees(value: f64) -> f64 {
    (value * 1e5).round() / 1e5
}

fn to_row(r: &TraceRequest, blocks: &[u64], answer: &[u64]) -> Value {
    let ms = r.at.ms();
    let mut row = json!({
        "timestamp": if ms.fract() == 0.0 { json!(ms as u64) } else { json!(ms) },
        "session_id": r.session, "user_id": r.user, "turn": r.turn,
        "input_length": r.input_tokens, "output_length": r.output_tokens,
        "block_size": r.block_tokens, "hash_ids": blocks,
    });
    if !answer.is_empty() {
        row["answer_hash_ids"] = answer.into();
    }
    if let Some(delay) = r.delay {
        row["delay"] = delay.ms().into();
    }
    if let Some(most) = r.max_tokens {
        row["max_tokens"] = most.into();
    }
    if let Some(tokens) = r.router_tokens {
        row["router_tokens"] = tokens.into();
    }
    if r.refused {
        row["refused"] = true.into();
    }
    if let Some(code) = r.country {
        row["country"] = String::from_utf8_lossy(&code).into();
    }
    if let Some(place) = r.place {
        row["lat"] = degrees(place.lat).into();
        row["lon"] = degrees(place.lon).into();
    }
    row
}

#[cfg(test)]
mod tests;
