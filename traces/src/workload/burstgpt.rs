//! BurstGPT: CSV with columns by name, in the 6-column and the 8-column form: `Timestamp` (s), `Session ID` and
//! `Elapsed time` (8-column form only), `Model`, `Request tokens`, `Response tokens`, `Total tokens`, `Log Type`.
//! Rows with 0 tokens are failures and left out (about 8 %). No prefixes: every prompt is new.

use super::blocks::BLOCK_TOKENS;
use super::native::own_blocks;
use super::options::{Options, TimeUnit};
use super::parser::{Parser, Sink};
use super::table::Table;
use crate::error::{Bad, excerpt};
use gorgo_core::Time;
use gorgo_core::request::TraceRequest;
use std::collections::BTreeMap;

pub(crate) const COLUMNS: [&str; 3] = ["Timestamp", "Request tokens", "Response tokens"];
const OTHERS: [&str; 8] = [
    "Timestamp",
    "Request tokens",
    "Response tokens",
    "Session ID",
    "Elapsed time",
    "Model",
    "Total tokens",
    "Log Type",
];

#[derive(Debug)]
pub(crate) struct Burstgpt {
    table: Table,
    block_tokens: u32,
    unit_ms: f64,
    sessions: BTreeMap<String, (u64, u32)>, // name -> (row of its first request, turns)
}

impl Burstgpt {
    pub(crate) fn new(options: &Options) -> Self {
        let block_tokens = options.block_tokens.unwrap_or(BLOCK_TOKENS);
        Self {
            table: Table::default(),
            block_tokens,
            unit_ms: options.time_unit.map_or(1e3, TimeUnit::ms),
            sessions: BTreeMap::new(),
        }
    }
}

impl Parser for Burstgpt {
    fn row(&mut self, number: u64, text: &str, sink: &mut Sink) -> Result<(), Bad> {
        if !self.table.line(text, &COLUMNS)? {
            sink.header = true;
            return Ok(());
        }
        let stamp = self.table.get("Timestamp").unwrap_or_default();
        let at = stamp.parse().ok().filter(|s: &f64| (0.0..1.5e10).contains(s)).ok_or_else(|| {
            Bad::new("Timestamp", format!("is {:?}: it must be seconds since the start, not negative", excerpt(stamp)))
        })?;
        let (input_tokens, output_tokens) =
            (self.table.tokens("Request tokens")?, self.table.tokens("Response tokens")?);
        if input_tokens == 0 || output_tokens == 0 {
            sink.seen.drop_one("no prompt or no answer tokens (failed requests)");
            return Ok(());
        }
        // API rows have no session id: each is its own session.
        let (session, turn) = match self.table.get("Session ID") {
            None => (number, 1),
            Some(name) => {
                let entry = self.sessions.entry(name.to_owned()).or_insert((number, 0));
                entry.1 = entry.1.saturating_add(1);
                *entry
            }
        };
        self.table.unknown(&OTHERS).for_each(|name| sink.seen.unknown(name));
        let blocks = own_blocks(number, input_tokens, self.block_tokens);
        sink.ready.push_back(TraceRequest {
            turn,
            ..TraceRequest::lone(
                session,
                Time::from_ms(at * self.unit_ms),
                input_tokens,
                output_tokens,
                self.block_tokens,
                blocks,
            )
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::workload::{Format, Options, read_bytes};

    #[test]
    fn six_and_eight_columns_are_read_by_name_and_failures_left_out() {
        let six = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                   5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,Conversation log\n";
        let workload = read_bytes("b.csv", six.as_bytes(), &Options::default()).unwrap();
        assert_eq!((workload.format, workload.requests.len()), (Format::Burstgpt, 1));
        assert_eq!(workload.notes, ["1 left out: no prompt or no answer tokens (failed requests)"]);
        let eight = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                     5,a,1.2,GPT-4,10,18,28,Conversation log\n9,,1.2,GPT-4,10,18,28,API log\n12,a,3,GPT-4,30,18,48,Conversation log\n";
        let requests = read_bytes("b.csv", eight.as_bytes(), &Options::default()).unwrap().requests;
        assert_eq!(requests.iter().map(|r| (r.session, r.turn)).collect::<Vec<_>>(), [(0, 1), (1, 1), (0, 2)]);
    }

    #[test]
    fn bad_rows_name_the_column() {
        let head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n";
        let message = |row: &str| {
            read_bytes("b.csv", format!("{head}{row}").as_bytes(), &Options::default()).unwrap_err().to_string()
        };
        assert_eq!(
            message("-1,x,1,1,2,API log"),
            "b.csv:2: Timestamp is \"-1\": it must be seconds since the start, not negative"
        );
        assert_eq!(
            message("1,x,many,1,2,API log"),
            "b.csv:2: Request tokens is \"many\": it must be a whole number of tokens up to 4194304"
        );
    }
}
