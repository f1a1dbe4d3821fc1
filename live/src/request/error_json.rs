//! Errors for clients: as a JSON body, as an event in a stream, and as the error that aborts a body.

use serde_json::{Value, json};

/// Any error of a body. The connection is then closed early, so that a client cannot take a part for the whole.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An error in OpenAI's shape.
pub(crate) fn error_json(kind: &str, code: &str, message: &str) -> String {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}}).to_string()
}

/// Whose events a stream has: clients of Anthropic's API and of the Responses API pass over events without a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Responses,
    Anthropic,
}

impl Dialect {
    /// The dialect of the answers to a request for this path, whose dot segments are resolved.
    pub(crate) fn of(path: &str) -> Self {
        match path.trim_end_matches('/') {
            "/v1/messages" => Self::Anthropic,
            "/v1/responses" => Self::Responses,
            path if path.starts_with("/v1/responses/") => Self::Responses, // GET with `stream=true`
            _ => Self::OpenAi,
        }
    }

    /// The event for an error of the router.
    pub(crate) fn event(self, code: &str, message: &str) -> String {
        self.event_of(&error_json("server_error", code, message))
    }

    /// The event for the error in the body of a refusal, by the router or by an engine.
    pub(crate) fn event_of(self, body: &str) -> String {
        if self == Self::OpenAi {
            return format!("data: {}\n\n", body.replace(['\n', '\r'], " "));
        }
        format!("event: error\ndata: {}\n\n", self.error_of(body))
    }

    /// The error in the body of a refusal, in the shape of the dialect's events.
    pub(crate) fn error_of(self, body: &str) -> Value {
        let told: Value = serde_json::from_str(body).unwrap_or_default();
        let error = told.get("error").filter(|error| error.is_object()).unwrap_or(&told);
        let word = |key: &str| error.get(key).and_then(Value::as_str);
        let line = body.replace(['\n', '\r'], " ");
        let message = word("message").or_else(|| told["error"].as_str()).unwrap_or(&line);
        match self {
            Self::Anthropic => {
                // Types of OpenAI's that Anthropic's API has no such name for are `api_error`.
                let known = word("type").filter(|kind| kind.ends_with("_error") && *kind != "server_error");
                let kind = if word("code") == Some("model_not_found") { Some("not_found_error") } else { known };
                json!({"type": "error", "error": {"type": kind.unwrap_or("api_error"), "message": message}})
            }
            _ => json!({"type": "error", "code": error.get("code"), "message": message, "param": error.get("param")}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_stream_is_an_event_that_its_clients_read() {
        let told = |path: &str, body: &str| Dialect::of(path).event_of(body);
        let ours = error_json("server_error", "upstream_broke", "it broke");
        assert_eq!(told("/v1/chat/completions", &ours), format!("data: {ours}\n\n"));
        let named =
            |event: &str| serde_json::from_str::<Value>(event.strip_prefix("event: error\ndata: ").unwrap()).unwrap();
        for path in ["/v1/messages", "/v1/messages/"] {
            let error = named(&told(path, &ours));
            assert_eq!(error, json!({"type": "error", "error": {"type": "api_error", "message": "it broke"}}));
        }
        let theirs = json!({"type": "error", "error": {"type": "overloaded_error", "message": "full"}});
        assert_eq!(named(&told("/v1/messages", &theirs.to_string())), theirs);
        assert_eq!(named(&told("/v1/messages", "no\nJSON"))["error"]["message"], "no JSON");
        let error = named(&told("/v1/responses", &ours));
        assert_eq!(error, json!({"type": "error", "code": "upstream_broke", "message": "it broke", "param": null}));
        assert_eq!(Dialect::of("/v1/responses").event("c", "m").matches("\n\n").count(), 1);
    }
}
