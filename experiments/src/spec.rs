//! Experiment files: settings, arms, varied settings and seeds.
//!
//! The file is a table of settings shared by all arms, a list of `[[arms]]` that change some of them, and an optional
//! `[vary]` that crosses the arms with values of any settings. What is written later in this list wins: the file, an arm,
//! `[vary]`, the command line (`overrides`). Reading is strict: an unknown key, or one that reaches no arm, is an error that
//! names the nearest known one.

use gorgo_core::settings::{durations_in_table, merge_tables, parse_assignment, renamed_presets, set_key};
use gorgo_core::suggest::{did_you_mean, with_suggestion};
use gorgo_sim::world::ProxiesConfig;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

mod error;
mod generate;
pub mod live;
pub mod measure;
mod overrides;
mod policy;
pub mod run;
mod schema;
mod vary;
pub mod workload;

use overrides::Parts;

pub use error::SpecError;
pub use live::LiveSpec;
pub use run::RunSpec;
pub use schema::experiment_schema;
pub use workload::WorkloadSpec;

/// Keys of the file that are not settings of a run.
const FILE_KEYS: [&str; 8] = ["title", "question", "expect", "seeds", "baseline", "arms", "vary", "cloud"];

/// An experiment as written, with overrides applied.
#[derive(Debug, Clone)]
pub struct Experiment {
    /// File name for messages.
    pub file: String,
    /// Folder that relative paths start from.
    pub dir: PathBuf,
    /// One line.
    pub title: String,
    /// The question it answers.
    pub question: String,
    /// The expected result.
    pub expect: String,
    /// Seeds of every arm.
    pub seeds: Vec<u64>,
    /// Name of the arm others are compared with; the first when absent.
    pub baseline: Option<String>,
    /// `[cloud]`: the machines of live runs, where the file names some. No part of what the results are of.
    pub cloud: Option<Table>,
    /// Remarks for the user: settings under old names.
    pub notes: Vec<String>,
    /// Trace files with a digest of their content, see [`Self::read_digests`].
    digests: Vec<(String, u64)>,
    /// Settings of all arms.
    base: Table,
    /// Name and settings of each arm.
    arms: Vec<(Option<String>, Table)>,
    /// Settings crossed with the arms.
    vary: Vec<(String, Vec<Value>)>,
}

/// One arm, ready to run with any seed.
#[derive(Debug, Clone)]
pub struct PlannedArm {
    /// Unique name.
    pub label: String,
    /// The arm it is compared with, itself for a baseline.
    pub baseline: String,
    /// Varied settings by key, as shown.
    pub settings: BTreeMap<String, String>,
    /// What to run.
    pub spec: RunSpec,
}

impl Experiment {
    /// Reads a file; `sets` are `key=value` overrides, `vary` further crossed settings as `key=values`.
    ///
    /// # Errors
    /// When the file cannot be read or is malformed.
    pub fn load(path: &Path, sets: &[String], vary: &[String]) -> Result<Self, SpecError> {
        let text = std::fs::read_to_string(path).map_err(|source| SpecError::Read { path: path.to_owned(), source })?;
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        Self::parse(&path.display().to_string(), dir, &text, sets, vary)
    }

    /// As [`Self::load`], from text.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(file: &str, dir: PathBuf, text: &str, sets: &[String], vary: &[String]) -> Result<Self, SpecError> {
        let syntax = |e: toml::de::Error| SpecError::Syntax { file: file.to_owned(), message: one_line(&e, text) };
        let mut base: Table = text.parse().map_err(syntax)?;
        durations_in_table(&mut base);
        let sets = sets.iter().map(|set| parse_assignment(set)).collect::<Result<Vec<_>, _>>()?;
        let (of_file, of_runs): (Vec<_>, Vec<_>) =
            sets.into_iter().partition(|(key, _)| FILE_KEYS.contains(&key.as_str()));
        for (key, value) in of_file {
            base.insert(key, value);
        }
        let mut notes = renamed_presets(&base);
        let bad =
            |place: &str, message: String| SpecError::Key { file: file.to_owned(), place: place.to_owned(), message };
        let mut word = |key: &str| match base.remove(key) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(bad(key, format!("is {other}; it must be a text in quotes"))),
        };
        let (title, question, expect, baseline) =
            (word("title")?, word("question")?, word("expect")?, word("baseline")?);
        let cloud = match base.remove("cloud") {
            None => None,
            Some(Value::Table(table)) => Some(table),
            Some(other) => return Err(bad("cloud", format!("is {other}; write a table [cloud]"))),
        };
        let seeds = seeds(base.remove("seeds")).map_err(|m| bad("seeds", m))?;
        let mut arms: Vec<(Option<String>, Table)> = match base.remove("arms") {
            None => vec![(None, Table::new())],
            Some(Value::Array(list)) if !list.is_empty() => {
                list.into_iter().map(arm).collect::<Result<_, _>>().map_err(|m| bad("arms", m))?
            }
            Some(other) => return Err(bad("arms", format!("is {other}; write one [[arms]] table for each arm"))),
        };
        let mut crossed = vary::from_table(base.remove("vary")).map_err(|m| bad("vary", m))?;
        let mut given: Vec<String> = Vec::new();
        for text in vary {
            let (key, values) = vary::parse(text).map_err(SpecError::Vary)?;
            if of_runs.iter().any(|(set, _)| *set == key) || given.contains(&key) {
                return Err(SpecError::Vary(format!("`{key}` is given twice, by --vary {text} and before; keep one")));
            }
            given.push(key.clone());
            crossed.retain(|(k, _)| *k != key);
            notes.extend(renamed_presets(&Table::from_iter([(key.clone(), Value::Array(values.clone()))])));
            crossed.push((key, values));
        }
        for (key, value) in &of_runs {
            notes.extend(renamed_presets(&Table::from_iter([(key.clone(), value.clone())])));
            let names = arm_names(&base, &arms);
            let mut parts = Parts { base: &mut base, arms: &mut arms, vary: &mut crossed };
            parts.set(key, value, &names).map_err(|message| SpecError::Override { key: key.clone(), message })?;
        }
        let known: Vec<&str> = RunSpec::keys().iter().copied().chain(FILE_KEYS).collect();
        for (place, keys) in std::iter::once(("the file", &base)).chain(arms.iter().map(|(_, t)| ("an arm", t))) {
            if let Some(key) = keys.keys().find(|k| !RunSpec::keys().contains(&k.as_str())) {
                let hint = did_you_mean(key, known.iter().copied());
                return Err(bad(place, format!("unknown key `{key}`; {hint}")));
            }
        }
        let baseline = Some(baseline).filter(|b| !b.is_empty());
        Ok(Self {
            file: file.to_owned(),
            dir,
            title,
            question,
            expect,
            seeds,
            baseline,
            cloud,
            notes,
            digests: Vec::new(),
            base,
            arms,
            vary: crossed,
        })
    }

    /// The arms, crossed with the varied settings.
    ///
    /// # Errors
    /// When an arm's settings are wrong, two arms have one name, or a varied key fits no arm.
    pub fn plan(&self) -> Result<Vec<PlannedArm>, SpecError> {
        let mut planned: Vec<PlannedArm> = Vec::new();
        let names = self.names();
        let base_name = self.baseline.clone().unwrap_or_else(|| names[0].clone());
        if !names.contains(&base_name) {
            let hint = did_you_mean(&base_name, names.iter().map(String::as_str));
            return Err(self.key("baseline", format!("no arm is called `{base_name}`; {hint}")));
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
                let spec = self.read(&label, settings)?;
                let shared: Vec<_> = combination.iter().filter(|(k, _)| !k.starts_with("policy")).cloned().collect();
                let settings = combination.iter().map(|(k, v)| (k.clone(), vary::show(v))).collect();
                planned.push(PlannedArm { label, baseline: vary::label(&base_name, &shared), settings, spec });
            }
        }
        if let Some(i) = fits.iter().position(|fit| !fit) {
            let policies: Vec<String> = policies.iter().map(|&name| name.to_owned()).collect();
            let setting = self.vary[i].0.trim_start_matches("policy.");
            return Err(self.key("vary", overrides::no_policy_knows(setting, &policies)));
        }
        let proxies = planned.iter().any(|arm| arm.spec.topology == run::TopologySpec::Proxy);
        if let Some(arm) = planned.iter().find(|arm| arm.spec.proxy_region.is_some()).filter(|_| !proxies) {
            let message =
                "proxy_region has no effect, because no arm has topology = \"proxy\"; drop it or add such an arm";
            return Err(self.key(&format!("arm `{}`", arm.label), message.to_owned()));
        }
        if let Some(arm) = planned.iter().find(|arm| arm.spec.proxies != ProxiesConfig::default()).filter(|_| !proxies)
        {
            let message = "proxies has no effect, because no arm has topology = \"proxy\"; drop it or add such an arm";
            return Err(self.key(&format!("arm `{}`", arm.label), message.to_owned()));
        }
        let labels: Vec<String> = planned.iter().map(|p| p.label.clone()).collect();
        if let Some(twice) = labels.iter().enumerate().find(|(i, l)| labels[..*i].contains(l)) {
            return Err(self.key("arms", format!("two arms are called `{}`; give them different names", twice.1)));
        }
        for arm in &mut planned {
            if !labels.contains(&arm.baseline) {
                arm.baseline = labels[0].clone(); // the baseline itself varies in a setting that only its policy has
            }
        }
        // Compared arms are adjacent, their baseline first.
        let order: Vec<String> = planned.iter().map(|arm| arm.baseline.clone()).collect();
        let group = |arm: &PlannedArm| order.iter().position(|b| *b == arm.baseline);
        planned.sort_by_key(|arm| (group(arm), arm.label != arm.baseline));
        Ok(planned)
    }

    fn names(&self) -> Vec<String> {
        arm_names(&self.base, &self.arms)
    }

    fn read(&self, label: &str, settings: Table) -> Result<RunSpec, SpecError> {
        RunSpec::parse(settings).map_err(|message| self.key(&format!("arm `{label}`"), with_suggestion(&message)))
    }

    fn key(&self, place: &str, message: String) -> SpecError {
        SpecError::Key { file: self.file.clone(), place: place.to_owned(), message }
    }

    /// Reads the content of all trace files, so that it is part of what the results are of: [`Self::resolved`] names
    /// each file with its digest.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read_digests(&mut self, plan: &[PlannedArm]) -> Result<(), SpecError> {
        let mut digests = BTreeMap::new();
        for file in plan.iter().flat_map(|arm| arm.spec.workload.files(&self.dir)) {
            if let Entry::Vacant(slot) = digests.entry(file) {
                let digest = gorgo_traces::workload::digest(slot.key())?;
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

/// The settings of an arm: its own laid over those of all arms.
fn settings_of(base: &Table, own: &Table) -> Table {
    let mut arm = base.clone();
    let policy = policy::merged(base.get("policy"), own.get("policy"));
    merge_tables(&mut arm, own);
    arm.extend(policy.map(|policy| ("policy".to_owned(), policy)));
    arm
}

/// The names of the arms, given or made from what sets them apart.
fn arm_names(base: &Table, arms: &[(Option<String>, Table)]) -> Vec<String> {
    let describe = |(name, own): &(Option<String>, Table)| {
        let describe = || run::default_name(&settings_of(base, own), own.contains_key("topology"));
        name.clone().unwrap_or_else(describe)
    };
    arms.iter().map(describe).collect()
}

fn seeds(value: Option<Value>) -> Result<Vec<u64>, String> {
    let wrong = |v: &dyn std::fmt::Display| {
        format!("{v} is not a list of seeds; give a number of seeds or a list such as [1, 2, 3]")
    };
    match value {
        None => Ok((1..=5).collect()),
        Some(Value::Integer(n)) if (1..=1000).contains(&n) => Ok((1..=n as u64).collect()),
        Some(Value::Array(list)) if !list.is_empty() => {
            let mut seeds = Vec::new();
            for v in list {
                let number = v.as_integer().and_then(|i| u64::try_from(i).ok());
                let seed = number.or_else(|| v.as_str()?.parse().ok()).ok_or_else(|| wrong(&v))?;
                if seeds.contains(&seed) {
                    return Err(format!("seed {seed} is listed twice"));
                }
                seeds.push(seed);
            }
            Ok(seeds)
        }
        Some(other) => Err(wrong(&other)),
    }
}

fn arm(value: Value) -> Result<(Option<String>, Table), String> {
    let Value::Table(mut settings) = value else { return Err(format!("{value} is not a table; write [[arms]]")) };
    match settings.remove("name") {
        None => Ok((None, settings)),
        Some(Value::String(name)) if !name.trim().is_empty() => Ok((Some(name), settings)),
        Some(other) => Err(format!("name = {other} is not a name")),
    }
}

/// A TOML error in one line, with its line number.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    let at = error.span().map_or(0, |s| s.start.min(text.len()));
    let line = text.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1;
    format!("line {line}: {}", error.message().replace('\n', " "))
}

#[cfg(test)]
mod tests;
