//! Unpacks request bodies with a `Content-Encoding`: the router reads the prompt, and engines read plain JSON only.

use crate::request::body::Body;
use crate::request::errors::refusal;
use crate::request::pack::ZSTD;
use crate::state::AppState;
use bytes::Bytes;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap};
use http::{HeaderValue, Response, StatusCode};
use std::io::{self, Read};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Bytes unpacked before other tasks of the thread get their turn.
const PIECE: usize = 256 << 10;

/// The largest window of zstd, as a power of two: 8 MiB, what RFC 8878 has every decoder support and asks senders to stay
/// within. A frame may ask for gigabytes.
const WINDOW: u32 = 23;

/// Unpacks `body` as its `Content-Encoding` says, up to `most` bytes; `None` if it has none. The unpacked bytes count
/// towards the same limits as those that came.
///
/// # Errors
/// 415 with the name of an encoding that is not read, 400 for a body that is not what its encoding says, 413 and 503 by
/// the limits.
pub(crate) async fn unpack(
    most: usize,
    state: &AppState,
    headers: &HeaderMap,
    body: &Bytes,
    permit: &mut Option<OwnedSemaphorePermit>,
) -> Result<Option<Bytes>, Box<Response<Body>>> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let Some(named) = encodings.next() else { return Ok(None) };
    let name = named.to_str().unwrap_or("?").trim().to_ascii_lowercase();
    let mut reader: Box<dyn Read + Send + '_> = match name.as_str() {
        _ if encodings.next().is_some() => return Err(unknown("more than one")),
        "" | "identity" => return Ok(None),
        "gzip" | "x-gzip" => Box::new(MultiGzDecoder::new(&body[..])),
        // Some clients leave out the frame of zlib that RFC 9110 asks for.
        "deflate" if has_zlib_head(body) => Box::new(ZlibDecoder::new(&body[..])),
        "deflate" => Box::new(DeflateDecoder::new(&body[..])),
        ZSTD => Box::new(zstd_reader(body).map_err(|error| damaged(&name, &error))?),
        other => return Err(unknown(other)),
    };
    let mut out = Vec::new();
    loop {
        let before = out.len();
        let read = reader.by_ref().take(PIECE as u64).read_to_end(&mut out);
        if let Err(error) = read {
            return Err(damaged(&name, &error));
        }
        if out.len() == before {
            return Ok(Some(Bytes::from(out)));
        }
        if out.len() > most {
            let message = format!("the unpacked body is longer than {most} bytes; send a shorter one");
            return Err(Box::new(refusal(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", &message)));
        }
        let Ok(more) = Arc::clone(&state.body_kib).try_acquire_many_owned(((out.len() - before) >> 10) as u32 + 1)
        else {
            let message = "the router holds as many bytes of bodies as it may (limits.bodies_bytes); try again soon";
            return Err(Box::new(refusal(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)));
        };
        match permit {
            Some(permit) => permit.merge(more),
            None => *permit = Some(more),
        }
        tokio::task::yield_now().await;
    }
}

fn has_zlib_head(body: &[u8]) -> bool {
    matches!(*body, [first, second, ..] if first & 15 == 8 && u16::from_be_bytes([first, second]).is_multiple_of(31))
}

fn zstd_reader(body: &[u8]) -> io::Result<zstd::Decoder<'_, &[u8]>> {
    let mut reader = zstd::Decoder::with_buffer(body)?;
    reader.window_log_max(WINDOW)?;
    Ok(reader)
}

fn damaged(name: &str, error: &io::Error) -> Box<Response<Body>> {
    let message = format!("the body is not the {name} that its Content-Encoding says ({error})");
    Box::new(refusal(StatusCode::BAD_REQUEST, "invalid_body", &message))
}

fn unknown(name: &str) -> Box<Response<Body>> {
    let shown: String = name.chars().take(40).collect();
    let message = format!("the body's Content-Encoding is `{shown}`; send gzip, deflate, zstd, or no encoding");
    let mut response = refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_content_encoding", &message);
    response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate, zstd"));
    Box::new(response)
}
