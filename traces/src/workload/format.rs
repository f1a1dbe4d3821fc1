//! The formats of request traces, and their names.

use crate::error::TraceError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Formats of request traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON object a line, see [`super::native`].
    Native,
    /// Mooncake FAST'25: `timestamp` ms, lengths, `hash_ids` of 512 tokens.
    Mooncake,
    /// Bailian (Qwen) traces: `chat_id`, `parent_chat_id`, `timestamp` s, `hash_ids` of 16 tokens.
    Bailian,
    /// Azure LLM inference traces: CSV of stamp, context and generated tokens.
    Azure,
    /// BurstGPT: CSV, columns by name.
    Burstgpt,
    /// Vidur: CSV of arrival (s), prefill and decode tokens.
    Vidur,
    /// splitwise-sim: CSV of arrival (s), prompt and token size.
    Splitwise,
    /// LLMServingSim: JSON lines of arrival (ns), input and output tokens.
    Llmservingsim,
    /// BLIS (inference-sim): CSV of arrival (us), input and output tokens.
    Blis,
    /// vLLM's `timed_trace` data set: Mooncake's columns, `timestamp` s, blocks of 16 tokens; by name only.
    TimedTrace,
    /// GuideLLM rows: `prompt`, `prompt_tokens_count`, `output_tokens_count`, without times or with `relative_timestamp` s.
    Guidellm,
    /// CSV or JSON lines whose columns the option `columns` names.
    Columns,
    /// ShareGPT conversations as JSON lines, without times.
    Sharegpt,
    /// WildChat conversations as JSON lines.
    Wildchat,
    /// gotoni's `wildchat_guidellm.jsonl` with its location lookup.
    GuidellmPair,
    /// WildChat conversations as Parquet (needs the `parquet` feature).
    Parquet,
}

impl Format {
    /// Every format, in the order they are tried.
    pub const ALL: [Self; 16] = [
        Self::Native,
        Self::Mooncake,
        Self::Bailian,
        Self::Azure,
        Self::Burstgpt,
        Self::Vidur,
        Self::Splitwise,
        Self::Llmservingsim,
        Self::Blis,
        Self::TimedTrace,
        Self::Guidellm,
        Self::Columns,
        Self::Sharegpt,
        Self::Wildchat,
        Self::GuidellmPair,
        Self::Parquet,
    ];

    /// Its name in options and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Mooncake => "mooncake",
            Self::Bailian => "bailian",
            Self::Azure => "azure",
            Self::Burstgpt => "burstgpt",
            Self::Vidur => "vidur",
            Self::Splitwise => "splitwise",
            Self::Llmservingsim => "llmservingsim",
            Self::Blis => "blis",
            Self::TimedTrace => "timed-trace",
            Self::Guidellm => "guidellm",
            Self::Columns => "columns",
            Self::Sharegpt => "sharegpt",
            Self::Wildchat => "wildchat",
            Self::GuidellmPair => "guidellm-pair",
            Self::Parquet => "parquet",
        }
    }

    /// Whether its rows may be lines of CSV.
    pub(crate) fn is_table(self) -> bool {
        matches!(
            self,
            Self::Azure
                | Self::Burstgpt
                | Self::Vidur
                | Self::Splitwise
                | Self::Llmservingsim
                | Self::Blis
                | Self::TimedTrace
                | Self::Guidellm
                | Self::Columns
        )
    }

    /// All names, for messages.
    pub(crate) fn words() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl std::str::FromStr for Format {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        let found = Self::ALL.into_iter().find(|f| f.as_str() == text);
        found.ok_or_else(|| TraceError::Option {
            option: "format",
            problem: format!("is {text:?}: it must be one of {}", Self::words()),
        })
    }
}
