//! Settings of a comparison request by request.

use std::collections::BTreeMap;

/// How two recordings are compared.
#[derive(Debug, Clone, PartialEq)]
pub struct RowSettings {
    /// Requests sent in the first seconds of the measured recording are left out, s.
    pub warm_up_s: f64,
    /// Length of the bootstrap's blocks, s.
    pub block_s: f64,
    /// Names of measured arms in the simulated source, where they differ.
    pub arms: BTreeMap<String, String>,
    /// Names of measured replicas in the simulated source, where they differ.
    pub replicas: BTreeMap<String, String>,
    /// Compare only distributions: requests of the two sources are not the same.
    pub unpaired: bool,
    /// Largest accepted error of a judged figure outside the noise, per cent.
    pub max_error: Option<f64>,
    /// Longest prompts of the classes `tiny` and `mid`, tokens.
    pub classes: (f64, f64),
}

impl Default for RowSettings {
    fn default() -> Self {
        Self {
            warm_up_s: 0.0,
            block_s: 30.0,
            arms: BTreeMap::new(),
            replicas: BTreeMap::new(),
            unpaired: false,
            max_error: None,
            classes: (64.0, 4096.0),
        }
    }
}
