//! How a trace is read: the format, what becomes a request, and when it arrives.

use super::format::Format;
use crate::error::TraceError;
use crate::geo::Weights;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Which parts of a conversation become requests. The prefix reuse of a trace depends on this far more than on its texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// Every user message, with the history before it.
    #[default]
    Turn,
    /// One request a conversation: the last user message with its whole history.
    Conversation,
    /// One request a conversation: the first user message alone.
    FirstPrompt,
}

/// What a row's lengths, ids and messages stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Prompts {
    /// The whole prompt, history included.
    #[default]
    Whole,
    /// What the turn adds to the prompts and answers of its session before it.
    Added,
}

/// Unit of a trace's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TimeUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

impl TimeUnit {
    /// Its length in ms.
    pub fn ms(self) -> f64 {
        match self {
            Self::S => 1e3,
            Self::Ms => 1.0,
            Self::Us => 1e-3,
            Self::Ns => 1e-6,
        }
    }
}

/// Refuses options that a format could not follow.
pub(crate) fn fits(format: Format, options: &Options) -> Result<(), TraceError> {
    use Format::{
        Azure, Bailian, Blis, Burstgpt, Columns, Guidellm, Llmservingsim, Mooncake, Native, Splitwise, TimedTrace,
        Vidur,
    };
    let name = format.as_str();
    let refuse = |option, problem: String| Err(TraceError::Option { option, problem });
    let lone = matches!(format, Mooncake | Azure | Vidur | Splitwise | Llmservingsim | TimedTrace | Guidellm);
    if options.per != Per::Turn && lone {
        return refuse("per", format!("needs conversations, and rows of {name} have none; leave it at turn"));
    }
    let textless = lone && format != Guidellm || matches!(format, Bailian | Burstgpt | Blis);
    if options.min_chars > 0 && textless {
        return refuse("min_chars", format!("needs texts, and rows of {name} hold lengths only; leave it out"));
    }
    let numbered =
        !matches!(format, Azure | Format::Sharegpt | Format::Wildchat | Format::GuidellmPair | Format::Parquet);
    if options.time_unit.is_some() && !numbered {
        return refuse("time_unit", format!("is of no use for {name}: its times are calendar times; leave it out"));
    }
    let mapped = matches!(format, Native | Columns | TimedTrace);
    if options.prompts != Prompts::Whole && !mapped {
        return refuse("prompts", format!("can be `added` for native rows only: rows of {name} are whole prompts"));
    }
    if !options.columns.is_empty() && !mapped {
        return refuse(
            "columns",
            format!("renames columns of native and timed-trace rows only, not of {name}; leave `format` out"),
        );
    }
    Ok(())
}

/// When requests arrive.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Arrivals {
    /// At the trace's own times.
    #[default]
    Recorded,
    /// In the trace's order, as a Poisson process of this many requests per second. Turns of one conversation may
    /// come faster than their answers, as when a load generator sends the rows of a file.
    Poisson(f64),
    /// Conversations start as a Poisson process whose rate gives this many requests per second on average; the
    /// pauses between a conversation's turns stay as recorded.
    PoissonSessions(f64),
}

/// How to treat users without a known place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownPlaces {
    /// They stay unknown.
    #[default]
    Keep,
    /// Each unknown user gets a country and place drawn from WildChat's published shares.
    Draw(Weights),
}

/// How a trace is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The format; recognised from the content when absent.
    pub format: Option<Format>,
    /// Count bad rows and go on, instead of stopping at the first.
    pub skip_bad: bool,
    /// Read only this many rows of the file.
    pub first: Option<u64>,
    /// Which parts of a conversation become requests.
    pub per: Per,
    /// Whether rows hold whole prompts or what each turn adds to its session.
    pub prompts: Prompts,
    /// Drop requests whose last user message has fewer characters.
    pub min_chars: usize,
    /// Drop requests with a longer prompt (tokens).
    pub max_input_tokens: Option<u32>,
    /// Cut answers to this length (tokens).
    pub max_output_tokens: Option<u32>,
    /// Answer length (tokens) of rows without one.
    pub default_output_tokens: u32,
    /// Tokens per block; by default 16 for text and rows without ids, 512 for rows with ids that give no size.
    pub block_tokens: Option<u32>,
    /// Bytes per token of text without stored counts; by script when absent.
    pub bytes_per_token: Option<f64>,
    /// Columns under other names: native name to the file's name, for example `timestamp = "Time"`.
    pub columns: BTreeMap<String, String>,
    /// Unit of the times; the format's own when absent.
    pub time_unit: Option<TimeUnit>,
    /// Location lookup of a guidellm pair; `wildchat_location_lookup.json` beside the file when absent.
    pub lookup: Option<PathBuf>,
    /// Spread requests with equal stamps evenly over one tick of the format's clock, where it is coarse (Mooncake has
    /// about ten requests on each of its stamps, 3 s apart). The tick is the smallest step between stamps.
    pub spread: bool,
    /// When requests arrive.
    pub arrivals: Arrivals,
    /// Factor on all times: larger is slower.
    pub time_scale: f64,
    /// Leave out what would arrive later than this many seconds after the start.
    pub duration_s: Option<f64>,
    /// What becomes of users without a place.
    pub unknown_places: UnknownPlaces,
    /// Seed of drawn arrivals and places.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            format: None,
            skip_bad: false,
            first: None,
            per: Per::Turn,
            prompts: Prompts::Whole,
            min_chars: 0,
            max_input_tokens: None,
            max_output_tokens: None,
            default_output_tokens: 256,
            block_tokens: None,
            bytes_per_token: None,
            columns: BTreeMap::new(),
            time_unit: None,
            lookup: None,
            spread: true,
            arrivals: Arrivals::Recorded,
            time_scale: 1.0,
            duration_s: None,
            unknown_places: UnknownPlaces::Keep,
            seed: 0,
        }
    }
}

impl Options {
    /// Checks values that could not be used.
    ///
    /// # Errors
    /// Names the first option out of its range.
    pub fn check(&self) -> Result<(), TraceError> {
        let bad = |option, problem| Err(TraceError::Option { option, problem });
        if let Some(name) = self.columns.keys().find(|name| !super::native::KNOWN.contains(&name.as_str())) {
            let hint = gorgo_core::suggest::did_you_mean(name, super::native::KNOWN);
            return bad("columns", format!("names `{name}`, which no row has; {hint}"));
        }
        if self.first == Some(0) {
            return bad("first", "is 0: it must be at least 1 row".to_owned());
        }
        let mut theirs = BTreeSet::new();
        if let Some((name, column)) = self.columns.iter().find(|(_, column)| !theirs.insert(column.as_str())) {
            return bad(
                "columns",
                format!("reads `{name}` and another field from the one column `{column}`; keep one"),
            );
        }
        if !(self.time_scale.is_finite() && self.time_scale > 0.0) {
            return bad(
                "time_scale",
                format!("is {}: it must be a number above 0 (larger is slower)", self.time_scale),
            );
        }
        if let Some(s) = self.duration_s.filter(|s| !(s.is_finite() && *s > 0.0)) {
            return bad("duration_s", format!("is {s}: it must be a number of seconds above 0"));
        }
        if let Arrivals::Poisson(rate) | Arrivals::PoissonSessions(rate) = self.arrivals
            && !(rate.is_finite() && rate > 0.0)
        {
            return bad("arrivals", format!("has rate {rate}: it must be above 0 requests per second"));
        }
        if let Some(bytes) = self.bytes_per_token
            && !(1.0..=1_000.0).contains(&bytes)
        {
            return bad("bytes_per_token", format!("is {bytes}: it must be from 1 to 1000"));
        }
        if self.block_tokens.is_some_and(|b| !(1..=65_536).contains(&b)) {
            return bad("block_tokens", "must be from 1 to 65536 tokens".to_owned());
        }
        for (option, value) in [
            ("max_input_tokens", self.max_input_tokens),
            ("max_output_tokens", self.max_output_tokens),
            ("default_output_tokens", Some(self.default_output_tokens)),
        ] {
            if value == Some(0) {
                return bad(option, "is 0: it must be at least 1 token".to_owned());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_named() {
        let message = |options: Options| options.check().unwrap_err().to_string();
        assert_eq!(
            message(Options { time_scale: 0.0, ..Options::default() }),
            "option time_scale is 0: it must be a number above 0 (larger is slower)"
        );
        assert!(message(Options { arrivals: Arrivals::Poisson(-1.0), ..Options::default() }).contains("rate -1"));
        assert!(message(Options { max_output_tokens: Some(0), ..Options::default() }).contains("max_output_tokens"));
        assert!(message(Options { first: Some(0), ..Options::default() }).contains("first is 0"));
        let one =
            [("timestamp", "a"), ("input_length", "a")].map(|(name, column)| (name.to_owned(), column.to_owned()));
        let told = message(Options { columns: one.into(), ..Options::default() });
        assert!(told.contains("columns reads `timestamp` and another field from the one column `a`"), "{told}");
        assert!(Options::default().check().is_ok());
    }

    #[test]
    fn format_words_parse_back() {
        for format in Format::ALL {
            assert_eq!(format.as_str().parse::<Format>().unwrap(), format);
        }
        assert!("csv".parse::<Format>().unwrap_err().to_string().contains("must be one of native, mooncake"));
    }
}
