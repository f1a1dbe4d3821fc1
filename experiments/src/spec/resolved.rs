//! An experiment as stored with its results: with all overrides applied and a digest of each trace file.

use super::{Experiment, PlannedArm, SpecError, workload};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use toml::{Table, Value};

impl Experiment {
    /// Reads the content of all trace files, so that it is part of what the results are of: [`Self::resolved`] names
    /// each file with its digest.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read_digests(&mut self, plan: &[PlannedArm]) -> Result<(), SpecError> {
        let mut digests = BTreeMap::new();
        for (key, file) in plan.iter().flat_map(|arm| arm.spec.workload.files(&self.dir)) {
            if let Entry::Vacant(slot) = digests.entry(file) {
                let digest = gorgo_traces::workload::digest(slot.key())
                    .map_err(|error| self.key(&format!("[workload] {key}"), error.to_string()))?;
                slot.insert(digest);
            }
        }
        self.digests = digests.into_iter().collect();
        Ok(())
    }

    /// The experiment with all overrides applied, as stored with the results. Trace files are named as from the
    /// current folder, so that the stored file runs from there, too.
    pub fn resolved(&self) -> String {
        let mut all = Table::new();
        for (key, text) in [("title", &self.title), ("question", &self.question), ("expect", &self.expect)] {
            all.insert(key.to_owned(), Value::String(text.clone()));
        }
        if let Some(baseline) = &self.baseline {
            all.insert("baseline".to_owned(), Value::String(baseline.clone()));
        }
        // TOML's integers end at 2^63 - 1; a larger seed is written as text.
        let seed = |&s: &u64| i64::try_from(s).map_or_else(|_| Value::String(s.to_string()), Value::Integer);
        let seeds = self.seeds.iter().map(seed).collect();
        all.insert("seeds".to_owned(), Value::Array(seeds));
        all.extend(self.base.clone());
        workload::name_files(&mut all, &self.dir);
        if !self.vary.is_empty() {
            let vary = self.vary.iter().map(|(key, values)| {
                let mut values = values.clone();
                if key == "workload.trace" {
                    values.iter_mut().for_each(|value| workload::name_file(value, &self.dir));
                }
                (key.clone(), Value::Array(values))
            });
            let vary = vary.collect();
            all.insert("vary".to_owned(), Value::Table(vary));
        }
        let arms = self.arms.iter().map(|(name, settings)| {
            let mut arm = settings.clone();
            workload::name_files(&mut arm, &self.dir);
            if let Some(name) = name {
                arm.insert("name".to_owned(), Value::String(name.clone()));
            }
            Value::Table(arm)
        });
        all.insert("arms".to_owned(), Value::Array(arms.collect()));
        let mut head = format!("{}{}.\n", crate::results::own_files::HEAD, env!("CARGO_PKG_VERSION"));
        for (file, digest) in &self.digests {
            head += &format!("# Content of {}: {digest:016x}.\n", file.escape_debug());
        }
        head + &toml::to_string(&all).unwrap_or_default()
    }
}
