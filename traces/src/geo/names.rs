//! Normalization of place names, because GeoIP, GeoNames and ISO spell the same place differently.

/// Normalizes a name for comparison: lower case, no accents, no leading "Province of" and the like, no trailing
/// "Oblast", "Province" and the like, letters and digits only.
pub fn normalise(name: &str) -> String {
    let lower: String = name.chars().flat_map(char::to_lowercase).map(plain).collect();
    let mut rest = lower.trim();
    for lead in ["province of ", "state of ", "gorod ", "city of "] {
        if let Some(tail) = rest.strip_prefix(lead) {
            rest = tail;
            break;
        }
    }
    for trail in TRAILS {
        if let Some(head) = rest.strip_suffix(trail)
            && head.ends_with(' ')
        {
            rest = head;
            break;
        }
    }
    rest.chars().filter(|c| c.is_alphanumeric()).collect()
}

/// Suffixes that are removed, so that "Kaliningrad Oblast" equals "Kaliningrad".
const TRAILS: [&str; 16] = [
    "oblast",
    "krai",
    "republic",
    "territory",
    "governorate",
    "province",
    "department",
    "city",
    "county",
    "district",
    "region",
    "council",
    "prefecture",
    "state",
    "municipality",
    "voivodeship",
];

/// A Latin letter without its accent. Covers every letter of the embedded tables; others pass unchanged.
fn plain(c: char) -> char {
    const FROM: &str = "àáâãäåāăąạảấầẩậắằẵçćčèéêëēĕėęěẹếềệìíîïĩīĭịıñńňǹṇṉòóôõöøōŏőơọỏốồổộớờợùúûüũūŭųưṳủứừựýỳỹÿğġĺḻłŕřṙṟśşšșṣţțṭŧźżžẕďđḍḑḓðĥħḥḩẖṁəɛĵķģ";
    const TO: &str = "aaaaaaaaaaaaaaaaaaccceeeeeeeeeeeeeiiiiiiiiinnnnnnooooooooooooooooooouuuuuuuuuuuuuuyyyygglllrrrrsssssttttzzzzddddddhhhhhmeejkg";
    match FROM.chars().position(|from| from == c) {
        Some(at) if !c.is_ascii() => TO.as_bytes().get(at).map_or(c, |&b| char::from(b)),
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_place_meet() {
        for (a, b) in [
            ("Türkiye", "turkiye"),
            ("Kaliningrad Oblast", "Kaliningrad"),
            ("Province of Québec", "Quebec"),
            ("Łódź Voivodeship", "lodz"),
            ("Gorod Moskva", "Moskva"),
            ("Côte d'Ivoire", "COTE D’IVOIRE"),
        ] {
            assert_eq!(normalise(a), normalise(b), "{a} / {b}");
        }
    }

    #[test]
    fn a_name_that_is_only_a_suffix_word_stays() {
        assert_eq!(normalise("Region"), "region");
        assert_eq!(normalise("Kansas City"), "kansas");
    }

    #[test]
    fn every_accented_letter_has_its_plain_one() {
        let sample = "àåạắçčèěệìịıñṉòøợùựýÿğġĺłřśṣţŧźẕďðĥẖṁəɛĵķģ";
        assert_eq!(sample.chars().map(plain).collect::<String>(), "aaaacceeeiiinnooouuyyggllrssttzzddhhmeejkg");
    }
}
