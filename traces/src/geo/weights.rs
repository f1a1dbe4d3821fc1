//! Shares of users per country and state, from the published tables of WildChat.

use super::places::{code, country_place, locate};
use super::table;
use gorgo_core::request::Place;
use rand::{Rng, RngExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

/// Subset of WildChat that the country weights are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Weights {
    /// The whole of WildChat-1M (some shares are estimates, see `DATA.md`).
    #[default]
    Full1m,
    /// Its first 10,000 rows, the subset of gotoni's location-tagged trace (published counts).
    First10k,
}

#[derive(Debug)]
struct Tables {
    countries: Vec<([u8; 2], f64, f64)>,
    states: Vec<(Place, f64)>,
}

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| {
        let rows = table(include_str!("../../data/country_weights.csv"));
        let countries =
            rows.filter_map(|row| Some((code(&row[0])?, row[2].parse().ok()?, row[3].parse().ok()?))).collect();
        let rows = table(include_str!("../../data/us_state_weights.csv"));
        let states = rows
            .filter_map(|row| Some((locate(Some("US"), Some(&row[0]), None).place?, row[2].parse().ok()?)))
            .collect();
        Tables { countries, states }
    })
}

impl Weights {
    /// Countries and their shares, which sum to 1.
    pub fn countries(self) -> Vec<([u8; 2], f64)> {
        let pick = |&(code, first10k, full1m): &([u8; 2], f64, f64)| match self {
            Self::Full1m => (code, full1m),
            Self::First10k => (code, first10k),
        };
        let mut shares: Vec<_> = tables().countries.iter().map(pick).collect();
        let sum: f64 = shares.iter().map(|(_, w)| w).sum();
        for (_, w) in &mut shares {
            *w /= sum;
        }
        shares
    }

    /// Draws a country and a place in it.
    pub fn draw<R: Rng + ?Sized>(self, rng: &mut R) -> ([u8; 2], Option<Place>) {
        let countries = self.countries();
        let country = pick(rng, &countries).copied().unwrap_or(*b"US");
        (country, place_in(country, rng))
    }
}

/// A place of a user in `country`: by state weights in the United States, whose centroid would hide east and west;
/// the centroid elsewhere.
pub fn place_in<R: Rng + ?Sized>(country: [u8; 2], rng: &mut R) -> Option<Place> {
    if country == *b"US" { pick(rng, &tables().states).copied() } else { country_place(country) }
}

/// Draws one of the weighted items.
fn pick<'a, T, R: Rng + ?Sized>(rng: &mut R, items: &'a [(T, f64)]) -> Option<&'a T> {
    let sum: f64 = items.iter().map(|(_, w)| w).sum();
    let mut left = rng.random::<f64>() * sum;
    for (item, w) in items {
        left -= w;
        if left < 0.0 {
            return Some(item);
        }
    }
    items.last().map(|(item, _)| item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_core::rng::stream;

    #[test]
    fn drawn_countries_follow_the_published_shares() {
        for (weights, code, share) in
            [(Weights::First10k, b"CN", 0.248), (Weights::First10k, b"US", 0.117), (Weights::Full1m, b"US", 0.2546)]
        {
            let mut rng = stream(1, "test", 0);
            let hits = (0..20_000).filter(|_| weights.draw(&mut rng).0 == *code).count();
            assert!((hits as f64 / 20_000.0 - share).abs() < 0.01, "{hits}");
        }
    }

    #[test]
    fn every_drawn_user_has_a_real_place() {
        assert_eq!(tables().states.len(), 36);
        for (country, _) in Weights::Full1m.countries() {
            let place = place_in(country, &mut stream(1, "test", 0)).unwrap();
            assert!(crate::geo::is_real(place));
        }
    }

    #[test]
    fn american_users_live_east_and_west() {
        let mut rng = stream(1, "test", 0);
        let lons: Vec<f64> = (0..200).filter_map(|_| place_in(*b"US", &mut rng)).map(|p| p.lon).collect();
        assert!(lons.iter().any(|&l| l < -115.0) && lons.iter().any(|&l| l > -80.0));
    }
}
