//! One JSON row and its fields, with errors that name field and value.

use crate::error::{Bad, excerpt};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;

/// The most tokens a prompt or answer may have: far above any context window, far below overflow.
pub(crate) const MAX_TOKENS: u32 = 4 << 20;

/// A JSON object.
#[derive(Debug)]
pub(crate) struct JsonRow(pub(crate) Map<String, Value>);

/// The fields of an object, and the first that stands twice: a plain map would keep the last one in silence.
struct Fields {
    map: Map<String, Value>,
    twice: Option<String>,
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Fields, A::Error> {
                let mut fields = Fields { map: Map::new(), twice: None };
                while let Some((name, value)) = from.next_entry::<String, Value>()? {
                    if fields.map.contains_key(&name) {
                        fields.twice.get_or_insert_with(|| name.clone());
                    }
                    fields.map.insert(name, value);
                }
                Ok(fields)
            }
        }
        from.deserialize_map(Visit)
    }
}

impl JsonRow {
    pub(crate) fn parse(text: &str) -> Result<Self, Bad> {
        if !text.trim_start().starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
            return Err(Bad::new("row", format!("{:?} is not a JSON object: each line must be one", excerpt(text))));
        }
        match serde_json::from_str(text) {
            Ok(Fields { twice: Some(name), .. }) => {
                Err(Bad::new(excerpt(&name), "stands twice in the row: rename or remove one of the fields"))
            }
            Ok(Fields { map, .. }) => Ok(Self(map)),
            Err(e) => {
                Err(Bad::new("row", format!("{:?} is not JSON ({e}): each line must be one object", excerpt(text))))
            }
        }
    }

    /// Gives fields their native names; `columns` maps native names to the file's.
    pub(crate) fn rename(&mut self, columns: &BTreeMap<String, String>) {
        for (name, theirs) in columns {
            if let Some(value) = self.0.remove(theirs) {
                self.0.insert(name.clone(), value);
            }
        }
    }

    /// Refuses a row without one of the fields that the user's `columns` name: its native field, if any, is another
    /// thing, and must not be taken in silence.
    pub(crate) fn has_all(&self, columns: &BTreeMap<String, String>) -> Result<(), Bad> {
        match columns.iter().find(|(_, theirs)| !self.0.contains_key(*theirs)) {
            None => Ok(()),
            Some((name, theirs)) => {
                let problem = format!(
                    "is missing from the row, and `columns` reads {name} from it ({name} = {theirs:?}): name a field that every row has, null where it is empty"
                );
                Err(Bad::new(theirs, problem))
            }
        }
    }

    /// The value of a field; JSON null counts as absent.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|v| !v.is_null())
    }

    pub(crate) fn text(&self, field: &str) -> Result<Option<&str>, Bad> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(wrong(field, other, "must be text")),
        }
    }

    /// A token count from `least` on.
    pub(crate) fn tokens(&self, field: &str, least: u32) -> Result<Option<u32>, Bad> {
        self.whole(field, least, " of tokens")
    }

    /// A whole number from `least` on; `what` says of what, after a blank.
    pub(crate) fn whole(&self, field: &str, least: u32, what: &str) -> Result<Option<u32>, Bad> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let number =
            value.as_u64().or_else(|| value.as_f64().filter(|f| f.fract() == 0.0 && *f >= 0.0).map(|f| f as u64));
        match number.and_then(|n| u32::try_from(n).ok()).filter(|n| (least..=MAX_TOKENS).contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(wrong(field, value, &format!("must be a whole number{what} from {least} to {MAX_TOKENS}"))),
        }
    }

    pub(crate) fn need_tokens(&self, field: &str, least: u32) -> Result<u32, Bad> {
        self.tokens(field, least)?.ok_or_else(|| missing(field, "a number of tokens"))
    }

    /// True or false, also as 1 or 0; false when absent.
    pub(crate) fn flag(&self, field: &str) -> Result<bool, Bad> {
        let Some(value) = self.get(field) else { return Ok(false) };
        value
            .as_bool()
            .or_else(|| value.as_u64().filter(|&n| n < 2).map(|n| n == 1))
            .ok_or_else(|| wrong(field, value, "must be true or false"))
    }

    pub(crate) fn number(&self, field: &str) -> Result<Option<f64>, Bad> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|f| f.is_finite())
                .map(Some)
                .ok_or_else(|| wrong(field, value, "must be a number")),
        }
    }

    /// A time that is not negative and fits into 500 years of nanoseconds, given in units of `unit_ms`.
    pub(crate) fn time_ms(&self, field: &str, unit_ms: f64) -> Result<Option<f64>, Bad> {
        let Some(ms) = self.number(field)?.map(|t| t * unit_ms) else { return Ok(None) };
        if (0.0..1.5e13).contains(&ms) {
            return Ok(Some(ms));
        }
        let shown = self.get(field).cloned().unwrap_or_default();
        if ms > 0.0 {
            let unit = [(1.0, "ms"), (1e3, "s"), (1e-3, "us")].into_iter().find(|(length, _)| *length == unit_ms);
            let unit = unit.map_or("its unit", |(_, name)| name);
            return Err(wrong(field, &shown, &format!("is too large for a time in {unit}; give --time-unit ns or us")));
        }
        Err(wrong(field, &shown, "must be a time since the start of the trace, not negative"))
    }

    /// A name: whole numbers stand for themselves, text for its hash.
    pub(crate) fn id(&self, field: &str) -> Result<Option<u64>, Bad> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(xxh3_64(s.as_bytes()))),
            Some(value) => match value.as_u64() {
                Some(n) => Ok(Some(n)),
                None => Err(wrong(field, value, "must be text or a whole number, not negative")),
            },
        }
    }

    /// Block ids: a list of whole numbers, not negative.
    pub(crate) fn ids(&self, field: &str) -> Result<Option<Vec<u64>>, Bad> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let Value::Array(items) = value else { return Err(wrong(field, value, "must be a list of block ids")) };
        let id = |(at, item): (usize, &Value)| {
            let what = "must be a block id: a whole number, not negative";
            item.as_u64().ok_or_else(|| wrong(&format!("{field}[{at}]"), item, what))
        };
        items.iter().enumerate().map(id).collect::<Result<_, _>>().map(Some)
    }

    /// Block ids as runs: a list of `[first, count]`.
    pub(crate) fn id_runs(&self, field: &str) -> Result<Option<Vec<u64>>, Bad> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let Value::Array(runs) = value else { return Err(wrong(field, value, "must be a list of runs of block ids")) };
        let mut ids = Vec::new();
        for (at, run) in runs.iter().enumerate() {
            let pair = run.as_array().and_then(|pair| match &pair[..] {
                [first, count] => Some((first.as_u64()?, count.as_u64()?)),
                _ => None,
            });
            let room = u64::from(MAX_TOKENS) - ids.len() as u64;
            let Some((first, count)) = pair.filter(|&(first, n)| n <= room && first.checked_add(n).is_some()) else {
                let must = format!("must be [first id, count], of at most {MAX_TOKENS} ids in all");
                return Err(wrong(&format!("{field}[{at}]"), run, &must));
            };
            ids.extend(first..first + count);
        }
        Ok(Some(ids))
    }

    /// Names of the fields that are not in `known`.
    pub(crate) fn unknown<'a>(&'a self, known: &'a [&str]) -> impl Iterator<Item = &'a str> {
        self.0.keys().map(String::as_str).filter(|name| !known.contains(name))
    }
}

/// Error: a field has an unusable value.
pub(crate) fn wrong(field: &str, value: &Value, must: &str) -> Bad {
    Bad::new(field, format!("is {}: it {must}", excerpt(&value.to_string())))
}

/// Error: a field is missing.
pub(crate) fn missing(field: &str, what: &str) -> Bad {
    Bad::new(field, format!("is missing: every row needs {what}"))
}

/// Block ids must be as many as the prompt fills.
pub(crate) fn check_blocks(field: &str, ids: usize, tokens: u32, block_tokens: u32) -> Result<(), Bad> {
    let need = tokens.div_ceil(block_tokens) as usize;
    if ids == need {
        return Ok(());
    }
    let fits = |size: u32| size > 0 && tokens.div_ceil(size) as usize == ids;
    let usual = [16, 32, 64, 128, 256, 512, 1024].into_iter().find(|&size| fits(size));
    let size =
        usual.or_else(|| u32::try_from(ids).ok().filter(|&n| n > 0).map(|n| tokens.div_ceil(n)).filter(|&s| fits(s)));
    let advice = size.map_or_else(
        || "no block size fits".to_owned(),
        |size| format!("block_tokens = {size} (--block-tokens {size}) would fit"),
    );
    let problem = format!("holds {ids} ids: {tokens} tokens in blocks of {block_tokens} make {need}; {advice}");
    Err(Bad::new(field, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_stands_twice_is_refused_by_its_name() {
        let bad = JsonRow::parse(r#"{"timestamp":0,"input_length":9,"input_length":5}"#).unwrap_err();
        assert_eq!((bad.field.as_str(), bad.problem.starts_with("stands twice in the row")), ("input_length", true));
        assert_eq!(JsonRow::parse(r#"{"a":{"b":1},"b":2}"#).unwrap().0.len(), 2);
        assert!(JsonRow::parse("[1]").unwrap_err().problem.contains("is not a JSON object"));
        assert!(JsonRow::parse("{\"a\":").unwrap_err().problem.contains("is not JSON"));
    }
}
