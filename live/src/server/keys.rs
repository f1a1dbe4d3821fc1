//! API keys: read from the configuration, compared in constant time.

use crate::config::{Config, ConfigError};
use subtle::ConstantTimeEq;

/// The keys in force. Their `Debug` output leaves the keys out, so that they are never logged.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// The key of clients.
    pub api: Option<String>,
    /// The key of operators.
    pub admin: Option<String>,
    /// The key that edges show each other; the admin key when there is none.
    pub peer: Option<String>,
    /// The key that may read and change nothing.
    pub read: Option<String>,
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
        let mut keys = Self::default();
        let into = [&mut keys.api, &mut keys.admin, &mut keys.peer, &mut keys.read];
        for ((_, inline, file), key) in config.security.kinds().into_iter().zip(into) {
            *key = match file {
                Some(path) => Some(Config::secret(path)?),
                None => inline.as_ref().map(|key| key.expose().to_owned()),
            };
        }
        keys.check_apart()?;
        Ok(keys)
    }

    /// Refuses one key in two roles: the holder of the lesser one would have the rights of both.
    fn check_apart(&self) -> Result<(), ConfigError> {
        let all =
            [("admin_key", &self.admin), ("peer_key", &self.peer), ("read_key", &self.read), ("api_key", &self.api)];
        for (i, (name, key)) in all.iter().enumerate() {
            let same = all[..i].iter().find(|(_, other)| key.is_some() && other == key);
            if let Some((other, _)) = same {
                return Err(ConfigError::Value {
                    key: format!("security.{name}"),
                    value: format!("the same as security.{other}"),
                    advice: "the holder of one would have the rights of the other; make another key".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// The key that this router shows to its peers.
    pub(crate) fn for_peers(&self) -> Option<&str> {
        self.peer.as_deref().or(self.admin.as_deref())
    }

    /// Whether a client with this key may send requests. The admin key and the peers' key also allow what the API key
    /// allows.
    pub fn may_ask(&self, key: Option<&[u8]>) -> bool {
        self.api.is_none() || [&self.api, &self.admin, &self.peer].iter().any(|known| matches(known.as_deref(), key))
    }

    /// Whether this is any key of this router, which no engine may see.
    pub(crate) fn is_ours(&self, key: &[u8]) -> bool {
        [&self.api, &self.admin, &self.peer, &self.read].iter().any(|known| matches(known.as_deref(), Some(key)))
    }

    /// Whether this is the API key.
    pub(crate) fn is_api_key(&self, key: Option<&[u8]>) -> bool {
        matches(self.api.as_deref(), key)
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

    /// Whether a client with this key may read the state that the admin API shows.
    pub fn may_read(&self, key: Option<&[u8]>) -> bool {
        self.may_administrate(key) || matches(self.read.as_deref(), key)
    }

    /// Whether a router with this key may exchange learned prefixes with this one.
    pub(crate) fn may_share(&self, key: Option<&[u8]>) -> bool {
        self.may_administrate(key) || matches(self.peer.as_deref(), key)
    }

    /// Whether a client with this key may read the report that peers ask for.
    pub fn may_read_report(&self, key: Option<&[u8]>) -> bool {
        self.may_administrate(key) || matches(self.peer.as_deref(), key)
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
            ..Keys::default()
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

    #[test]
    fn one_key_in_two_roles_is_refused_by_their_names() {
        for (same, named) in [
            (["k", "k", "p", "r"], "`security.api_key` is the same as security.admin_key"),
            (["k", "b", "p", "k"], "`security.api_key` is the same as security.read_key"),
            (["a", "k", "k", "r"], "`security.peer_key` is the same as security.admin_key"),
        ] {
            let [api, admin, peer, read] = same;
            let text = format!(
                "security = {{api_key = \"{api}\", admin_key = \"{admin}\", peer_key = \"{peer}\", read_key = \"{read}\"}}"
            );
            let wrong = Keys::load(&Config::parse(&text).unwrap()).unwrap_err().to_string();
            assert!(wrong.starts_with(named), "{wrong}");
        }
        assert!(Keys::load(&Config::parse("security = {api_key = \"a\", admin_key = \"b\"}").unwrap()).is_ok());
    }

    #[test]
    fn peers_and_readers_have_keys_that_rule_nothing() {
        let key = |text: &str| Some(text.to_owned());
        let keys = Keys { api: key("a"), admin: key("b"), peer: key("p"), read: key("r") };
        let rights = |shown: &[u8]| {
            let shown = Some(shown);
            (keys.may_ask(shown), keys.may_read(shown), keys.may_read_report(shown), keys.may_administrate(shown))
        };
        assert_eq!(rights(b"p"), (true, false, true, false));
        assert_eq!(rights(b"r"), (false, true, false, false));
        assert_eq!(rights(b"b"), (true, true, true, true));
        assert_eq!(keys.for_peers(), Some("p"));
        assert_eq!(Keys { peer: None, ..keys }.for_peers(), Some("b"));
    }
}
