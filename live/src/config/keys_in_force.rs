//! Copies the keys in force into a new configuration that does not mention them.

use super::{Config, ConfigError, Secret};
use crate::upstream::connect::Endpoint;

impl Config {
    /// Fills in what a new configuration does not say of the router's own keys: they stay as they are in `old`. So
    /// neither a reload nor a `PUT` that leaves them out opens the router.
    pub(crate) fn keep_keys(&mut self, old: &Self) {
        self.discovery.keep_queries(&old.discovery);
        let (old, old_found, old_sharing) = (old.security.kinds(), old.discovery.clone(), old.sharing.clone());
        for ((_, key, file), (_, old_key, old_file)) in self.security.kinds_mut().into_iter().zip(old) {
            if key.as_ref().is_some_and(Secret::is_placeholder) {
                *key = None;
            }
            if key.is_none() && file.is_none() {
                key.clone_from(old_key);
                file.clone_from(old_file);
            }
        }
        let (seed, old_seed) = (&mut self.sharing, &old_sharing);
        if seed.hash_seed.as_ref().is_some_and(Secret::is_placeholder) || !seed.has_seed() {
            seed.hash_seed.clone_from(&old_seed.hash_seed);
            seed.hash_seed_file.clone_from(&old_seed.hash_seed_file);
        }
        let found = &mut self.discovery;
        if found.api_key.as_ref().is_some_and(Secret::is_placeholder) {
            found.api_key = None;
        }
        if found.api_key.is_none() && found.api_key_file.is_none() {
            found.api_key.clone_from(&old_found.api_key);
            found.api_key_file.clone_from(&old_found.api_key_file);
        }
    }

    /// Reads the files of engines' keys. A replica has the key of its file from here on, so that a reload after a change
    /// of the file finds another key; the key of discovered engines is read again when one is found.
    ///
    /// # Errors
    /// When a file cannot be read, or its first line is no key.
    pub(crate) fn read_engine_keys(&mut self) -> Result<(), ConfigError> {
        for replica in &mut self.replicas {
            if let Some(path) = &replica.api_key_file {
                replica.api_key = Some(Self::secret(path)?.into());
            }
        }
        self.discovery.engine_key().map(|_| ())
    }

    /// Replaces placeholders of engines' keys by the keys in force, each only for the URL that has it now: a key never
    /// goes to another host, and no file of this machine to one that the admin API names. A replica of a known URL that
    /// is silent about its key keeps it.
    ///
    /// # Errors
    /// When a placeholder stands beside a URL that has no key, or a file beside one that has not this file.
    pub(crate) fn keep_engine_keys(&mut self, old: &Self) -> Result<(), ConfigError> {
        for (i, replica) in self.replicas.iter_mut().enumerate() {
            let here = Endpoint::parse(&replica.url).ok();
            let same = |other: &str| here.is_some() && Endpoint::parse(other).ok() == here;
            let known = old.replicas.iter().find(|other| same(&other.url));
            let (known, file) = known.map(|other| (other.api_key.clone(), other.api_key_file.clone())).unzip();
            let (known, file) = (known.flatten(), file.flatten());
            if let Some(path) = replica.api_key_file.as_ref().filter(|path| Some(*path) != file.as_ref()) {
                return Err(ConfigError::Value {
                    key: format!("replicas[{i}].api_key_file"),
                    value: format!("\"{}\"", path.display()),
                    advice: "only the router's own file can name it; change it there and reload, or give api_key"
                        .to_owned(),
                });
            }
            if replica.api_key.as_ref().is_some_and(|key| !key.is_placeholder()) {
                continue;
            }
            if known.is_none() && replica.api_key.is_some() {
                return Err(ConfigError::Value {
                    key: format!("replicas[{i}].api_key"),
                    value: format!("\"{}\"", Secret::PLACEHOLDER),
                    advice: format!("no key is in force for `{}`; give the key itself", replica.url),
                });
            }
            (replica.api_key, replica.api_key_file) = (known, file);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "security = {api_key = \"ask\", admin_key_file = \"/k\"}\n\
        discovery = {dns = [\"h:1\"], rest = [\"http://r:1/x?token=t0ken\"], api_key = \"found\"}\n\
        replicas = [{url = \"http://a:1\", api_key = \"engine\"}, {url = \"http://b:1\"}]";

    fn key(key: Option<&Secret>) -> Option<&str> {
        key.map(Secret::expose)
    }

    #[test]
    fn what_was_shown_reads_back_as_what_is_in_force() {
        let old = Config::parse(OLD).unwrap();
        assert!(!old.to_toml().contains("t0ken"));
        let mut new = Config::parse_unchecked(&old.to_toml()).unwrap();
        let wrong = new.check().unwrap_err().to_string();
        assert!(wrong.contains("`discovery.rest[0]` is \"http://r:1/x?(set)\"; "), "{wrong}");
        new.keep_keys(&old);
        new.keep_engine_keys(&old).unwrap();
        assert_eq!(new, old);
    }

    #[test]
    fn silence_keeps_keys_and_a_new_key_replaces_a_file() {
        let old = Config::parse(OLD).unwrap();
        let mut new = Config::parse_unchecked("security = {admin_key = \"rule\"}").unwrap();
        new.keep_keys(&old);
        let security = &new.security;
        assert_eq!((key(security.api_key.as_ref()), key(security.admin_key.as_ref())), (Some("ask"), Some("rule")));
        assert_eq!(security.admin_key_file, None);
    }

    #[test]
    fn a_placeholder_sends_no_key_to_another_host() {
        let old = Config::parse(OLD).unwrap();
        for url in ["http://evil:1", "https://a:1", "http://a:2", "http://b:1"] {
            let text = format!("replicas = [{{url = \"{url}\", api_key = \"(set)\"}}]");
            let error = Config::parse_unchecked(&text).unwrap().keep_engine_keys(&old).unwrap_err().to_string();
            assert!(error.starts_with("`replicas[0].api_key` is \"(set)\"; no key is in force for"), "{error}");
        }
    }

    #[test]
    fn keys_of_engines_come_from_files_that_only_the_routers_own_file_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("engine");
        let text = |url: &str| {
            let shown = path.display();
            format!(
                "discovery = {{api_key_file = \"{shown}\"}}\nreplicas = [{{url = \"{url}\", api_key_file = \"{shown}\"}}]"
            )
        };
        let read = |written: &str| {
            std::fs::write(&path, written).unwrap();
            let mut config = Config::parse(&text("http://a:1")).unwrap();
            config.read_engine_keys().map(|()| config)
        };
        let old = read("k3y-one\nnot the key\n").unwrap();
        assert_eq!(key(old.replicas[0].api_key.as_ref()), Some("k3y-one"));
        assert_eq!(key(old.discovery.engine_key().unwrap().as_ref()), Some("k3y-one"));
        assert!(!old.to_toml().contains("k3y-one"));
        // What is shown reads back; a changed file is another key, so that a reload takes it over.
        let mut shown = Config::parse_unchecked(&old.to_toml()).unwrap();
        shown.keep_keys(&old);
        shown.keep_engine_keys(&old).unwrap();
        assert_eq!(shown, old);
        let new = read("k3y-two").unwrap();
        assert_ne!(new.replicas, old.replicas);
        assert_eq!(new.discovery, old.discovery, "which only a restart can change");
        let wrong = read("").unwrap_err().to_string();
        assert!(wrong.contains(&path.display().to_string()) && wrong.contains("empty"), "{wrong}");
        let error = Config::parse_unchecked(&text("http://evil:1")).unwrap().keep_engine_keys(&old).unwrap_err();
        assert!(error.to_string().starts_with("`replicas[0].api_key_file` is"), "{error}");
    }
}
