//! Attributes a failed dispatch to its cause: the request, the replica, this router, or overload.
//!
//! [`Failure`] classifies how one dispatch failed: by an HTTP status, an error in the body of an answer
//! ([`ErrorInBody`]), or a broken connection. One failure alone does not show the cause: both a request that no engine
//! can serve and a broken engine give a 500. [`FailedAttempts`] therefore collects the failures of one request until
//! another replica has answered it or all attempts have failed, and then returns the replicas at fault.

use crate::{ReplicaId, Span};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Different replicas that give the same 5xx to one request, or close the connection at it, before it is the request's
/// fault.
const SEVERAL: usize = 3;
/// Different replicas whose connections break at one request, when no further one can be asked. One of them may have
/// been restarted; that several were, at the same request, is unlikely.
const SEVERAL_BROKEN: usize = 2;

/// How a dispatch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// No connection could be opened: nothing was sent, so the request cannot be the reason.
    Unreachable,
    /// The connection broke after the request was sent.
    Connection,
    /// No answer in time.
    Timeout,
    /// A 5xx, as the status or as an error in an answer with status 200.
    Server(u16),
    /// 429 or 503: the replica has no room.
    Overloaded {
        /// `Retry-After`, s; `None` when it was not given.
        retry_after_s: Option<u32>,
    },
    /// Another 4xx: the request itself is wrong, and every replica would refuse it.
    Client,
    /// 404 or 405 to the path: this kind of engine does not have the endpoint, another one may.
    NoEndpoint,
    /// 401, 402 or 403 to a request that carried this router's key, or none.
    KeyRefused,
    /// This router could not send the request: it has no file descriptor, port or memory left.
    Local,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("no connection"),
            Self::Connection => f.write_str("the connection broke"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Server(status) => write!(f, "status {status}"),
            Self::Overloaded { .. } => f.write_str("overloaded"),
            Self::Client => f.write_str("the request is wrong"),
            Self::NoEndpoint => f.write_str("no such endpoint"),
            Self::KeyRefused => f.write_str("the key is refused"),
            Self::Local => f.write_str("this router has no descriptor, port or memory left"),
        }
    }
}

impl Failure {
    /// The failure that an HTTP status stands for; `None` for a status that is no failure. 401, 402 (the account of the
    /// key is empty) and 403 are [`Failure::KeyRefused`]: a caller that passed a client's own key on replaces them with [`Failure::Client`].
    pub fn of_status(status: u16) -> Option<Self> {
        match status {
            401..=403 => Some(Self::KeyRefused),
            429 | 503 => Some(Self::Overloaded { retry_after_s: None }),
            504 => Some(Self::Timeout),
            500..=599 => Some(Self::Server(status)),
            // A proxy or another server stands where the engine should: no engine judges a prompt with these. 424 is what
            // TGI answers when its model fails.
            407 | 421 | 424..=426 => Some(Self::Server(status)),
            // Bodies are whole before they are sent, so the client is not the one that was slow.
            408 => Some(Self::Timeout),
            400..=499 => Some(Self::Client),
            _ => None,
        }
    }

    /// Status of the response that a client gets for it: a replica's own response is passed on, and 502 stands for
    /// the lack of one.
    pub fn http_status(self) -> u16 {
        match self {
            Self::Unreachable | Self::Connection | Self::Timeout | Self::Server(_) | Self::KeyRefused => 502,
            Self::Overloaded { .. } | Self::Local => 503,
            Self::Client => 400,
            Self::NoEndpoint => 404,
        }
    }

    /// Whether another replica, or the same one later, may succeed.
    pub fn may_retry(self) -> bool {
        self != Self::Client
    }

    /// Whether a pause may help where every replica has failed this way. A 5xx or a refused key stays.
    pub(crate) fn may_pass(self) -> bool {
        !matches!(self, Self::Client | Self::NoEndpoint | Self::Server(_) | Self::KeyRefused)
    }

    /// Whether it came as an HTTP answer: the replica's process lives, and so does its KV cache.
    pub fn is_answer(self) -> bool {
        matches!(self, Self::Server(_) | Self::Overloaded { .. } | Self::Client | Self::NoEndpoint | Self::KeyRefused)
    }

    /// Whether the replica broke off: it may have acted on the request before, and a stream that had begun is broken.
    pub(crate) fn breaks_off(self) -> bool {
        matches!(self, Self::Connection | Self::Timeout | Self::Server(_))
    }

    /// Whether other replicas' answers to the same request decide whose fault it is.
    fn is_compared(self) -> bool {
        self.is_suspicious() || self == Self::NoEndpoint
    }

    /// Whether the replica may be at fault, which other replicas' answers to the same request decide.
    fn is_suspicious(self) -> bool {
        matches!(self, Self::Connection | Self::Timeout | Self::Server(_) | Self::KeyRefused)
    }

    /// How long the replica gets no further requests because of this failure alone, if others are open: a replica that
    /// fails fast looks idle, and would be chosen again and again. `in_row` counts its failures since it last
    /// succeeded, this one included.
    pub(crate) fn rest(self, in_row: u32, longest_ms: f64) -> Option<Span> {
        /// First pause of a replica that failed or gave no `Retry-After`, ms; doubled at each further failure.
        const FIRST_MS: f64 = 50.0;
        let doubled = FIRST_MS * 2f64.powi(in_row.saturating_sub(1).min(30) as i32);
        let ms = match self {
            Self::Overloaded { retry_after_s: Some(seconds) } => f64::from(seconds) * 1e3,
            Self::Client | Self::NoEndpoint | Self::Local => return None,
            _ => doubled,
        };
        Some(Span::from_ms(ms.min(longest_ms)))
    }
}

/// An error in the body of an answer with status 200: the members of its `error` object, or of an aborted generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ErrorInBody<'a> {
    /// A numeric `code` or `status_code`.
    pub status: Option<u16>,
    /// `code`, if it is a word.
    pub code: Option<&'a str>,
    /// `type`.
    pub kind: Option<&'a str>,
}

impl ErrorInBody<'_> {
    /// The failure that the error stands for: by its status if that is an HTTP error, else by the words of `code`, then
    /// of `type`. An error without either is [`Failure::Server`] 500.
    pub fn failure(&self) -> Failure {
        let by_status = self.status.filter(|status| *status >= 400).and_then(Failure::of_status);
        by_status
            .or_else(|| self.code.and_then(of_word))
            .or_else(|| self.kind.and_then(of_word))
            .unwrap_or(Failure::Server(500))
    }
}

/// The failure that an error's type or code names, in the spelling of any engine (`BadRequestError`,
/// `invalid_request_error`, `SERVICE_UNAVAILABLE`).
fn of_word(word: &str) -> Option<Failure> {
    /// Parts of names, most specific first.
    const NAMES: [(&[&str], Failure); 6] = [
        (
            &[
                "ratelimit",
                "overload",
                "toomanyrequests",
                "unavailable",
                "queuefull",
                "quota",
                "capacity",
                "throttl",
                "busy",
                "exhausted",
            ],
            Failure::Overloaded { retry_after_s: None },
        ),
        (&["timeout", "timedout", "deadline"], Failure::Timeout),
        (
            &["authentication", "unauthorized", "unauthenticated", "permission", "forbidden", "apikey"],
            Failure::KeyRefused,
        ),
        (
            &[
                "invalid",
                "badrequest",
                "notfound",
                "unprocessable",
                "contextlength",
                "contextwindow",
                "toolong",
                "toolarge",
                "toomany",
                "content",
                "policy",
                "safety",
                "validation",
                "unsupported",
                "notsupported",
                "valueerror",
                "typeerror",
                "missing",
                "malformed",
                "unknownmodel",
                "modelnot",
                "notallowed",
                "conflict",
                "clienterror",
                "exceeded",
                "badvalue",
                "emptyinput",
                "template",
                "grammar",
                "abovemax",
                "moderation",
                "parseerror",
                "failedprecondition",
                "outofrange",
                "tooluse",
            ],
            Failure::Client,
        ),
        (&["server", "internal", "apierror", "runtime", "engine", "outofmemory", "exception"], Failure::Server(500)),
        (&["gateway", "upstream"], Failure::Server(502)),
    ];
    let plain: String = word.chars().take(64).filter(char::is_ascii_alphanumeric).collect();
    let plain = plain.to_ascii_lowercase();
    if let Ok(status) = plain.parse::<u16>() {
        return (status >= 400).then(|| Failure::of_status(status)).flatten();
    }
    NAMES.iter().find(|(parts, _)| parts.iter().any(|part| plain.contains(part))).map(|&(_, failure)| failure)
}

/// The failures of one request that may be a replica's fault or its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FailedAttempts(Vec<(ReplicaId, Failure)>);

impl FailedAttempts {
    /// Adds the failure of a dispatch.
    pub fn add(&mut self, replica: ReplicaId, failure: Failure) {
        if failure.is_compared() {
            self.0.retain(|&(other, _)| other != replica);
            self.0.push((replica, failure));
        }
    }

    /// Forgets a replica whose slot goes to another.
    pub(crate) fn remove(&mut self, replica: ReplicaId) {
        self.0.retain(|&(other, _)| other != replica);
    }

    /// Whether the request is at fault: so many replicas gave it the same 5xx, or closed the connection at it. With
    /// `none_left` no further replica can be asked, and those that were gave an answer that a pause does not change, or
    /// all closed the connection.
    pub fn are_the_requests_fault(&self, none_left: bool) -> bool {
        let Some(&(_, last)) = self.0.last() else { return false };
        let same = self.0.iter().filter(|&&(_, failure)| failure == last).count();
        let several = if none_left && last == Failure::Connection { SEVERAL_BROKEN } else { SEVERAL };
        matches!(last, Failure::Server(_) | Failure::Connection) && same >= several
            || none_left && self.0.iter().all(|(_, failure)| !failure.may_pass())
    }

    /// The replicas at fault once the request is over. `answered` is the replica that answered it: then each other one
    /// that failed is at fault. If none did, a failure that several replicas gave is the request's, and a 5xx or a
    /// refused key of the only replica that was asked may be the client's or ours, so it counts for neither.
    pub fn at_fault(&self, answered: Option<ReplicaId>) -> impl Iterator<Item = (ReplicaId, Failure)> + '_ {
        let asked = self.0.len();
        let suspicious = self.0.iter().copied().filter(|&(_, failure)| failure.is_suspicious());
        suspicious.filter(move |&(replica, failure)| match answered {
            Some(other) => other != replica,
            None => {
                let same = self.0.iter().filter(|&&(_, other)| other == failure).count();
                same == 1 && (asked > 1 || !failure.is_answer())
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_judged_by_whom_they_are_about() {
        let judged = [
            (200, None),
            (400, Some(Failure::Client)),
            (401, Some(Failure::KeyRefused)),
            (402, Some(Failure::KeyRefused)),
            (404, Some(Failure::Client)),
            (408, Some(Failure::Timeout)),
            (421, Some(Failure::Server(421))),
            (424, Some(Failure::Server(424))),
            (425, Some(Failure::Server(425))),
            (413, Some(Failure::Client)),
            (422, Some(Failure::Client)),
            (429, Some(Failure::Overloaded { retry_after_s: None })),
            (500, Some(Failure::Server(500))),
            (502, Some(Failure::Server(502))),
            (503, Some(Failure::Overloaded { retry_after_s: None })),
            (504, Some(Failure::Timeout)),
        ];
        for (status, failure) in judged {
            assert_eq!(Failure::of_status(status), failure, "{status}");
        }
    }

    #[test]
    fn told_errors_are_judged_by_code_and_type_in_any_engines_spelling() {
        let full = Failure::Overloaded { retry_after_s: None };
        let told = |status, code, kind| ErrorInBody { status, code, kind }.failure();
        for (status, code, kind, failure) in [
            (Some(503), None, Some("SERVICE_UNAVAILABLE"), full),
            (Some(400), None, Some("BadRequestError"), Failure::Client),
            (None, Some("context_length_exceeded"), Some("invalid_request_error"), Failure::Client),
            (None, Some("model_not_found"), None, Failure::Client),
            (None, None, Some("invalid_request_error"), Failure::Client),
            (None, None, Some("NotFoundError"), Failure::Client),
            (None, Some("content_filter"), None, Failure::Client),
            (None, Some("rate_limit_exceeded"), Some("server_error"), full),
            (None, None, Some("overloaded_error"), full),
            (None, None, Some("authentication_error"), Failure::KeyRefused),
            (None, None, Some("api_error"), Failure::Server(500)),
            (None, None, Some("InternalServerError"), Failure::Server(500)),
            (None, None, Some("timeout_error"), Failure::Timeout),
            (None, Some("429"), None, full),
            (None, None, None, Failure::Server(500)),
            (None, Some("what"), Some("ever"), Failure::Server(500)),
            // Numbers that are no HTTP error say nothing.
            (Some(0), None, Some("invalid_request_error"), Failure::Client),
            (Some(1302), None, None, Failure::Server(500)),
            (Some(200), None, Some("overloaded_error"), full),
        ] {
            assert_eq!(told(status, code, kind), failure, "{status:?} {code:?} {kind:?}");
        }
    }

    fn attempts(failures: &[(u16, Failure)]) -> FailedAttempts {
        let mut all = FailedAttempts::default();
        failures.iter().for_each(|&(replica, failure)| all.add(ReplicaId(replica), failure));
        all
    }

    fn at_fault(failures: &[(u16, Failure)], answered: Option<u16>) -> Vec<u16> {
        attempts(failures).at_fault(answered.map(ReplicaId)).map(|(replica, _)| replica.0).collect()
    }

    #[test]
    fn a_5xx_is_the_replicas_when_another_answers_and_the_requests_when_all_give_it() {
        let (broken, reset) = (Failure::Server(500), Failure::Connection);
        assert_eq!(at_fault(&[(0, broken)], Some(1)), [0]);
        assert_eq!(at_fault(&[(0, broken), (1, broken)], Some(2)), [0, 1]);
        assert!(at_fault(&[(0, broken), (1, broken)], None).is_empty());
        assert!(at_fault(&[(0, broken)], None).is_empty(), "no other replica to compare with");
        assert_eq!(
            at_fault(&[(0, broken), (1, Failure::Server(502))], None),
            [0, 1],
            "each gave what the other did not"
        );
        assert_eq!(at_fault(&[(0, reset)], None), [0]);
        assert!(at_fault(&[(0, reset), (1, reset)], None).is_empty());
        assert!(at_fault(&[(0, broken)], Some(0)).is_empty(), "the same replica succeeded later");
        assert!(at_fault(&[(0, Failure::Client), (1, Failure::Local)], Some(2)).is_empty());
        assert!(at_fault(&[(0, Failure::NoEndpoint)], Some(1)).is_empty(), "it is another kind of engine");
    }

    #[test]
    fn a_request_that_several_replicas_fail_alike_is_not_sent_to_more() {
        let broken = Failure::Server(500);
        let fault = |failures: &[(u16, Failure)], none_left| attempts(failures).are_the_requests_fault(none_left);
        assert!(!fault(&[(0, broken), (1, broken)], false) && fault(&[(0, broken), (1, broken)], true));
        assert!(fault(&[(0, broken), (1, broken), (2, broken)], false));
        assert!(!fault(&[(0, broken), (1, broken), (2, Failure::Server(502))], false));
        let reset = Failure::Connection;
        assert!(!fault(&[(0, reset)], true), "the engine may come back");
        assert!(!fault(&[(0, reset), (0, reset)], true), "it was one engine each time");
        assert!(!fault(&[(0, reset), (1, reset)], false) && fault(&[(0, reset), (1, reset)], true));
        assert!(fault(&[(0, reset), (1, reset), (2, reset)], false), "engines die at it");
        assert!(!fault(&[(0, Failure::Timeout), (1, Failure::Timeout)], true));
        assert!(fault(&[(0, Failure::KeyRefused)], true) && !fault(&[], true));
        let lacks = Failure::NoEndpoint;
        assert!(!fault(&[(0, lacks)], false) && fault(&[(0, lacks), (1, lacks)], true));
    }

    #[test]
    fn a_replica_rests_longer_after_each_failure_and_as_long_as_it_asks() {
        let ms = |failure: Failure, in_row| failure.rest(in_row, 500.0).map(Span::ms);
        assert_eq!([1, 2, 3, 99].map(|n| ms(Failure::Server(500), n)), [50.0, 100.0, 200.0, 500.0].map(Some));
        let asks = |retry_after_s| ms(Failure::Overloaded { retry_after_s }, 1);
        assert_eq!([asks(None), asks(Some(0)), asks(Some(9))], [50.0, 0.0, 500.0].map(Some));
        assert_eq!([ms(Failure::Client, 1), ms(Failure::Local, 1)], [None, None]);
    }
}
