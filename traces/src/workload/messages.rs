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
    let messages: Vec<Message> = items
        .iter()
        .enumerate()
        .map(|(at, item)| message(&format!("{field}[{at}]"), item))
        .collect::<Result<_, _>>()?;
    // One row must not be able to ask for more memory than the longest context window needs.
    let stored: u64 = messages.iter().map(|m| u64::from(m.tokens.unwrap_or(1))).sum();
    let bytes: usize = messages.iter().map(|m| m.content.len()).sum();
    if stored > u64::from(MAX_TOKENS) || bytes > 4 * MAX_TOKENS as usize {
        let problem =
            format!("hold {stored} stored tokens and {bytes} bytes: no prompt is longer than {MAX_TOKENS} tokens");
        return Err(Bad::new(field, problem));
    }
    Ok(messages)
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn content_may_be_text_or_parts() {
        let list = json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}]);
        assert_eq!(parse("m", &list).unwrap()[0].content, "ab");
    }

    #[test]
    fn a_row_cannot_ask_for_endless_memory() {
        let huge = json!([{"role": "user", "content": "", "tokens": MAX_TOKENS}, {"role": "user", "content": "", "tokens": 1}]);
        let problem = parse("m", &huge).unwrap_err().problem;
        assert_eq!(problem, "hold 4194305 stored tokens and 0 bytes: no prompt is longer than 4194304 tokens");
        assert!(parse("m", &json!([{"role": "user", "content": "", "tokens": 1u64 << 40}])).is_err());
    }
}
