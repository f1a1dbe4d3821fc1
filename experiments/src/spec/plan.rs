//! The arms of an experiment, crossed with the varied settings.

use super::unused::unused;
use super::{Experiment, RunSpec, SpecError, overrides, policy, run, settings_of, vary};
use gorgo_core::settings::set_key;
use gorgo_core::suggest::{did_you_mean, in_words};
use std::collections::{BTreeMap, BTreeSet};
use toml::{Table, Value};

/// One arm, ready to run with any seed.
#[derive(Debug, Clone)]
pub struct PlannedArm {
    /// Unique name.
    pub label: String,
    /// The arm it is compared with, itself for a baseline.
    pub baseline: String,
    /// By key, as shown: varied settings, and those of the workload and of `measure` in which arms differ by themselves.
    pub settings: BTreeMap<String, String>,
    /// What to run.
    pub spec: RunSpec,
}

/// The settings that decide which requests run and which of them count, by key.
fn requests_of(spec: &RunSpec) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut workload = Table::try_from(&spec.workload).unwrap_or_default();
    // In a file the reader's options stand beside the other keys.
    if let Some(Value::Table(options)) = workload.remove("options") {
        workload.extend(options);
    }
    flatten("workload", workload, &mut found);
    flatten("measure", Table::try_from(spec.measure).unwrap_or_default(), &mut found);
    found
}

fn flatten(prefix: &str, table: Table, found: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let key = format!("{prefix}.{key}");
        match value {
            Value::Table(inner) => flatten(&key, inner, found),
            other => {
                found.insert(key, vary::show(&other));
            }
        }
    }
}

/// Adds to an error about a number that is not whole which varied setting made it.
fn with_step(error: SpecError, combination: &[(String, Value)], vary: &[(String, Vec<Value>)]) -> SpecError {
    let SpecError::Key { file, place, message } = error else { return error };
    let made = combination.iter().find(|(key, value)| {
        let last = key.rsplit('.').next().unwrap_or(key);
        value.is_float() && message.contains("whole number") && message.contains(&format!("`{last}`"))
    });
    let values = made.and_then(|(key, _)| vary.iter().find(|(varied, _)| varied == key));
    let message = match values {
        None => message,
        Some((key, values)) => {
            let values: Vec<String> = values.iter().map(vary::show).collect();
            format!("{message}; `{key}` varies over {}: give a whole step or factor, or a list", values.join(", "))
        }
    };
    SpecError::Key { file, place, message }
}

impl Experiment {
    /// The arms, crossed with the varied settings.
    ///
    /// # Errors
    /// When an arm's settings are wrong, two arms have one name, or a varied key fits no arm.
    pub fn plan(&self) -> Result<Vec<PlannedArm>, SpecError> {
        let mut planned: Vec<PlannedArm> = Vec::new();
        // The variants of the baseline: its name under a load, and its whole name.
        let mut variants: Vec<(String, String)> = Vec::new();
        let names = self.names();
        let base_name = self.baseline.clone().unwrap_or_else(|| names[0].clone());
        if !names.contains(&base_name) {
            let hint = did_you_mean(&base_name, names.iter().map(String::as_str));
            return Err(self.key("baseline", format!("no arm is called `{base_name}`; {hint}")));
        }
        if let Some((key, _)) = self.vary.iter().find(|(key, _)| !vary::is_setting(key)) {
            return Err(self.key("vary", vary::not_a_setting(key)));
        }
        let mut fits = vec![false; self.vary.len()];
        let arms: Vec<Table> = self.arms.iter().map(|(_, own)| settings_of(&self.base, own)).collect();
        let varies_policy = self.vary.iter().any(|(key, _)| key == "policy");
        let policies: Vec<&str> = arms.iter().map(|arm| policy::name(arm.get("policy"))).collect();
        if let Some(key) = policy::unused(self.base.get("policy"), &policies).filter(|_| !varies_policy) {
            let policies: Vec<String> = policies.iter().map(|&name| name.to_owned()).collect();
            return Err(self.key("[policy]", overrides::no_policy_knows(key, &policies)));
        }
        for (arm, name) in arms.iter().zip(&names) {
            // A policy's setting is varied only for arms whose policy has it; other arms are not crossed with it.
            let crossed: Vec<usize> = (0..self.vary.len()).filter(|&i| run::accepts(arm, &self.vary[i].0)).collect();
            crossed.iter().for_each(|&i| fits[i] = true);
            for combination in vary::combinations(&self.vary, &crossed) {
                let mut settings = arm.clone();
                for (key, value) in &combination {
                    set_key(&mut settings, key, value.clone())?;
                }
                let label = vary::label(name, &combination);
                let spec = self.read(&label, settings).map_err(|error| with_step(error, &combination, &self.vary))?;
                let shared: Vec<_> = combination.iter().filter(|(k, _)| !k.starts_with("policy")).cloned().collect();
                let settings = combination.iter().map(|(k, v)| (k.clone(), vary::show(v))).collect();
                let baseline = vary::label(&base_name, &shared);
                if *name == base_name {
                    variants.push((baseline.clone(), label.clone()));
                }
                planned.push(PlannedArm { label, baseline, settings, spec });
            }
        }
        if let Some(i) = fits.iter().position(|fit| !fit) {
            let policies: Vec<String> = policies.iter().map(|&name| name.to_owned()).collect();
            let setting = self.vary[i].0.trim_start_matches("policy.");
            return Err(self.key("vary", overrides::no_policy_knows(setting, &policies)));
        }
        if let Some((label, message)) = unused(&planned) {
            return Err(self.key(&format!("arm `{label}`"), message.to_owned()));
        }
        let labels: Vec<String> = planned.iter().map(|p| p.label.clone()).collect();
        if let Some(twice) = labels.iter().enumerate().find(|(i, l)| labels[..*i].contains(l)) {
            return Err(self.key("arms", format!("two arms are called `{}`; give them different names", twice.1)));
        }
        for arm in &mut planned {
            if !labels.contains(&arm.baseline) {
                // The baseline itself varies in a setting that only its policy has: its first variant under the load.
                let first = variants.iter().find(|(under, _)| *under == arm.baseline);
                arm.baseline = first.map_or(&labels[0], |(_, label)| label).clone();
            }
        }
        self.tell_unlike_requests_apart(&mut planned);
        // Compared arms are adjacent, their baseline first.
        let order: Vec<String> = planned.iter().map(|arm| arm.baseline.clone()).collect();
        let group = |arm: &PlannedArm| order.iter().position(|b| *b == arm.baseline);
        planned.sort_by_key(|arm| (group(arm), arm.label != arm.baseline));
        Ok(planned)
    }

    /// Arms with requests of their own, or that count others of them, are no pairs: what sets them apart becomes a part of
    /// their load, as if it were varied, and each is compared with the first arm of the same load.
    fn tell_unlike_requests_apart(&self, planned: &mut [PlannedArm]) {
        let varied = |key: &str| {
            self.vary
                .iter()
                .any(|(vary, _)| key.strip_prefix(vary.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('.')))
        };
        let all: Vec<BTreeMap<String, String>> = planned.iter().map(|arm| requests_of(&arm.spec)).collect();
        let keys: BTreeSet<String> = all.iter().flat_map(BTreeMap::keys).filter(|key| !varied(key)).cloned().collect();
        let of = |settings: &BTreeMap<String, String>, key: &String| {
            settings.get(key).cloned().unwrap_or_else(|| "none".to_owned())
        };
        let unlike: Vec<&String> =
            keys.iter().filter(|key| all.windows(2).any(|two| of(&two[0], key) != of(&two[1], key))).collect();
        if unlike.is_empty() {
            return;
        }
        for (arm, requests) in planned.iter_mut().zip(&all) {
            arm.settings.extend(unlike.iter().map(|key| ((*key).clone(), of(requests, key))));
        }
        let load = |arm: &PlannedArm| {
            arm.settings
                .iter()
                .filter(|(key, _)| !key.starts_with("policy"))
                .map(|(k, v)| format!("{k}={v}"))
                .collect::<Vec<_>>()
        };
        let loads: Vec<Vec<String>> = planned.iter().map(load).collect();
        let labels: Vec<String> = planned.iter().map(|arm| arm.label.clone()).collect();
        for (i, arm) in planned.iter_mut().enumerate() {
            let place = labels.iter().position(|label| *label == arm.baseline);
            if place.is_none_or(|place| loads[place] != loads[i]) {
                let first = loads.iter().position(|other| *other == loads[i]).unwrap_or(i);
                arm.baseline.clone_from(&labels[first]);
            }
        }
    }

    fn names(&self) -> Vec<String> {
        super::arm_names(&self.base, &self.arms)
    }

    fn read(&self, label: &str, settings: Table) -> Result<RunSpec, SpecError> {
        let place = format!("arm `{label}`");
        RunSpec::parse(settings).map_err(|message| self.key(&place, in_words(&message)))
    }

    pub(super) fn key(&self, place: &str, message: String) -> SpecError {
        SpecError::Key { file: self.file.clone(), place: place.to_owned(), message }
    }
}
