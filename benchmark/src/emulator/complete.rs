//! The three generating paths: parse, submit, follow, answer.

use super::actor::{EngineHandle, Progress, Ticket};
use super::answer::{Answering, DONE, Path};
use super::errors::{Refusal, json_response, with_type};
use super::prompt::{ChatBody, CompletionBody, CustomParams, GenerateBody, Prompt, PromptField, render};
use super::server::App;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, header};
use futures_util::stream;
use gorgo_core::RequestId;
use gorgo_sim::engine::EngineError;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A request, whichever path it came by.
struct Wanted {
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

fn parse<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, Refusal> {
    let json = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if !json.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json") {
        return Err(Refusal::bad(format!("Unsupported Media Type: Only 'application/json' is allowed, not '{json}'")));
    }
    serde_json::from_slice(body).map_err(|e| Refusal::bad(format!("the body cannot be read: {e}")))
}

fn one<T>(mut many: Vec<T>) -> Result<T, Refusal> {
    match (many.pop(), many.is_empty()) {
        (Some(only), true) => Ok(only),
        _ => Err(Refusal::bad(format!("a batch of {} prompts: this server takes one a request", many.len() + 1))),
    }
}

/// `POST /v1/chat/completions`.
pub async fn chat(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let wanted = parse::<ChatBody>(&headers, &body).and_then(|b| {
        if b.messages.is_empty() {
            return Err(Refusal::bad("messages is empty: give at least one"));
        }
        let prompt = Prompt::of_text(&render(&b.messages, b.tools.as_ref()), app.config.bytes_per_token);
        let max = b.max_completion_tokens.or(b.common.max_tokens);
        Wanted::of_common(Path::Chat, prompt, b.common, max)
    });
    app.openai(wanted).await
}

/// `POST /v1/completions`.
pub async fn completions(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let wanted = parse::<CompletionBody>(&headers, &body).and_then(|b| {
        let text = |t: &str| Prompt::of_text(t, app.config.bytes_per_token);
        let prompt = match b.prompt {
            PromptField::Text(t) => text(&t),
            PromptField::Texts(many) => text(&one(many)?),
            PromptField::Ids(ids) => Prompt::of_ids(&ids),
            PromptField::ManyIds(many) => Prompt::of_ids(&one(many)?),
        };
        // The old completions API ends after 16 tokens unless told otherwise.
        let max = b.common.max_tokens.or(Some(16));
        Wanted::of_common(Path::Completion, prompt, b.common, max)
    });
    app.openai(wanted).await
}

/// `POST` or `PUT /generate`.
pub async fn generate(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let wanted = parse::<GenerateBody>(&headers, &body).and_then(|b| {
        let prompt = match (b.text, b.input_ids) {
            (Some(text), None) => Prompt::of_text(&text, app.config.bytes_per_token),
            (None, Some(ids)) => Prompt::of_ids(&ids),
            _ => return Err(Refusal::bad("Either text or input_ids should be provided, not both or neither.")),
        };
        let s = b.sampling_params;
        Ok(Wanted {
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
    match wanted {
        Ok(wanted) => app.answer(wanted).await,
        Err(refusal) => refusal.native(),
    }
}

impl Wanted {
    fn of_common(path: Path, prompt: Prompt, c: super::prompt::Common, max: Option<u32>) -> Result<Self, Refusal> {
        if c.n.is_some_and(|n| n != 1) {
            return Err(Refusal::bad("n must be 1: this server gives one answer a request"));
        }
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

/// Aborts a request whose client went away, as late as SGLang notices it.
struct Guard {
    engine: EngineHandle,
    app: Arc<App>,
    id: RequestId,
    rid: String,
    after: Duration,
    over: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.app.forget(&self.rid);
        if !self.over {
            let (engine, id, after) = (self.engine.clone(), self.id, self.after);
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    tokio::time::sleep(after).await;
                    engine.cancel(id);
                });
            }
        }
    }
}

impl App {
    async fn openai(self: &Arc<Self>, wanted: Result<Wanted, Refusal>) -> Response<Body> {
        match wanted {
            Ok(wanted) => self.answer(wanted).await,
            Err(refusal) => refusal.openai(),
        }
    }

    async fn answer(self: &Arc<Self>, wanted: Wanted) -> Response<Body> {
        let Wanted { path, prompt, model, rid, max_new, ignore_eos, custom, stream, .. } = wanted;
        let (request, answer) = prompt.into_request(max_new, ignore_eos, custom.output_tokens);
        let answering = Answering {
            path,
            rid: rid.unwrap_or_else(|| self.fresh_rid()),
            model: model.unwrap_or_else(|| self.config.model.clone()),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            answer,
            prompt_tokens: request.input_tokens,
            max_new,
            include_usage: wanted.include_usage,
            continuous_usage: wanted.continuous_usage,
            cache_report: self.config.cache_report,
        };
        let refused = |error: &EngineError| {
            let refusal = Refusal::of(error);
            let late = matches!(error, EngineError::QueueFull | EngineError::ExceedsPool { .. });
            match (path, stream) {
                (Path::Generate, true) => event_stream(refusal.native_event() + DONE),
                (Path::Generate, false) => refusal.native(),
                // What only the scheduler finds out comes after the 200.
                (_, true) if late => event_stream(refusal.event() + DONE),
                _ => refusal.openai(),
            }
        };
        let Ticket { id, mut progress } = match self.engine.submit(request, stream).await {
            Ok(ticket) => ticket,
            Err(error) => return refused(&error),
        };
        if !self.remember(&answering.rid, id) {
            self.engine.cancel(id);
            let refusal = Refusal::bad(format!("Duplicate request ID detected: {}", answering.rid));
            return if path == Path::Generate { refusal.native() } else { refusal.openai() };
        }
        let config = &self.config;
        let after = if stream { config.abort_stream_ms } else { config.abort_unary_ms };
        let mut guard = Guard {
            engine: self.engine.clone(),
            app: Arc::clone(self),
            id,
            rid: answering.rid.clone(),
            after: Duration::from_secs_f64(after / 1e3),
            over: false,
        };
        if !stream {
            let Ok(last) = progress.wait_for(|p| p.end.is_some()).await.map(|p| p.clone()) else {
                return Refusal::of(&EngineError::Down).openai();
            };
            guard.over = true;
            return match &last.end {
                Some((_, Err(error))) if !matches!(error, EngineError::Cancelled) => refused(error),
                Some((_, Ok(done))) => json_response(200, &answering.whole(&last, Some(*done))),
                _ => json_response(200, &answering.whole(&last, None)),
            };
        }
        if path != Path::Generate {
            // The 200 comes with the first token, so what fails before it can still be an error.
            let started = progress.wait_for(|p| p.generated > 0 || p.end.is_some()).await.map(|p| p.clone());
            if let Ok(Progress { generated: 0, end: Some((_, Err(error))), .. }) = &started
                && !matches!(error, EngineError::Cancelled)
            {
                guard.over = true;
                return refused(error);
            }
        }
        let state = Some((answering, progress, guard, 0u32));
        let events = stream::unfold(state, |state| async move {
            let (answering, mut progress, mut guard, sent) = state?;
            let news = progress.wait_for(|p| p.generated > sent || p.end.is_some()).await.map(|p| p.clone());
            let Ok(news) = news else { return Some((Err(std::io::Error::other("the engine is gone")), None)) };
            let mut out = answering.events(sent, &news);
            let Some((_, end)) = &news.end else {
                let generated = news.generated;
                return Some((Ok(Bytes::from(out)), Some((answering, progress, guard, generated))));
            };
            guard.over = true;
            match end {
                // A dead process sends nothing more, not even an end.
                Err(EngineError::Crashed) => return Some((Err(std::io::Error::other("crashed")), None)),
                Err(EngineError::Cancelled) => out += &answering.last_events(&news, None),
                Err(error) if answering.path == Path::Generate => out += &(Refusal::of(error).native_event() + DONE),
                Err(error) => out += &(Refusal::of(error).event() + DONE),
                Ok(done) => out += &answering.last_events(&news, Some(*done)),
            }
            Some((Ok(Bytes::from(out)), None))
        });
        with_type(200, "text/event-stream; charset=utf-8", Body::from_stream(events))
    }
}

fn event_stream(events: String) -> Response<Body> {
    with_type(200, "text/event-stream; charset=utf-8", events)
}
