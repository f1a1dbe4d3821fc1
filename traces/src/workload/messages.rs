//! Chat messages of rows that hold text.

use super::blocks::{Counting, symbols};
use super::row::{MAX_TOKENS, wrong};
use crate::error::Bad;
use serde_json::Value;

/// One chat message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) role: String,
    pub(crate) content: String,
    /// Stored token count, if the trace has one.
    pub(crate) tokens: Option<u32>,
}

impl Message {
    pub(crate) fn symbols(&self, counting: Counting) -> Vec<u64> {
        symbols(&self.role, &self.content, self.tokens, counting)
    }
}

/// Reads a list of messages, at least one.
pub(crate) fn parse(field: &str, value: &Value) -> Result<Vec<Message>, Bad> {
    let Some(items) = value.as_array().filter(|items| !items.is_empty()) else {
        return Err(wrong(field, value, "must be a list of messages, at least one"));
    };
    items.iter().enumerate().map(|(at, item)| message(&format!("{field}[{at}]"), item)).collect()
}

fn message(field: &str, value: &Value) -> Result<Message, Bad> {
    let role = value.get("role").and_then(Value::as_str).filter(|r| !r.is_empty());
    let Some(role) = role else { return Err(wrong(field, value, "must be a message with a `role`")) };
    let content = match value.get("content") {
        Some(Value::String(text)) => text.clone(),
        // The chat API also allows a list of parts; only text parts have tokens here.
        Some(Value::Array(parts)) => parts.iter().filter_map(|p| p.get("text").and_then(Value::as_str)).collect(),
        _ => return Err(wrong(field, value, "must be a message with a `content` text")),
    };
    let tokens = match value.get("tokens").filter(|t| !t.is_null()) {
        None => None,
        Some(t) => match t.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|&n| n <= MAX_TOKENS) {
            Some(n) => Some(n),
            None => return Err(wrong(&format!("{field}.tokens"), t, "must be a whole number of tokens")),
        },
    };
    Ok(Message { role: role.to_owned(), content, tokens })
}
