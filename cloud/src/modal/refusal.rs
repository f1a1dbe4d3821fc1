//! What a failed call of Modal means, and how long Modal asks to wait.

use super::proto::{client::RpcRetryPolicy, status::Status as Details};
use crate::error::{Error, Kind};
use prost::Message;
use std::time::Duration;
use tonic::{Code, Status};

/// Whether another attempt may succeed without a change.
pub(super) fn passing(status: &Status) -> bool {
    use Code::{Cancelled, DeadlineExceeded, Internal, Unavailable, Unknown};
    matches!(status.code(), DeadlineExceeded | Unavailable | Cancelled | Internal | Unknown)
}

/// The wait that Modal asks for in the details of a refusal.
pub(super) fn wait(status: &Status) -> Option<Duration> {
    let details = Details::decode(status.details()).ok()?.details;
    let policy = details.iter().find(|any| any.type_url.rsplit('/').next() == Some("modal.client.RPCRetryPolicy"))?;
    let seconds = RpcRetryPolicy::decode(policy.value.as_slice()).ok()?.retry_after_secs;
    (0.0..=3_600.0).contains(&seconds).then(|| Duration::from_secs_f32(seconds).max(Duration::from_millis(100)))
}

/// The failure of a call as an operator needs it.
pub(super) fn explain(call: &str, status: &Status) -> Error {
    let said: String = status.message().chars().take(200).collect();
    let said = if said.is_empty() { "no message".to_owned() } else { said };
    let sign = format!("{call}: {:?} ({said})", status.code());
    let error = |kind, meaning: &str, remedy: &str| Error::new(kind, sign.clone(), meaning, remedy);
    let again = "try again in some minutes";
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => error(
            Kind::Credentials,
            "Modal refused the token",
            "set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET to a token that may create sandboxes",
        ),
        Code::NotFound => error(Kind::NotFound, "the object does not exist", "compare with `gorgo list`"),
        Code::ResourceExhausted => error(Kind::Throttled, "too many requests, or a limit of the account", again),
        Code::Unimplemented => {
            error(Kind::Refused, "Modal changed its interface", "use a newer gorgo, or another provider")
        }
        Code::InvalidArgument | Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted | Code::OutOfRange => {
            error(Kind::Refused, "Modal refused the request", "correct what the message names")
        }
        _ => error(Kind::Unknown, "Modal's answer was lost or Modal failed", again),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modal::proto::status::Any;

    #[test]
    fn the_wait_is_read_from_the_details_and_bounded() {
        let asked = |seconds: f32| {
            let value = RpcRetryPolicy { retry_after_secs: seconds }.encode_to_vec();
            let any = Any { type_url: "type.googleapis.com/modal.client.RPCRetryPolicy".to_owned(), value };
            let details = Details { code: 8, message: String::new(), details: vec![Any::default(), any] };
            wait(&Status::with_details(Code::ResourceExhausted, "slow down", details.encode_to_vec().into()))
        };
        assert_eq!(asked(2.5), Some(Duration::from_millis(2_500)));
        assert_eq!(asked(0.0), Some(Duration::from_millis(100)));
        assert_eq!((asked(f32::NAN), asked(-1.0), asked(1e9)), (None, None, None));
        assert_eq!(wait(&Status::with_details(Code::Internal, "", vec![0xff, 0xff].into())), None);
    }

    #[test]
    fn only_certain_refusals_count_as_refused() {
        let kind = |code| explain("X", &Status::new(code, "m")).kind;
        for lost in [Code::Unavailable, Code::Internal, Code::Unknown, Code::Cancelled, Code::DeadlineExceeded] {
            assert_eq!(kind(lost), Kind::Unknown);
        }
        assert_eq!(kind(Code::PermissionDenied), Kind::Credentials);
        assert_eq!(kind(Code::NotFound), Kind::NotFound);
        assert!(explain("X", &Status::new(Code::Unimplemented, "")).meaning.contains("changed its interface"));
    }
}
