//! The page that the program serves at `/dashboard`, and where on the globe regions lie. Both come from the program: this
//! crate knows neither pages nor places.

use bytes::Bytes;
use http::HeaderValue;

/// A page that shows `/overview`.
#[derive(Debug, Clone)]
pub struct Dashboard {
    /// The page, HTML.
    pub page: Bytes,
    /// Its Content-Security-Policy.
    pub policy: HeaderValue,
    /// Latitude and longitude of a region by its name, degrees; `None` for a name that is not known.
    pub locate: fn(&str) -> Option<[f64; 2]>,
}
