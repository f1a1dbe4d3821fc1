//! Geography: locations of users by country and state, data-centre regions, measured round trips.
//!
//! Reading order: [`names`] (how place names are compared) → [`places`] (name to coordinates) → [`mod@regions`]
//! (data centres, RTT between them, access lines) → [`weights`] (shares of users per country).

pub mod names;
pub mod places;
pub mod regions;
pub mod weights;

use gorgo_core::request::Place;
pub use places::{Located, Source, country_name, iso2, locate, utc_offset_h};
pub use regions::{Region, access_ms, measured_between, measured_ms, nearest_measured, place_of, region, regions, rtt};
pub use weights::Weights;

/// Whether `place` is a valid location of a user: valid degrees, and not (0, 0), which many files use for "unknown".
pub fn is_real(place: Place) -> bool {
    let inside = place.lat.abs() <= 90.0 && place.lon.abs() <= 180.0; // false for NaN
    inside && !(place.lat.abs() < 1e-3 && place.lon.abs() < 1e-3)
}

/// Rows of an embedded table, without its header. The tables are part of the source and hold no quoted line breaks.
pub(crate) fn table(text: &'static str) -> impl Iterator<Item = csv::StringRecord> {
    csv::ReaderBuilder::new().from_reader(text.as_bytes()).into_records().map_while(Result::ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_zero_and_points_off_the_globe_are_not_real() {
        for (lat, lon) in [(0.0, 0.0), (91.0, 0.0), (0.0, 181.0), (f64::NAN, 1.0)] {
            assert!(!is_real(Place { lat, lon }));
        }
        assert!(is_real(Place { lat: 0.0, lon: 32.0 }), "Uganda lies on the equator");
    }
}
