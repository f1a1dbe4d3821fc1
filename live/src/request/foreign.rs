//! Recognises answers that are not from an engine: a login page, an ingress, or another server at the replica's URL.

use crate::wire::content_type;
use http::StatusCode;
use http::header::LOCATION;

/// What an answer to a prompt is that is neither an answer nor an error: no content, a page, or a redirect, for example
/// to a login. Engines redirect only to the same path with or without its last slash.
pub(super) fn no_answer(head: &http::response::Parts, is_empty: bool, asked: &str) -> Option<&'static str> {
    if head.status.is_redirection() {
        return leads_elsewhere(head, asked).then_some("");
    }
    if !head.status.is_success() {
        return None;
    }
    match head.status {
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT => Some(""),
        _ if content_type::is_html(&head.headers) => Some(" with a page of HTML"),
        _ if is_empty => Some(" without a body"),
        _ => None,
    }
}

/// Whether the body of an answer in JSON is none: words, as balancers write them, or a text that breaks off. Engines write
/// JSON with `NaN` in it, or several texts, and that is left to clients.
pub(super) fn is_no_json(body: &[u8]) -> bool {
    let Some(first) = body.trim_ascii_start().first() else { return false };
    match serde_json::from_slice::<serde::de::IgnoredAny>(body) {
        Ok(_) => false,
        Err(wrong) => !matches!(first, b'{' | b'[') || wrong.is_eof(),
    }
}

fn leads_elsewhere(head: &http::response::Parts, asked: &str) -> bool {
    let location = head.headers.get(LOCATION).and_then(|value| value.to_str().ok()?.parse::<http::Uri>().ok());
    let bare = |path: &str| path.trim_end_matches('/').to_owned();
    // The engine's URL may have a base path before it.
    location.is_none_or(|to| to.path() == asked || !bare(to.path()).ends_with(&bare(asked)))
}

/// Whether an error is that of an ingress or another server, and says nothing of the request: a page of HTML, or a text
/// about the path. Engines refuse requests in JSON, some refuse a body in plain text.
pub(super) fn is_foreign_refusal(head: &http::response::Parts) -> bool {
    let is_about_path = matches!(head.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
    match head.status {
        // A balancer before the engine may judge the request's length.
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::URI_TOO_LONG | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => false,
        status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
            content_type::is_html(&head.headers)
                || is_about_path && content_type::starts_with(&head.headers, b"text/plain")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Response;
    use http::header::CONTENT_TYPE;

    fn head(status: u16, kind: &str) -> http::response::Parts {
        Response::builder().status(status).header(CONTENT_TYPE, kind).body(()).unwrap().into_parts().0
    }

    #[test]
    fn words_and_halves_are_no_answer_in_json() {
        for body in ["upstream connect error", "no healthy upstream", " error", "{\"choices\": [{\"te", "[1,"] {
            assert!(is_no_json(body.as_bytes()), "{body}");
        }
        for body in ["", " ", "{}", "[]", "7", "\"x\"", "{\"logprob\": NaN}", "{\"a\":1}\n{\"b\":2}\n"] {
            assert!(!is_no_json(body.as_bytes()), "{body}");
        }
    }

    #[test]
    fn engines_answer_prompts_with_neither_pages_nor_nothing() {
        for (status, kind, is_empty, is_answer) in [
            (200, "application/json", false, true),
            (200, "text/plain", false, true),
            (200, "Text/HTML; charset=utf-8", false, false),
            (200, "application/json", true, false),
            (204, "application/json", true, false),
            (500, "text/html", false, true),
        ] {
            let found = no_answer(&head(status, kind), is_empty, "/v1/completions");
            assert_eq!(found.is_none(), is_answer, "{status} {kind} {is_empty}");
        }
    }

    #[test]
    fn refusals_in_text_are_those_of_another_server() {
        for (status, kind, is_foreign) in [
            (404, "text/plain; charset=utf-8", true),
            (405, "text/html", true),
            (400, "text/html", true),
            (403, "text/html", true),
            // Servers in Rust refuse a body that is no JSON this way.
            (400, "text/plain", false),
            (422, "text/plain", false),
            (404, "application/json", false),
            (413, "text/html", false),
            (429, "text/html", false),
            (502, "text/html", false),
        ] {
            assert_eq!(is_foreign_refusal(&head(status, kind)), is_foreign, "{status} {kind}");
        }
    }
}
