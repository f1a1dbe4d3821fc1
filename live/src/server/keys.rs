//! API keys: read from the configuration, compared in constant time.

use crate::config::{Config, ConfigError};
use subtle::ConstantTimeEq;

/// The keys in force. Their `Debug` output leaves the keys out, so that they are never logged.
#[derive(Clone, Default)]
pub struct Keys {
    /// The key of clients.
    pub api: Option<String>,
    /// The key of operators and peers.
    pub admin: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// Loads the keys of a configuration; key files are read.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn load(config: &Config) -> Result<Self, ConfigError> {
        let one = |inline: &Option<String>, file: &Option<std::path::PathBuf>| match file {
            Some(path) => Config::secret(path).map(Some),
            None => Ok(inline.clone()),
        };
        let security = &config.security;
        Ok(Self {
            api: one(&security.api_key, &security.api_key_file)?,
            admin: one(&security.admin_key, &security.admin_key_file)?,
        })
    }

    /// Whether a client with this key may send requests. The admin key also allows what the API key allows.
    pub fn may_ask(&self, key: Option<&[u8]>) -> bool {
        self.api.is_none() || matches(self.api.as_deref(), key) || matches(self.admin.as_deref(), key)
    }

    /// Whether a client with this key may use the admin API.
    pub fn may_administrate(&self, key: Option<&[u8]>) -> bool {
        match (&self.admin, &self.api) {
            (Some(_), _) => matches(self.admin.as_deref(), key),
            // With only an API key configured, that key protects the admin API too.
            (None, Some(_)) => matches(self.api.as_deref(), key),
            (None, None) => true,
        }
    }
}

fn matches(known: Option<&str>, shown: Option<&[u8]>) -> bool {
    match (known, shown) {
        (Some(known), Some(shown)) => bool::from(known.as_bytes().ct_eq(shown)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_open_what_they_should_and_nothing_else() {
        let keys = |api: &str, admin: &str| Keys {
            api: (!api.is_empty()).then(|| api.to_owned()),
            admin: (!admin.is_empty()).then(|| admin.to_owned()),
        };
        let both = keys("a", "b");
        assert!(
            both.may_ask(Some(b"a")) && both.may_ask(Some(b"b")) && !both.may_ask(Some(b"c")) && !both.may_ask(None)
        );
        assert!(
            both.may_administrate(Some(b"b")) && !both.may_administrate(Some(b"a")) && !both.may_administrate(None)
        );
        assert!(keys("", "").may_ask(None) && keys("", "").may_administrate(None));
        assert!(keys("", "b").may_ask(None) && !keys("", "b").may_administrate(None));
        assert!(!keys("a", "").may_administrate(None) && keys("a", "").may_administrate(Some(b"a")));
        assert_eq!(format!("{both:?}"), "Keys(..)");
    }
}
