//! Bailian (Qwen) traces: `chat_id`, `parent_chat_id` (-1: none), `timestamp` (s), lengths, `type`, `turn`, `hash_ids`
//! of 16 tokens a block. Rows of one conversation are linked by their parents.

use super::blocks::BLOCK_TOKENS;
use super::options::{Options, TimeUnit};
use super::parser::{Parser, Sink};
use super::row::{JsonRow, check_blocks, missing, wrong};
use crate::error::Bad;
use gorgo_core::Time;
use gorgo_core::request::TraceRequest;
use serde_json::Value;
use std::collections::BTreeMap;

const KNOWN: [&str; 8] =
    ["chat_id", "parent_chat_id", "timestamp", "input_length", "output_length", "type", "turn", "hash_ids"];

#[derive(Debug)]
pub(crate) struct Bailian {
    block_tokens: u32,
    unit_ms: f64,
    root: BTreeMap<u64, u64>, // chat -> first chat of its conversation
}

impl Bailian {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            block_tokens: options.block_tokens.unwrap_or(BLOCK_TOKENS),
            unit_ms: options.time_unit.map_or(1e3, TimeUnit::ms),
            root: BTreeMap::new(),
        }
    }
}

impl Parser for Bailian {
    fn row(&mut self, _number: u64, text: &str, sink: &mut Sink) -> Result<(), Bad> {
        let row = JsonRow::parse(text)?;
        let chat = row.id("chat_id")?.ok_or_else(|| missing("chat_id", "a whole number"))?;
        let parent = match row.get("parent_chat_id") {
            None => None,
            Some(v) if v.as_i64() == Some(-1) => None,
            Some(Value::Number(n)) if n.is_u64() => n.as_u64(),
            Some(other) => return Err(wrong("parent_chat_id", other, "must be a chat id or -1")),
        };
        let at = row.time_ms("timestamp", self.unit_ms)?.ok_or_else(|| missing("timestamp", "s since the start"))?;
        let input_tokens = row.need_tokens("input_length", 1)?;
        let output_tokens = row.need_tokens("output_length", 1)?;
        let ids = row.ids("hash_ids")?.ok_or_else(|| missing("hash_ids", "a list of block ids"))?;
        check_blocks("hash_ids", ids.len(), input_tokens, self.block_tokens)?;
        let turn = row.tokens("turn", 1)?.unwrap_or(1);
        // A parent before the start of the window is the root by its own name.
        let session = parent.map_or(chat, |p| self.root.get(&p).copied().unwrap_or(p));
        self.root.insert(chat, session);
        row.unknown(&KNOWN).for_each(|name| sink.seen.unknown(name));
        let blocks = ids.into();
        let row =
            TraceRequest::lone(session, Time::from_ms(at), input_tokens, output_tokens, self.block_tokens, blocks);
        sink.ready.push_back(TraceRequest { turn, ..row });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::workload::{Format, Options, read_bytes};

    #[test]
    fn parents_chain_into_one_session_and_answers_are_linked() {
        let text = r#"{"chat_id":7,"parent_chat_id":-1,"timestamp":0.5,"input_length":20,"output_length":20,"type":"text","turn":1,"hash_ids":[1,2]}
{"chat_id":8,"parent_chat_id":7,"timestamp":9.5,"input_length":50,"output_length":4,"type":"text","turn":2,"hash_ids":[1,3,4,5]}
{"chat_id":9,"parent_chat_id":8,"timestamp":20,"input_length":60,"output_length":4,"type":"text","turn":3,"hash_ids":[1,3,4,6]}
{"chat_id":10,"parent_chat_id":-1,"timestamp":21,"input_length":5,"output_length":4,"type":"text","turn":1,"hash_ids":[9]}"#;
        let workload = read_bytes("q", text.as_bytes(), &Options::default()).unwrap();
        assert_eq!(workload.format, Format::Bailian);
        assert_eq!(workload.requests.iter().map(|r| r.session).collect::<Vec<_>>(), [7, 7, 7, 10]);
        assert_eq!(workload.requests[1].at.ms(), 9_000.0);
        assert_eq!(
            workload.requests[0].answer_blocks[..],
            [3],
            "prompt and answer are 40 tokens: one more whole block"
        );
    }

    #[test]
    fn a_parent_of_the_wrong_kind_is_named() {
        let text =
            r#"{"chat_id":7,"parent_chat_id":"x","timestamp":0,"input_length":1,"output_length":1,"hash_ids":[1]}"#;
        let message = read_bytes("q", text.as_bytes(), &Options::default()).unwrap_err().to_string();
        assert_eq!(message, "q:1: parent_chat_id is \"x\": it must be a chat id or -1");
    }
}
