//! The paths that are served, and which of them hold prompts, change an engine, or name what an engine keeps.

use crate::request::body::Body;
use crate::request::errors::refusal;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Method, Response, StatusCode, Uri};
use std::borrow::Cow;

/// What a path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Its requests hold a prompt.
    Prompt,
    /// Anything else that any client may ask an engine for.
    Other,
    /// It changes an engine: for operators only, and for every engine.
    Administration,
}

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathError {
    /// It is not served.
    Unknown,
    /// Readers behind the router may take it for another path.
    Ambiguous,
}

/// Paths outside `/v1/` that hold prompts, and those under it.
const PROMPTS: [&str; 16] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/messages",
    "/generate",
    "/v1/score",
    "/v1/rerank",
    "/v2/rerank",
    "/rerank",
    "/score",
    "/v1/pooling",
    "/pooling",
    "/v1/classify",
    "/classify",
    "/v1/generate",
];

/// Endpoints that only one kind of engine has.
pub(super) const OF_ONE_KIND: [&str; 3] = ["/generate", "/pooling", "/v1/pooling"];

/// The paths of which is kept which engines lack them: [`PROMPTS`], and what clients ask of engines besides.
pub(super) const NUMBERED: [&str; 30] = [
    PROMPTS[0],
    PROMPTS[1],
    PROMPTS[2],
    PROMPTS[3],
    PROMPTS[4],
    PROMPTS[5],
    PROMPTS[6],
    PROMPTS[7],
    PROMPTS[8],
    PROMPTS[9],
    PROMPTS[10],
    PROMPTS[11],
    PROMPTS[12],
    PROMPTS[13],
    PROMPTS[14],
    PROMPTS[15],
    "/tokenize",
    "/detokenize",
    "/v1/tokenize",
    "/v1/detokenize",
    "/get_model_info",
    "/model_info",
    "/v1/messages/count_tokens",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/audio/speech",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/images/variations",
    "/v1/moderations",
];

/// The number of a path in [`NUMBERED`].
pub(super) fn number(path: &str) -> Option<usize> {
    NUMBERED.iter().position(|one| *one == path.trim_end_matches('/'))
}

/// Names of engines' administration (SGLang, vLLM), wherever in a path they stand.
const ADMINISTRATION: [&str; 20] = [
    "flush_cache",
    "load_lora_adapter",
    "load_lora_adapter_from_tensors",
    "unload_lora_adapter",
    "abort_request",
    "sleep",
    "wake_up",
    "start_profile",
    "stop_profile",
    "reset_prefix_cache",
    "reset_mm_cache",
    "reset_encoder_cache",
    "collective_rpc",
    "pause_generation",
    "continue_generation",
    "release_memory_occupation",
    "resume_memory_occupation",
    "set_internal_state",
    "configure_logging",
    "shutdown",
];

/// Segments that are administration by themselves, except among names of what engines keep (`/v1/model/load` of Aphrodite
/// and TabbyAPI).
const ADMINISTRATION_WORDS: [&str; 7] = ["load", "unload", "reload", "flush", "reset", "drain", "update_from_disk"];

/// How the names of further ones begin, where they stand first in a path or right after `/v1/`.
const ADMINISTRATION_VERBS: [&str; 24] = [
    "update_",
    "load_",
    "unload_",
    "init_",
    "destroy_",
    "reset_",
    "flush_",
    "start_",
    "stop_",
    "pause_",
    "resume_",
    "release_",
    "set_",
    "configure_",
    "dump_",
    "abort_",
    "freeze_",
    "scale_",
    "clear_",
    "attach_",
    "detach_",
    "slow_down",
    "add_",
    "remove_",
];

/// Below it are names of models.
const MODELS: &[u8] = b"/v1/models/";

/// What a request to a path is for, judged as the last reader of it will: percent-encoding resolved.
pub(crate) fn judge(method: &Method, path: &str) -> Result<Endpoint, PathError> {
    // Nearly every request's path is one of these to the letter, and resolving it costs 2 % of a short request.
    if PROMPTS.contains(&path) {
        return Ok(Endpoint::Prompt);
    }
    let path = resolved(path)?;
    let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(&path);
    if PROMPTS.contains(&path) {
        return Ok(Endpoint::Prompt);
    }
    if is_administration(path) || removes_model(method, path) {
        return Ok(Endpoint::Administration);
    }
    match path {
        "/tokenize" | "/detokenize" | "/get_model_info" | "/model_info" => Ok(Endpoint::Other),
        path if path.starts_with("/v1/") => Ok(Endpoint::Other),
        _ => Err(PathError::Unknown),
    }
}

/// The path with its percent-encoding resolved. Refused are paths that some readers resolve further: dot segments,
/// empty segments, encoded slashes, backslashes, parameters of segments, and anything encoded twice. Names of models have
/// slashes, which OpenAI's clients encode below `/v1/models/`: resolved or not, they name the same model.
pub(super) fn resolved(path: &str) -> Result<Cow<'_, str>, PathError> {
    let bytes = path.as_bytes();
    let plain = if bytes.contains(&b'%') { Cow::Owned(decoded(bytes)?) } else { Cow::Borrowed(path) };
    let inner = plain.strip_prefix('/').unwrap_or(&plain);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    let is_odd = |segment: &str| matches!(segment, "" | "." | "..");
    let is_bad = |byte: u8| matches!(byte, b'\\' | b';' | b'%' | 0..=0x20 | 0x7f);
    if plain.bytes().any(is_bad) || (!inner.is_empty() && inner.split('/').any(is_odd)) {
        return Err(PathError::Ambiguous);
    }
    Ok(plain)
}

/// A path, or a value of a query, that was judged, as engines read it: without percent signs.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    match text.contains('%').then(|| decoded(text.as_bytes())) {
        Some(Ok(plain)) => Cow::Owned(plain),
        _ => Cow::Borrowed(text),
    }
}

fn decoded(path: &[u8]) -> Result<String, PathError> {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16)).map(|digit| digit as u8);
    let (mut out, mut at) = (Vec::with_capacity(path.len()), 0);
    while let Some(&byte) = path.get(at) {
        if byte != b'%' {
            out.push(byte);
            at += 1;
            continue;
        }
        let (Some(high), Some(low)) = (digit(path.get(at + 1)), digit(path.get(at + 2))) else {
            return Err(PathError::Ambiguous);
        };
        match high << 4 | low {
            b'/' if !path.starts_with(MODELS) => return Err(PathError::Ambiguous),
            byte => out.push(byte),
        }
        at += 3;
    }
    String::from_utf8(out).map_err(|_| PathError::Ambiguous)
}

fn is_administration(path: &str) -> bool {
    let first = path.strip_prefix("/v1/").unwrap_or(path.trim_start_matches('/')).split('/').next().unwrap_or_default();
    let first = first.to_ascii_lowercase();
    let has =
        |names: &[&str]| path.split('/').any(|segment| names.iter().any(|name| segment.eq_ignore_ascii_case(name)));
    ADMINISTRATION_VERBS.iter().any(|verb| first.starts_with(verb))
        || has(&ADMINISTRATION)
        || (!KEPT.contains(&first.as_str()) && has(&ADMINISTRATION_WORDS))
}

/// Whether a request changes the models of an engine by its method alone (`DELETE /v1/models/NAME`).
fn removes_model(method: &Method, path: &str) -> bool {
    matches!(*method, Method::DELETE | Method::PUT | Method::PATCH) && path.as_bytes().starts_with(MODELS)
}

fn last_segment(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// Whether an engine's administration at this path empties its KV cache.
pub(crate) fn empties_cache(path: &str) -> bool {
    let name = last_segment(path);
    matches!(name, "flush_cache" | "reset_prefix_cache" | "sleep" | "release_memory_occupation")
        || name.starts_with("update_weights")
}

/// Whether an engine's administration at this path only drops something it holds, which takes no time.
pub(super) fn only_forgets(path: &str) -> bool {
    matches!(last_segment(path), "flush_cache" | "reset_prefix_cache" | "reset_mm_cache" | "abort_request")
}

/// Whether an engine's administration at this path changes the list of its models.
pub(super) fn changes_models(path: &str) -> bool {
    let name = last_segment(path);
    name.contains("load_") || name.contains("update_weights")
}

/// Kinds of things that an engine keeps by an id of its own.
const KEPT: [&str; 9] =
    ["responses", "files", "batches", "conversations", "vector_stores", "uploads", "threads", "assistants", "videos"];

/// The id of something that an engine keeps, if the path names one: `/v1/responses/ID`. What is posted to
/// `/v1/responses/input_tokens`, `/v1/responses/compact` or `/v1/threads/runs` names none: ids hold digits.
pub(crate) fn kept_id<'a>(method: &Method, path: &'a str) -> Option<&'a str> {
    let (kind, rest) = path.strip_prefix("/v1/")?.split_once('/')?;
    let (id, more) = rest.split_once('/').unwrap_or((rest, ""));
    let is_verb = *method == Method::POST && more.is_empty() && !id.bytes().any(|byte| byte.is_ascii_digit());
    (KEPT.contains(&kind) && !id.is_empty() && !is_verb).then_some(id)
}

/// The id after which a list of what engines keep goes on: `/v1/files?after=ID`.
pub(crate) fn listed_after(uri: &Uri) -> Option<&str> {
    let pairs = uri.query().filter(|_| makes_kept(&plain(uri.path())))?.split('&');
    pairs.filter_map(|pair| pair.strip_prefix("after=")).find(|id| !id.is_empty())
}

/// Whether the state of a batch is asked for, which names the files that it has written.
pub(crate) fn names_files(path: &str) -> bool {
    path.starts_with("/v1/batches/")
}

/// Whether a POST to the path makes something that the engine keeps.
pub(crate) fn makes_kept(path: &str) -> bool {
    path.strip_prefix("/v1/").is_some_and(|rest| {
        let kind = rest.split('/').next().unwrap_or_default();
        KEPT.contains(&kind)
    })
}

/// Whether a request without a prompt makes something at each try: RFC 9110, 9.2.2. What only computes does not.
pub(super) fn makes_something(method: &Method, path: &str) -> bool {
    (*method == Method::POST || *method == Method::PATCH) && number(path).is_none()
}

/// Whether a request without a prompt takes no place at an engine: it asks about something, ends it, or keeps a file.
pub(super) fn is_light(method: &Method, path: &str) -> bool {
    if *method != Method::POST {
        return true;
    }
    let path = path.trim_end_matches('/');
    path.ends_with("tokenize") || path.ends_with("/cancel") || path.ends_with("/count_tokens") || makes_kept(path)
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

    fn judge(path: &str) -> Result<Endpoint, PathError> {
        super::judge(&Method::POST, path)
    }

    /// As OpenAI removes a model, however the path is written.
    #[test]
    fn removing_a_model_is_administration() {
        for path in ["/v1/models/m", "/v1/model%73/m", "/v1/models/org%2Fname"] {
            assert_eq!(super::judge(&Method::DELETE, path), Ok(Endpoint::Administration), "{path}");
            assert_eq!(super::judge(&Method::GET, path), Ok(Endpoint::Other), "{path}");
        }
        assert_eq!(super::judge(&Method::DELETE, "/v1/files/f"), Ok(Endpoint::Other));
    }

    #[test]
    fn paths_that_are_served() {
        for path in PROMPTS {
            assert_eq!(judge(path), Ok(Endpoint::Prompt), "{path}");
        }
        assert_eq!(judge("/v1/chat/completions/"), Ok(Endpoint::Prompt));
        assert_eq!(judge("/v1/chat%2Dtest"), Ok(Endpoint::Other));
        for path in [
            "/v1/models",
            "/tokenize",
            "/v1/models/org/name",
            "/v1/models/org%2Fname",
            "/v1/files/reset_1",
            "/v1/files/load",
            "/v1/uploads",
            "/v1/models/org/loader",
            "/v1/realtime",
        ] {
            assert_eq!(judge(path), Ok(Endpoint::Other), "{path}");
        }
        for path in ["/", "", "/v1", "/V1/models", "/metrics2", "/v3/rerank", "/docs"] {
            assert_eq!(judge(path), Err(PathError::Unknown), "{path}");
        }
    }

    #[test]
    fn administration_is_told_wherever_it_lies_and_however_it_is_written() {
        for path in [
            "/flush_cache",
            "/v1/flush_cache",
            "/v1/Flush_Cache/",
            "/v1/%66lush_cache",
            "/v1/load_lora_adapter",
            "/v1/unload_lora_adapter",
            "/update_weights_from_disk",
            "/update_weights_from_anything_new",
            "/sleep",
            "/v1/x/sleep",
            "/start_profile",
            "/abort_request",
            "/collective_rpc",
            "/v1/model/load",
            "/v1/lora/unload",
            "/v1/internal/model/load",
            "/v1/weights/update_from_disk",
            "/v1/cache/reset",
            "/v1/Drain",
        ] {
            assert_eq!(judge(path), Ok(Endpoint::Administration), "{path}");
        }
        assert!(changes_models("/v1/unload_lora_adapter") && changes_models("/load_lora_adapter/"));
        assert!(!changes_models("/flush_cache"));
        assert!(empties_cache("/flush_cache") && empties_cache("/update_weights_from_disk") && !empties_cache("/v1/x"));
    }

    #[test]
    fn paths_that_others_read_differently_are_refused() {
        for path in [
            "/v1/../flush_cache",
            "/v1/%2e%2e/flush_cache",
            "/v1/%2E./flush_cache",
            "/v1/.%2e/flush_cache",
            "/v1/..%2fflush_cache",
            "/v1/models/..%2f..%2fflush_cache",
            "/v1/models%2f..%2fflush_cache",
            "/v1/x/../../flush_cache",
            "/v1/./models",
            "/v1//models",
            "//v1/models",
            "/v1/models//",
            "/v1\\..\\flush_cache",
            "/v1/%5c..%5cflush_cache",
            "/v1/%252e%252e/flush_cache",
            "/v1/..;/flush_cache",
            "/v1/a%00b",
            "/v1/a%zz",
            "/v1/a%2",
            "/v1/%ff",
            "/v1/..",
            "/v1/%2e%2e",
        ] {
            assert_eq!(judge(path), Err(PathError::Ambiguous), "{path}");
        }
    }

    #[test]
    fn what_engines_keep_is_named_by_paths() {
        let kept_id = |path| super::kept_id(&Method::POST, path);
        assert_eq!(kept_id("/v1/conversations/conv_1"), Some("conv_1"));
        assert_eq!(kept_id("/v1/responses/resp_x/cancel"), Some("resp_x"));
        assert_eq!(super::kept_id(&Method::GET, "/v1/responses/resp_x"), Some("resp_x"));
        for verb in ["responses/input_tokens", "responses/compact/", "threads/runs", "videos/edits"] {
            let path = format!("/v1/{verb}");
            assert_eq!(super::kept_id(&Method::POST, &path), None, "{verb}");
        }
        let after = |uri: &'static str| listed_after(&Uri::from_static(uri)).map(str::to_owned);
        assert_eq!(after("/v1/files?limit=2&after=f-1").as_deref(), Some("f-1"));
        assert_eq!((after("/v1/models?after=x"), after("/v1/files?after=")), (None, None));
        for path in ["/v1/responses", "/v1/responses/", "/v1/models/m", "/generate"] {
            assert_eq!(kept_id(path), None, "{path}");
        }
        assert!(makes_kept("/v1/files") && makes_kept("/v1/responses/r/cancel") && !makes_kept("/v1/models"));
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
