//! Request bodies, generated from the rows of a trace in order, in as many passes as needed.

use super::target::{Target, entry};
use crate::text::Texts;
use bytes::Bytes;
use gorgo_core::request::TraceRequest;
use serde_json::{Value, json};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// API path of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Api {
    /// `/v1/chat/completions`, the prompt as one user message.
    #[default]
    Chat,
    /// `/v1/completions`.
    Completions,
    /// SGLang's `/generate`.
    Generate,
}

impl Api {
    /// The path of the URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Generate => "/generate",
        }
    }
}

/// How requests specify the length of their answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// `max_tokens` is the recorded length and the end of sequence is ignored, so that every engine does the same work.
    #[default]
    Exact,
    /// `max_tokens` as recorded, or none; the emulated model gets the length in its own field. Admission then reserves as
    /// in the simulator; a real engine ends where its model does.
    Recorded,
}

/// Settings common to all bodies.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SourceOptions {
    /// API path.
    pub api: Api,
    /// Answer lengths.
    pub output: Output,
    /// Model name; `default` if empty.
    pub model: String,
    /// Prompts with different salts share no prefix.
    pub salt: u64,
}

/// A request ready to send.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Number within the run.
    pub number: usize,
    /// Row of the trace.
    pub row: usize,
    /// Index of the target.
    pub target: usize,
    /// Round trip between user and target, ms.
    pub user_rtt_ms: f64,
    /// Request body.
    pub body: Bytes,
}

/// Generates requests in order.
#[derive(Debug)]
pub struct Source {
    rows: Arc<[TraceRequest]>,
    targets: Arc<[Target]>,
    options: SourceOptions,
    texts: Texts,
    next: usize,
}

impl Source {
    /// Creates a source over the rows of a trace, at least one.
    pub fn new(rows: Arc<[TraceRequest]>, targets: Arc<[Target]>, options: SourceOptions) -> Self {
        let texts = Texts::new(options.salt);
        Self { rows, targets, options, texts, next: 0 }
    }

    fn body(&self, row: &TraceRequest, prompt: &str) -> Value {
        // No engine samples below temperature 0: it answers 400 before any work.
        let temperature = if row.refused { -1.0 } else { 0.0 };
        let (max, custom) = match self.options.output {
            Output::Exact => (Some(row.output_tokens), None),
            Output::Recorded => (row.max_tokens, Some(json!({"output_tokens": row.output_tokens}))),
        };
        if self.options.api == Api::Generate {
            let mut sampling = json!({"temperature": temperature});
            // Without a limit this path would stop after 128 tokens.
            sampling["max_new_tokens"] = max.unwrap_or(row.output_tokens).into();
            match custom {
                Some(custom) => sampling["custom_params"] = custom,
                None => sampling["ignore_eos"] = true.into(),
            }
            return json!({"text": prompt, "sampling_params": sampling, "stream": true});
        }
        let mut body = json!({"stream": true, "stream_options": {"include_usage": true}, "temperature": temperature});
        match self.options.api {
            Api::Chat => body["messages"] = json!([{"role": "user", "content": prompt}]),
            _ => body["prompt"] = prompt.into(),
        }
        let model = &self.options.model;
        body["model"] = if model.is_empty() { "default".into() } else { model.as_str().into() };
        match (max, self.options.api) {
            (Some(max), _) => body["max_tokens"] = max.into(),
            // Without a limit this path would stop after 16 tokens.
            (None, Api::Completions) => body["max_tokens"] = row.output_tokens.into(),
            (None, _) => {}
        }
        match custom {
            Some(custom) => body["custom_params"] = custom,
            None => body["ignore_eos"] = true.into(),
        }
        body
    }
}

impl Source {
    /// The request of that number. A later turn must come after those of its session before it, whose answers it holds.
    pub fn prepare(&mut self, number: usize) -> Option<Prepared> {
        let row_number = number % self.rows.len().max(1);
        if row_number == 0 && number > 0 {
            // Every pass has its own salt: otherwise the cache would hold its prompts.
            let pass = (number / self.rows.len()) as u64;
            self.texts = Texts::new(xxh3_64_with_seed(&pass.to_le_bytes(), self.options.salt));
        }
        let rows = Arc::clone(&self.rows);
        let row = rows.get(row_number)?;
        let prompt = self.texts.prompt(row);
        let (target, user_rtt_ms) = entry(&self.targets, row, number);
        let body = Bytes::from(self.body(row, &prompt).to_string());
        Some(Prepared { number, row: row_number, target, user_rtt_ms, body })
    }
}

impl Iterator for Source {
    type Item = Prepared;

    fn next(&mut self) -> Option<Prepared> {
        self.next += 1;
        self.prepare(self.next - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_traces::workload::{Options, read_bytes};

    fn rows() -> Arc<[TraceRequest]> {
        let text = r#"{"timestamp":0,"session_id":1,"input_length":20,"output_length":13,"block_size":16,"hash_ids":[1,2]}
{"timestamp":9,"session_id":1,"input_length":40,"output_length":5,"max_tokens":50,"block_size":16,"hash_ids":[1,3,4]}"#;
        read_bytes("t", text.as_bytes(), &Options::default()).unwrap().requests.into()
    }

    fn bodies(options: SourceOptions, n: usize) -> Vec<Value> {
        let targets = Arc::from([Target::parse("http://a:1").unwrap()]);
        Source::new(rows(), targets, options).take(n).map(|p| serde_json::from_slice(&p.body).unwrap()).collect()
    }

    #[test]
    fn turns_share_their_prefix_and_passes_share_nothing() {
        let text = |v: &Value| v["messages"][0]["content"].as_str().unwrap().to_owned();
        let all: Vec<String> = bodies(SourceOptions::default(), 4).iter().map(text).collect();
        assert_eq!((all[0].len(), all[1].len()), (80, 160));
        assert_eq!(all[0][..64], all[1][..64]);
        assert_eq!(all[0][64..80], all[1][64..80], "the answer goes on where the prompt ended");
        assert_ne!(all[0][..64], all[2][..64]);
        assert_eq!(all[2][..80], all[3][..80]);
    }

    #[test]
    fn lengths_are_asked_for_exactly_or_as_recorded() {
        let exact = bodies(SourceOptions::default(), 2);
        assert_eq!((&exact[1]["max_tokens"], &exact[1]["ignore_eos"]), (&json!(5), &json!(true)));
        let recorded = bodies(SourceOptions { output: Output::Recorded, ..SourceOptions::default() }, 2);
        assert_eq!(recorded[0].get("max_tokens"), None);
        assert_eq!(
            (&recorded[1]["max_tokens"], &recorded[1]["custom_params"]["output_tokens"]),
            (&json!(50), &json!(5))
        );
        let native = bodies(SourceOptions { api: Api::Generate, ..SourceOptions::default() }, 1);
        assert_eq!(native[0]["sampling_params"]["max_new_tokens"], 13);
    }
}
