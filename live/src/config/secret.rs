//! Keys in the configuration: code that sends or compares a key can read it, formatting and serialization cannot.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::io::Read;
use std::path::Path;

/// A key. Its `Debug` output and its serialized form are [`Secret::PLACEHOLDER`], so that neither a log nor an answer
/// of the admin API contains it.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Stands for a key that is set and not shown. In a configuration that is sent back it means "the key in force".
    pub const PLACEHOLDER: &'static str = "(set)";

    /// The key itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether this is no key but the mark that one is set.
    pub fn is_placeholder(&self) -> bool {
        self.0 == Self::PLACEHOLDER
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::PLACEHOLDER)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Self::PLACEHOLDER)
    }
}

/// Most bytes of a key's file.
const MOST_BYTES: u64 = 4 << 10;

/// The key in the first line of a file; else why there is none, without a part of what may be a key.
pub(super) fn from_file(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err("it is longer than 4 kB, which no file with one key is; put the key alone there".to_owned());
    }
    let wrong = |why: &str| Err(why.to_owned());
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return wrong("it begins with a byte order mark, which would be a part of the key; save it without one");
    }
    let first = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
    match first {
        b"" => wrong("its first line is empty; put the key there"),
        [b'"' | b'\'', ..] => {
            wrong("its first line begins with a quote, which would be a part of the key; leave quotes out")
        }
        line if line == Secret::PLACEHOLDER.as_bytes() => {
            wrong("its first line is \"(set)\", which stands for a key that is not shown; put the key there")
        }
        line if is_assignment(line) => wrong("its first line is NAME=VALUE; put the value alone there"),
        line if !line.iter().all(u8::is_ascii_graphic) => {
            wrong("its first line is no word of visible ASCII characters, as a key must be")
        }
        line => Ok(String::from_utf8_lossy(line).into_owned()),
    }
}

/// Whether a line sets a variable of an environment. A key in base64 may end with `=`.
fn is_assignment(line: &[u8]) -> bool {
    let Some(at) = line.iter().position(|&byte| byte == b'=') else { return false };
    let (name, value) = (&line[..at], line[at..].trim_ascii_start());
    let is_name = !name.is_empty()
        && name.iter().all(|&byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
        && name.contains(&b'_');
    is_name && value.iter().any(|&byte| byte != b'=') || line.starts_with(b"export ")
}

impl From<String> for Secret {
    fn from(key: String) -> Self {
        Self(key)
    }
}

impl From<&str> for Secret {
    fn from(key: &str) -> Self {
        Self(key.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_file_that_holds_something_else_than_a_key_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Config::secret(&path).map_err(|wrong| wrong.to_string())
        };
        for good in ["sk-1", "sk-1\n", " sk-1 \r\nsecond line", "c2VjcmV0MTI=", "c2VjcmV0MQ==\n"] {
            assert_eq!(read(good.as_bytes()).as_deref(), Ok(good.lines().next().unwrap().trim()));
        }
        let long = [b'k'; 5_000];
        for (bad, why) in [
            (&b""[..], "empty"),
            (b"\nsecret", "empty"),
            (b"\xef\xbb\xbfsecret", "byte order mark"),
            (b"\"secret\"", "quote"),
            (b"'secret'", "quote"),
            (b"(set)", "(set)"),
            (b"GORGO_ADMIN_KEY=secret", "NAME=VALUE"),
            (b"export KEY=secret", "NAME=VALUE"),
            (b"sec\0ret", "visible"),
            (b"sec ret", "visible"),
            (b"s\xff", "visible"),
            (&long, "4 kB"),
        ] {
            let wrong = read(bad).unwrap_err();
            assert!(wrong.contains(&path.display().to_string()) && wrong.contains(why), "{wrong}");
            assert!(!wrong.contains("secret"), "{wrong}");
        }
    }
}
