//! Where things are: users by country and state, data-centre regions, distances and measured round trips.
//!
//! Reading order: [`names`] (how place names are compared) → [`places`] (name to coordinates) → [`mod@regions`]
//! (data centres, RTT between them, access lines) → [`weights`] (how often users come from where).

pub mod names;
pub mod places;
pub mod regions;
pub mod weights;

use gorgo_core::request::Place;
pub use places::{Located, Source, country_name, iso2, locate, utc_offset_h};
pub use regions::{Region, access_ms, measured_between, nearest_measured, region, regions, rtt};
pub use weights::Weights;

/// Mean Earth radius in km (IUGG), the value the haversine formula is used with.
pub const EARTH_RADIUS_KM: f64 = 6371.0;

/// Great-circle distance in km (haversine formula).
pub fn distance_km(a: Place, b: Place) -> f64 {
    let (lat_a, lat_b) = (a.lat.to_radians(), b.lat.to_radians());
    let (dlat, dlon) = (lat_b - lat_a, (b.lon - a.lon).to_radians());
    let h = (dlat / 2.0).sin().powi(2) + lat_a.cos() * lat_b.cos() * (dlon / 2.0).sin().powi(2);
    2.0 * EARTH_RADIUS_KM * h.clamp(0.0, 1.0).sqrt().asin()
}

/// Whether `place` can be a user's: inside the globe and not the (0, 0) that stands for "unknown" in many files.
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
    fn distance_frankfurt_to_tel_aviv_is_2950_km() {
        let (fra, tlv) = (Place { lat: 50.11, lon: 8.68 }, Place { lat: 32.09, lon: 34.78 });
        assert!((distance_km(fra, tlv) - 2_950.0).abs() < 30.0, "{}", distance_km(fra, tlv));
        assert_eq!(distance_km(fra, fra), 0.0);
    }

    #[test]
    fn antipodes_are_half_the_circumference_apart() {
        let d = distance_km(Place { lat: 10.0, lon: 20.0 }, Place { lat: -10.0, lon: -160.0 });
        assert!((d - std::f64::consts::PI * EARTH_RADIUS_KM).abs() < 1.0);
    }

    #[test]
    fn zero_zero_and_points_off_the_globe_are_not_real() {
        for (lat, lon) in [(0.0, 0.0), (91.0, 0.0), (0.0, 181.0), (f64::NAN, 1.0)] {
            assert!(!is_real(Place { lat, lon }));
        }
        assert!(is_real(Place { lat: 0.0, lon: 32.0 }), "Uganda lies on the equator");
    }
}
