//! Settings of the exporter, read from OpenTelemetry's standard environment variables.

use http::header::{HeaderMap, HeaderName};
use http::{HeaderValue, Uri};
use std::time::Duration;

/// Destination of the spans and the name of the service.
#[derive(Debug, Clone)]
pub struct Settings {
    /// URL that batches are posted to.
    pub endpoint: Uri,
    /// `service.name`.
    pub service: String,
    /// Headers of every request to the collector, for example an API key.
    pub headers: HeaderMap,
    /// Timeout of one attempt to send a batch.
    pub timeout: Duration,
    /// Longest time that a span waits for a batch to fill.
    pub delay: Duration,
}

/// A variable of the environment was refused. Its text is one sentence with the variable and its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct VariableError(String);

impl Settings {
    /// Reads `OTEL_EXPORTER_OTLP_ENDPOINT` (or `..._TRACES_ENDPOINT`), `OTEL_SERVICE_NAME`,
    /// `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_BSP_SCHEDULE_DELAY` and `OTEL_SDK_DISABLED`.
    /// `None` without an endpoint.
    ///
    /// # Errors
    /// One sentence with the variable and its value.
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, VariableError> {
        let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let own = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let common = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let (name, url) = match (get(own), get(common)) {
            (Some(url), _) => (own, url),
            (None, Some(base)) => (common, format!("{}/v1/traces", base.trim_end_matches('/'))),
            (None, None) => return Ok(None),
        };
        let endpoint: Option<Uri> = url.parse().ok();
        let endpoint =
            endpoint.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
        let endpoint = endpoint
            .ok_or_else(|| VariableError(format!("{name} gives `{url}`; write for example http://127.0.0.1:4318")))?;
        let mut headers = HeaderMap::new();
        for pair in get("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default().split(',').filter(|p| !p.trim().is_empty()) {
            let wrong =
                || VariableError("OTEL_EXPORTER_OTLP_HEADERS cannot be read; write key=value,key=value".to_owned());
            let (key, value) = pair.split_once('=').ok_or_else(wrong)?;
            let key = HeaderName::try_from(key.trim()).map_err(|_| wrong())?;
            let mut value = HeaderValue::try_from(value.trim().replace("%20", " ")).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        let ms = |name: &str, default: u64| match get(name) {
            None => Ok(Duration::from_millis(default)),
            Some(text) => match text.trim().parse::<u64>() {
                Ok(ms) if ms <= 600_000 => Ok(Duration::from_millis(ms)),
                _ => Err(VariableError(format!("{name} is `{text}`; give milliseconds up to 600000"))),
            },
        };
        Ok(Some(Self {
            endpoint,
            service: get("OTEL_SERVICE_NAME").unwrap_or_else(|| "gorgo".to_owned()),
            headers,
            timeout: ms("OTEL_EXPORTER_OTLP_TIMEOUT", 10_000)?,
            delay: ms("OTEL_BSP_SCHEDULE_DELAY", 5_000)?,
        }))
    }
}
