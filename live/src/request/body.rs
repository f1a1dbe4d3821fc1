//! The body of a response: the router's own, a replica's, or the admin API's.

use crate::request::early_body::EarlyBody;
use crate::request::error_json::BoxError;
use crate::request::response_body::ProxiedBody;
use crate::request::rest_body::RestBody;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A response's body.
#[derive(Debug)]
pub(crate) enum Body {
    /// Known whole: the router's own, or a short answer of a replica.
    Full(Bytes),
    /// A replica's answer, accounted for by its guard.
    Proxied(Box<ProxiedBody>),
    /// A stream that was begun before its first token.
    Early(Box<EarlyBody>),
    /// A replica's error, which the core has accounted for.
    Rest(Box<RestBody>),
    /// The admin API's.
    Admin(axum::body::Body),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Proxied(body) => body.poll_frame(cx),
            Self::Early(body) => body.poll_frame(cx),
            Self::Rest(body) => body.poll_frame(cx),
            Self::Admin(body) => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_empty(),
            Self::Proxied(body) => body.is_end_stream(),
            Self::Early(body) => body.is_end_stream(),
            Self::Rest(body) => body.is_end_stream(),
            Self::Admin(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Proxied(body) => body.size_hint(),
            Self::Early(_) => SizeHint::new(),
            Self::Rest(body) => body.size_hint(),
            Self::Admin(body) => body.size_hint(),
        }
    }
}
