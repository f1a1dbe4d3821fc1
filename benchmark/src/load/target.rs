//! Targets of requests: each user's requests go to the nearest target, as with gotoni's geo proxy.

use crate::input_error::InputError;
use gorgo_core::request::{Place, TraceRequest};
use gorgo_core::url::url_and_region;
use gorgo_sim::network::user_rtt_ms;
use gorgo_traces::geo;

/// A router or engine that requests are sent to.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Base URL without a path: `http://host:port` or `https://host`.
    pub url: String,
    /// Name in reports: the region, or the URL.
    pub name: String,
    /// Location. If any target has none, requests go to the targets in turn.
    pub place: Option<Place>,
}

impl Target {
    /// Whether it is reached over TLS.
    pub fn is_https(&self) -> bool {
        self.url.starts_with("https://")
    }

    /// Parses `URL`, `URL@REGION` or `URL@LAT,LON`.
    ///
    /// # Errors
    /// One sentence that names the text and the expected format.
    pub fn parse(text: &str) -> Result<Self, InputError> {
        // Without the text, which may hold a password.
        let refusal = || "target: leave out the name and password before the host; give a key as --api-key".to_owned();
        let (url, region) = url_and_region(text).ok_or_else(refusal)?;
        // Clients of the OpenAI API are given the URL with its /v1.
        let url = url.trim_end_matches('/');
        let url = url.strip_suffix("/v1").unwrap_or(url).trim_end_matches('/');
        let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let authority = authority.filter(|a| !a.is_empty() && !a.contains('/'));
        if authority.is_none() || url.parse::<hyper::Uri>().is_err() {
            return Err(format!(
                "target `{text}` is no URL of a server; write http://HOST:PORT or https://HOST, with @REGION behind it for a place"
            ).into());
        }
        let place = match region {
            None => None,
            Some(region) => Some(geo::place_of(region).ok_or_else(|| {
                let all: Vec<String> = geo::regions().iter().map(|r| format!("{}:{}", r.provider, r.name)).collect();
                let hint = gorgo_core::suggest::did_you_mean(region, all.iter().map(String::as_str));
                format!("target `{text}`: no region `{region}`; {hint} Or write LAT,LON")
            })?),
        };
        Ok(Self { url: url.to_owned(), name: region.unwrap_or(url).to_owned(), place })
    }
}

/// The target of a request, and the round trip between it and the user, ms. For users without a location the round
/// trip is that of their country's access network, as in the simulator. If a target has no location, requests go to
/// the targets in turn.
pub fn entry(targets: &[Target], request: &TraceRequest, number: usize) -> (usize, f64) {
    let access = geo::access_ms(request.country);
    if targets.iter().any(|t| t.place.is_none()) {
        return (number % targets.len().max(1), access);
    }
    let rtt = |target: &Target| match (request.place, target.place) {
        (Some(user), Some(site)) => user_rtt_ms(access, user.km_to(site)),
        _ => access,
    };
    let all = targets.iter().map(rtt).enumerate();
    all.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, access))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_core::Time;

    fn from(place: Option<Place>) -> TraceRequest {
        TraceRequest { place, ..TraceRequest::lone(0, Time::ZERO, 1, 1, 16, [1].into()) }
    }

    #[test]
    fn the_url_may_end_in_v1() {
        for text in ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"] {
            assert_eq!(Target::parse(text).unwrap().url, "http://h:1", "{text}");
        }
        assert!(Target::parse("http://h:1/v2").is_err());
    }

    #[test]
    fn users_enter_at_the_nearest_router() {
        let targets: Vec<Target> = ["http://a:1@aws:eu-central-1", "http://b:1@aws:us-west-1", "http://c:1@32.1,34.8"]
            .map(|t| Target::parse(t).unwrap())
            .to_vec();
        let near = |lat, lon| entry(&targets, &from(Some(Place { lat, lon })), 5).0;
        assert_eq!((near(48.9, 2.4), near(34.0, -118.2), near(30.0, 31.2)), (0, 1, 2));
        let (at, rtt) = entry(&targets, &from(None), 5);
        assert_eq!((at, rtt), (0, 25.0));
    }

    #[test]
    fn targets_without_places_take_turns() {
        let targets = [Target::parse("http://a:1/").unwrap(), Target::parse("http://b:1").unwrap()];
        assert_eq!((0..4).map(|n| entry(&targets, &from(None), n).0).collect::<Vec<_>>(), [0, 1, 0, 1]);
        assert_eq!(targets[0].url, "http://a:1");
        assert!(!targets[0].is_https() && Target::parse("https://x.modal.run").unwrap().is_https());
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        for text in ["http://bob:53c@h:1", "http://bob:53c@h:1@aws:eu-central-1", "http://bob:5387@h:80"] {
            let error = Target::parse(text).unwrap_err().to_string();
            assert!(error.contains("leave out the name and password") && !error.contains("53"), "{error}");
        }
        assert!(Target::parse("http://[::1]@aws:eu-central-1").is_ok());
    }

    #[test]
    fn bad_targets_are_named() {
        for bad in ["localhost:8000", "ftp://x", "http://", "http://h/v2"] {
            assert!(
                Target::parse(bad)
                    .unwrap_err()
                    .to_string()
                    .starts_with(&format!("target `{bad}` is no URL of a server")),
                "{bad}"
            );
        }
        assert!(
            Target::parse("http://a:1@aws:eu-centrl-1")
                .unwrap_err()
                .to_string()
                .contains("did you mean `aws:eu-central-1`?")
        );
    }
}
