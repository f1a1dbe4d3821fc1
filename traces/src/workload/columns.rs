//! Traces that are tables of time, prompt and answer length under names of their own: Vidur, splitwise-sim, LLMServingSim,
//! BLIS, vLLM's timed trace, GuideLLM, and any file whose columns are named by the options `columns` and `time_unit`. Each row becomes a native one.

use super::blocks::BLOCK_TOKENS;
use super::format::Format;
use super::native::Native;
use super::options::{Options, TimeUnit};
use super::parser::{Parser, Sink};
use super::row::{JsonRow, missing};
use super::table::Table;
use crate::calendar::parse_utc;
use crate::error::Bad;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The names of a format's time, prompt length and answer length, and the unit of its times.
struct Layout {
    format: Format,
    names: [&'static str; 3],
    unit: TimeUnit,
}

const LAYOUTS: [Layout; 6] = [
    Layout {
        format: Format::Vidur,
        names: ["arrived_at", "num_prefill_tokens", "num_decode_tokens"],
        unit: TimeUnit::S,
    },
    Layout { format: Format::Splitwise, names: ["arrival_timestamp", "prompt_size", "token_size"], unit: TimeUnit::S },
    Layout {
        format: Format::Llmservingsim,
        names: ["arrival_time_ns", "input_toks", "output_toks"],
        unit: TimeUnit::Ns,
    },
    Layout { format: Format::Blis, names: ["arrival_time_us", "input_tokens", "output_tokens"], unit: TimeUnit::Us },
    Layout {
        format: Format::Guidellm,
        names: ["relative_timestamp", "prompt_tokens_count", "output_tokens_count"],
        unit: TimeUnit::S,
    },
    // As a last one: its columns are Mooncake's, which are recognised before.
    Layout { format: Format::TimedTrace, names: NATIVE, unit: TimeUnit::S },
];

/// The native names of a layout's columns.
const NATIVE: [&str; 3] = ["timestamp", "input_length", "output_length"];

/// The format whose columns are all there.
pub(crate) fn detect(has: impl Fn(&str) -> bool) -> Option<Format> {
    if has("prompt") && (has("prompt_tokens_count") || has("output_tokens_count")) {
        return Some(Format::Guidellm);
    }
    let named = LAYOUTS.iter().filter(|layout| layout.format != Format::TimedTrace);
    named.into_iter().find(|layout| layout.names.iter().all(|name| has(name))).map(|layout| layout.format)
}

#[derive(Debug)]
pub(crate) struct Columns {
    format: Format,
    default_output_tokens: u32,
    columns: BTreeMap<String, String>,
    /// Those of them that the user named.
    named: BTreeMap<String, String>,
    unit: TimeUnit,
    table: Table,
    native: Native,
}

impl Columns {
    pub(crate) fn new(format: Format, options: &Options) -> Self {
        let layout = LAYOUTS.iter().find(|layout| layout.format == format);
        let named = layout.map(|l| NATIVE.iter().zip(l.names).map(|(n, t)| ((*n).to_owned(), t.to_owned())));
        let mut columns: BTreeMap<String, String> = named.into_iter().flatten().collect();
        columns.extend(options.columns.clone());
        let mut native = options.clone();
        if format == Format::TimedTrace {
            native.block_tokens = Some(options.block_tokens.unwrap_or(BLOCK_TOKENS));
        }
        Self {
            format,
            default_output_tokens: options.default_output_tokens,
            columns,
            named: options.columns.clone(),
            unit: options.time_unit.or(layout.map(|l| l.unit)).unwrap_or(TimeUnit::Ms),
            table: Table::default(),
            native: Native::new(&native),
        }
    }
}

impl Parser for Columns {
    fn row(&mut self, number: u64, text: &str, sink: &mut Sink) -> Result<(), Bad> {
        let mut row = if text.starts_with('{') {
            let row = JsonRow::parse(text)?;
            row.has_all(&self.named)?;
            row
        } else {
            let need: Vec<&str> = match self.format {
                Format::Guidellm => vec!["prompt"],
                _ => self.columns.values().map(String::as_str).collect(),
            };
            if !self.table.line(text, &need)? {
                sink.header = true;
                return Ok(());
            }
            JsonRow(self.table.cells().map(|(name, value)| (name.to_owned(), typed(value))).collect::<Map<_, _>>())
        };
        row.rename(&self.columns);
        if self.format == Format::Guidellm {
            self.prompt_as_message(&mut row)?;
        }
        let lengths = [row.number("input_length"), row.number("output_length")];
        if lengths.into_iter().any(|n| n.is_ok_and(|n| n == Some(0.0))) {
            sink.seen.drop_one("no prompt or no answer tokens");
            return Ok(());
        }
        let calendar = row.get("timestamp").and_then(Value::as_str).and_then(parse_utc);
        let unit_ms = match calendar {
            Some(ns) => {
                row.0.insert("timestamp".to_owned(), Value::from(ns as f64 / 1e6));
                1.0
            }
            None => self.unit.ms(),
        };
        self.native.parsed(number, &row, unit_ms, sink)
    }
}

impl Columns {
    /// GuideLLM's row: its prompt as a message of that many tokens; times and answer lengths may be absent.
    fn prompt_as_message(&self, row: &mut JsonRow) -> Result<(), Bad> {
        let prompt = row.text("prompt")?.ok_or_else(|| missing("prompt", "a text"))?.to_owned();
        let tokens = row.tokens("input_length", 1)?;
        row.0.insert("messages".to_owned(), json!([{"role": "user", "content": prompt, "tokens": tokens}]));
        row.0.remove("prompt");
        row.0.entry("output_length").or_insert_with(|| self.default_output_tokens.into());
        row.0.entry("timestamp").or_insert_with(|| 0.into());
        Ok(())
    }
}

/// A cell as a number where it is one.
fn typed(cell: &str) -> Value {
    let whole = || cell.parse::<u64>().ok().map(Value::from);
    whole()
        .or_else(|| cell.parse::<f64>().ok().filter(|x| x.is_finite()).map(Value::from))
        .unwrap_or_else(|| cell.into())
}

#[cfg(test)]
mod tests {
    use crate::workload::{Format, Options, TimeUnit, read_bytes};
    use std::collections::BTreeMap;

    #[test]
    fn guidellm_rows_hold_a_prompt_with_counts_and_may_have_no_times() {
        let text = "{\"prompt\":\"what is a router and what does it do\",\"prompt_tokens_count\":9,\"output_tokens_count\":40}\n\
            {\"prompt\":\"what is a router and what does it do\",\"prompt_tokens_count\":9,\"output_tokens_count\":7}\n";
        let workload = read_bytes("t", text.as_bytes(), &Options::default()).unwrap();
        let seen: Vec<_> = workload.requests.iter().map(|r| (r.at.ms(), r.input_tokens, r.output_tokens)).collect();
        assert_eq!((workload.format, seen), (Format::Guidellm, vec![(0.0, 9, 40), (200.0, 9, 7)]));
        assert_eq!(workload.requests[0].blocks, workload.requests[1].blocks, "equal prompts share their blocks");
        assert!(workload.notes.iter().any(|note| note.contains("no times")), "{:?}", workload.notes);
        let timed = "prompt,relative_timestamp,prompt_tokens_count,output_tokens_count\nhello,0.5,3,4\nhello,2,3,\n";
        let requests =
            read_bytes("t", timed.as_bytes(), &Options { skip_bad: true, ..Options::default() }).unwrap().requests;
        assert_eq!(requests[0].input_tokens, 3);
    }

    #[test]
    fn a_field_that_columns_name_must_be_in_every_row() {
        let row = r#"{"timestamp":0,"input_length":100,"output_length":10,"Prompt":7}"#;
        let columns = BTreeMap::from([("input_length".to_owned(), "Prompt".to_owned())]);
        let good = Options { columns: columns.clone(), ..Options::default() };
        assert_eq!(read_bytes("t", row.as_bytes(), &good).unwrap().requests[0].input_tokens, 7);
        let native = Options { format: Some(Format::Native), columns, ..Options::default() };
        for options in [good, native] {
            let text = format!("{row}\n{}", row.replace("Prompt", "prompt"));
            let message = read_bytes("t", text.as_bytes(), &options).unwrap_err().to_string();
            assert!(
                message.starts_with("t:2: Prompt is missing from the row")
                    && message.contains("input_length = \"Prompt\""),
                "{message}"
            );
        }
    }

    #[test]
    fn a_timed_trace_has_seconds_and_blocks_of_16_unless_told_otherwise() {
        let text = "{\"timestamp\":1.5,\"input_length\":40,\"output_length\":5,\"hash_ids\":[1,2,3]}\n\
            {\"timestamp\":4,\"input_length\":20,\"output_length\":5,\"hash_ids\":[1,9]}\n";
        let options = Options { format: Some(Format::TimedTrace), ..Options::default() };
        let requests = read_bytes("t", text.as_bytes(), &options).unwrap().requests;
        assert_eq!((requests[1].at.ms(), requests[1].block_tokens), (2500.0, 16));
        let ms = Options { time_unit: Some(TimeUnit::Ms), ..options.clone() };
        assert_eq!(read_bytes("t", text.as_bytes(), &ms).unwrap().requests[1].at.ms(), 2.5);
        let columns = BTreeMap::from([("timestamp".to_owned(), "when".to_owned())]);
        let named = text.replace("timestamp", "when");
        let requests = read_bytes("t", named.as_bytes(), &Options { columns, ..options }).unwrap().requests;
        assert_eq!(requests[1].at.ms(), 2500.0);
    }

    #[test]
    fn the_tables_of_other_simulators_are_recognised() {
        for (text, format, ms) in [
            ("arrived_at,num_prefill_tokens,num_decode_tokens\n1,370,40\n3.5,390,110\n", Format::Vidur, 2500.0),
            (
                "request_id,arrival_timestamp,prompt_size,token_size\n0,1,370,40\n1,3,390,110\n",
                Format::Splitwise,
                2000.0,
            ),
            (
                "{\"input_toks\":370,\"output_toks\":40,\"arrival_time_ns\":5}\n{\"input_toks\":390,\"output_toks\":110,\"arrival_time_ns\":3000005}\n",
                Format::Llmservingsim,
                3.0,
            ),
            (
                "request_id,session_id,input_tokens,output_tokens,arrival_time_us\n0,s,370,40,1000\n1,s,390,110,2500\n",
                Format::Blis,
                1.5,
            ),
        ] {
            let workload = read_bytes("t", text.as_bytes(), &Options::default()).unwrap();
            let of = |i: usize| (workload.requests[i].input_tokens, workload.requests[i].output_tokens);
            assert_eq!((workload.format, of(0), of(1)), (format, (370, 40), (390, 110)));
            assert_eq!(workload.requests[1].at.ms(), ms, "{format:?}");
        }
    }

    #[test]
    fn columns_and_unit_can_be_named_and_calendar_times_need_no_unit() {
        let name = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
        };
        let columns =
            name(&[("timestamp", "Time"), ("input_length", "in"), ("output_length", "out"), ("session_id", "who")]);
        let options = Options { columns, time_unit: Some(TimeUnit::S), ..Options::default() };
        for text in [
            "Time,in,out,who\n1.5,100,10,a\n2,200,20,a\n",
            "\"Time\",\"in\",\"out\",\"who\"\n2024-01-01 00:00:01.5,100,10,a\n2024-01-01 00:00:02,200,20,a\n",
            "{\"Time\":1.5,\"in\":100,\"out\":10,\"who\":\"a\"}\n{\"Time\":2,\"in\":200,\"out\":20,\"who\":\"a\"}\n",
        ] {
            let workload = read_bytes("t", text.as_bytes(), &options).unwrap();
            let found: Vec<_> = workload.requests.iter().map(|r| (r.at.ms(), r.input_tokens, r.turn)).collect();
            assert_eq!(found, [(0.0, 100, 1), (500.0, 200, 2)], "{text}");
        }
        let message = read_bytes("t", b"Zeit,in,out,who\n1,2,3,4\n", &options).unwrap_err().to_string();
        assert!(message.contains("Time is missing from the header"), "{message}");
        let wrong = Options { columns: name(&[("timestmp", "Time")]), ..Options::default() };
        let message = read_bytes("t", b"Time\n1\n", &wrong).unwrap_err().to_string();
        assert!(message.contains("did you mean `timestamp`?"), "{message}");
    }

    #[test]
    fn a_prompt_in_csv_may_have_several_lines() {
        let text = "prompt,prompt_tokens_count,output_tokens_count\n\"one\ntwo, \"\"three\"\"\",9,40\nfour,3,4\n";
        let workload = read_bytes("t", text.as_bytes(), &Options::default()).unwrap();
        let seen: Vec<_> = workload.requests.iter().map(|r| (r.input_tokens, r.output_tokens)).collect();
        assert_eq!((workload.format, seen), (Format::Guidellm, vec![(9, 40), (3, 4)]));
        let open = text.replace("\"\"three\"\"\"", "three");
        let message = read_bytes("t", open.as_bytes(), &Options::default()).unwrap_err().to_string();
        assert!(message.starts_with("t:2: row") && message.ends_with("a quote is not closed"), "{message}");
    }
}
