//! From rows in file order to requests in order of arrival: start at zero, spread coarse stamps, draw arrivals and
//! places if asked, and link answers to the turns that repeat them.

use super::Workload;
use super::guidellm_pair::RATE_WITHOUT_TIMES;
use super::options::{Arrivals, Format, Options, UnknownPlaces};
use super::parser::answer_len;
use super::reader::Reader;
use crate::error::TraceError;
use gorgo_core::request::TraceRequest;
use gorgo_core::rng::stream;
use gorgo_core::{Span, Time};
use rand::RngExt;
use std::collections::BTreeMap;

/// Reads `reader` to its end and arranges what came.
///
/// # Errors
/// The reader's, or that nothing is left.
pub fn arrange(mut reader: Reader, options: &Options) -> Result<Workload, TraceError> {
    let mut requests = reader.by_ref().collect::<Result<Vec<_>, _>>()?;
    let seen = reader.seen().clone();
    let (name, format) = (reader.file().to_owned(), reader.format());
    if requests.is_empty() {
        return Err(TraceError::Empty { file: name, read: seen.rows, skipped: seen.skipped });
    }
    let mut notes = seen.notes();
    requests.sort_by_key(|r| r.at);
    if matches!(format, Format::Azure | Format::Wildchat | Format::Parquet) {
        let start = requests[0].at;
        requests.iter_mut().for_each(|r| r.at = Time(r.at.since(start).0));
    }
    if format == Format::GuidellmPair && options.arrivals == Arrivals::Recorded {
        for (i, request) in requests.iter_mut().enumerate() {
            request.at = Time::from_ms(i as f64 * 1e3 / RATE_WITHOUT_TIMES);
        }
        notes.push(format!("the format has no times: {RATE_WITHOUT_TIMES} requests per second, evenly"));
    }
    let coarse = matches!(format, Format::Mooncake | Format::Burstgpt | Format::Bailian);
    if coarse && options.spread {
        notes.extend(spread(&mut requests));
    }
    redraw(&mut requests, options.arrivals, options.seed);
    if options.time_scale != 1.0 {
        requests.iter_mut().for_each(|r| r.at = Time::from_ms(r.at.ms() * options.time_scale));
    }
    if let Some(s) = options.duration_s {
        let before = requests.len();
        requests.truncate(requests.partition_point(|r| r.at.secs() <= s));
        if requests.is_empty() {
            let problem = format!("is {s}: no request of {name} arrives that early; give a longer one");
            return Err(TraceError::Option { option: "duration_s", problem });
        }
        notes.push(format!("{} left out: later than duration_s", before - requests.len()));
    }
    if let UnknownPlaces::Draw(weights) = options.unknown_places {
        notes.extend(draw_places(&mut requests, weights, options.seed));
    }
    link_answers(&mut requests);
    Ok(Workload { name, format, requests, seen, notes })
}

/// Spreads requests of equal stamp evenly over one tick: the smallest step between two stamps, so that a quiet hour
/// after a stamp pulls nothing into it.
fn spread(requests: &mut [TraceRequest]) -> Option<String> {
    let steps = requests.windows(2).map(|w| w[1].at - w[0].at).filter(|&step| step > Span::ZERO);
    let tick = steps.min().unwrap_or(Span::ZERO);
    let (mut start, mut stamps) = (0, 0);
    while start < requests.len() {
        let at = requests[start].at;
        let end = start + requests[start..].iter().take_while(|r| r.at == at).count();
        let n = (end - start) as u64;
        for (i, request) in requests[start..end].iter_mut().enumerate() {
            request.at = at + Span((u128::from(tick.0) * i as u128 / u128::from(n)) as u64);
        }
        (start, stamps) = (end, stamps + 1);
    }
    let n = requests.len();
    (stamps < n)
        .then(|| format!("{n} requests share {stamps} stamps: spread evenly over one tick of {:.3} s", tick.ms() / 1e3))
}

/// Draws arrival times if asked; for a generated trace as for one that was read.
pub fn redraw(requests: &mut [TraceRequest], arrivals: Arrivals, seed: u64) {
    let mut rng = stream(seed, "arrivals", 0);
    let mut gap = |rate: f64| Span::from_secs(-(1.0 - rng.random::<f64>()).ln() / rate);
    match arrivals {
        Arrivals::Recorded => {}
        Arrivals::Poisson(rate) => {
            let mut at = Time::ZERO;
            for request in requests.iter_mut() {
                at += gap(rate);
                request.at = at;
            }
        }
        Arrivals::PoissonSessions(rate) => {
            let mut firsts: BTreeMap<u64, Option<(Time, Time)>> = requests.iter().map(|r| (r.session, None)).collect();
            let per_session = requests.len() as f64 / firsts.len() as f64;
            let mut at = Time::ZERO;
            for request in requests.iter_mut() {
                let Some(first) = firsts.get_mut(&request.session) else { continue };
                let &mut (recorded, drawn) = first.get_or_insert_with(|| {
                    at += gap(rate / per_session);
                    (request.at, at)
                });
                request.at = drawn + request.at.since(recorded);
            }
            requests.sort_by_key(|r| r.at);
        }
    }
}

/// Gives users without a place one from the published shares; a user has one place.
fn draw_places(requests: &mut [TraceRequest], weights: crate::geo::Weights, seed: u64) -> Option<String> {
    let mut drawn = 0;
    for request in requests.iter_mut().filter(|r| r.place.is_none()) {
        let mut rng = stream(seed, "places", request.user);
        match request.country {
            Some(code) => request.place = crate::geo::weights::place_in(code, &mut rng),
            None => {
                let (code, place) = weights.draw(&mut rng);
                (request.country, request.place) = (Some(code), place);
            }
        }
        drawn += 1;
    }
    (drawn > 0).then(|| format!("{drawn} requests without a place: drawn from WildChat's published shares"))
}

/// Fills `answer_blocks` of a turn from the next turn of its session, when that one repeats its whole blocks.
fn link_answers(requests: &mut [TraceRequest]) {
    let mut last: BTreeMap<u64, usize> = BTreeMap::new();
    for i in 0..requests.len() {
        let Some(before) = last.insert(requests[i].session, i) else { continue };
        let (earlier, later) = requests.split_at_mut(i);
        let (a, b) = (&mut earlier[before], &later[0]);
        let whole = (a.input_tokens / a.block_tokens) as usize;
        let more = answer_len(a);
        let extends =
            a.block_tokens == b.block_tokens && b.blocks.len() > whole && a.blocks[..whole] == b.blocks[..whole];
        // All of the answer must be in the next prompt's whole blocks, or the ids would be another prompt's.
        if a.answer_blocks.is_empty() && extends && whole + more <= (b.input_tokens / b.block_tokens) as usize {
            a.answer_blocks = b.blocks[whole..whole + more].into();
        }
    }
}
