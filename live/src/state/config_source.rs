//! The source from which a reload reads the configuration.

use crate::config::{Config, ConfigError};
use std::sync::Arc;

/// Reads the configuration again: the file, with the command line's settings over it.
#[derive(Clone)]
pub struct ConfigSource(Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>);

impl std::fmt::Debug for ConfigSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConfigSource(..)")
    }
}

impl ConfigSource {
    /// A source that calls `read` for each reload.
    pub fn new(read: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub(crate) fn read(&self) -> Result<Config, ConfigError> {
        (self.0)()
    }
}
