//! Mooncake FAST'25 traces: `timestamp` (ms), `input_length`, `output_length`, `hash_ids` of 512 tokens a block.
//! No users and no sessions: each row is its own.

use super::native::DEFAULT_BLOCK_SIZE;
use super::options::{Options, TimeUnit};
use super::parser::{Parser, Sink};
use super::row::{JsonRow, check_blocks, missing};
use crate::error::Bad;
use gorgo_core::Time;
use gorgo_core::request::TraceRequest;

const KNOWN: [&str; 4] = ["timestamp", "input_length", "output_length", "hash_ids"];

#[derive(Debug)]
pub(crate) struct Mooncake {
    block_tokens: u32,
    unit_ms: f64,
}

impl Mooncake {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            block_tokens: options.block_tokens.unwrap_or(DEFAULT_BLOCK_SIZE),
            unit_ms: options.time_unit.map_or(1.0, TimeUnit::ms),
        }
    }
}

impl Parser for Mooncake {
    fn row(&mut self, number: u64, text: &str, sink: &mut Sink) -> Result<(), Bad> {
        let row = JsonRow::parse(text)?;
        let at = row.time_ms("timestamp", self.unit_ms)?.ok_or_else(|| missing("timestamp", "ms since the start"))?;
        let input_tokens = row.need_tokens("input_length", 1)?;
        let output_tokens = row.need_tokens("output_length", 1)?;
        let ids = row.ids("hash_ids")?.ok_or_else(|| missing("hash_ids", "a list of block ids"))?;
        check_blocks("hash_ids", ids.len(), input_tokens, self.block_tokens)?;
        row.unknown(&KNOWN).for_each(|name| sink.seen.unknown(name));
        let blocks = ids.into();
        sink.ready.push_back(TraceRequest::lone(
            number,
            Time::from_ms(at),
            input_tokens,
            output_tokens,
            self.block_tokens,
            blocks,
        ));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::workload::{Options, read_bytes};

    #[test]
    fn equal_stamps_are_spread_over_a_tick_unless_told_otherwise() {
        let row =
            |t: u32, id: u32| format!(r#"{{"timestamp":{t},"input_length":9,"output_length":1,"hash_ids":[{id}]}}"#);
        let text =
            [row(0, 1), row(0, 2), row(0, 3), row(3000, 4), row(3000, 5), row(99_000, 6), row(99_000, 7)].join("\n");
        let times = |options: &Options| -> Vec<f64> {
            read_bytes("t", text.as_bytes(), options).unwrap().requests.iter().map(|r| r.at.ms()).collect()
        };
        assert_eq!(times(&Options::default()), [0.0, 1000.0, 2000.0, 3000.0, 4500.0, 99_000.0, 100_500.0]);
        assert_eq!(
            times(&Options { spread: false, ..Options::default() }),
            [0.0, 0.0, 0.0, 3000.0, 3000.0, 99_000.0, 99_000.0]
        );
    }

    #[test]
    fn too_few_ids_are_a_bad_row_and_can_be_skipped() {
        let text = "{\"timestamp\":0,\"input_length\":9,\"output_length\":1,\"hash_ids\":[1]}\n{\"timestamp\":0,\"input_length\":900,\"output_length\":1,\"hash_ids\":[1]}\nnot json";
        let message = read_bytes("m.jsonl", text.as_bytes(), &Options::default()).unwrap_err().to_string();
        assert_eq!(
            message,
            "m.jsonl:2: hash_ids holds 1 ids: 900 tokens in blocks of 512 make 2; block_tokens = 1024 (--block-tokens 1024) would fit"
        );
        let kept = read_bytes("m.jsonl", text.as_bytes(), &Options { skip_bad: true, ..Options::default() }).unwrap();
        assert_eq!((kept.requests.len(), kept.seen.rows, kept.seen.skipped), (1, 3, 2));
        assert!(kept.notes[0].starts_with("2 of 3 rows were bad and skipped; the first: m.jsonl:2: hash_ids"));
    }
}
