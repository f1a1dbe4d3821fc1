//! Keeps keys out of error messages about an unreadable configuration: serde's messages quote the offending value.

use super::Security;
use gorgo_core::suggest::near;
use toml::{Table, Value};

/// Stands for what a message does not show.
const HIDDEN: &str = "(not shown)";

/// What no message may show: all that stands under `security`, and every key, seed and URL elsewhere.
pub(super) fn secrets(table: &Table) -> Vec<String> {
    let mut found = Vec::new();
    collect(table, false, &mut found);
    // A short text would be found in the words of a message.
    found.retain(|text| text.len() > 3);
    found.sort_by_key(|text| std::cmp::Reverse(text.len()));
    found
}

fn collect(table: &Table, in_security: bool, found: &mut Vec<String>) {
    for (key, value) in table {
        let name = key.strip_suffix("_file").unwrap_or(key);
        let is_setting = key == "hosts" || near(name, Security::default().kinds().map(|(name, _, _)| name)).is_some();
        if in_security && !is_setting {
            found.push(key.clone()); // a key in the place of its name
        }
        let names = ["security", "hash_seed", "url", "rest", "replicas", "peers"];
        let is_secret = in_security || key.ends_with("_key") || names.contains(&key.as_str());
        of_value(value, is_secret, in_security || key == "security", found);
    }
}

fn of_value(value: &Value, is_secret: bool, in_security: bool, found: &mut Vec<String>) {
    match value {
        Value::Table(inner) => collect(inner, in_security, found),
        Value::Array(list) => list.iter().for_each(|value| of_value(value, is_secret, in_security, found)),
        Value::String(text) if is_secret => {
            found.extend([text.clone(), format!("{text:?}").trim_matches('"').to_owned()]);
        }
        other if is_secret => found.push(other.to_string()),
        _ => {}
    }
}

/// A message without the secrets.
pub(super) fn without(message: &str, secrets: &[String]) -> String {
    secrets.iter().fold(message.to_owned(), |message, secret| message.replace(secret.as_str(), HIDDEN))
}

/// A message about a JSON body without the body's secrets.
pub(crate) fn without_those_of(body: &[u8], message: &str) -> String {
    let table: Table = serde_json::from_slice(body).unwrap_or_default();
    without(message, &secrets(&table))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn names_of_settings_are_shown() {
        let text = "[security]\nadmin_key_file = \"/etc/x\"\nhosts = [\"router\"]\nzz = 1";
        let wrong = Config::parse(text).unwrap_err().to_string();
        assert!(wrong.contains("`admin_key_file`") && wrong.contains("`hosts`"), "{wrong}");
    }

    #[test]
    fn no_message_about_a_configuration_shows_a_key() {
        for text in [
            "[security]\nadmin_key = 5398765400",
            "[security]\nadmin_key = [\"5398765400\"]",
            "security = \"5398765400\"",
            "security = {admin_key = 5398765400}",
            "[security]\n5398765400 = \"admin_key\"",
            "[security]\nadmin_key = \"5398765400",
            "[security]\nadmin_key = \"5398765400 x\"",
            "[security]\nadmin_key = x5398765400",
            "[[replicas]]\nurl = \"http://a:1\"\napi_key = 5398765400",
            "[[replicas]]\nurl = \"http://me:5398765400@a:1\"",
            "[[replicas]]\nurl = \"http://me:5398765400@a:99999\"",
            "replicas = [\"http://me:5398765400@a:1\"]",
            "[sharing]\nhash_seed = 5398765400",
        ] {
            let wrong = Config::parse(text).unwrap_err().to_string();
            assert!(!wrong.contains("5398765400"), "{text}: {wrong}");
        }
        let wrong = Config::parse("[security]\nadmin_keyy = \"5398765400\"").unwrap_err().to_string();
        assert!(wrong.contains("did you mean `admin_key`?"), "{wrong}");
        let wrong = Config::parse("[security]\nadmin_key = 5398765400").unwrap_err().to_string();
        assert!(wrong.contains("line 2: ") && wrong.contains("expected a text in quotes"), "{wrong}");
    }
}
