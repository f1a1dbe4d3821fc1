//! Parses the Prometheus text format, as far as engines use it.

/// One sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample<'a> {
    /// The metric.
    pub name: &'a str,
    /// The text between the braces, not parsed.
    pub labels: &'a str,
    /// The value.
    pub value: f64,
}

impl<'a> Sample<'a> {
    /// A label's value as written (escapes are left in).
    pub(crate) fn label(&self, name: &str) -> Option<&'a str> {
        let mut rest = self.labels;
        loop {
            let (key, after) = rest.split_once('=')?;
            let after = after.trim_start().strip_prefix('"')?;
            let end = closing_quote(after)?;
            if key.trim_matches([' ', ',', '\t']) == name {
                return Some(&after[..end]);
            }
            rest = &after[end + 1..];
        }
    }
}

/// Position of the first quote that is not escaped.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// The samples of a page; other lines are skipped.
pub(crate) fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter_map(sample)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => {
            let close = closing_brace(inside)?;
            (&inside[..close], &inside[close + 1..])
        }
        None => ("", rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    (!name.is_empty()).then_some(Sample { name, labels, value })
}

/// Position of the first brace outside quotes.
fn closing_brace(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.bytes().position(|byte| {
        let ends = byte == b'}' && !quoted;
        if byte == b'"' && !escaped {
            quoted = !quoted;
        }
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// Entry point of the fuzzer.
#[cfg(any(test, feature = "testkit"))]
pub fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for sample in samples(&text) {
        assert!(!sample.name.is_empty());
        let _ = sample.label("dp_rank");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_labels_and_values_are_read() {
        let text = "# HELP x y\nup 1\nsglang:num_running_reqs{model_name=\"a,b}\\\"c\",tp_rank=\"0\"} 3.0 1700\nbad\nx{ 1\ny NaN\n";
        let all: Vec<_> = samples(text).collect();
        assert_eq!(all.len(), 3);
        assert_eq!((all[1].name, all[1].value, all[1].label("tp_rank")), ("sglang:num_running_reqs", 3.0, Some("0")));
        assert_eq!((all[1].label("model_name"), all[1].label("none")), (Some("a,b}\\\"c"), None));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z:{}=\", \\\\0-9.\n]{0,80}") {
            fuzz(text.as_bytes());
        }
    }
}
