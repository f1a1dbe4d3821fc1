//! WildChat conversations (1M or 4.8M rows as JSON): `conversation` or `messages`, `timestamp`, `country`, `state`,
//! `hashed_ip`, `header`. Every conversation gives one request a turn, or one in all ([`super::Per`]).
//!
//! The row's `timestamp` is the end of the *last* turn. A turn's request time is its answer's own stamp minus the
//! answer's modelled duration; without such stamps the last time is walked back by answers and think times.

use super::blocks::{BLOCK_TOKENS, BlockChain, Counting};
use super::messages;
use super::native::{counting, noted_whereabouts};
use super::options::{Options, Per};
use super::parser::{Parser, Sink, answer_len};
use super::row::{JsonRow, missing, wrong};
use crate::calendar::parse_utc;
use crate::error::Bad;
use gorgo_core::request::TraceRequest;
use gorgo_core::{Span, Time};
use serde_json::Value;
use std::collections::BTreeMap;

/// Think time between an answer and the next user message (estimate; no source publishes it).
pub const THINK: Span = Span(40_000_000_000);
/// Duration of an answer, ns per token: 25 ms, about what chat services of 2023 streamed at (estimate).
pub const ANSWER_NS_PER_TOKEN: u64 = 25_000_000;

const KNOWN: [&str; 31] = [
    "id",
    "conversation_id",
    "conversation_hash",
    "conversation",
    "messages",
    "model",
    "timestamp",
    "turn",
    "turns",
    "language",
    "country",
    "iso2",
    "state",
    "city",
    "lat",
    "lon",
    "location_source",
    "tz",
    "hashed_ip",
    "header",
    "toxic",
    "redacted",
    "openai_moderation",
    "detoxify_moderation",
    "created",
    "usage",
    "openai_id",
    "temperature",
    "top_p",
    "turn_identifier",
    "system_fingerprint",
];

#[derive(Debug)]
pub(crate) struct Wildchat {
    options: Options,
    users: BTreeMap<String, u64>, // hashed_ip + header -> row of its first conversation
}

/// One conversation, as far as requests need it.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<messages::Message>,
    /// Stamps of the messages, where they have one.
    stamps: Vec<Option<u64>>,
    /// The row, for places and keys.
    row: JsonRow,
}

impl Conversation {
    pub(crate) fn parse(text: &str) -> Result<Self, Bad> {
        let mut row = JsonRow::parse(text)?;
        if let Some(Value::Array(mut list)) = row.0.remove("conversations") {
            list.iter_mut().for_each(chat_message);
            row.0.insert("conversation".to_owned(), Value::Array(list));
        }
        let field = if row.get("conversation").is_some() { "conversation" } else { "messages" };
        let list = row.get(field).ok_or_else(|| missing("conversation", "the list of its messages"))?;
        let messages = messages::parse(field, list)?;
        let stamp = |item: &Value| item.get("timestamp").and_then(instant);
        let stamps = list.as_array().map(|items| items.iter().map(stamp).collect()).unwrap_or_default();
        Ok(Self { messages, stamps, row })
    }

    /// The row with its place fields filled from the first message that has a country, where it has none itself.
    pub(crate) fn located(&self) -> JsonRow {
        let mut row = JsonRow(
            self.row
                .0
                .iter()
                .filter(|(k, _)| PLACE.contains(&k.as_str()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        );
        if row.get("country").is_none() {
            let field = if self.row.get("conversation").is_some() { "conversation" } else { "messages" };
            let items = self.row.get(field).and_then(Value::as_array).into_iter().flatten();
            let known = items.filter_map(Value::as_object).find(|m| m.get("country").is_some_and(Value::is_string));
            for name in ["country", "state"] {
                if let Some(value) = known.and_then(|m| m.get(name)) {
                    row.0.insert(name.to_owned(), value.clone());
                }
            }
        }
        row
    }

    /// End of the last turn, ns since 1970; `None` for a conversation without times.
    fn end(&self) -> Result<Option<u64>, Bad> {
        match self.row.get("timestamp") {
            Some(value) => instant(value).map(Some).ok_or_else(|| {
                wrong("timestamp", value, "must be a calendar time such as 2023-04-09T00:02:53Z or a Unix time")
            }),
            None => Ok(self.stamps.iter().rev().flatten().next().copied()),
        }
    }
}

/// ShareGPT's `from` and `value` as role and content.
fn chat_message(message: &mut Value) {
    let Some(fields) = message.as_object_mut() else { return };
    if let Some(content) = fields.remove("value") {
        fields.entry("content").or_insert(content);
    }
    if let Some(Value::String(from)) = fields.remove("from") {
        let role = match from.as_str() {
            "human" => "user",
            "gpt" | "chatgpt" | "bing" | "bard" => "assistant",
            other => other,
        };
        fields.entry("role").or_insert_with(|| role.into());
    }
}

const PLACE: [&str; 5] = ["country", "state", "city", "lat", "lon"];

/// A calendar timestamp, or a Unix time in s, ms, µs or ns, recognised from its size.
fn instant(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => parse_utc(text),
        Value::Number(n) => {
            let n = n.as_f64().filter(|n| *n >= 0.0)?;
            let unit = [(1e11, 1e9), (1e14, 1e6), (1e17, 1e3), (7e18, 1.0)].into_iter().find(|(most, _)| n < *most)?.1;
            Some((n * unit) as u64)
        }
        _ => None,
    }
}

impl Wildchat {
    pub(crate) fn new(options: &Options) -> Self {
        Self { options: options.clone(), users: BTreeMap::new() }
    }

    fn user(&mut self, row: &JsonRow, number: u64) -> u64 {
        let Some(ip) = row.get("hashed_ip").and_then(Value::as_str).filter(|ip| !ip.is_empty()) else { return number };
        let header = row.get("header").map(Value::to_string).unwrap_or_default();
        *self.users.entry(format!("{ip}\n{header}")).or_insert(number)
    }
}

impl Parser for Wildchat {
    fn row(&mut self, number: u64, text: &str, sink: &mut Sink) -> Result<(), Bad> {
        let conversation = Conversation::parse(text)?;
        let end = conversation.end()?;
        let (country, place) = noted_whereabouts(&conversation.located(), sink)?;
        sink.seen.texts = true;
        let user = self.user(&conversation.row, number);
        let counting = counting(&self.options);
        let turns = Turns::new(&conversation.messages, self.options.per, self.options.min_chars, counting);
        let block_tokens = self.options.block_tokens.unwrap_or(BLOCK_TOKENS);
        let mut found = turns.requests(block_tokens, sink);
        // Without times, conversations begin one a second.
        let end = end.unwrap_or_else(|| {
            sink.seen.remark("conversations without times: they begin one a second, their turns follow by estimated pauses; give a rate for another load");
            let lasts = |(request, _): &(TraceRequest, usize)| u64::from(request.output_tokens) * ANSWER_NS_PER_TOKEN;
            let pauses = (found.len() as u64).saturating_sub(1) * THINK.0;
            number * 1_000_000_000 + found.iter().map(lasts).sum::<u64>() + pauses
        });
        // Walk back from the end for turns without a stamp of their own.
        let mut end_of_turn = end;
        for (request, answer_at) in found.iter_mut().rev() {
            let answer_end = conversation.stamps.get(*answer_at).copied().flatten().unwrap_or(end_of_turn).min(end);
            request.at = Time(answer_end.saturating_sub(u64::from(request.output_tokens) * ANSWER_NS_PER_TOKEN));
            end_of_turn = request.at.0.saturating_sub(THINK.0);
        }
        let mut floor = Time::ZERO;
        for (request, _) in found {
            let at = request.at.max(floor);
            floor = at + Span(1_000_000); // turns of one conversation never swap
            sink.ready.push_back(TraceRequest { at, session: number, user, country, place, ..request });
        }
        conversation.row.unknown(&KNOWN).for_each(|name| sink.seen.unknown(name));
        Ok(())
    }
}

/// Roles of messages that chat formats know.
const ROLES: [&str; 9] =
    ["user", "assistant", "system", "developer", "tool", "function", "observation", "function_call", "tool_call"];

/// The user messages of a conversation that become requests.
struct Turns<'a> {
    messages: &'a [messages::Message],
    per: Per,
    min_chars: usize,
    counting: Counting,
}

impl<'a> Turns<'a> {
    fn new(messages: &'a [messages::Message], per: Per, min_chars: usize, counting: Counting) -> Self {
        Self { messages, per, min_chars, counting }
    }

    /// Requests without time, user and place, each with the index of its answer's message.
    fn requests(&self, block_tokens: u32, sink: &mut Sink) -> Vec<(TraceRequest, usize)> {
        let mut chain = BlockChain::new(block_tokens);
        let mut found: Vec<(TraceRequest, usize)> = Vec::new();
        let mut turn = 0;
        if let Some(other) = self.messages.iter().find(|message| !ROLES.contains(&message.role.as_str())) {
            sink.seen.unknown_role(&other.role, sink.line);
        }
        if self.messages.iter().all(|message| message.role != "user") {
            sink.seen.drop_one("conversation without a message of the role `user` (ShareGPT: `human`)");
        }
        for (at, message) in self.messages.iter().enumerate() {
            if message.role == "user" {
                turn += 1;
                if self.per == Per::FirstPrompt {
                    chain = BlockChain::new(block_tokens);
                }
            }
            chain.extend(message.symbols(self.counting));
            if message.role != "user" || (self.per == Per::FirstPrompt && turn > 1) {
                continue;
            }
            if message.content.trim().chars().count() < self.min_chars {
                sink.seen.drop_one("user message shorter than min_chars");
                continue;
            }
            let Some(answer) = self.messages.get(at + 1).filter(|m| m.role == "assistant") else {
                sink.seen.drop_one("user message without an answer");
                continue;
            };
            let answer = answer.symbols(self.counting);
            let mut answered = chain.clone();
            answered.extend(answer.iter().copied());
            let mut request = TraceRequest {
                at: Time::ZERO,
                session: 0,
                user: 0,
                turn,
                place: None,
                country: None,
                input_tokens: u32::try_from(chain.tokens()).unwrap_or(u32::MAX),
                output_tokens: answer.len() as u32,
                max_tokens: None,
                block_tokens,
                blocks: chain.ids(),
                router_tokens: None,
                refused: false,
                answer_blocks: [].into(),
                delay: None,
                awaited: false,
            };
            request.answer_blocks = answered.whole_from(chain.whole_len());
            debug_assert_eq!(request.answer_blocks.len(), answer_len(&request));
            found.push((request, at + 1));
        }
        if self.per == Per::Conversation {
            found.drain(..found.len().saturating_sub(1));
        }
        found
    }
}

#[cfg(test)]
mod tests;
