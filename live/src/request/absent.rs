//! Endpoints that an engine lacks: vLLM has no `/generate`, SGLang no `/pooling`, and older versions of both lack more.
//!
//! The router learns this from the engine's own 404 or 405: it sends the request to another engine, and later requests
//! for that path skip the engine that lacks it. Only [`endpoints::NUMBERED`] paths are recorded, so that clients cannot
//! fill memory or use up retries with made-up paths.

use crate::request::endpoints;
use crate::state::AppState;
use crate::upstream::replica::Upstream;
use gorgo_core::ReplicaSet;
use http::StatusCode;
use serde_json::Value;
use std::sync::atomic::Ordering;

/// Longest answer that is read for it, bytes.
pub(super) const LONGEST: u64 = 512;

/// Whether an answer with this status and body says that the engine does not have the path: the text that its HTTP
/// framework sends, not one about a model or an id.
pub(super) fn is_about_path(status: StatusCode, body: &[u8]) -> bool {
    let body = body.trim_ascii();
    if body.is_empty() {
        return true;
    }
    let reason = status.canonical_reason().unwrap_or_default();
    let Ok(told) = serde_json::from_slice::<Value>(body) else {
        // Starlette says the reason alone, Go (Ollama) more of it.
        return body.eq_ignore_ascii_case(reason.as_bytes()) || body == b"404 page not found";
    };
    let message = told.get("detail").or_else(|| told.get("error")?.get("message")).or_else(|| told.get("message"));
    message.and_then(Value::as_str).is_some_and(|message| message.eq_ignore_ascii_case(reason))
}

/// Keeps that an engine does not have a path; whether another one may have it.
pub(super) fn learn(state: &AppState, upstream: &Upstream, path: &str) -> bool {
    let Some(number) = endpoints::number(path) else { return false };
    upstream.absent.insert(number);
    state.absent.insert(number);
    !engines_where(state, |engine| !lacks(engine, number)).is_empty()
}

/// The replicas that may have the endpoint at this path; `None` for all, as when none is known to have it.
pub(super) fn replicas_with(state: &AppState, path: &str) -> Option<ReplicaSet> {
    let number = endpoints::number(path)?;
    if !state.absent.has(number) && !endpoints::OF_ONE_KIND.contains(&endpoints::NUMBERED[number]) {
        return None;
    }
    if engines_where(state, |engine| lacks(engine, number)).is_empty() {
        return None;
    }
    Some(engines_where(state, |engine| !lacks(engine, number))).filter(|with| !with.is_empty())
}

/// Whether an engine lacks an endpoint, by its kind or its answer.
fn lacks(engine: &Upstream, number: usize) -> bool {
    let by_kind = match endpoints::NUMBERED[number] {
        "/generate" => engine.vllm.load(Ordering::Relaxed),
        "/pooling" | "/v1/pooling" => engine.is_sglang(),
        _ => false,
    };
    by_kind || engine.absent.has(number)
}

/// The replicas of the fleet for which this holds.
pub(super) fn engines_where(state: &AppState, holds: impl Fn(&Upstream) -> bool) -> ReplicaSet {
    let mut found = ReplicaSet::EMPTY;
    state.driver.read(|router, upstreams, _| {
        for (upstream, replica) in upstreams.iter().zip(router.replicas()) {
            if !replica.removed && holds(upstream) {
                found.insert(upstream.id);
            }
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_frameworks_own_words_are_about_the_path() {
        for (status, body, is_it) in [
            (404, r#"{"detail":"Not Found"}"#, true),
            (405, r#"{"detail":"Method Not Allowed"}"#, true),
            (404, r#"{"error":{"message":"Not Found","type":"Not Found","param":null,"code":404}}"#, true),
            (404, "", true),
            (404, "Not Found", true),
            (404, "404 page not found\n", true),
            (405, "Method Not Allowed", true),
            (404, "default backend - 404", false),
            (404, r#"{"error":{"message":"The model `x` does not exist.","type":"NotFoundError"}}"#, false),
            (404, r#"{"detail":"File not found"}"#, false),
            (405, r#"{"detail":"Not Found"}"#, false),
            (404, "<html>404 Not Found</html>", false),
        ] {
            assert_eq!(is_about_path(StatusCode::from_u16(status).unwrap(), body.as_bytes()), is_it, "{status} {body}");
        }
    }
}
