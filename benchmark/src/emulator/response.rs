//! Response bodies, byte for byte as SGLang or vLLM writes them: JSON for whole answers, server-sent events for
//! streams.

use super::errors::ApiError;
use super::messages::{Completed, RequestProgress};
use super::prompt::token_ids;
use super::vllm;
use crate::text::Answer;
use gorgo_sim::engine::{EngineError, EngineKind};
use serde::Serialize;
use serde_json::{Value, json};

/// Path of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
    /// `/generate`.
    Generate,
}

/// Writes the response to one request, in the format of its path.
#[derive(Debug, Clone)]
pub struct ResponseWriter {
    /// Path of the request.
    pub path: Path,
    /// Id of the request; hexadecimal unless set by the client.
    pub rid: String,
    /// Model name as sent by the client.
    pub model: String,
    /// Whose format.
    pub kind: EngineKind,
    /// Unix time of the request, s.
    pub created: u64,
    /// Text of the answer.
    pub answer: Answer,
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// The client's `max_tokens`; an answer of that length ends for reason `length`.
    pub max_new: Option<u32>,
    /// Send the usage in a last chunk.
    pub include_usage: bool,
    /// Send the usage so far in every chunk.
    pub continuous_usage: bool,
    /// `--enable-cache-report`: the usage includes cached tokens.
    pub cache_report: bool,
}

/// Last event of every stream.
pub const DONE: &str = "data: [DONE]\n\n";

impl ResponseWriter {
    /// Finish reason, its token, and the reason as `/generate` reports it.
    fn finish(&self, done: Option<Completed>) -> (&'static str, Option<u32>, Value) {
        let Some(done) = done else {
            let reason = json!({"type": "abort", "message": "Aborted", "status_code": null, "err_type": null});
            return ("abort", None, reason);
        };
        match self.max_new {
            Some(limit) if done.output_tokens >= limit => ("length", None, json!({"type": "length", "length": limit})),
            // 2 is the end-of-sequence token of the Mistral and Llama 2 vocabularies.
            _ => ("stop", Some(2), json!({"type": "stop", "matched": 2})),
        }
    }

    /// The engine's error in the words of its kind.
    pub(super) fn engine_error(&self, error: &EngineError) -> ApiError {
        match self.kind {
            EngineKind::Sglang => ApiError::from_engine(error),
            EngineKind::Vllm => vllm::engine_error(error, self.prompt_tokens, self.max_new),
        }
    }

    fn usage(&self, progress: &RequestProgress) -> Usage {
        let sglang = self.kind == EngineKind::Sglang;
        Usage {
            prompt_tokens: self.prompt_tokens,
            total_tokens: self.prompt_tokens + progress.generated,
            completion_tokens: progress.generated,
            // 0.5.10 sends null both for no cached tokens and without a cache report.
            prompt_tokens_details: (self.cache_report && progress.cached_tokens > 0)
                .then_some(Details { cached_tokens: progress.cached_tokens }),
            reasoning_tokens: sglang.then_some(0),
        }
    }

    fn chunk(&self, choices: impl Serialize, usage: Option<&Usage>) -> String {
        let object = if self.path == Path::Chat { "chat.completion.chunk" } else { "text_completion" };
        let sglang = self.kind == EngineKind::Sglang;
        event(&Chunk {
            id: &self.rid,
            object,
            created: self.created,
            model: &self.model,
            choices,
            usage: Some(usage).filter(|u| sglang || u.is_some()),
        })
    }

    fn delta(&self, role: Option<&str>, content: Option<&str>, finish: Finish<'_>, usage: Option<&Usage>) -> String {
        let (finish_reason, matched_stop) = finish;
        if self.kind == EngineKind::Vllm {
            let stop_reason = finish_reason.map(|_| None);
            return match self.path {
                Path::Chat => {
                    let delta = VllmDelta { role, content: content.or(finish_reason.map(|_| "")) };
                    self.chunk(
                        [VllmChoice {
                            index: 0,
                            text: None,
                            delta: Some(delta),
                            logprobs: None,
                            finish_reason,
                            stop_reason,
                        }],
                        usage,
                    )
                }
                _ => {
                    let text = content.or(Some(""));
                    self.chunk(
                        [VllmChoice {
                            index: 0,
                            text,
                            delta: None,
                            logprobs: None,
                            finish_reason,
                            stop_reason: Some(None),
                        }],
                        usage,
                    )
                }
            };
        }
        if self.path == Path::Chat {
            let delta = Delta { role, content, reasoning_content: None, tool_calls: None };
            self.chunk([ChatChoice { index: 0, delta, logprobs: None, finish_reason, matched_stop }], usage)
        } else {
            let text = content.unwrap_or("");
            self.chunk([TextChoice { index: 0, text, logprobs: None, finish_reason, matched_stop }], usage)
        }
    }

    /// Events for the tokens between `sent` and `progress`. The first event of a chat stream carries the role.
    pub fn events(&self, sent: u32, progress: &RequestProgress) -> String {
        if self.path == Path::Generate {
            return if progress.generated > sent { self.native(progress, None) } else { String::new() };
        }
        let usage = self.continuous_usage.then(|| self.usage(progress));
        let mut out = String::new();
        if sent == 0 && progress.generated > 0 && self.path == Path::Chat {
            out += &self.delta(Some("assistant"), Some(""), (None, None), usage.as_ref());
        }
        if progress.generated > sent {
            out += &self.delta(None, Some(&self.answer.text(sent, progress.generated)), (None, None), usage.as_ref());
        }
        out
    }

    /// Events that end a stream; `done` is `None` if the request was aborted.
    pub fn last_events(&self, progress: &RequestProgress, done: Option<Completed>) -> String {
        let (reason, matched, _) = self.finish(done);
        let mut out = String::new();
        if self.path == Path::Generate {
            out += &self.native(progress, Some(done));
        } else {
            let usage = self.usage(progress);
            out += &self.delta(None, None, (Some(reason), matched), self.continuous_usage.then_some(&usage));
            if self.include_usage {
                out += &self.chunk([(); 0], Some(&usage));
            }
        }
        out + DONE
    }

    fn native(&self, progress: &RequestProgress, end: Option<Option<Completed>>) -> String {
        format!("data: {}\n\n", self.native_value(progress, end))
    }

    fn native_value(&self, progress: &RequestProgress, end: Option<Option<Completed>>) -> Value {
        let retractions = end.flatten().map_or(0, |d| d.retractions);
        let mut meta = json!({
            "id": self.rid,
            "finish_reason": end.map_or(Value::Null, |done| self.finish(done).2),
            "prompt_tokens": self.prompt_tokens,
            "weight_version": "default",
            "total_retractions": retractions,
            "completion_tokens": progress.generated,
            "cached_tokens": progress.cached_tokens,
            "cached_tokens_details": null,
            "dp_rank": null,
        });
        if let (Some(_), Some((at, _))) = (end, &progress.end) {
            meta["e2e_latency"] = json!((*at - progress.accepted).ms() / 1e3);
            if let Some(prefill) = progress.prefill {
                meta["queue_time"] = json!((prefill - progress.accepted).ms() / 1e3);
            }
        }
        json!({"text": self.answer.text(0, progress.generated), "output_ids": output_ids(&self.answer, progress.generated), "meta_info": meta})
    }

    /// The whole response of a request without streaming; `done` is `None` if the request was aborted.
    pub fn whole(&self, progress: &RequestProgress, done: Option<Completed>) -> Value {
        if self.path == Path::Generate {
            return self.native_value(progress, Some(done));
        }
        let (reason, matched, _) = self.finish(done);
        let text = self.answer.text(0, progress.generated);
        let usage = self.usage(progress);
        let mut choice = json!({"index": 0, "logprobs": null, "finish_reason": reason});
        match self.kind {
            EngineKind::Sglang => choice["matched_stop"] = json!(matched),
            EngineKind::Vllm => choice["stop_reason"] = Value::Null,
        }
        let object = if self.path == Path::Chat {
            choice["message"] = match self.kind {
                EngineKind::Sglang => {
                    json!({"role": "assistant", "content": text, "reasoning_content": null, "tool_calls": null})
                }
                EngineKind::Vllm => {
                    json!({"role": "assistant", "content": text, "refusal": null, "reasoning": null, "tool_calls": []})
                }
            };
            "chat.completion"
        } else {
            choice["text"] = text.into();
            "text_completion"
        };
        let mut whole = json!({
            "id": self.rid, "object": object, "created": self.created, "model": self.model, "choices": [choice],
            "usage": usage,
        });
        match self.kind {
            EngineKind::Sglang => whole["metadata"] = json!({"weight_version": "default"}),
            EngineKind::Vllm => whole["kv_transfer_params"] = Value::Null,
        }
        whole
    }
}

fn event(value: &impl Serialize) -> String {
    // Plain structs with text keys always serialize.
    format!("data: {}\n\n", serde_json::to_string(value).unwrap_or_default())
}

/// Finish reason and the token that ended the answer.
type Finish<'a> = (Option<&'a str>, Option<u32>);

// Fields in the order in which the servers write them.

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
    completion_tokens: u32,
    prompt_tokens_details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_tokens: Option<u32>,
}

#[derive(Serialize)]
struct Details {
    cached_tokens: u32,
}

#[derive(Serialize)]
struct Chunk<'a, C> {
    id: &'a str,
    object: &'a str,
    created: u64,
    model: &'a str,
    choices: C,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<&'a Usage>>,
}

#[derive(Serialize)]
struct ChatChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<()>,
    finish_reason: Option<&'a str>,
    matched_stop: Option<u32>,
}

#[derive(Serialize)]
struct Delta<'a> {
    role: Option<&'a str>,
    content: Option<&'a str>,
    reasoning_content: Option<()>,
    tool_calls: Option<()>,
}

/// A choice of vLLM, which leaves out what is not set.
#[derive(Serialize)]
struct VllmChoice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<VllmDelta<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    logprobs: Option<()>,
    finish_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<Option<u32>>,
}

#[derive(Serialize)]
struct VllmDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

#[derive(Serialize)]
struct TextChoice<'a> {
    index: u32,
    text: &'a str,
    logprobs: Option<()>,
    finish_reason: Option<&'a str>,
    matched_stop: Option<u32>,
}

/// Token ids of an answer: the four bytes of each token.
fn output_ids(answer: &Answer, tokens: u32) -> Vec<u32> {
    token_ids(answer.text(0, tokens).as_bytes(), 4)
}
