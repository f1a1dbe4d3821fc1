//! Assigns colours and line styles to arms, and selects the arms of a picture when there are too many to distinguish.

use super::frame::Entry;
use super::sheet::{DISTINCT, Paint, area_color, color, dash};
use crate::summary::loads::{Load, arm_names};
use crate::summary::{ArmSummary, Spread};

/// Bars, shares and queues of one load.
const MAX_ROWS: usize = 12;

/// An arm with its name without the load.
pub(in crate::plot) type Named<'a> = (String, &'a ArmSummary);

/// The colours of an experiment's arms: the place of an arm's name, without its load, in the experiment.
pub(in crate::plot) struct Styles {
    names: Vec<String>,
}

impl Styles {
    pub(in crate::plot) fn of(arms: &[ArmSummary]) -> Self {
        Self { names: arm_names(arms) }
    }

    fn place(&self, name: &str) -> usize {
        self.names.iter().position(|known| known == name).unwrap_or(0)
    }

    pub(in crate::plot) fn color(&self, name: &str) -> Paint {
        color(self.place(name))
    }

    pub(in crate::plot) fn area(&self, name: &str) -> Paint {
        area_color(self.place(name))
    }

    pub(in crate::plot) fn dash(&self, name: &str) -> Option<f64> {
        dash(self.place(name))
    }

    /// Colour and line style of a line: those of the arm of this name, else of the first arm that the line joins.
    pub(in crate::plot) fn of_line(&self, name: &str) -> (Paint, Option<f64>) {
        let joined = |known: &String| known.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '));
        let exact = self.names.iter().position(|known| known == name);
        let place = exact.or_else(|| self.names.iter().position(joined)).unwrap_or(0);
        (color(place), dash(place))
    }

    /// The legend of some arms.
    pub(in crate::plot) fn legend(&self, names: &[&str], line: bool) -> Vec<Entry> {
        let entry = |name: &&str| Entry {
            label: (*name).to_owned(),
            color: if line { self.color(name) } else { self.area(name) },
            dash: if line { self.dash(name) } else { None },
            line,
        };
        names.iter().map(entry).collect()
    }
}

/// The names of the arms of some loads, each once.
pub(in crate::plot) fn names_of<'a>(arms: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for name in arms {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The arms of `load` by their mean time to first token, lowest first; arms without answers are last.
fn by_mean<'a>(load: &Load<'a>) -> Vec<Named<'a>> {
    let mean = |arm: &ArmSummary| arm.ttft_ms.map_or(f64::INFINITY, |s: Spread| s.mean.value);
    let mut arms = load.arms.clone();
    arms.sort_by(|a, b| mean(a.1).total_cmp(&mean(b.1)));
    arms
}

/// Arms with colours of their own, in the order of the experiment, and those drawn grey: all have colours unless there
/// are more than colours and line styles; then the five of the lowest mean and the baseline have.
pub(in crate::plot) fn coloured<'a>(load: &Load<'a>) -> (Vec<Named<'a>>, Vec<Named<'a>>) {
    if load.arms.len() <= DISTINCT {
        return (load.arms.clone(), Vec::new());
    }
    let best: Vec<&str> = by_mean(load).into_iter().take(5).map(|(_, arm)| arm.arm.as_str()).collect();
    let is_baseline = |arm: &ArmSummary| arm.against_baseline.is_none() && arm.ttft_ms.is_some();
    let first = load.arms.iter().find(|(_, arm)| is_baseline(arm)).map(|(_, arm)| arm.arm.as_str());
    load.arms.iter().cloned().partition(|(_, arm)| best.contains(&arm.arm.as_str()) || first == Some(&arm.arm))
}

/// The arms that have bars or rows of their own, and a note in the picture if these are not all.
pub(in crate::plot) fn rows<'a>(load: &Load<'a>) -> (Vec<Named<'a>>, String) {
    if load.arms.len() <= MAX_ROWS {
        return (load.arms.clone(), String::new());
    }
    let mut arms = by_mean(load);
    arms.truncate(MAX_ROWS);
    let note = format!("the {MAX_ROWS} arms of the lowest mean TTFT, of {}", load.arms.len());
    (arms, note)
}

/// The title of a load's panel.
pub(in crate::plot) fn panel_title(load: &Load<'_>, note: &str) -> String {
    [load.name.as_str(), note].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}
