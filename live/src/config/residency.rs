//! The section `[residency]`: rules that restrict requests to replicas with certain labels.

use super::ConfigError;
use gorgo_core::residency::{Fence, FenceError};
use http::header::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most rules.
const MAX_RULES: usize = 4_096;

/// Where requests may go. A replica without one of the labels that a rule allows gets no attempt of the request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Residency {
    /// Header whose value the rules with a `value` match. A request with a value that no rule has is refused (400).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The rules; all that match a request apply together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<ResidencyRule>,
}

/// One rule: all conditions it states must match; without any it matches every request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResidencyRule {
    /// Value of `header`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// A header of this rule alone, for example of the tenant; that of the section when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Model that the request names. A prompt that names no model matches, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// SHA-256 of the client's API key, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_sha256: Option<String>,
    /// Labels or regions of which a replica must have one.
    pub allow: Vec<String>,
}

impl ResidencyRule {
    pub(crate) fn fence(&self) -> Result<Fence, FenceError> {
        Fence::new(vec![self.allow.clone()])
    }
}

impl Residency {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let bad = |key: String, value: String, advice: &str| {
            Err(ConfigError::Value { key: format!("residency.{key}"), value, advice: advice.to_owned() })
        };
        let is_header = |name: &str| HeaderName::try_from(name).is_ok();
        let no_header = "it is no name of a header; give letters, digits and `-`";
        if let Some(name) = self.header.as_ref().filter(|name| !is_header(name)) {
            return bad("header".to_owned(), format!("\"{name}\""), no_header);
        }
        if self.header.is_some() && !self.rules.iter().any(|rule| rule.value.is_some() && rule.header.is_none()) {
            let advice = "no rule has a `value` for it, so every request that sends it would be refused; add a rule";
            return bad("header".to_owned(), "set".to_owned(), advice);
        }
        if self.rules.len() > MAX_RULES {
            return bad("rules".to_owned(), format!("a list of {}", self.rules.len()), "give at most 4096 rules");
        }
        for (i, rule) in self.rules.iter().enumerate() {
            let key = |name: &str| format!("rules[{i}].{name}");
            if let Some(name) = rule.header.as_ref().filter(|name| !is_header(name)) {
                return bad(key("header"), format!("\"{name}\""), no_header);
            }
            match (&rule.value, &rule.header) {
                (Some(value), None) if self.header.is_none() => {
                    let advice = "name the header that holds it: residency.header, or `header` in the rule";
                    return bad(key("value"), format!("\"{value}\""), advice);
                }
                (None, Some(name)) => {
                    return bad(key("header"), format!("\"{name}\""), "give the `value` that it must have");
                }
                (Some(value), _) if value.trim() != value || value.is_empty() => {
                    return bad(key("value"), format!("\"{value}\""), "give text without spaces around it");
                }
                _ => {}
            }
            if let Some(digest) = &rule.api_key_sha256
                && (digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
            {
                let advice = "give 64 hexadecimal digits: printf %s KEY | sha256sum";
                return bad(key("api_key_sha256"), "not a digest".to_owned(), advice);
            }
            if let Err(wrong) = rule.fence() {
                return bad(key("allow"), format!("{:?}", rule.allow), &wrong.to_string());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn rules_that_cannot_work_are_refused_and_named() {
        for (text, problem) in [
            ("header = \"x y\"", "`residency.header` is \"x y\"; it is no name of a header"),
            ("header = \"x-eu\"", "`residency.header` is set; no rule has a `value` for it"),
            ("rules = [{value = \"eu\", allow = [\"eu\"]}]", "`residency.rules[0].value` is \"eu\"; name the header"),
            ("rules = [{header = \"x\", allow = [\"eu\"]}]", "`residency.rules[0].header` is \"x\"; give the `value`"),
            ("rules = [{}]", "`residency.rules[0].allow` is []; a clause without labels"),
            ("rules = [{allow = [\"e u\"]}]", "`residency.rules[0].allow` is [\"e u\"]; \"e u\" is no label"),
            (
                "rules = [{api_key_sha256 = \"secret\", allow = [\"eu\"]}]",
                "`residency.rules[0].api_key_sha256` is not a digest; give 64",
            ),
            (
                "header = \"x\"\nrules = [{value = \" eu\", allow = [\"eu\"]}]",
                "`residency.rules[0].value` is \" eu\"; give text",
            ),
            ("rules = [{modle = \"m\"}]", "did you mean `model`?"),
        ] {
            let wrong = Config::parse(&format!("[residency]\n{text}")).unwrap_err().to_string();
            assert!(wrong.contains(problem), "{text}: {wrong}");
        }
    }
}
