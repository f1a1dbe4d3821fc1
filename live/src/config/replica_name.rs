//! Names of replicas: they appear in logs, labels of metrics, headers and the pages of the dashboard.

/// Longest name, bytes.
pub(crate) const MOST_BYTES: usize = 256;

/// Checks the name of a replica or peer.
///
/// # Errors
/// What would be right.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    let is_odd = |char: char| {
        char.is_control() || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{feff}')
    };
    if name.trim().is_empty() || name.trim() != name {
        return Err("give text without spaces around it, or leave the name out");
    }
    if name.len() > MOST_BYTES {
        return Err("give at most 256 bytes");
    }
    if name.contains(is_odd) { Err("leave out control characters") } else { Ok(()) }
}

/// A name as messages show it.
pub(crate) fn shown_name(name: &str) -> String {
    format!("{:?}", name.chars().take(64).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn names_that_would_garble_a_log_are_refused() {
        for bad in ["", " ", "a\n", "a\u{1b}[2J", "a\0b", "a\u{202e}b", &"x".repeat(257)] {
            assert!(check_name(bad).is_err() && !shown_name(bad).contains(char::is_control), "{bad:?}");
        }
        for good in ["e0", "10.0.0.1:8080", "[::1]:80/base", "gpu 7", "r\u{e9}gion"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let text = "replicas = [{url = \"http://a:1\", name = \"a\\nb\"}]";
        let wrong = Config::parse(text).unwrap_err().to_string();
        assert_eq!(wrong, "`replicas[0].name` is \"a\\nb\"; leave out control characters");
    }
}
