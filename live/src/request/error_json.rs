//! The JSON of an error, and the error that cuts a body.

use serde_json::json;

/// Any error of a body. The connection is then closed early, so that a client cannot take a part for the whole.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An error in OpenAI's shape.
pub(crate) fn error_json(kind: &str, code: &str, message: &str) -> String {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}}).to_string()
}
