//! The paths that are served, and which of them hold prompts.

use crate::request::body::Body;
use crate::request::errors::refusal;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Response, StatusCode};

/// Whether requests to `path` hold a prompt; `None` if the path is not served. Engines' admin endpoints (`/flush_cache`,
/// `/update_weights...`) are not served.
pub(crate) fn has_prompt(path: &str) -> Option<bool> {
    match path {
        "/v1/chat/completions"
        | "/v1/completions"
        | "/v1/responses"
        | "/v1/embeddings"
        | "/v1/messages"
        | "/generate"
        | "/v1/score"
        | "/v1/rerank" => Some(true),
        "/tokenize" | "/detokenize" | "/get_model_info" | "/model_info" => Some(false),
        path if path.starts_with("/v1/") => Some(false),
        _ => None,
    }
}

/// Whether an answer becomes a message of the next turn's prompt.
pub(crate) fn is_chat(path: &str) -> bool {
    matches!(path, "/v1/chat/completions" | "/v1/responses" | "/v1/messages")
}

/// Refuses a body whose content type is not JSON.
pub(crate) fn check_content_type(headers: &HeaderMap) -> Result<(), Box<Response<Body>>> {
    let Some(value) = headers.get(CONTENT_TYPE).filter(|value| *value != "application/json") else { return Ok(()) };
    let kind = value.to_str().unwrap_or("?").split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind == "application/json" || kind.ends_with("+json") || kind.is_empty() {
        return Ok(());
    }
    let shown: String = kind.chars().take(80).collect();
    let message = format!("the body's type is `{shown}`; send application/json");
    Err(Box::new(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong_content_type", &message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn paths_that_are_served() {
        for path in ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/generate"] {
            assert_eq!(has_prompt(path), Some(true), "{path}");
        }
        for path in ["/v1/models", "/tokenize", "/v1/models/x"] {
            assert_eq!(has_prompt(path), Some(false), "{path}");
        }
        for path in ["/", "/flush_cache", "/abort_request", "/update_weights_from_disk", "/v1", "/V1/models"] {
            assert_eq!(has_prompt(path), None, "{path}");
        }
    }

    #[test]
    fn types_that_are_no_json_are_refused() {
        let check = |value: &'static str| {
            check_content_type(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]))
        };
        assert!(check("application/json; charset=utf-8").is_ok() && check("Application/JSON").is_ok());
        assert_eq!(check("text/plain").unwrap_err().status(), 415);
        assert!(check_content_type(&HeaderMap::new()).is_ok());
    }
}
