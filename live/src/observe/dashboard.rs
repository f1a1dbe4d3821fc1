//! The page at `/dashboard`, and the coordinates of regions for its map. The binary passes both in: this crate contains
//! neither.

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
