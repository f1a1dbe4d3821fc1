//! A file of endpoints: `endpoints: [{name, address, port, labels}]` as llm-d's file discovery has it, in YAML, JSON or
//! TOML by the file's extension (YAML without one), and a few keys more.

use super::{DiscoveredEndpoint, DiscoveryError};
use crate::config::replica_name::{check_name, shown_name};
use crate::config::{at_key, line_of};
use crate::upstream::connect::{Endpoint, shown_url};
use gorgo_core::residency::{MAX_LABELS, check_label};
use gorgo_core::settings::{NumberOrText, number_or_text};
use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tokio::io::AsyncReadExt;

/// Longest file, bytes.
const MOST_BYTES: u64 = 1 << 20;

/// Labels that name the region, in order of precedence: ours, and Kubernetes'.
pub(super) const REGION_LABELS: [&str; 2] = ["region", "topology.kubernetes.io/region"];
/// Labels that name the served model: llm-d's, and AIBrix'.
pub(super) const MODEL_LABELS: [&str; 3] = ["model", "llm-d.ai/model", "model.aibrix.ai/name"];

/// Keys that are not known are passed over, as by other programs that read such a file: a registry may say more than is
/// of use here. A misspelt key that matters is missed by name.
#[derive(Deserialize)]
#[serde(expecting = "`endpoints`, a list")]
struct Listed {
    endpoints: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(expecting = "an endpoint with its `address` and `port`, or `url`")]
struct Entry {
    name: Option<String>,
    address: Option<String>,
    port: Option<Port>,
    url: Option<String>,
    #[serde(default, deserialize_with = "or_none")]
    labels: BTreeMap<String, String>,
    region: Option<String>,
    #[serde(default, deserialize_with = "or_none")]
    models: Vec<String>,
    ms_per_token: Option<f64>,
    kv_tokens: Option<u64>,
    #[serde(default, deserialize_with = "or_none")]
    state: State,
}

/// A value, or its default in place of null: templates leave keys empty.
fn or_none<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// A number, in quotes or without.
struct Port(u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a number from 1 to 65535";
        let wrong = |value: Unexpected<'_>| D::Error::invalid_value(value, &EXPECTED);
        let port = match number_or_text(from, EXPECTED)? {
            NumberOrText::Number(number) => u16::try_from(number).map_err(|_| wrong(Unexpected::Unsigned(number)))?,
            NumberOrText::Text(text) => text.parse().map_err(|_| wrong(Unexpected::Str(&text)))?,
        };
        if port == 0 { Err(wrong(Unexpected::Unsigned(0))) } else { Ok(Self(port)) }
    }
}

/// As in Kubernetes' EndpointSlices.
#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Takes requests.
    #[default]
    #[serde(alias = "Ready")]
    Ready,
    /// Answers, but takes no new requests.
    #[serde(alias = "Terminating")]
    Terminating,
}

/// Reads the file. An atomic replacement and a replaced symbolic link (a Kubernetes ConfigMap) are seen, since the path is
/// opened anew.
///
/// # Errors
/// The file cannot be read, is longer than 1 MiB, or an endpoint in it is wrong: then none of it is used.
pub(crate) async fn read(path: &Path) -> Result<Vec<DiscoveredEndpoint>, DiscoveryError> {
    let fail = |why: String| DiscoveryError(why);
    let unread = |why: String| fail(format!("it cannot be read: {why}"));
    // A pipe would be waited for without end.
    let kind = tokio::fs::metadata(path).await.map_err(|why| unread(why.to_string()))?;
    if !kind.is_file() {
        return Err(unread("it is no regular file".to_owned()));
    }
    let file = tokio::fs::File::open(path).await.map_err(|why| unread(why.to_string()))?;
    let mut text = String::new();
    let read = file.take(MOST_BYTES + 1).read_to_string(&mut text).await;
    read.map_err(|why| fail(format!("it cannot be read: {why}")))?;
    if text.len() as u64 > MOST_BYTES {
        return Err(fail("it is longer than 1 MiB; split it, or use DNS".to_owned()));
    }
    parse(&text, path.extension().and_then(|kind| kind.to_str()).unwrap_or_default()).map_err(fail)
}

pub(crate) fn parse(text: &str, extension: &str) -> Result<Vec<DiscoveredEndpoint>, String> {
    // Editors of some systems begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let listed: Listed = match extension {
        "json" => from_json(text)?,
        "toml" => from_toml(text)?,
        _ => from_yaml(text)?,
    };
    let mut names = BTreeSet::new();
    let mut all = Vec::with_capacity(listed.endpoints.len());
    for (i, entry) in listed.endpoints.into_iter().enumerate() {
        let endpoint = entry.endpoint().map_err(|wrong| format!("endpoints[{i}]: {wrong}"))?;
        if !names.insert(endpoint.name.clone()) {
            return Err(format!("endpoints[{i}]: name `{}` is listed twice; names must differ", endpoint.name));
        }
        all.push(endpoint);
    }
    Ok(all)
}

fn from_json(text: &str) -> Result<Listed, String> {
    let mut from = serde_json::Deserializer::from_str(text);
    let listed = serde_path_to_error::deserialize(&mut from);
    let listed = listed.map_err(|wrong| at_key(&wrong.path().to_string(), &wrong.inner().to_string()))?;
    from.end().map_err(|wrong| wrong.to_string())?;
    Ok(listed)
}

fn from_toml(text: &str) -> Result<Listed, String> {
    let at_line = |key: &str, wrong: &toml::de::Error| {
        let line = line_of(text, wrong).map_or(String::new(), |line| format!(" at line {line}"));
        at_key(key, wrong.message()) + &line
    };
    let from = toml::de::Deserializer::parse(text).map_err(|wrong| at_line(".", &wrong))?;
    serde_path_to_error::deserialize(from).map_err(|wrong| at_line(&wrong.path().to_string(), wrong.inner()))
}

fn from_yaml(text: &str) -> Result<Listed, String> {
    let mut key = String::new();
    let listed = serde_saphyr::with_deserializer_from_str(text, |from| {
        serde_path_to_error::deserialize(from).map_err(|wrong| {
            key = wrong.path().to_string();
            wrong.into_inner()
        })
    });
    listed.map_err(|wrong| at_key(&key, &first_line(&wrong.without_snippet().to_string())))
}

/// The parser's message without the excerpt of the file below it, and without names of its own parts.
fn first_line(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("it is no YAML").trim();
    if line.contains("multiple YAML documents") {
        return "it holds several YAML documents; keep one".to_owned();
    }
    if line.contains("budget breached") {
        return "it is larger, or nested deeper, than a list of endpoints may be; shorten it".to_owned();
    }
    line.to_owned()
}

impl Entry {
    fn endpoint(self) -> Result<DiscoveredEndpoint, String> {
        let label = |keys: &[&str]| keys.iter().find_map(|key| self.labels.get(*key)).cloned();
        let url = match (self.url, self.address, self.port) {
            (Some(url), None, None) => url,
            (None, Some(address), Some(Port(port))) if address.contains(':') && !address.starts_with('[') => {
                format!("http://[{address}]:{port}")
            }
            (None, Some(address), Some(Port(port))) => format!("http://{address}:{port}"),
            _ => return Err("give `address` and `port`, or `url`".to_owned()),
        };
        let at = Endpoint::parse(&url)
            .map_err(|advice| format!("`{}` is no address of a replica; {advice}", shown_url(&url)))?;
        if let Some(rate) = self.ms_per_token.filter(|rate| !(0.0..=1e6).contains(rate)) {
            return Err(format!("ms_per_token is {rate}; it must lie between 0 and 1000000"));
        }
        if let Some(name) = &self.name {
            check_name(name).map_err(|advice| format!("name is {}; {advice}", shown_name(name)))?;
        }
        let mut models = self.models;
        models.extend(label(&MODEL_LABELS).filter(|model| !models.contains(model)));
        Ok(DiscoveredEndpoint {
            name: self.name.unwrap_or_else(|| at.name()),
            region: self.region.or_else(|| label(&REGION_LABELS)),
            labels: labels(&self.labels),
            url,
            uid: None,
            models,
            ms_per_token: self.ms_per_token,
            kv_tokens: self.kv_tokens,
            draining: self.state == State::Terminating,
        })
    }
}

/// Labels as `[residency]` names them; those that it cannot name are left out.
pub(super) fn labels(map: &BTreeMap<String, String>) -> Vec<String> {
    let all = map.iter().map(|(key, value)| format!("{key}={value}"));
    all.filter(|label| check_label(label).is_ok()).take(MAX_LABELS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llm_ds_yaml_is_read_with_its_labels() {
        let text = "endpoints:\n- name: pod-1\n  namespace: ml\n  address: 10.0.0.1\n  port: \"8000\"\n  labels:\n    \
                    llm-d.ai/model: m\n    topology.kubernetes.io/region: eu\n- {address: \"fd00::1\", port: 30000, \
                    state: terminating}\n";
        let all = parse(text, "yaml").unwrap();
        assert_eq!((all[0].name.as_str(), all[0].url.as_str()), ("pod-1", "http://10.0.0.1:8000"));
        assert_eq!(all[0].labels, ["llm-d.ai/model=m", "topology.kubernetes.io/region=eu"]);
        assert_eq!((all[0].region.as_deref(), all[0].models.as_slice()), (Some("eu"), &["m".to_owned()][..]));
        assert_eq!((all[1].name.as_str(), all[1].draining), ("[fd00::1]:30000", true));
    }

    #[test]
    fn keys_of_other_programs_are_passed_over() {
        let text =
            "apiVersion: v1\nendpoints:\n- {name: a, address: h, port: 1, namespace: ml, rank: 3, state: ready}\n";
        assert_eq!(parse(text, "yaml").unwrap(), [DiscoveredEndpoint::new("a", "http://h:1")]);
    }

    #[test]
    fn keys_without_a_value_are_as_if_left_out() {
        let plain = parse("endpoints: [{name: a, url: \"http://h:1\"}]", "yaml").unwrap();
        let yaml =
            "endpoints:\n- name: a\n  url: \"http://h:1\"\n  labels:\n  models:\n  state:\n  region:\n  kv_tokens:\n";
        assert_eq!(parse(yaml, "yaml").unwrap(), plain);
        let json = r#"{"endpoints":[{"name":"a","url":"http://h:1","labels":null,"models":null,"state":"Ready"}]}"#;
        assert_eq!(parse(json, "json").unwrap(), plain);
    }

    #[test]
    fn yaml_that_is_no_list_is_refused_in_plain_words() {
        let entry = "endpoints:\n- {name: a, url: \"http://h:1\"}\n";
        let several = parse(&format!("{entry}---\n{entry}"), "yaml").unwrap_err();
        assert_eq!(several, "it holds several YAML documents; keep one");
        let deep = format!("endpoints: {}{}", "[".repeat(5_000), "]".repeat(5_000));
        let deep = parse(&deep, "yaml").unwrap_err();
        assert!(!deep.contains("budget") && !deep.contains("from_str"), "{deep}");
    }

    #[test]
    fn json_and_toml_say_the_same() {
        let marked = parse("\u{feff}{\"endpoints\": []}", "json");
        assert_eq!(marked, Ok(Vec::new()), "a byte order mark");
        let json = parse("{\"endpoints\": [{\"name\": \"a\", \"url\": \"https://a.example\"}]}", "json").unwrap();
        let toml = parse("endpoints = [{name = \"a\", url = \"https://a.example\"}]", "toml").unwrap();
        assert_eq!(json, toml);
    }

    #[test]
    fn a_wrong_file_is_refused_as_a_whole_and_named() {
        for (text, kind, problem) in [
            ("endpoints: [{name: a, address: h, port: 1}, {name: a, address: h, port: 2}]", "yaml", "listed twice"),
            ("endpoints: [{address: h}]", "yaml", "endpoints[0]: give `address` and `port`, or `url`"),
            (
                "endpoints:\n- {address: h, port: 99999999}",
                "yaml",
                "`endpoints[0].port`: invalid value: integer `99999999`, expected a number from 1 to 65535",
            ),
            ("endpoints: [{address: h, port: 99999999}]", "yaml", "line 1"),
            (
                "{\"endpoints\": [{\"port\": -1}]}",
                "json",
                "`endpoints[0].port`: invalid value: integer `-1`, expected a number",
            ),
            (
                "{\"endpoints\": [\n{\"port\": [1]}]}",
                "json",
                "invalid type: sequence, expected a number from 1 to 65535 at line 2",
            ),
            (
                "\nendpoints = [{port = 70000}]",
                "toml",
                "`endpoints[0].port`: invalid value: integer `70000`, expected a number",
            ),
            ("\nendpoints = [{port = 70000}]", "toml", "from 1 to 65535 at line 2"),
            (
                "endpoints: [{address: h, port: x}]",
                "yaml",
                "`endpoints[0].port`: invalid value: string \"x\", expected",
            ),
            ("endpoints: [{address: h, port: 1, state: gone}]", "yaml", "`endpoints[0].state`: "),
            ("endpoints: [{adress: h, port: 1}]", "yaml", "endpoints[0]: give `address` and `port`, or `url`"),
            ("endpoint: [{address: h, port: 1}]", "yaml", "endpoints"),
            ("endpoints: [{address: 'a b', port: 1}]", "yaml", "no address"),
            ("endpoints: [", "yaml", ""),
            ("endpoints: {}", "json", "expected"),
            ("1", "json", "expected `endpoints`, a list"),
            ("[1]", "json", "`[0]`: "),
            ("{\"endpoints\": [\"a\"]}", "json", "expected an endpoint with its `address`"),
            ("endpoints = 1", "toml", ""),
            ("endpoints: [{address: h, port: 0}]", "yaml", "from 1 to 65535"),
            ("endpoints: [{url: 'http://h:99999'}]", "yaml", "from 1 to 65535"),
            ("endpoints: [{url: 'http://me:pass@h'}]", "yaml", "before `@`"),
            ("endpoints: [{name: '', address: h, port: 1}]", "yaml", "name is"),
            ("endpoints: [{address: h, port: 1, ms_per_token: -1}]", "yaml", "ms_per_token is -1"),
        ] {
            let wrong = parse(text, kind).unwrap_err();
            assert!(wrong.contains(problem) && !wrong.contains('\n'), "{text}: {wrong}");
            assert!(!wrong.contains("untagged") && !wrong.contains("struct "), "{text}: {wrong}");
        }
    }

    #[test]
    fn a_yaml_bomb_is_refused() {
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (from, to) in "abcdefgh".chars().zip("bcdefghi".chars()) {
            let all = format!("*{from}, ").repeat(9);
            text.push_str(&format!("{to}: &{to} [{all}]\n"));
        }
        text.push_str("endpoints: *i\n");
        parse(&text, "yaml").unwrap_err();
    }
}
