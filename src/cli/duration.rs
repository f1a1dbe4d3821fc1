//! Durations on the command line: a number and a unit.

/// The number of `text`, scaled by the unit that follows it; `None` for text that is not a number and one of `units`.
pub(super) fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let (_, factor) = units.iter().find(|(unit, _)| *unit == &text[digits.len()..])?;
    digits.parse::<f64>().ok().map(|number| number * factor)
}
