//! Data-centre regions, measured round trips between them, and users' access lines.

use super::{iso2, table};
use gorgo_core::request::Place;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// A data-centre region of a provider.
#[derive(Debug, Clone, PartialEq)]
pub struct Region {
    /// `aws`, `azure`, `gcp`, `oci`, `lambda` or `modal`.
    pub provider: String,
    /// The provider's code, such as `eu-central-1`.
    pub name: String,
    /// The provider's description.
    pub location: String,
    /// Country it lies in.
    pub country: Option<[u8; 2]>,
    /// Coordinates of its city.
    pub place: Place,
    /// Whether round trips to other regions of its provider were measured.
    pub measured: bool,
}

/// A measured round trip between two regions of one provider.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rtt {
    /// Median in ms.
    pub median_ms: f64,
    /// 95th percentile in ms, where published (another date than the median: do not divide the two).
    pub p95_ms: Option<f64>,
}

/// A measured round trip used as an estimate for two places without a measurement.
#[derive(Debug, Clone, Copy)]
pub struct StandIn {
    /// The measured round trip.
    pub rtt: Rtt,
    /// The region used for the first place.
    pub from: &'static Region,
    /// The region used for the second place.
    pub to: &'static Region,
    /// Distance from the places to their regions, summed, in km.
    pub off_km: f64,
}

/// Access delay in ms of a country without a published one, and the bounds that hold the noisy estimates.
pub const DEFAULT_ACCESS_MS: f64 = 25.0;
const ACCESS_BOUNDS_MS: (f64, f64) = (8.0, 90.0);

/// Greatest distance between a place and the region used for it, km.
const STAND_IN_KM: f64 = 150.0;

/// Regions this close to each other are in one metropolitan area.
const METRO_KM: f64 = 50.0;

type Pairs = BTreeMap<(String, String, String), Rtt>;

fn pairs() -> &'static Pairs {
    static PAIRS: OnceLock<Pairs> = OnceLock::new();
    PAIRS.get_or_init(|| {
        let rows = table(include_str!("../../data/region_rtt.csv"));
        rows.filter_map(|row| {
            let rtt = Rtt { median_ms: row[3].parse().ok()?, p95_ms: row[4].parse().ok() };
            Some(((row[0].to_owned(), row[1].to_owned(), row[2].to_owned()), rtt))
        })
        .collect()
    })
}

/// All known regions, in the order of the table (by provider).
pub fn regions() -> &'static [Region] {
    static REGIONS: OnceLock<Vec<Region>> = OnceLock::new();
    REGIONS.get_or_init(|| {
        let measured: BTreeSet<(&str, &str)> =
            pairs().keys().flat_map(|(p, from, to)| [(p.as_str(), from.as_str()), (p.as_str(), to.as_str())]).collect();
        let rows = table(include_str!("../../data/regions.csv"));
        rows.filter_map(|row| {
            Some(Region {
                provider: row[0].to_owned(),
                name: row[1].to_owned(),
                location: row[2].to_owned(),
                country: iso2(&row[3]),
                place: Place { lat: row[4].parse().ok()?, lon: row[5].parse().ok()? },
                measured: measured.contains(&(&row[0], &row[1])),
            })
        })
        .collect()
    })
}

/// The region called `provider:name`; a bare `name` finds the first provider that has it.
pub fn region(key: &str) -> Option<&'static Region> {
    match key.split_once(':') {
        Some((provider, name)) => regions().iter().find(|r| r.provider == provider && r.name == name),
        None => regions().iter().find(|r| r.name == key),
    }
}

/// The place of a region's name (see [`region`]) or of `LAT,LON`; `None` if it is neither, or no real place.
pub fn place_of(text: &str) -> Option<Place> {
    let coordinates = || {
        let (lat, lon) = text.split_once(',')?;
        let place = Place { lat: lat.trim().parse().ok()?, lon: lon.trim().parse().ok()? };
        super::is_real(place).then_some(place)
    };
    region(text).map(|r| r.place).or_else(coordinates)
}

/// The median round trip in ms between two texts that [`place_of`] knows: measured between these very regions, or
/// between ones within 150 km of them. `None` leaves it to a distance model.
pub fn measured_ms(a: &str, b: &str) -> Option<f64> {
    let full = |text: &str| region(text).map(|r| format!("{}:{}", r.provider, r.name));
    let direct = full(a).zip(full(b)).and_then(|(a, b)| rtt(&a, &b));
    let near = || measured_between(place_of(a)?, place_of(b)?, STAND_IN_KM).map(|s| s.rtt);
    direct.or_else(near).map(|rtt| rtt.median_ms)
}

/// The measured round trip from `provider:from` to `provider:to`, in either direction if only one was measured;
/// `None` for two providers or an unmeasured pair.
pub fn rtt(from: &str, to: &str) -> Option<Rtt> {
    let ((provider, from), (other, to)) = (from.split_once(':')?, to.split_once(':')?);
    if provider != other {
        return None;
    }
    let get = |a: &str, b: &str| pairs().get(&(provider.to_owned(), a.to_owned(), b.to_owned())).copied();
    get(from, to).or_else(|| get(to, from))
}

/// The measured region nearest to `place` and its distance in km, if one lies within `max_km`. `provider` limits the
/// choice. Only cloud backbones count: the few `modal` pairs are probes through a loaded serving stack.
pub fn nearest_measured(place: Place, provider: Option<&str>, max_km: f64) -> Option<(&'static Region, f64)> {
    let usable = |r: &&Region| r.measured && r.provider != "modal" && provider.is_none_or(|p| r.provider == p);
    let with_distance = regions().iter().filter(usable).map(|r| (r, place.km_to(r.place)));
    with_distance.min_by(|a, b| a.1.total_cmp(&b.1)).filter(|&(_, km)| km <= max_km)
}

/// The round trip between two free places through the nearest measured regions of one provider: the provider whose
/// regions lie nearest to both, each within `max_km`. `None` when no provider is near both, or its pair was never
/// measured; the caller then uses a distance model.
pub fn measured_between(a: Place, b: Place, max_km: f64) -> Option<StandIn> {
    let candidates = ["aws", "azure", "gcp"].into_iter().filter_map(|provider| {
        let (from, near) = nearest_measured(a, Some(provider), max_km)?;
        let (to, far) = nearest_measured(b, Some(provider), max_km)?;
        let rtt = rtt(&format!("{provider}:{}", from.name), &format!("{provider}:{}", to.name))?;
        Some(StandIn { rtt, from, to, off_km: near + far })
    });
    // Differences within a metropolitan area are noise of the coordinates, so the first provider is kept.
    candidates.min_by_key(|c| (c.off_km / METRO_KM) as u64)
}

/// Round-trip delay of a user's access network in this country, ms: an additive fit to public probes, clamped to
/// [8, 90] because estimates of single countries are noisy; 25 for countries not in the table.
pub fn access_ms(country: Option<[u8; 2]>) -> f64 {
    static ACCESS: OnceLock<BTreeMap<[u8; 2], f64>> = OnceLock::new();
    let access = ACCESS.get_or_init(|| {
        let rows = table(include_str!("../../data/country_access.csv"));
        rows.filter_map(|row| Some((super::places::code(&row[0])?, row[1].parse().ok()?))).collect()
    });
    let raw = country.and_then(|c| access.get(&c).copied()).unwrap_or(DEFAULT_ACCESS_MS);
    raw.clamp(ACCESS_BOUNDS_MS.0, ACCESS_BOUNDS_MS.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measured_pair_is_found_in_both_directions() {
        let there = rtt("aws:eu-central-1", "aws:il-central-1").unwrap().median_ms;
        assert!((30.0..90.0).contains(&there), "{there}");
        assert!(rtt("aws:il-central-1", "aws:eu-central-1").is_some());
        assert_eq!(rtt("aws:eu-central-1", "gcp:me-west1"), None);
        assert_eq!(rtt("nonsense", "aws:eu-central-1"), None);
    }

    #[test]
    fn lambda_regions_borrow_the_round_trip_of_a_cloud_nearby() {
        let at = |key| region(key).unwrap().place;
        let found = measured_between(at("lambda:me-west-1"), at("lambda:europe-central-1"), 100.0).unwrap();
        assert_eq!((found.from.name.as_str(), found.to.name.as_str()), ("il-central-1", "eu-central-1"));
        assert!(found.off_km < 5.0 && found.rtt.median_ms > 20.0);
    }

    #[test]
    fn a_place_far_from_every_cloud_has_no_stand_in() {
        let (pitcairn, paris) = (Place { lat: -25.07, lon: -130.1 }, Place { lat: 48.86, lon: 2.35 });
        assert!(measured_between(pitcairn, paris, 500.0).is_none());
        assert!(nearest_measured(pitcairn, None, 500.0).is_none());
    }

    #[test]
    fn access_is_clamped_and_defaults() {
        assert_eq!(access_ms(Some(*b"AF")), 90.0);
        assert_eq!(access_ms(Some(*b"AL")), 8.0);
        assert_eq!(access_ms(None), 25.0);
        assert_eq!(access_ms(Some(*b"XX")), 25.0);
    }

    #[test]
    fn every_region_has_a_country_and_a_real_place() {
        assert_eq!(regions().len(), 171);
        for r in regions() {
            assert!(r.country.is_some() && crate::geo::is_real(r.place), "{r:?}");
        }
        assert_eq!(pairs().len(), 5_316);
    }
}
