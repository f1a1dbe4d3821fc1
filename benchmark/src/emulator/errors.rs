//! Error responses in SGLang's formats: flat objects in responses, wrapped objects in streams that have begun.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use gorgo_sim::engine::EngineError;
use serde_json::{Value, json};

/// An error of the HTTP API, independent of its format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// Message; clients match on it.
    pub message: String,
    /// The `type` field of the error object.
    pub kind: &'static str,
}

impl ApiError {
    /// The body or one of its fields is invalid.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into(), kind: "Bad Request" }
    }

    /// The engine refused or dropped the request.
    pub fn from_engine(error: &EngineError) -> Self {
        let (status, kind) = match error {
            EngineError::QueueFull => (503, "503"),
            EngineError::Crashed | EngineError::Down => (503, "ServiceUnavailable"),
            EngineError::Cancelled => (499, "Aborted"),
            _ => (400, "BadRequestError"),
        };
        Self { status, message: error.to_string(), kind }
    }

    fn object(&self) -> Value {
        json!({"object": "error", "message": self.message, "type": self.kind, "param": null, "code": self.status})
    }

    /// The response of an OpenAI path.
    pub fn openai(&self) -> Response<Body> {
        json_response(self.status, &self.object())
    }

    /// The response of `/generate`.
    pub fn native(&self) -> Response<Body> {
        json_response(self.status, &json!({"error": {"message": self.message}}))
    }

    /// The event of a stream whose status 200 was already sent.
    pub fn event(&self) -> String {
        let mut object = self.object();
        if self.status == 503 {
            object["type"] = "SERVICE_UNAVAILABLE".into();
        }
        format!("data: {}\n\n", json!({ "error": object }))
    }

    /// The event of a `/generate` stream.
    pub fn native_event(&self) -> String {
        format!("data: {}\n\n", json!({"error": {"message": self.message}}))
    }
}

/// A JSON response.
pub fn json_response(status: u16, value: &Value) -> Response<Body> {
    with_type(status, "application/json", value.to_string())
}

/// A response with a content type.
pub fn with_type(status: u16, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
