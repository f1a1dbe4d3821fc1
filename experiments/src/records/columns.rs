//! Maps the columns of a table to the fields of a row: a preset, recognised by the table's columns, with overrides by
//! the user.

use super::RecordError;
use gorgo_core::suggest::did_you_mean;
use std::collections::BTreeMap;

/// What a row can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    Arm,
    Run,
    Id,
    Replica,
    Status,
    PromptTokens,
    RouterTokens,
    CachedTokens,
    BelievedTokens,
    OutputTokens,
    At,
    Scheduled,
    First,
    Done,
    Ttft,
    E2e,
}

/// Fields by name; those from `at` on are times and end in a unit.
const FIELDS: [(&str, Field); 16] = [
    ("arm", Field::Arm),
    ("run", Field::Run),
    ("id", Field::Id),
    ("replica", Field::Replica),
    ("status", Field::Status),
    ("prompt_tokens", Field::PromptTokens),
    ("router_tokens", Field::RouterTokens),
    ("cached_tokens", Field::CachedTokens),
    ("believed_tokens", Field::BelievedTokens),
    ("output_tokens", Field::OutputTokens),
    ("at", Field::At),
    ("scheduled", Field::Scheduled),
    ("first", Field::First),
    ("done", Field::Done),
    ("ttft", Field::Ttft),
    ("e2e", Field::E2e),
];

/// Units of times, with their length in ms.
const UNITS: [(&str, f64); 4] = [("s", 1e3), ("ms", 1.0), ("us", 1e-3), ("ns", 1e-6)];

/// A column and what its numbers are multiplied with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Column {
    /// Name in the file; in JSON a path with dots. Ids may join several with `+`; of several with `|` the first that holds
    /// a value counts.
    pub(super) name: String,
    /// Unit of a time in ms; 1 for other columns.
    pub(super) scale: f64,
}

/// Columns by field, the statuses that count as answered, and stages between two columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ColumnMap {
    pub(super) preset: Option<String>,
    pub(super) columns: BTreeMap<Field, Column>,
    /// Statuses of answered requests; `None` takes the preset's.
    pub(super) answered: Option<Vec<String>>,
}

/// A kind of table that is known by its columns.
pub(super) struct Preset {
    pub(super) name: &'static str,
    /// Columns that all stand in such a table, and in none of the presets after it.
    sign: &'static [&'static str],
    map: &'static [(&'static str, &'static str)],
    pub(super) answered: &'static [&'static str],
    /// A column and its value in rows that are no part of the measurement.
    pub(super) left_out: Option<(&'static str, &'static str)>,
    /// Stages: name, instant of its begin, instant of its end, unit in ms.
    pub(super) stages: &'static [(&'static str, &'static str, &'static str, f64)],
}

pub(super) const PRESETS: [Preset; 7] = [
    Preset {
        name: "requests",
        sign: &["first_token_ms", "predicted_cached_tokens", "request"],
        map: &[
            ("arm", "arm"),
            ("run", "seed"),
            ("id", "request"),
            ("replica", "replica"),
            ("status", "status"),
            ("prompt_tokens", "prompt_tokens"),
            ("cached_tokens", "cached_tokens"),
            ("believed_tokens", "predicted_cached_tokens"),
            ("output_tokens", "output_tokens"),
            ("at_ms", "sent_ms"),
            ("scheduled_ms", "scheduled_ms"),
            ("ttft_ms", "ttft_ms"),
            ("e2e_ms", "e2e_ms"),
        ],
        answered: &["finished"],
        left_out: None,
        stages: &[
            ("uplink", "sent_ms", "arrived_ms", 1.0),
            ("queue", "arrived_ms", "dispatched_ms", 1.0),
            ("forward", "dispatched_ms", "accepted_ms", 1.0),
            ("first-token", "accepted_ms", "router_first_ms", 1.0),
            ("engine-queue", "accepted_ms", "prefill_ms", 1.0),
            ("prefill", "prefill_ms", "engine_first_ms", 1.0),
            ("decode", "engine_first_ms", "engine_done_ms", 1.0),
        ],
    },
    Preset {
        name: "fleet",
        sign: &["row", "target", "engine_prompt_tokens"],
        map: &[
            ("arm", "arm"),
            ("id", "row"),
            ("replica", "target"),
            ("status", "status"),
            ("prompt_tokens", "engine_prompt_tokens"),
            ("router_tokens", "proxy_tokens"),
            ("believed_tokens", "cached_at_target"),
            ("output_tokens", "output_tokens"),
            ("at_s", "dispatch_s"),
            ("scheduled_ms", "sched_ms"),
            ("ttft_ms", "ttft_ms"),
            ("e2e_ms", "total_ms"),
        ],
        answered: &["200"],
        left_out: None,
        stages: &[],
    },
    Preset {
        name: "fleet-client",
        sign: &["row", "sched_ms", "input_tokens", "total_ms"],
        map: &[
            ("id", "row"),
            ("status", "status"),
            ("prompt_tokens", "input_tokens"),
            ("output_tokens", "output_tokens"),
            ("at_ms", "sent_ms"),
            ("scheduled_ms", "sched_ms"),
            ("ttft_ms", "ttft_ms"),
            ("e2e_ms", "total_ms"),
        ],
        answered: &["200"],
        left_out: None,
        stages: &[],
    },
    Preset {
        name: "vllm",
        sign: &["queued_ts", "first_token_ts", "last_token_ts"],
        map: &[
            ("id", "request_id"),
            ("prompt_tokens", "input_toks"),
            ("output_tokens", "output_toks"),
            ("at_s", "queued_ts"),
            ("first_s", "first_token_ts"),
            ("done_s", "last_token_ts"),
        ],
        answered: &[],
        left_out: None,
        stages: &[
            ("engine-queue", "queued_ts", "scheduled_ts", 1e3),
            ("prefill", "scheduled_ts", "first_token_ts", 1e3),
            ("decode", "first_token_ts", "last_token_ts", 1e3),
        ],
    },
    Preset {
        name: "aiperf",
        sign: &["metadata.request_start_ns", "metadata.session_num"],
        map: &[
            ("id", "metadata.session_num+metadata.turn_index"),
            ("status", "error"),
            ("at_ns", "metadata.request_start_ns"),
            ("scheduled_ns", "metadata.credit_issued_ns"),
            // The client's tokenizer knows nothing of the chat template; the server's count comes first.
            ("prompt_tokens", "metrics.usage_prompt_tokens.value|metrics.input_sequence_length.value"),
            ("cached_tokens", "metrics.usage_prompt_cache_read_tokens.value"),
            ("output_tokens", "metrics.usage_completion_tokens.value|metrics.output_sequence_length.value"),
            ("ttft_ms", "metrics.time_to_first_token.value"),
            ("e2e_ms", "metrics.request_latency.value"),
        ],
        answered: &[""],
        // Its sessions are numbered from 0 again.
        left_out: Some(("metadata.benchmark_phase", "warmup")),
        stages: &[],
    },
    Preset {
        name: "guidellm",
        sign: &["request_id", "request_latency", "time_to_first_token_ms"],
        map: &[
            ("arm", "arm"),
            ("id", "request_id"),
            ("status", "group"),
            ("prompt_tokens", "prompt_tokens"),
            ("cached_tokens", "cached_tokens"),
            ("output_tokens", "output_tokens"),
            ("at_s", "request_start_time"),
            ("ttft_ms", "time_to_first_token_ms"),
            ("e2e_s", "request_latency"),
        ],
        answered: &["successful"],
        left_out: None,
        stages: &[],
    },
    Preset {
        name: "decisions",
        sign: &["decision.chosen", "decision.at_ms", "id"],
        map: &[
            ("arm", "decision.policy"),
            ("id", "id"),
            ("replica", "decision.chosen"),
            ("router_tokens", "prompt_tokens"),
            ("at_ms", "decision.at_ms"),
        ],
        answered: &[],
        left_out: None,
        stages: &[],
    },
];

/// Names of the presets.
pub fn presets() -> impl Iterator<Item = &'static str> + Clone {
    PRESETS.iter().map(|preset| preset.name)
}

/// The preset whose columns all stand in a table.
pub(super) fn preset_of(has: impl Fn(&str) -> bool) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.sign.iter().all(|column| has(column)))
}

pub(super) fn preset_named(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

impl Preset {
    pub(super) fn columns(&self) -> BTreeMap<Field, Column> {
        let known = self.map.iter().filter_map(|(field, name)| {
            let (field, scale) = field_of(field)?;
            Some((field, Column { name: (*name).to_owned(), scale }))
        });
        known.collect()
    }
}

/// A field's name with its unit: `ttft_ms`, `replica`.
fn field_of(text: &str) -> Option<(Field, f64)> {
    let named = |name: &str| FIELDS.iter().find(|(known, _)| *known == name).map(|(_, field)| *field);
    let timed = text.rsplit_once('_').and_then(|(name, unit)| {
        let scale = UNITS.iter().find(|(known, _)| *known == unit)?.1;
        Some((named(name).filter(|field| *field >= Field::At)?, scale))
    });
    timed.or_else(|| named(text).filter(|field| *field < Field::At).map(|field| (field, 1.0)))
}

impl ColumnMap {
    /// Reads `field=column,...`; `preset=NAME` begins from a preset by name, `answered=200|201` names the statuses that
    /// count as answered.
    ///
    /// # Errors
    /// An unknown field or preset, with the nearest one.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        let mut map = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let bad = |why: String| RecordError::Columns { text: part.to_owned(), why };
            let Some((field, column)) = part.split_once('=') else {
                return Err(bad("write field=column, for example ttft_ms=first_token_ms".to_owned()));
            };
            match field {
                "preset" => {
                    if preset_named(column).is_none() {
                        return Err(bad(format!("there is no such preset; {}", did_you_mean(column, presets()))));
                    }
                    map.preset = Some(column.to_owned());
                }
                "answered" => map.answered = Some(column.split('|').map(str::to_owned).collect()),
                _ => {
                    let (field, scale) = field_of(field).ok_or_else(|| {
                        let names: Vec<String> = field_names().collect();
                        bad(format!(
                            "there is no such field; {}",
                            did_you_mean(field, names.iter().map(String::as_str))
                        ))
                    })?;
                    map.columns.insert(field, Column { name: column.to_owned(), scale });
                }
            }
        }
        Ok(map)
    }
}

/// All fields as they are written, times in ms.
fn field_names() -> impl Iterator<Item = String> {
    let keys = ["preset", "answered"].into_iter().map(str::to_owned);
    let fields =
        FIELDS.iter().map(|(name, field)| if *field >= Field::At { format!("{name}_ms") } else { (*name).to_owned() });
    fields.chain(keys)
}
