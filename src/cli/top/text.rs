//! Figures as short text.

use serde_json::Value;

/// A time of so many milliseconds in at most five characters; `-` when unknown.
pub(super) fn ms(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(ms) if ms < 9.95 => format!("{ms:.1}ms"),
        Some(ms) if ms < 999.5 => format!("{ms:.0}ms"),
        Some(ms) if ms < 99_950.0 => format!("{:.1}s", ms / 1e3),
        Some(ms) if ms < 999_500.0 => format!("{:.0}s", ms / 1e3),
        Some(ms) => format!("{:.0}m", ms / 6e4),
    }
}

/// Seconds in their natural unit.
pub(super) fn age(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6_000.0 => format!("{:.0} min", s / 60.0),
        s if s < 360_000.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// A share as per cent; `-` when unknown.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0}%", share * 1e2))
}

/// A count in at most five characters; `-` when unknown.
pub(super) fn count(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(n) if n < 1e4 => format!("{n:.0}"),
        Some(n) if n < 1e6 => format!("{:.0}k", n / 1e3),
        Some(n) => format!("{:.0}M", n / 1e6),
    }
}

/// Requests per second.
pub(super) fn rate(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(n) if n < 9.95 => format!("{n:.1}"),
        Some(n) => format!("{n:.0}"),
    }
}

/// Hit tokens of a kind over prompt tokens, of requests whose engine reported.
pub(super) fn share_of(hits: &Value, kind: &str) -> Option<f64> {
    let prompt = hits["prompt_tokens"].as_f64().filter(|&tokens| tokens > 0.0)?;
    Some(hits[kind].as_f64()? / prompt)
}

/// The delivered hit rate of a replica or a region.
pub(super) fn hit(row: &Value) -> Option<f64> {
    share_of(&row["hits"], "delivered")
}

/// Text, or `-`.
pub(super) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
