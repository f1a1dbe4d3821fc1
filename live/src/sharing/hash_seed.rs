//! The seed of the prompts' hashes that routers share.

use crate::config::{Config, ConfigError};
use sha2::{Digest, Sha256};

/// The seed of the prompts' hashes, and the id by which routers compare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HashSeed {
    pub(crate) seed: u64,
    /// Of the secret, which it does not tell.
    pub(crate) key_id: String,
}

impl HashSeed {
    /// The configured seed; `None` without one.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub(crate) fn load(config: &Config) -> Result<Option<Self>, ConfigError> {
        let sharing = &config.sharing;
        let secret = match (&sharing.hash_seed_file, &sharing.hash_seed) {
            (Some(path), _) => Config::secret(path)?,
            (None, Some(secret)) => secret.expose().to_owned(),
            (None, None) => return Ok(None),
        };
        if secret.len() < 16 {
            let (key, value) = ("sharing.hash_seed_file".to_owned(), "too short".to_owned());
            return Err(ConfigError::Value { key, value, advice: "give 16 random characters or more".to_owned() });
        }
        let digest = |what: &str| Sha256::new().chain_update(what).chain_update(&secret).finalize();
        let first = |digest: &[u8]| digest.iter().take(8).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let seed = first(&digest("gorgo prompt hashes 1:"));
        Ok(Some(Self { seed, key_id: format!("{:016x}", first(&digest("gorgo hash seed id 1:"))) }))
    }
}
