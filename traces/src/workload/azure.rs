//! Azure LLM inference traces (2023): CSV of `TIMESTAMP` (calendar, seven-digit fraction), `ContextTokens`,
//! `GeneratedTokens`. No users, sessions or prefixes: every prompt is new.

use super::blocks::BLOCK_TOKENS;
use super::native::own_blocks;
use super::options::Options;
use super::parser::{Parser, Sink};
use super::table::Table;
use crate::calendar::parse_utc;
use crate::error::{Bad, excerpt};
use gorgo_core::Time;
use gorgo_core::request::TraceRequest;

pub(crate) const COLUMNS: [&str; 3] = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];

#[derive(Debug)]
pub(crate) struct Azure {
    table: Table,
    block_tokens: u32,
}

impl Azure {
    pub(crate) fn new(options: &Options) -> Self {
        Self { table: Table::default(), block_tokens: options.block_tokens.unwrap_or(BLOCK_TOKENS) }
    }
}

impl Parser for Azure {
    fn row(&mut self, number: u64, text: &str, sink: &mut Sink) -> Result<(), Bad> {
        if !self.table.line(text, &COLUMNS)? {
            sink.header = true;
            return Ok(());
        }
        let stamp = self.table.get("TIMESTAMP").unwrap_or_default();
        let at = parse_utc(stamp).ok_or_else(|| {
            Bad::new("TIMESTAMP", format!("is {:?}: it must be like 2023-11-16 18:15:46.6805900", excerpt(stamp)))
        })?;
        let (input_tokens, output_tokens) =
            (self.table.tokens("ContextTokens")?, self.table.tokens("GeneratedTokens")?);
        if input_tokens == 0 || output_tokens == 0 {
            sink.seen.drop_one("no prompt or no answer tokens");
            return Ok(());
        }
        self.table.unknown(&COLUMNS).for_each(|name| sink.seen.unknown(name));
        let blocks = own_blocks(number, input_tokens, self.block_tokens);
        sink.ready.push_back(TraceRequest::lone(
            number,
            Time(at),
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
    use crate::workload::{Format, Options, read_bytes};

    const HEAD: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n";

    #[test]
    fn stamps_become_times_since_the_first_row() {
        let text = format!("{HEAD}2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n");
        let workload = read_bytes("a.csv", text.as_bytes(), &Options::default()).unwrap();
        assert_eq!(workload.format, Format::Azure);
        let [a, b] = workload.requests.as_slice() else { panic!("two rows") };
        assert_eq!((a.at.ms(), b.at.ms(), b.input_tokens, b.output_tokens), (0.0, 4314.579, 396, 109));
        assert!(a.blocks.iter().all(|id| !b.blocks.contains(id)), "Azure tells no shared prefixes");
    }

    #[test]
    fn bad_rows_name_the_column() {
        let message = |row: &str| {
            read_bytes("a.csv", format!("{HEAD}{row}\n").as_bytes(), &Options::default()).unwrap_err().to_string()
        };
        assert_eq!(
            message("yesterday,1,1"),
            "a.csv:2: TIMESTAMP is \"yesterday\": it must be like 2023-11-16 18:15:46.6805900"
        );
        assert_eq!(
            message("2023-11-16 18:15:46,-3,1"),
            "a.csv:2: ContextTokens is \"-3\": it must be a whole number of tokens up to 4194304"
        );
        assert_eq!(message("2023-11-16 18:15:46,3"), "a.csv:2: row has 2 fields: the header has 3");
    }
}
