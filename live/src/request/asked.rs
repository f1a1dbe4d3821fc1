//! What a request names: its model, and objects that an engine keeps (responses, files, batches).

use crate::wire::other_fields::OtherFields;
use crate::wire::request_fields::{LongName, RequestFields};
use http::Uri;
use std::borrow::Cow;

/// What SGLang calls its model when none is named.
pub(super) const DEFAULT_MODEL: &str = "default";

/// The model and the id that a request names, in its body or its query.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    pub(super) model: Option<Cow<'a, str>>,
    /// An adapter of it.
    pub(super) adapter: Option<&'a str>,
    /// Whether it is for a model that it does not name, or not so that it can be read.
    pub(super) may_be_any: bool,
    /// The key of what an engine keeps.
    pub(super) kept: Option<u64>,
}

impl<'a> Asked<'a> {
    /// Reads a request whose prompt, if it has one, is `found`. `switches`: it asks for a WebSocket, whose model is in the
    /// query or will be named later.
    ///
    /// # Errors
    /// The model's name is too long, in one sentence.
    pub(super) fn new(
        uri: &Uri,
        body: &[u8],
        found: Option<&'a RequestFields>,
        switches: bool,
    ) -> Result<Self, String> {
        if let Some(found) = found {
            let adapter = found.adapter.as_deref();
            return Ok(Self { adapter, ..Self::for_model(found.model.as_deref().map(Cow::Borrowed), found.kept) });
        }
        if !body.is_empty() {
            let OtherFields { model, kept } =
                OtherFields::of(body).map_err(|LongName| LongName::SENTENCE.to_owned())?;
            return Ok(Self::for_model(model.map(Cow::Owned), kept));
        }
        let (model, is_certain) = in_query(uri.query().unwrap_or_default());
        let may_be_any = model.is_none() && (switches || !is_certain);
        Ok(Self { model: model.map(Cow::Owned), adapter: None, may_be_any, kept: None })
    }

    fn for_model(model: Option<Cow<'a, str>>, kept: Option<u64>) -> Self {
        let model = model.filter(|model| !model.is_empty());
        let may_be_any = model.as_ref().is_none_or(|model| model == DEFAULT_MODEL);
        Self { model, adapter: None, may_be_any, kept }
    }
}

/// The model that a query names, and whether every reader takes the same one.
fn in_query(query: &str) -> (Option<String>, bool) {
    let mut named = query.split(['&', ';']).filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key).as_deref() == Some("model")).then(|| decoded(value))
    });
    match (named.next(), named.next()) {
        (None, _) => (None, true),
        (Some(Some(model)), None) => (Some(model), true),
        _ => (None, false),
    }
}

/// A key or value of a query; `None` if its encoding is broken.
fn decoded(text: &str) -> Option<String> {
    let (mut out, mut bytes) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_a_query_is_decoded_and_two_are_none() {
        for (query, expected) in [
            ("model=medical", (Some("medical"), true)),
            ("a=b&model=medic%61l", (Some("medical"), true)),
            ("mod%65l=org%2Fname+x", (Some("org/name x"), true)),
            ("models=m", (None, true)),
            ("", (None, true)),
            ("model=a&model=medical", (None, false)),
            ("model=medic%6", (None, false)),
            ("model=%ff", (None, false)),
        ] {
            let (model, is_certain) = in_query(query);
            assert_eq!((model.as_deref(), is_certain), expected, "{query}");
        }
    }

    #[test]
    fn a_request_for_a_model_that_cannot_be_read_may_be_for_any() {
        let may_be_any = |query: &str, body: &str, switches| {
            let uri: Uri = format!("/v1/x?{query}").parse().unwrap();
            Asked::new(&uri, body.as_bytes(), None, switches).unwrap().may_be_any
        };
        assert!(!may_be_any("", "", false) && may_be_any("", "", true) && !may_be_any("model=m", "", true));
        assert!(may_be_any("", r#"{"model":""}"#, false) && may_be_any("", r#"{"model":"default"}"#, false));
        assert!(may_be_any("", "{}", false) && may_be_any("model=m", "{}", false), "engines read the body alone");
        assert!(may_be_any("", "\u{1}packed", false) && !may_be_any("", r#"{"model":"m"}"#, false));
    }
}
