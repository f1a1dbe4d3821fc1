//! Judges the answer to a probe: whether an engine gave it, or another server that listens at that address.

use http::StatusCode;
use serde::de::IgnoredAny;

/// The path that every engine with OpenAI's API has.
pub(super) const MODELS: &str = "/v1/models";

/// What an answer to a probe says of the replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// An engine answered.
    Alive,
    /// It has no list of models: `/health` decides.
    Elsewhere,
    /// The engine, or what stands before it, fails.
    Failing,
    /// No engine answers so; the text is what came with the status.
    NoEngine(&'static str),
}

/// Judges the answer to a probe of `path`.
pub(crate) fn judge(path: &str, status: StatusCode, is_html: bool, page: &[u8]) -> Health {
    let is_models = path == MODELS;
    match status.as_u16() {
        200..=299 if is_html => Health::NoEngine("a page of HTML"),
        // Whatever JSON it is: not every engine has a list to show.
        200..=299 if is_models && serde_json::from_slice::<IgnoredAny>(page).is_err() => Health::NoEngine("no JSON"),
        // The key is refused, which is told elsewhere, or there are too many requests: an engine says so, too.
        200..=299 | 401 | 403 | 429 => Health::Alive,
        404 | 405 | 501 if is_models => Health::Elsewhere,
        300..=399 => Health::NoEngine("a redirect"),
        400..=499 => Health::NoEngine("not with the engine's health (probes.path)"),
        _ => Health::Failing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_of_an_engine_is_health() {
        let of = |path, status, is_html, page: &str| {
            judge(path, StatusCode::from_u16(status).unwrap(), is_html, page.as_bytes())
        };
        let list = "{\"object\": \"list\", \"data\": []}";
        for page in [list, "{\"data\": null, \"x\": 1}", "{}"] {
            assert_eq!(of(MODELS, 200, false, page), Health::Alive, "{page}");
        }
        for (status, page) in
            [(200, ""), (200, "{"), (200, "ok"), (204, ""), (302, list), (400, list), (426, ""), (421, "")]
        {
            assert!(matches!(of(MODELS, status, false, page), Health::NoEngine(_)), "{status} {page}");
        }
        assert!(matches!(of(MODELS, 200, true, list), Health::NoEngine(_)));
        assert!(matches!(of("/health", 200, true, ""), Health::NoEngine(_)));
        for (path, status, health) in [
            (MODELS, 404, Health::Elsewhere),
            (MODELS, 405, Health::Elsewhere),
            (MODELS, 401, Health::Alive),
            (MODELS, 429, Health::Alive),
            (MODELS, 503, Health::Failing),
            ("/health", 200, Health::Alive),
            ("/health", 204, Health::Alive),
            ("/health", 503, Health::Failing),
        ] {
            assert_eq!(of(path, status, false, ""), health, "{path} {status}");
        }
        assert!(matches!(of("/health", 404, false, ""), Health::NoEngine(_)));
    }
}
