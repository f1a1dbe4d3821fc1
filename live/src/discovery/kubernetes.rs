//! Replicas as the endpoints of a Kubernetes Service (feature `kubernetes`): its EndpointSlices, listed once and then
//! watched.
//!
//! Read `slices` (what the endpoints of slices mean), then `watched` (list, watch, and what ends a watch).

mod slices;
mod watched;

pub(crate) use watched::Watched;
