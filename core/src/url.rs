//! `URL[@REGION]`, as commands and the load generator are given a server.

/// The parts of `URL[@REGION]`; none where a name and password seem to stand before the host. Then the text must not be
/// repeated.
pub fn url_and_region(text: &str) -> Option<(&str, Option<&str>)> {
    let Some((url, region)) = text.rsplit_once('@') else { return Some((text, None)) };
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let has_port = |text: &str| text.rsplit_once(':').map(|(_, port)| port.parse::<u16>().is_ok());
    let is_name = authority.contains('@') || (!authority.ends_with(']') && has_port(authority) == Some(false));
    // No region ends in a port.
    if is_name || has_port(region) == Some(true) { None } else { Some((url, Some(region))) }
}

#[cfg(test)]
mod tests {
    use super::url_and_region;

    #[test]
    fn a_name_and_password_are_no_url_and_its_region() {
        for (text, parts) in [
            ("http://a:1", Some(("http://a:1", None))),
            ("http://a:1@eu", Some(("http://a:1", Some("eu")))),
            ("http://a@aws:eu-central-1", Some(("http://a", Some("aws:eu-central-1")))),
            ("http://a@32.1,34.8", Some(("http://a", Some("32.1,34.8")))),
            ("[::1]@eu", Some(("[::1]", Some("eu")))),
            ("[::1]:80@eu", Some(("[::1]:80", Some("eu")))),
            ("a:1/base:x@eu", Some(("a:1/base:x", Some("eu")))),
            ("http://bob:s3cret@a", None),
            ("http://bob:s3cret@a@eu", None),
            ("http://bob:1234@a:80", None),
            ("http://bob:1234@a/v1@eu", None),
            ("http://bob@a:80", None),
        ] {
            assert_eq!(url_and_region(text), parts, "{text}");
        }
    }
}
