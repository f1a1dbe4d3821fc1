//! Spelling suggestions: the known name nearest to a mistyped one.

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The known name nearest to `given`, the first of equals; `None` when there are no names.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known.into_iter().min_by_key(|name| distance(given, name))
}

/// Turns serde's "unknown field `x`, expected one of `a`, `b`" into one that names the nearest field.
/// Other messages pass through unchanged.
pub fn with_suggestion(message: &str) -> String {
    let Some((head, tail)) = message.split_once(", expected ") else { return message.to_owned() };
    if !(head.contains("unknown field") || head.contains("unknown variant")) {
        return message.to_owned();
    }
    let Some(given) = head.split('`').nth(1) else { return message.to_owned() };
    let list = tail.split('\n').next().unwrap_or(tail);
    match nearest(given, list.split('`').skip(1).step_by(2)) {
        Some(name) => format!("{head}; did you mean `{name}`? (expected {tail})"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_nearest_name() {
        assert_eq!(nearest("ms_per_tokn", ["rtt_weight", "ms_per_token", "seed"]), Some("ms_per_token"));
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn rewrites_serde_messages_only() {
        let text = with_suggestion("unknown field `pollcy`, expected one of `policy`, `seed`");
        assert!(text.contains("did you mean `policy`?"), "{text}");
        assert_eq!(with_suggestion("invalid type: string"), "invalid type: string");
    }
}
