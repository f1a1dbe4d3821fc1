//! Maps place names to coordinates: of the state, else of the city, else the country's centroid, else unknown.
//!
//! Centroids are weighted by population: Russia's is at 57° N 51° E, near its users, and not in Siberia.

use super::{names::normalise, table};
use gorgo_core::request::Place;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// How a user's coordinates were matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A first-level subdivision.
    State,
    /// A city above 100,000 people of that name.
    City,
    /// The centroid of the country, because the state is missing or in no table.
    Country,
    /// The country is missing or in no table.
    Unknown,
}

/// A located user.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Located {
    /// ISO 3166 two-letter code; `None` when the country is missing or in no table.
    pub country: Option<[u8; 2]>,
    /// Coordinates; `None` exactly when the country is.
    pub place: Option<Place>,
    /// How they were matched.
    pub source: Source,
}

/// A country of the embedded table.
#[derive(Debug)]
struct Country {
    name: String,
    place: Place,
    utc_offset_h: f64,
}

type InCountry = BTreeMap<([u8; 2], String), Place>;

#[derive(Debug, Default)]
struct Tables {
    countries: BTreeMap<[u8; 2], Country>,
    by_name: BTreeMap<String, [u8; 2]>,
    states: InCountry,
    cities: InCountry,
}

/// Spellings of GeoIP sources that the country table lacks.
const MORE_NAMES: [(&str, &str); 9] = [
    ("Republic of Lithuania", "LT"),
    ("Republic of Moldova", "MD"),
    ("Hashemite Kingdom of Jordan", "JO"),
    ("United States of America", "US"),
    ("Viet Nam", "VN"),
    ("Great Britain", "GB"),
    ("UK", "GB"),
    ("Brunei Darussalam", "BN"),
    ("Burma", "MM"),
];

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(load)
}

fn load() -> Tables {
    let mut tables = Tables::default();
    for row in table(include_str!("../../data/countries.csv")) {
        let (Some(code), Some(place)) = (code(&row[0]), place(&row[4], &row[5])) else { continue };
        for name in [&row[0], &row[1], &row[2]].into_iter().chain(row[3].split('|')).filter(|n| !n.is_empty()) {
            tables.by_name.entry(normalise(name)).or_insert(code);
        }
        let utc_offset_h = row[6].parse().unwrap_or(0.0);
        tables.countries.insert(code, Country { name: row[2].to_owned(), place, utc_offset_h });
    }
    for (name, iso2) in MORE_NAMES {
        if let Some(code) = code(iso2) {
            tables.by_name.entry(normalise(name)).or_insert(code);
        }
    }
    // Own names first, so that another state's alias never shadows a name.
    let states: Vec<_> = table(include_str!("../../data/admin1.csv")).collect();
    for alias in [false, true] {
        for row in &states {
            let (Some(code), Some(place)) = (code(&row[0]), place(&row[3], &row[4])) else { continue };
            let names = if alias { &row[2] } else { &row[1] };
            for name in names.split('|').map(normalise).filter(|n| !n.is_empty()) {
                tables.states.entry((code, name)).or_insert(place);
            }
        }
    }
    for row in table(include_str!("../../data/cities100k.csv")) {
        let (Some(code), Some(place)) = (code(&row[0]), place(&row[2], &row[3])) else { continue };
        tables.cities.entry((code, normalise(&row[1]))).or_insert(place); // sorted by population: the largest wins
    }
    tables
}

fn place(lat: &str, lon: &str) -> Option<Place> {
    Some(Place { lat: lat.parse().ok()?, lon: lon.parse().ok()? })
}

/// Two ASCII letters as a country code.
pub(crate) fn code(text: &str) -> Option<[u8; 2]> {
    let bytes: [u8; 2] = text.as_bytes().try_into().ok()?;
    bytes.iter().all(u8::is_ascii_alphabetic).then(|| bytes.map(|b| b.to_ascii_uppercase()))
}

/// The ISO code of a country given by name, alias, two- or three-letter code.
pub fn iso2(country: &str) -> Option<[u8; 2]> {
    if let Some(code) = code(country.trim()).filter(|code| tables().countries.contains_key(code)) {
        return Some(code);
    }
    tables().by_name.get(&normalise(country)).copied()
}

/// The English name of a country code, or the code itself when it is in no table.
pub fn country_name(code: [u8; 2]) -> String {
    let known = tables().countries.get(&code).map(|c| c.name.clone());
    known.unwrap_or_else(|| String::from_utf8_lossy(&code).into_owned())
}

/// The country's population-weighted centroid.
pub fn country_place(code: [u8; 2]) -> Option<Place> {
    tables().countries.get(&code).map(|c| c.place)
}

/// Standard offset from UTC in hours of the country's main time zone; 0 when unknown.
pub fn utc_offset_h(code: [u8; 2]) -> f64 {
    tables().countries.get(&code).map_or(0.0, |c| c.utc_offset_h)
}

/// Finds a user's coordinates. A state or city counts only inside its country, so that Georgia is the state in the
/// United States and the country elsewhere. Without a country the result is unknown.
pub fn locate(country: Option<&str>, state: Option<&str>, city: Option<&str>) -> Located {
    let Some(code) = country.and_then(iso2) else {
        return Located { country: None, place: None, source: Source::Unknown };
    };
    let tables = tables();
    let key = |name: &str| (code, normalise(name));
    let (state, city) = (state.filter(|s| !s.trim().is_empty()), city.filter(|s| !s.trim().is_empty()));
    if let Some(&place) = state.and_then(|s| tables.states.get(&key(s))) {
        return Located { country: Some(code), place: Some(place), source: Source::State };
    }
    // GeoIP sometimes puts a city where the state belongs.
    if let Some(&place) = city.into_iter().chain(state).find_map(|name| tables.cities.get(&key(name))) {
        return Located { country: Some(code), place: Some(place), source: Source::City };
    }
    Located { country: Some(code), place: country_place(code), source: Source::Country }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geo::is_real;
    use proptest::prelude::*;

    #[test]
    fn georgia_is_a_state_in_the_united_states_and_a_country_elsewhere() {
        let state = locate(Some("United States"), Some("Georgia"), None);
        assert_eq!((state.country, state.source), (Some(*b"US"), Source::State));
        assert!(state.place.unwrap().lon < -80.0);
        let country = locate(Some("Georgia"), None, None);
        assert_eq!((country.country, country.source), (Some(*b"GE"), Source::Country));
        assert!(country.place.unwrap().lon > 40.0);
    }

    #[test]
    fn geoip_spellings_find_their_country() {
        for (name, code) in [
            ("Türkiye", b"TR"),
            ("The Netherlands", b"NL"),
            ("DR Congo", b"CD"),
            ("Hong Kong", b"HK"),
            ("South Korea", b"KR"),
            ("Czechia", b"CZ"),
            ("Macao", b"MO"),
            ("Republic of Lithuania", b"LT"),
            ("Hashemite Kingdom of Jordan", b"JO"),
            ("usa", b"US"),
            ("UK", b"GB"),
            ("DEU", b"DE"),
        ] {
            assert_eq!(iso2(name), Some(*code), "{name}");
        }
    }

    #[test]
    fn a_state_in_no_table_falls_to_the_country() {
        let spb = locate(Some("Russia"), Some("St.-Petersburg"), None);
        assert_eq!(spb.source, Source::Country);
        assert_eq!(spb.place, country_place(*b"RU"));
        assert_eq!(locate(Some("Russia"), Some("Kaliningrad Oblast"), None).source, Source::City);
    }

    #[test]
    fn a_city_helps_where_the_state_is_unknown() {
        let manila = locate(Some("Philippines"), Some("nowhere"), Some("Manila"));
        assert_eq!(manila.source, Source::City);
    }

    #[test]
    fn no_country_means_unknown_and_never_the_united_states() {
        for country in [None, Some(""), Some("Atlantis"), Some("ZZ")] {
            let nobody = locate(country, Some("California"), Some("Paris"));
            assert_eq!(nobody, Located { country: None, place: None, source: Source::Unknown });
        }
    }

    #[test]
    fn no_embedded_place_is_zero_zero() {
        let t = tables();
        let all = t.countries.values().map(|c| c.place).chain(t.states.values().copied());
        assert!(all.chain(t.cities.values().copied()).all(is_real));
        assert!(t.countries.len() > 240 && t.states.len() > 2_700 && t.cities.len() > 5_900);
    }

    proptest! {
        #[test]
        fn any_names_give_a_real_place_or_none(country in ".{0,12}", state in ".{0,12}") {
            let found = locate(Some(&country), Some(&state), None);
            prop_assert!(found.place.is_none_or(is_real));
            prop_assert_eq!(found.place.is_none(), found.country.is_none());
        }
    }
}
