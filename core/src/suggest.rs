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

/// As [`nearest`], but only a name that a slip of the keyboard could have made of `given`: at most two changed
/// characters, a third of them in long names, or a beginning of the name.
pub fn near<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (given, length) = (given.to_lowercase(), given.chars().count());
    let limit = if length < 4 { 1 } else { (length / 3).max(2) };
    let rank = |name: &'a str| {
        let other = name.to_lowercase();
        // `us-east-1` stands for `aws:us-east-1`.
        let last = other.rsplit(':').next().unwrap_or(&other);
        let apart = distance(&given, &other).min(distance(&given, last));
        (apart <= limit || (length >= 3 && other.starts_with(&given))).then_some((apart, name))
    };
    known.into_iter().filter_map(rank).min_by_key(|(apart, _)| *apart).map(|(_, name)| name)
}

/// The end of an error about an unknown name: the name that is near, else the known ones.
pub fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(name) = near(given, known.clone()) {
        return format!("did you mean `{name}`?");
    }
    let mut known = known.into_iter();
    let names: Vec<&str> = known.by_ref().take(MOST_NAMES).collect();
    let more = if known.next().is_some() { ", ..." } else { "" };
    if names.is_empty() { "there is none".to_owned() } else { format!("it must be one of {}{more}", names.join(", ")) }
}

/// Names that [`did_you_mean`] lists when none is near.
const MOST_NAMES: usize = 30;

/// A parser's message in words of the file: without types of the program, and with the nearest name of an unknown key or
/// variant. Other messages pass through unchanged.
pub fn in_words(message: &str) -> String {
    expected_in_words(&with_suggestion(message))
}

/// Turns serde's "unknown field `x`, expected one of `a`, `b`" into one that names the nearest field.
fn with_suggestion(message: &str) -> String {
    let Some((head, tail)) = message.split_once(", expected ") else { return message.to_owned() };
    if !(head.contains("unknown field") || head.contains("unknown variant")) {
        return message.to_owned();
    }
    let Some(given) = head.split('`').nth(1) else { return message.to_owned() };
    let list = tail.split('\n').next().unwrap_or(tail);
    match near(given, list.split('`').skip(1).step_by(2)) {
        Some(name) => format!("{head}; did you mean `{name}`? (expected {tail})"),
        None => message.to_owned(),
    }
}

/// Says in words of the file what the parser expected, which names types of the program.
fn expected_in_words(message: &str) -> String {
    const TYPES: [(&str, &str); 14] = [
        ("u8", "a whole number from 0 to 255"),
        ("u16", "a whole number from 0 to 65535"),
        ("u32", "a whole number from 0 to 4294967295"),
        ("u64", "a whole number from 0 on"),
        ("usize", "a whole number from 0 on"),
        ("i64", "a whole number"),
        ("f64", "a number"),
        ("f32", "a number"),
        ("a boolean", "true or false"),
        ("a string", "a text in quotes"),
        ("a sequence", "a list"),
        ("a map", "a table"),
        ("a borrowed string", "a text in quotes"),
        ("string or map", "a text in quotes or a table"),
    ];
    let Some((head, tail)) = message.split_once(", expected ") else { return message.to_owned() };
    if !head.contains("invalid type") && !head.contains("invalid value") {
        return message.to_owned();
    }
    // What is expected ends with the message, or with the key that follows.
    let (wanted, rest) = match tail.find(" in `") {
        Some(at) => tail.split_at(at),
        None => (tail, ""),
    };
    let words = TYPES.iter().find(|(name, _)| *name == wanted).map(|(_, words)| *words);
    let words = words.or((wanted.starts_with("struct ")).then_some("a table")).unwrap_or(wanted);
    format!("{head}, expected {words}{rest}")
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
    fn only_near_names_are_suggested_and_else_all_are_listed() {
        let near = |given| near(given, ["gotoni", "physical", "paper-v3", "aws:us-east-1", "max_running"]);
        assert_eq!(
            (near("phys"), near("paper"), near("us-east-9")),
            (Some("physical"), Some("paper-v3"), Some("aws:us-east-1"))
        );
        assert_eq!(
            (near("h200"), near("marsbase"), near("x"), near("max_runing")),
            (None, None, None, Some("max_running"))
        );
        assert_eq!(did_you_mean("gotini", ["gotoni", "physical"]), "did you mean `gotoni`?");
        assert_eq!(did_you_mean("h200", ["gotoni", "physical"]), "it must be one of gotoni, physical");
        assert_eq!(did_you_mean("h200", []), "there is none");
    }

    #[test]
    fn types_of_the_program_are_told_in_words() {
        let told = |message| expected_in_words(message);
        assert_eq!(
            told("invalid type: string \"x\", expected f64 in `rtt`"),
            "invalid type: string \"x\", expected a number in `rtt`"
        );
        assert_eq!(
            told("invalid type: string \"x\", expected struct Log"),
            "invalid type: string \"x\", expected a table"
        );
        assert_eq!(told("unknown field `a`, expected `f64`"), "unknown field `a`, expected `f64`");
    }

    #[test]
    fn rewrites_serde_messages_only() {
        let text = with_suggestion("unknown field `pollcy`, expected one of `policy`, `seed`");
        assert!(text.contains("did you mean `policy`?"), "{text}");
        assert_eq!(with_suggestion("invalid type: string"), "invalid type: string");
    }
}
