//! Where a request may go, by the rules of `[residency]` and by the router that forwarded it.

use crate::config::Residency;
use crate::request::headers;
use gorgo_core::residency::Fence;
use http::header::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

/// A request whose residency is not known here, in one sentence for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnknownResidency(pub(crate) String);

/// The rules of a configuration, ready to be matched.
#[derive(Debug, Default)]
pub(crate) struct ResidencyRules {
    header: Option<HeaderName>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    /// A header and the value it must have.
    header: Option<(HeaderName, String)>,
    model: Option<String>,
    key: Option<[u8; 32]>,
    fence: Fence,
}

/// What the rules read of a request besides its headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    /// The model it names.
    pub(crate) model: Option<&'a str>,
    /// Whether it is for some model though it names none that can be read: then it may be any of them.
    pub(crate) may_be_any: bool,
}

impl ResidencyRules {
    /// The rules of a checked configuration.
    pub(crate) fn new(config: &Residency) -> Self {
        let name = |name: &String| HeaderName::try_from(name.as_str()).ok();
        let header = config.header.as_ref().and_then(name);
        let rules = config.rules.iter().filter_map(|rule| {
            let of = rule.header.as_ref().map_or_else(|| header.clone(), name);
            Some(Rule {
                header: of.zip(rule.value.clone()),
                model: rule.model.clone(),
                key: rule.api_key_sha256.as_ref().and_then(|text| digest_of(text)),
                fence: rule.fence().ok()?,
            })
        });
        Self { rules: rules.collect(), header }
    }

    /// The fence of a request; `None` when it may go everywhere. `forwarded`: another router may have sent it.
    ///
    /// # Errors
    /// The request's residency is not known here.
    pub(crate) fn fence(
        &self,
        map: &HeaderMap,
        named: Named<'_>,
        forwarded: bool,
    ) -> Result<Option<Fence>, UnknownResidency> {
        let mut fence = None;
        if forwarded {
            for value in map.get_all(headers::FENCE) {
                let told = value.to_str().map_err(|_| unreadable()).and_then(|text| {
                    Fence::parse(text)
                        .map_err(|wrong| UnknownResidency(format!("`{}` cannot be used: {wrong}", headers::FENCE)))
                });
                join(&mut fence, &told?)?;
            }
        }
        if self.rules.is_empty() {
            return Ok(fence);
        }
        if let Some(header) = &self.header {
            map.get_all(header).iter().try_for_each(|value| self.check_known(header, value.as_bytes()))?;
        }
        let keys = if self.rules.iter().any(|rule| rule.key.is_some()) { digests(map) } else { Vec::new() };
        for rule in self.rules.iter().filter(|rule| rule.matches(map, named, &keys)) {
            join(&mut fence, &rule.fence)?;
        }
        Ok(fence)
    }

    fn check_known(&self, header: &HeaderName, value: &[u8]) -> Result<(), UnknownResidency> {
        let value = value.trim_ascii();
        let of_header = |rule: &&Rule| rule.header.as_ref().is_some_and(|(name, _)| name == header);
        let mut known = self.rules.iter().filter(of_header).filter_map(|rule| Some(rule.header.as_ref()?.1.as_str()));
        let is_known = |value: &[u8]| known.clone().any(|known| known.as_bytes() == value);
        // Proxies join several lines by commas, and all of them count.
        if is_known(value) || value.split(|&byte| byte == b',').all(|one| is_known(one.trim_ascii())) {
            return Ok(());
        }
        let shown: String = String::from_utf8_lossy(value).chars().take(64).collect();
        let first: Vec<&str> = known.by_ref().take(16).collect();
        let message = format!("`{header}` is \"{shown}\", which is not known here; send one of {}", first.join(", "));
        Err(UnknownResidency(message))
    }
}

impl Rule {
    fn matches(&self, map: &HeaderMap, named: Named<'_>, keys: &[[u8; 32]]) -> bool {
        let has = |(name, wanted): &(HeaderName, String)| {
            map.get_all(name).iter().flat_map(|value| values(value.as_bytes())).any(|value| value == wanted.as_bytes())
        };
        // `base:adapter` is served by the replicas of `base`.
        let is_named = |wanted: &String| match named.model {
            Some(model) => model == wanted || model.split(':').next() == Some(wanted),
            None => named.may_be_any,
        };
        self.header.as_ref().is_none_or(has)
            && self.model.as_ref().is_none_or(is_named)
            && self.key.as_ref().is_none_or(|key| keys.contains(key))
    }
}

/// A header's value, and each of several that a proxy joined by commas.
fn values(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::once(value.trim_ascii()).chain(value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii))
}

fn join(fence: &mut Option<Fence>, more: &Fence) -> Result<(), UnknownResidency> {
    let both = match fence.as_ref() {
        None => more.clone(),
        Some(fence) => fence.and(more).map_err(|wrong| {
            let message = format!("the rules of residency that this request matches cannot apply together: {wrong}");
            UnknownResidency(message)
        })?,
    };
    *fence = Some(both);
    Ok(())
}

fn unreadable() -> UnknownResidency {
    UnknownResidency(format!("`{}` is not text", headers::FENCE))
}

/// Digests of every key that a client shows: an engine may read another header than this router does.
fn digests(map: &HeaderMap) -> Vec<[u8; 32]> {
    headers::all_keys(map).map(|key| Sha256::digest(key).into()).collect()
}

fn digest_of(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use http::HeaderValue;

    const RULES: &str = "[residency]\nheader = \"X-Residency\"\nrules = [\n\
        {value = \"eu\", allow = [\"eu-west\", \"eu-north\"]},\n\
        {value = \"any\", allow = [\"earth\"]},\n\
        {header = \"X-Tenant\", value = \"acme\", allow = [\"acme\"]},\n\
        {model = \"medical\", allow = [\"hipaa\"]},\n\
        {api_key_sha256 = \"2BB80D537B1DA3E38BD30361AA855686BDE0EACD7162FEF6A25FE97BF527A25B\", allow = [\"us\"]},\n]";

    fn rules() -> ResidencyRules {
        ResidencyRules::new(&Config::parse(RULES).unwrap().residency)
    }

    fn fence(headers: &[(&'static str, &'static str)], model: Option<&str>, may_be_any: bool) -> Result<String, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        let found = rules().fence(&map, Named { model, may_be_any }, true);
        found.map(|fence| fence.map_or_else(String::new, |f| f.to_string())).map_err(|_| 400)
    }

    #[test]
    fn every_rule_that_matches_applies() {
        for (headers, model, fenced) in [
            (&[][..], "m", ""),
            (&[("x-residency", "eu")], "m", "eu-west,eu-north"),
            (&[("x-residency", "eu"), ("x-residency", " any ")], "m", "eu-west,eu-north;earth"),
            (&[("x-tenant", "acme"), ("x-residency", "eu")], "medical", "eu-west,eu-north;acme;hipaa"),
            (&[("x-tenant", "other")], "medical:lora", "hipaa"),
            (&[("x-residency", "eu, any")], "m", "eu-west,eu-north;earth"),
            (&[("x-tenant", "other,acme")], "m", "acme"),
            (&[], "medical2", ""),
            (&[("authorization", "Bearer secret")], "m", "us"),
            (&[("authorization", "Bearer other"), ("x-api-key", "secret")], "m", "us"),
            (&[("x-api-key", "other")], "m", ""),
            (&[("x-gorgo-fence", "moon;eu"), ("x-residency", "any")], "m", "moon;eu;earth"),
            (&[("x-gorgo-fence", "a"), ("x-gorgo-fence", "b")], "m", "a;b"),
        ] {
            assert_eq!(fence(headers, Some(model), true), Ok(fenced.to_owned()), "{headers:?} {model}");
        }
        assert_eq!(fence(&[], None, true), Ok("hipaa".to_owned()), "the engine's own model may be that one");
        assert_eq!(fence(&[], None, false), Ok(String::new()));
    }

    #[test]
    fn an_unknown_residency_is_refused_and_never_ignored() {
        for headers in [
            &[("x-residency", "mars")][..],
            &[("x-residency", "EU")],
            &[("x-residency", "")],
            &[("x-residency", "eu, mars")],
            &[("x-residency", "eu,")],
            &[("x-residency", "eu"), ("x-residency", "mars")],
            &[("x-gorgo-fence", "")],
            &[("x-gorgo-fence", "eu;")],
            &[("x-gorgo-fence", "eu"), ("x-gorgo-fence", "a b")],
        ] {
            assert_eq!(fence(headers, Some("m"), true), Err(400), "{headers:?}");
        }
        let mut map = HeaderMap::new();
        map.insert(headers::FENCE, HeaderValue::from_bytes(b"\xff").unwrap());
        let named = Named { model: None, may_be_any: true };
        assert!(rules().fence(&map, named, true).is_err());
    }
}
