//! One call of the service: limiter, deadline, retries where a repetition does no harm.

use super::{LAUNCH, LambdaConfig, REQUEST};
use crate::error::{Error, Kind, Result};
use crate::limiter::Limiter;
use crate::provider::{LaunchError, Sending};
use crate::time::Time;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::{Duration, SystemTime};

const ATTEMPTS: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Deletion of a file system takes minutes; everything else is quick.
const DEADLINE: Duration = Duration::from_secs(90);

#[derive(Debug)]
pub(super) struct Api {
    http: reqwest::Client,
    service: String,
    key: SecretString,
    requests: Limiter,
    launches: Limiter,
    time: Time,
}

/// A failed call and how long the service asked to wait.
struct Failure {
    error: Error,
    wait: Option<Duration>,
}

impl Api {
    pub(super) fn new(config: &LambdaConfig, account: &str) -> Result<Self> {
        let failed =
            |why: reqwest::Error| Error::usage("TLS", why.to_string(), "install the system's root certificates");
        let host = reqwest::Url::parse(&config.service).ok().and_then(|url| url.host_str().map(str::to_owned));
        let http = match host.is_some_and(|host| crate::http::is_loopback(&host)) {
            true => crate::http::loopback(),
            false => crate::http::client(),
        };
        let http = http.map_err(failed)?;
        let limiter = |kind: &str, interval| {
            Limiter::new(&config.folder.join(format!("limit-{kind}-{account}")), interval, config.time.clone())
        };
        Ok(Self {
            http,
            service: config.service.trim_end_matches('/').to_owned(),
            key: config.key.clone(),
            requests: limiter("requests", REQUEST),
            launches: limiter("launches", LAUNCH),
            time: config.time.clone(),
        })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        data(path, self.retried(Method::GET, path, None).await?)
    }

    /// A call that may be repeated without harm.
    pub(super) async fn repeat(&self, path: &str, body: &Value) -> Result<()> {
        self.retried(Method::POST, path, Some(body)).await.map(drop)
    }

    pub(super) async fn patch(&self, path: &str, body: &Value) -> Result<()> {
        self.retried(Method::PATCH, path, Some(body)).await.map(drop)
    }

    /// Deletes; what does not exist is deleted.
    pub(super) async fn delete(&self, path: &str) -> Result<()> {
        match self.retried(Method::DELETE, path, None).await {
            Err(error) if error.kind == Kind::NotFound => Ok(()),
            done => done.map(drop),
        }
    }

    /// Creates what `exists` does not find. After a lost answer `exists` is asked before another attempt.
    pub(super) async fn create<F: Future<Output = Result<bool>>>(
        &self,
        path: &str,
        body: &Value,
        exists: impl Fn() -> F,
    ) -> Result<()> {
        let mut attempt = 0;
        loop {
            if exists().await? {
                return Ok(());
            }
            let Err(failure) = self.once(Method::POST, path, Some(body)).await else { return Ok(()) };
            self.pause(&mut attempt, failure).await?;
        }
    }

    /// Launches one machine. It is sent again only when the service certainly did not act on it.
    pub(super) async fn launch(&self, body: &Value, sending: &Sending) -> std::result::Result<String, LaunchError> {
        let mut attempt = 0;
        loop {
            self.launches.slot().await;
            self.requests.slot().await;
            if self.time.now_ms() > sending.before_ms() {
                let meaning = "the launch waited too long for its turn and was not sent";
                let error = Error::new(Kind::Refused, "launch", meaning, "launch fewer machines at a time");
                return Err(LaunchError::Refused(error));
            }
            let path = "/instance-operations/launch";
            sending.begins();
            let failure = match self.send(Method::POST, path, Some(body)).await {
                Ok(value) => {
                    let launched: super::wire::Launched = data(path, value).map_err(LaunchError::Unknown)?;
                    let none = || lost("a launch without an id");
                    return launched.instance_ids.into_iter().next().ok_or_else(none).map_err(LaunchError::Unknown);
                }
                Err(failure) => failure,
            };
            match failure.error.kind {
                Kind::Throttled | Kind::Unreachable => {
                    sending.had_no_effect();
                    self.pause(&mut attempt, failure).await.map_err(LaunchError::Refused)?;
                }
                Kind::Unknown => return Err(LaunchError::Unknown(failure.error)),
                _ => return Err(LaunchError::Refused(failure.error)),
            }
        }
    }

    async fn retried(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut attempt = 0;
        loop {
            match self.once(method.clone(), path, body).await {
                Ok(value) => return Ok(value),
                Err(failure) => self.pause(&mut attempt, failure).await?,
            }
        }
    }

    /// Waits before the next attempt, or gives the failure back when another would not help.
    async fn pause(&self, attempt: &mut u32, failure: Failure) -> Result<()> {
        let passing = matches!(failure.error.kind, Kind::Throttled | Kind::Unreachable | Kind::Unknown);
        *attempt += 1;
        if !passing || *attempt >= ATTEMPTS {
            return Err(failure.error);
        }
        let grown = (FIRST_WAIT * 2_u32.pow(*attempt - 1)).min(LONGEST_WAIT);
        match failure.wait {
            Some(wait) => self.time.sleep(wait.min(LONGEST_WAIT)).await,
            None => self.time.sleep_jittered(grown).await,
        }
        Ok(())
    }

    async fn once(&self, method: Method, path: &str, body: Option<&Value>) -> std::result::Result<Value, Failure> {
        self.requests.slot().await;
        self.send(method, path, body).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> std::result::Result<Value, Failure> {
        let plain = |error: Error| Failure { error, wait: None };
        let url = format!("{}{path}", self.service);
        let mut request = self.http.request(method, url).timeout(DEADLINE).bearer_auth(self.key.expose_secret());
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|why| plain(unsent(&why)))?;
        let status = response.status();
        let wait = response
            .headers()
            .get("retry-after")
            .and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now()));
        let text = response.text().await.map_err(|why| plain(lost(&crate::http::cause(&why))))?;
        if status.is_success() {
            return serde_json::from_str(&text).map_err(|_| plain(lost("an answer that is no JSON")));
        }
        Err(Failure { error: refusal(path, status, &text), wait })
    }
}

fn data<T: DeserializeOwned>(path: &str, mut value: Value) -> Result<T> {
    serde_json::from_value(value["data"].take()).map_err(|why| lost(&format!("{path}: {why}")))
}

/// How long a `Retry-After` asks to wait, at most an hour; it is seconds or a date.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    const MOST: Duration = Duration::from_secs(3_600);
    let wait = match text.trim().parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        Err(_) => httpdate::parse_http_date(text.trim()).ok()?.duration_since(now).unwrap_or_default(),
    };
    (wait <= MOST).then_some(wait)
}

fn unsent(why: &reqwest::Error) -> Error {
    let cause = crate::http::cause(why);
    if why.is_connect() {
        return Error::new(Kind::Unreachable, cause, "Lambda Cloud cannot be reached", "check this machine's network");
    }
    lost(&cause)
}

fn lost(sign: &str) -> Error {
    let remedy = "run `gorgo list`: it shows what runs";
    Error::new(Kind::Unknown, sign, "Lambda Cloud's answer was lost or cannot be read", remedy)
}

/// What the service refused, by its code; its words may change and are only shown.
fn refusal(path: &str, status: StatusCode, text: &str) -> Error {
    let parsed: Value = serde_json::from_str(text).unwrap_or_default();
    let code = parsed["error"]["code"].as_str().unwrap_or_default();
    let said: String = parsed["error"]["message"].as_str().unwrap_or_default().chars().take(200).collect();
    // A message may repeat what was sent, which may hold a host key.
    let said = if said.is_empty() || said.contains("PRIVATE KEY") { "no message".to_owned() } else { said };
    let sign = match code {
        "" => format!("{path}: HTTP {}", status.as_u16()),
        code => format!("{path}: HTTP {} {code} ({said})", status.as_u16()),
    };
    let error = |kind, meaning: &str, remedy: &str| Error::new(kind, sign.clone(), meaning, remedy);
    let again = "try again in some minutes";
    match (status.as_u16(), code) {
        (429, _) => error(Kind::Throttled, "too many requests", "wait; other programs of this account count too"),
        (_, code) if code.starts_with("provider/") => error(Kind::Unknown, "Lambda's own supplier failed", again),
        (500.., _) => error(Kind::Unknown, "Lambda Cloud failed", again),
        (_, "global/invalid-api-key") | (401, _) => {
            error(Kind::Credentials, "the API key was refused", "set LAMBDA_API_KEY to a valid key")
        }
        (_, "global/account-inactive") => {
            error(Kind::Credentials, "the account is not active", "log in and activate it")
        }
        (_, "global/invalid-address") => {
            error(Kind::Credentials, "the billing address is invalid", "correct it in the console")
        }
        (_, "instance-operations/launch/insufficient-capacity") => error(
            Kind::Capacity,
            "no such machine is free in this region",
            "name another region or type (`gorgo available`)",
        ),
        (_, "instance-operations/launch/file-system-in-wrong-region") => {
            error(Kind::Refused, "the file system lies in another region", "launch in the file system's region")
        }
        (_, "global/quota-exceeded") => {
            error(Kind::Refused, "the account's quota is used up", "end machines or ask for more")
        }
        (_, "filesystems/filesystem-in-use" | "firewall-rulesets/firewall-ruleset-in-use") => {
            error(Kind::Throttled, "a machine still uses it", "end that machine first")
        }
        // A conflict may be one with an earlier attempt that had its effect.
        (_, "global/internal-error" | "global/conflict") | (409, _) => {
            error(Kind::Unknown, "another change is in progress", again)
        }
        (404, _) | (_, "global/object-does-not-exist") => {
            error(Kind::NotFound, "the object does not exist", "compare with `gorgo list`")
        }
        (408, _) => error(Kind::Unknown, "the request timed out", again),
        _ => error(Kind::Refused, "the request was refused", "correct what the message names"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, text: &str) -> Kind {
        refusal("/x", StatusCode::from_u16(status).unwrap(), text).kind
    }

    fn coded(status: u16, code: &str) -> Kind {
        kind(status, &format!(r#"{{"error": {{"code": "{code}", "message": "m"}}}}"#))
    }

    #[test]
    fn only_refusals_that_are_certain_count_as_refused() {
        assert_eq!(kind(429, ""), Kind::Throttled);
        assert_eq!(kind(502, "<html>Bad gateway</html>"), Kind::Unknown);
        assert_eq!(kind(408, ""), Kind::Unknown);
        assert_eq!(coded(409, "global/conflict"), Kind::Unknown);
        assert_eq!(coded(400, "provider/internal-unavailable"), Kind::Unknown);
        assert_eq!(coded(400, "global/never-seen-before"), Kind::Refused);
        assert_eq!(coded(403, "global/forbidden"), Kind::Refused);
        assert_eq!(coded(400, "instance-operations/launch/insufficient-capacity"), Kind::Capacity);
        assert_eq!(coded(404, "global/object-does-not-exist"), Kind::NotFound);
        assert_eq!(coded(401, "global/invalid-api-key"), Kind::Credentials);
    }

    #[test]
    fn a_host_key_in_a_message_is_not_shown() {
        let text =
            r#"{"error": {"code": "global/invalid-parameters", "message": "-----BEGIN OPENSSH PRIVATE KEY-----"}}"#;
        assert!(!refusal("/x", StatusCode::BAD_REQUEST, text).to_string().contains("PRIVATE"));
    }

    #[test]
    fn a_pause_is_given_in_seconds_or_as_a_date_and_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        for (text, wait) in [
            ("1.5", Some(1.5)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30.0)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0.0)),
            ("Sun, 06 Nov 1995 08:00:00 GMT", None),
            ("-1", None),
            ("NaN", None),
            ("86400", None),
            ("soon", None),
        ] {
            assert_eq!(retry_after(text, now), wait.map(Duration::from_secs_f64), "{text}");
        }
    }
}
