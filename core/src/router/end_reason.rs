//! Why requests end: one table of status, label, HTTP status, error code and sentence.

use super::Failure;
use crate::record::Status;

/// Why a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EndReason {
    /// The response is complete.
    #[default]
    Finished,
    /// The fleet is empty.
    NoReplicas,
    /// A peer forwarded the request, and this router's own engine is down.
    Unavailable,
    /// The fleet has no replica inside its residency that serves it.
    Outside,
    /// It waited in the queue for `down_timeout_ms` while every replica inside its residency was down or draining.
    InsideDown,
    /// The least predicted time to first token exceeds its deadline.
    Admission {
        /// After how many seconds the prediction would meet the deadline if nothing else arrived.
        retry_after_s: u32,
    },
    /// The router's queue is full.
    QueueFull,
    /// It waited in the queue for `down_timeout_ms` while every replica was down.
    NoHealthyReplica,
    /// It waited in the queue for `queue_timeout_ms` while every gate was closed.
    QueueTimeout,
    /// There was no first token by the request's deadline.
    Deadline,
    /// The replica failed after the first token, so a retry would repeat output.
    AfterFirstToken,
    /// The replica refused the request itself (4xx).
    ClientError,
    /// Every replica that was asked failed it alike.
    RequestFault(Failure),
    /// The dispatch that `max_attempts` allows last failed this way.
    Attempts(Failure),
    /// A dispatch failed this way, and the retry budget was empty.
    RetryBudget(Failure),
    /// The client closed its connection.
    ClientGone,
    /// The slot of its replica was given to another replica.
    ReplicaGone,
    /// The router was stopped.
    RouterStopped,
}

/// One row of the table.
struct Entry {
    status: Status,
    label: &'static str,
    http_status: u16,
    code: &'static str,
    sentence: &'static str,
}

const fn entry(
    status: Status,
    label: &'static str,
    http_status: u16,
    code: &'static str,
    sentence: &'static str,
) -> Entry {
    Entry { status, label, http_status, code, sentence }
}

impl EndReason {
    fn entry(self) -> Entry {
        use Status::{Cancelled, Failed, Finished, Rejected, TimedOut};
        const NO_ANSWER: (&str, &str) = ("upstream_failed", "no replica answered");
        match self {
            Self::Finished => entry(Finished, "", 200, "", ""),
            Self::NoReplicas => entry(
                Rejected,
                "no-replicas",
                503,
                "no_replicas",
                "no replica is known to this router; add one with `gorgo proxy servers add URL`",
            ),
            Self::Unavailable => entry(
                Rejected,
                "unavailable",
                503,
                "unavailable",
                "this edge's engine does not answer; ask another edge",
            ),
            Self::Outside => entry(
                Rejected,
                "outside",
                503,
                "residency",
                "no replica inside this request's residency can answer it, and no other is used",
            ),
            Self::InsideDown => entry(
                TimedOut,
                "inside-down",
                503,
                "residency_unavailable",
                "the replicas inside this request's residency are unavailable now, and no other is used; try again soon",
            ),
            Self::Admission { .. } => entry(
                Rejected,
                "admission",
                429,
                "deadline_unreachable",
                "no replica is predicted to send a first token by the request's deadline; try again later or allow more \
                 time",
            ),
            Self::QueueFull => {
                entry(Rejected, "queue-full", 429, "queue_full", "the router's queue is full; try again soon")
            }
            Self::NoHealthyReplica => entry(
                TimedOut,
                "no-healthy-replica",
                503,
                "no_healthy_replica",
                "no replica answers its probes; see `gorgo proxy status`",
            ),
            Self::QueueTimeout => {
                entry(TimedOut, "queue-timeout", 503, "queue_timeout", "no replica had room in time; try again soon")
            }
            Self::Deadline => {
                entry(TimedOut, "deadline", 504, "deadline", "no first token came within the request's deadline")
            }
            Self::AfterFirstToken => entry(Failed, "after-first-token", 502, NO_ANSWER.0, NO_ANSWER.1),
            Self::ClientError => entry(Failed, "client-error", 400, NO_ANSWER.0, NO_ANSWER.1),
            Self::RequestFault(last) => entry(Failed, "request-fault", last.http_status(), NO_ANSWER.0, NO_ANSWER.1),
            Self::Attempts(last) => entry(Failed, "attempts", last.http_status(), NO_ANSWER.0, NO_ANSWER.1),
            Self::RetryBudget(last) => entry(Failed, "retry-budget", last.http_status(), NO_ANSWER.0, NO_ANSWER.1),
            Self::ClientGone => entry(Cancelled, "client-gone", 499, "client_gone", "the client closed its connection"),
            Self::ReplicaGone => entry(Cancelled, "replica-gone", 502, NO_ANSWER.0, NO_ANSWER.1),
            Self::RouterStopped => entry(
                Cancelled,
                "router-stopped",
                503,
                "router_stopped",
                "the router was stopped before there was an answer",
            ),
        }
    }

    /// The end of a request whose last `failure` is its own fault, as the same from several replicas shows.
    pub(super) fn at_fault(failure: Failure) -> Self {
        match failure {
            // No replica knows what it asks for.
            Failure::NoEndpoint => Self::ClientError,
            failure => Self::RequestFault(failure),
        }
    }

    /// How the request ended.
    pub fn status(self) -> Status {
        self.entry().status
    }

    /// The label in records, metrics and logs; "" for a finished request.
    pub fn as_str(self) -> &'static str {
        self.entry().label
    }

    /// Status of the router's own response to the client. A response that a replica sent goes first.
    pub fn http_status(self) -> u16 {
        self.entry().http_status
    }

    /// Seconds after which the client may try again, where the router can tell.
    pub fn retry_after_s(self) -> Option<u32> {
        match self {
            Self::Admission { retry_after_s } => Some(retry_after_s),
            _ => None,
        }
    }

    /// The reason without numbers of single requests, as a key of counters.
    #[must_use]
    pub fn kind(self) -> Self {
        match self {
            Self::Admission { .. } => Self::Admission { retry_after_s: 0 },
            other => other,
        }
    }

    /// `error.code` in that response.
    pub fn code(self) -> &'static str {
        self.entry().code
    }

    /// `error.message` in that response.
    pub fn sentence(self) -> &'static str {
        self.entry().sentence
    }

    /// The failure that a router counts when the peer it forwarded the request to ends it for this reason; `None`
    /// when the peer's response is complete or the connection is closed from this side.
    pub fn failure_at_sender(self) -> Option<Failure> {
        match self.status() {
            Status::Finished | Status::Cancelled => None,
            Status::Rejected | Status::TimedOut | Status::Failed => Failure::of_status(self.http_status()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reason that does not depend on a failure.
    const ALL: [EndReason; 15] = [
        EndReason::Finished,
        EndReason::NoReplicas,
        EndReason::Unavailable,
        EndReason::Outside,
        EndReason::InsideDown,
        EndReason::Admission { retry_after_s: 1 },
        EndReason::QueueFull,
        EndReason::NoHealthyReplica,
        EndReason::QueueTimeout,
        EndReason::Deadline,
        EndReason::AfterFirstToken,
        EndReason::ClientError,
        EndReason::ClientGone,
        EndReason::ReplicaGone,
        EndReason::RouterStopped,
    ];

    #[test]
    fn labels_differ_and_every_failure_has_a_status_a_code_and_a_sentence() {
        let labels: std::collections::BTreeSet<_> = ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(labels.len(), ALL.len());
        for reason in ALL.into_iter().filter(|&r| r != EndReason::Finished) {
            assert!(reason.http_status() >= 400 && !reason.code().is_empty() && !reason.sentence().is_empty());
            assert_ne!(reason.status(), Status::Finished);
        }
    }

    #[test]
    fn the_sender_counts_the_failure_that_the_http_status_says() {
        let at_sender = EndReason::failure_at_sender;
        let overloaded = Failure::Overloaded { retry_after_s: None };
        assert_eq!(at_sender(EndReason::Deadline), Some(Failure::Timeout));
        for full in [
            EndReason::QueueFull,
            EndReason::QueueTimeout,
            EndReason::Unavailable,
            EndReason::NoReplicas,
            EndReason::Outside,
            EndReason::InsideDown,
            EndReason::Admission { retry_after_s: 1 },
        ] {
            assert_eq!(at_sender(full), Some(overloaded), "{full:?}");
        }
        assert_eq!(at_sender(EndReason::ClientError), Some(Failure::Client));
        assert_eq!(at_sender(EndReason::AfterFirstToken), Some(Failure::Server(502)));
        // The engine's own response is passed on, and with it its status.
        assert_eq!(at_sender(EndReason::Attempts(overloaded)), Some(overloaded));
        assert_eq!(at_sender(EndReason::RetryBudget(Failure::Connection)), Some(Failure::Server(502)));
        for gone in [EndReason::Finished, EndReason::ClientGone, EndReason::RouterStopped] {
            assert_eq!(at_sender(gone), None, "{gone:?}");
        }
    }
}
