//! Reads the model, and the ids of objects at engines, in a request without a prompt: residency and routing by model
//! apply to every path.

use crate::kept_ids;
use crate::wire::json::Reader;
use crate::wire::request_fields::{LongName, first_text, kept_id, model_name};
use memchr::memmem;

/// What the router reads of a body without a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct OtherFields {
    /// `model`; `None` if it is not named, or if the body cannot be read.
    pub(crate) model: Option<String>,
    /// The key of what an engine keeps and the body names.
    pub(crate) kept: Option<u64>,
}

impl OtherFields {
    /// Reads a body: a JSON object, or a form of several parts.
    ///
    /// # Errors
    /// The model's name is too long.
    pub(crate) fn of(body: &[u8]) -> Result<Self, LongName> {
        let start = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        match start.trim_ascii_start().first() {
            Some(b'{') => json(start),
            Some(b'-') => Ok(Self { model: form(start), kept: None }),
            _ => Ok(Self::default()),
        }
    }
}

fn json(body: &[u8]) -> Result<OtherFields, LongName> {
    let (mut model, mut kept) = (Ok(None), None);
    let mut json = Reader::new(body);
    let read = json.object(|json, key| {
        match &*key.whole() {
            b"model" => model = model_name(json)?, // the last of several, as engines take it
            b"input_file_id"
            | b"file_id"
            | b"training_file"
            | b"validation_file"
            | b"previous_response_id"
            | b"conversation" => {
                kept = kept.or(kept_id(json)?.map(|id| kept_ids::key(id.as_bytes())));
            }
            b"file_ids" => {
                kept = kept.or(first_text(json.skip()?).map(|id| kept_ids::key(id.as_bytes())));
            }
            _ => drop(json.skip()?),
        }
        Ok(())
    });
    if read.and_then(|()| json.end()).is_err() {
        return Ok(OtherFields::default());
    }
    Ok(OtherFields { model: model?, kept })
}

/// The part `model` of a form, if one part alone has that name, quoted or as .NET writes it, and its head is the usual
/// one.
fn form(body: &[u8]) -> Option<String> {
    let lower = body.to_ascii_lowercase();
    let mut named = None;
    for at in memmem::find_iter(&lower, b"name") {
        // `filename` is another parameter.
        if at.checked_sub(1).is_some_and(|before| is_token(lower[before])) {
            continue;
        }
        match spelling(&body[at..], &lower[at..]) {
            Spelling::Other => {}
            Spelling::Model(length) if named.is_none() => named = Some(at + length),
            // Readers differ on the rest; with one of those about nothing is certain.
            Spelling::Model(_) | Spelling::Odd => return None,
        }
    }
    let rest = &body[named?..];
    let head = memmem::find(rest, b"\r\n\r\n").filter(|&head| head < 256)?;
    let value = &rest[head + 4..];
    let value = &value[..memmem::find(value, b"\r\n--").filter(|&length| length <= crate::models::LONGEST_NAME)?];
    std::str::from_utf8(value).ok().map(str::to_owned)
}

/// How a parameter is written that may be the name `model`.
enum Spelling {
    /// So that every reader takes it for that name, in so many bytes.
    Model(usize),
    /// So that some may.
    Odd,
    /// It is another name.
    Other,
}

/// The spelling of what begins with `name` without regard to case; `lower` is the same in lower case.
fn spelling(text: &[u8], lower: &[u8]) -> Spelling {
    const QUOTED: &[u8] = b"name=\"model\"";
    const BARE: &[u8] = b"name=model";
    if text.starts_with(QUOTED) {
        return Spelling::Model(QUOTED.len());
    }
    if text.starts_with(BARE) && text.get(BARE.len()).is_some_and(|byte| matches!(byte, b';' | b'\r')) {
        return Spelling::Model(BARE.len());
    }
    let odd = [QUOTED, BARE, b"name='model", b"name*=", b"name =", b"name=\"model["];
    let is_longer = lower.starts_with(BARE) && lower.get(BARE.len()).is_some_and(|&byte| is_token(byte));
    if !is_longer && odd.iter().any(|odd| lower.starts_with(odd)) { Spelling::Odd } else { Spelling::Other }
}

/// Whether a byte may stand in a parameter's name or unquoted value.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(body: &str) -> Option<String> {
        OtherFields::of(body.as_bytes()).unwrap().model
    }

    #[test]
    fn the_model_is_read_as_engines_read_it() {
        for (body, expected) in [
            (r#"{"model": "m", "x": {"model": "inner"}}"#, Some("m")),
            (r#"{"mod\u0065l": "m"}"#, Some("m")),
            (r#"{"model": "a", "model": "m"}"#, Some("m")),
            (r#"{"model": "a", "model": 7}"#, None),
            ("\u{feff} {\"model\": \"m\"}", Some("m")),
            (r#"{"model": "m"} x"#, None),
            (r#"{"model": "m", "x": NaN}"#, None),
            (r#"[{"model": "m"}]"#, None),
            ("model=m", None),
            ("", None),
        ] {
            assert_eq!(model(body).as_deref(), expected, "{body}");
        }
        let long = format!(r#"{{"model": "{}"}}"#, "x".repeat(513));
        assert_eq!(OtherFields::of(long.as_bytes()), Err(LongName));
    }

    #[test]
    fn the_model_of_a_form_is_read_where_it_is_certain() {
        let part =
            |name: &str, value: &str| format!("--x\r\nContent-Disposition: form-data; {name}\r\n\r\n{value}\r\n");
        let form = |parts: &[String]| format!("{}--x--\r\n", parts.concat());
        let file = part("name=\"file\"; filename=\"a.wav\"", "\u{1}\u{2}");
        assert_eq!(model(&form(&[file.clone(), part("name=\"model\"", "m")])).as_deref(), Some("m"));
        let dotnet = part("name=file; filename=a.wav; filename*=utf-8''a.wav", "\u{1}");
        for model_part in ["name=model", "name=\"model\"", "name=model; x=y"] {
            let parts = [dotnet.clone(), part("name=model_version", "7"), part(model_part, "m")];
            assert_eq!(model(&form(&parts)).as_deref(), Some("m"), "{model_part}");
        }
        for odd in [
            form(&[part("Name=MODEL", "m")]),
            form(&[part("name=model ", "m")]),
            form(std::slice::from_ref(&file)),
            form(&[part("name=\"model\"", "a"), part("name=\"model\"", "m")]),
            form(&[part("name=\"model\"", "a"), part("name=model", "m")]),
            form(&[part("name=\"model\"", "a"), part("name*=utf-8''model", "m")]),
            form(&[part("name=\"model\"", &"x".repeat(600))]),
        ] {
            assert_eq!(model(&odd), None, "{odd}");
        }
    }

    #[test]
    fn what_an_engine_keeps_is_named() {
        let kept = |body: &str| OtherFields::of(body.as_bytes()).unwrap().kept;
        for name in ["input_file_id", "training_file", "previous_response_id"] {
            assert_eq!(kept(&format!(r#"{{"{name}": "f"}}"#)), Some(kept_ids::key(b"f")), "{name}");
        }
        assert_eq!(kept(r#"{"name": "store", "file_ids": ["f", "g"]}"#), Some(kept_ids::key(b"f")));
        assert_eq!((kept(r#"{"x": "f"}"#), kept(r#"{"file_ids": []}"#)), (None, None));
    }
}
