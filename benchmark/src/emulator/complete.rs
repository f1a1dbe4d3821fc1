//! The three generating paths: parse the body, submit the request, follow its progress, write the response.

use super::app::App;
use super::bodies::{ChatBody, Common, CompletionBody, CustomParams, GenerateBody, PromptField};
use super::errors::{ApiError, json_response, with_type};
use super::handle::Ticket;
use super::messages::RequestProgress;
use super::prompt::{Prompt, render};
use super::response::{DONE, Path, ResponseWriter};
use super::vllm;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, header};
use futures_util::stream;
use gorgo_core::RequestId;
use gorgo_sim::engine::{EngineError, EngineKind};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// A parsed request of any of the three paths.
struct GenerateRequest {
    path: Path,
    prompt: Prompt,
    model: Option<String>,
    rid: Option<String>,
    max_new: Option<u32>,
    ignore_eos: bool,
    custom: CustomParams,
    stream: bool,
    include_usage: bool,
    continuous_usage: bool,
}

/// Parses a JSON body.
fn parse<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, ApiError> {
    let json = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if !json.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json") {
        return Err(ApiError::bad_request(format!(
            "Unsupported Media Type: Only 'application/json' is allowed, not '{json}'"
        )));
    }
    serde_json::from_slice(body).map_err(|e| ApiError::bad_request(format!("the body cannot be read: {e}")))
}

/// Refuses a temperature that sampling cannot use, in the engines' words.
fn check_temperature(temperature: Option<f64>) -> Result<(), ApiError> {
    match temperature.filter(|t| *t < 0.0) {
        Some(t) => Err(ApiError::bad_request(format!("temperature must be non-negative, got {t:?}."))),
        None => Ok(()),
    }
}

/// The only element of a batch of one.
fn only<T>(mut many: Vec<T>) -> Result<T, ApiError> {
    match (many.pop(), many.is_empty()) {
        (Some(only), true) => Ok(only),
        _ => Err(ApiError::bad_request(format!(
            "a batch of {} prompts: this server takes one a request",
            many.len() + 1
        ))),
    }
}

/// `POST /v1/chat/completions`.
pub async fn chat(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let request = parse::<ChatBody>(&headers, &body).and_then(|b| {
        if b.messages.is_empty() {
            return Err(ApiError::bad_request("messages is empty: give at least one"));
        }
        let prompt = Prompt::of_text(&render(&b.messages, b.tools.as_ref()), app.config.bytes_per_token);
        let max = b.max_completion_tokens.or(b.common.max_tokens);
        GenerateRequest::of_common(Path::Chat, prompt, b.common, max)
    });
    respond(&app, &headers, request.and_then(|r| r.of_served_model(&app)), Path::Chat).await
}

/// `POST /v1/completions`.
pub async fn completions(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let request = parse::<CompletionBody>(&headers, &body).and_then(|b| {
        let text = |t: &str| Prompt::of_text(t, app.config.bytes_per_token);
        let prompt = match b.prompt {
            PromptField::Text(t) => text(&t),
            PromptField::Texts(many) => text(&only(many)?),
            PromptField::Ids(ids) => Prompt::of_ids(&ids),
            PromptField::ManyIds(many) => Prompt::of_ids(&only(many)?),
        };
        // The completions API generates 16 tokens by default.
        let max = b.common.max_tokens.or(Some(16));
        GenerateRequest::of_common(Path::Completion, prompt, b.common, max)
    });
    respond(&app, &headers, request.and_then(|r| r.of_served_model(&app)), Path::Completion).await
}

/// `POST` or `PUT /generate`.
pub async fn generate(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let request = parse::<GenerateBody>(&headers, &body).and_then(|b| {
        let prompt = match (b.text, b.input_ids) {
            (Some(text), None) => Prompt::of_text(&text, app.config.bytes_per_token),
            (None, Some(ids)) => Prompt::of_ids(&ids),
            _ => {
                return Err(ApiError::bad_request("Either text or input_ids should be provided, not both or neither."));
            }
        };
        let s = b.sampling_params;
        check_temperature(s.temperature)?;
        Ok(GenerateRequest {
            path: Path::Generate,
            prompt,
            model: None,
            rid: b.rid,
            max_new: Some(s.max_new_tokens.unwrap_or(128)),
            ignore_eos: s.ignore_eos,
            custom: s.custom_params.unwrap_or_default(),
            stream: b.stream,
            include_usage: false,
            continuous_usage: false,
        })
    });
    respond(&app, &headers, request, Path::Generate).await
}

impl GenerateRequest {
    /// vLLM serves its model only, SGLang answers for any name.
    fn of_served_model(self, app: &App) -> Result<Self, ApiError> {
        let served = app.config.engine.kind == EngineKind::Sglang;
        match self.model.as_ref().filter(|model| !served && **model != app.config.model) {
            Some(model) => Err(vllm::unknown_model(model)),
            None => Ok(self),
        }
    }

    fn of_common(path: Path, prompt: Prompt, c: Common, max: Option<u32>) -> Result<Self, ApiError> {
        if c.n.is_some_and(|n| n != 1) {
            return Err(ApiError::bad_request("n must be 1: this server gives one answer a request"));
        }
        check_temperature(c.temperature)?;
        let options = c.stream_options.unwrap_or_default();
        Ok(Self {
            path,
            prompt,
            model: c.model,
            rid: c.rid,
            max_new: max,
            ignore_eos: c.ignore_eos,
            custom: c.custom_params.unwrap_or_default(),
            stream: c.stream,
            include_usage: options.include_usage,
            continuous_usage: options.continuous_usage_stats,
        })
    }
}

/// Cancels the request if its handler is dropped before the request ended, that is, if the client disconnected.
struct CancelOnDrop {
    app: Arc<App>,
    id: RequestId,
    rid: String,
    /// SGLang notices a disconnected client only after this long.
    delay: Duration,
    ended: bool,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.app.unregister(&self.rid);
        if !self.ended {
            let (engine, id, delay) = (self.app.engine.clone(), self.id, self.delay);
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    tokio::time::sleep(delay).await;
                    engine.cancel(id);
                });
            }
        }
    }
}

/// A submitted request.
struct Submitted {
    writer: ResponseWriter,
    progress: watch::Receiver<RequestProgress>,
    guard: CancelOnDrop,
    stream: bool,
}

async fn respond(
    app: &Arc<App>,
    headers: &HeaderMap,
    request: Result<GenerateRequest, ApiError>,
    path: Path,
) -> Response<Body> {
    let session = headers.get("x-session-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    match request {
        Ok(request) => match submit(app, request, session).await {
            Ok(submitted) if submitted.stream => stream_response(submitted).await,
            Ok(submitted) => whole_response(submitted).await,
            Err(response) => response,
        },
        Err(error) => error_response(&error, path, app.config.engine.kind),
    }
}

/// Submits a request to the engine; the error is the response to send.
async fn submit(
    app: &Arc<App>,
    request: GenerateRequest,
    session: Option<String>,
) -> Result<Submitted, Response<Body>> {
    let GenerateRequest { path, stream, max_new, .. } = request;
    let (engine_request, answer) =
        request.prompt.into_request(max_new, request.ignore_eos, request.custom.output_tokens);
    let writer = ResponseWriter {
        path,
        rid: request.rid.unwrap_or_else(|| app.new_rid(path)),
        model: request.model.unwrap_or_else(|| app.config.model.clone()),
        kind: app.config.engine.kind,
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        answer,
        prompt_tokens: engine_request.input_tokens,
        max_new,
        include_usage: request.include_usage,
        continuous_usage: request.continuous_usage,
        cache_report: app.config.cache_report,
    };
    let ticket = app.engine.submit_of(engine_request, stream, session).await;
    let Ticket { id, progress } = ticket.map_err(|error| engine_error_response(&error, &writer, stream))?;
    if !app.register(&writer.rid, id) {
        app.engine.cancel(id);
        let error = ApiError::bad_request(format!("Duplicate request ID detected: {}", writer.rid));
        return Err(error_response(&error, path, writer.kind));
    }
    let delay_ms = if stream { app.config.abort_stream_ms } else { app.config.abort_unary_ms };
    let guard = CancelOnDrop {
        app: Arc::clone(app),
        id,
        rid: writer.rid.clone(),
        delay: Duration::from_secs_f64(delay_ms / 1e3),
        ended: false,
    };
    Ok(Submitted { writer, progress, guard, stream })
}

/// The response in one piece, once the request has ended.
async fn whole_response(submitted: Submitted) -> Response<Body> {
    let Submitted { writer, mut progress, mut guard, .. } = submitted;
    let Ok(last) = progress.wait_for(|p| p.end.is_some()).await.map(|p| p.clone()) else {
        return ApiError::from_engine(&EngineError::Down).openai();
    };
    guard.ended = true;
    match &last.end {
        Some((_, Err(error))) if !matches!(error, EngineError::Cancelled) => {
            engine_error_response(error, &writer, false)
        }
        Some((_, Ok(done))) => json_response(200, &writer.whole(&last, Some(*done))),
        _ => json_response(200, &writer.whole(&last, None)),
    }
}

/// The response as a stream of events.
async fn stream_response(submitted: Submitted) -> Response<Body> {
    let Submitted { writer, mut progress, mut guard, .. } = submitted;
    // vLLM sends the status 200 before the first token.
    if writer.path != Path::Generate && writer.kind == EngineKind::Sglang {
        // The status 200 is sent with the first token, so an error before it has its own status.
        let started = progress.wait_for(|p| p.generated > 0 || p.end.is_some()).await.map(|p| p.clone());
        if let Ok(RequestProgress { generated: 0, end: Some((_, Err(error))), .. }) = &started
            && !matches!(error, EngineError::Cancelled)
        {
            guard.ended = true;
            return engine_error_response(error, &writer, true);
        }
    }
    let state = Some((writer, progress, guard, 0u32));
    let events = stream::unfold(state, |state| async move {
        let (writer, mut progress, mut guard, sent) = state?;
        let update = progress.wait_for(|p| p.generated > sent || p.end.is_some()).await.map(|p| p.clone());
        let Ok(update) = update else { return Some((Err(std::io::Error::other("the engine is gone")), None)) };
        let mut out = writer.events(sent, &update);
        let Some((_, end)) = &update.end else {
            let generated = update.generated;
            return Some((Ok(Bytes::from(out)), Some((writer, progress, guard, generated))));
        };
        guard.ended = true;
        match end {
            // A process that crashed sends nothing more, not even an end.
            Err(EngineError::Crashed) => return Some((Err(std::io::Error::other("crashed")), None)),
            Err(EngineError::Cancelled) => out += &writer.last_events(&update, None),
            Err(error) => out += &error_events(error, &writer),
            Ok(done) => out += &writer.last_events(&update, Some(*done)),
        }
        Some((Ok(Bytes::from(out)), None))
    });
    with_type(200, EVENT_STREAM, Body::from_stream(events))
}

const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

fn error_response(error: &ApiError, path: Path, kind: EngineKind) -> Response<Body> {
    match kind {
        EngineKind::Vllm => json_response(error.status, &vllm::error_object(error)),
        EngineKind::Sglang if path == Path::Generate => error.native(),
        EngineKind::Sglang => error.openai(),
    }
}

/// The events that end a stream with an error.
fn error_events(error: &EngineError, writer: &ResponseWriter) -> String {
    let event = match (writer.kind, writer.path) {
        (EngineKind::Vllm, _) => format!("data: {}\n\n", vllm::error_object(&writer.engine_error(error))),
        (EngineKind::Sglang, Path::Generate) => ApiError::from_engine(error).native_event(),
        (EngineKind::Sglang, _) => ApiError::from_engine(error).event(),
    };
    event + DONE
}

/// The response to a request that the engine refused before its first token.
fn engine_error_response(error: &EngineError, writer: &ResponseWriter, stream: bool) -> Response<Body> {
    // The scheduler finds these errors, after the API process has started the stream.
    let found_by_scheduler = matches!(error, EngineError::QueueFull | EngineError::ExceedsPool { .. });
    let sglang = writer.kind == EngineKind::Sglang;
    if stream && sglang && (writer.path == Path::Generate || found_by_scheduler) {
        with_type(200, EVENT_STREAM, error_events(error, writer))
    } else {
        error_response(&writer.engine_error(error), writer.path, writer.kind)
    }
}
