//! From rows in file order to requests in order of arrival: start at zero, spread coarse stamps, draw arrivals and
//! places if asked, and link answers to the turns that repeat them.

use super::Workload;
use super::blocks::mix;
use super::format::Format;
use super::guidellm_pair::RATE_WITHOUT_TIMES;
use super::options::{Arrivals, Options, Per, Prompts, UnknownPlaces};
use super::parser::answer_len;
use super::reader::Reader;
use super::stats::stamps::Stamps;
use crate::error::TraceError;
use gorgo_core::request::TraceRequest;
use gorgo_core::rng::stream;
use gorgo_core::{Span, Time, turns};
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};

/// Reads `reader` to its end and arranges what came.
///
/// # Errors
/// The reader's, or that nothing is left.
pub fn arrange(reader: Reader, options: &Options) -> Result<Workload, TraceError> {
    let mut workload = collect(reader, options)?;
    draw(&mut workload, options)?;
    Ok(workload)
}

/// Reads `reader` to its end: requests at their recorded times, counted from the first. What depends on a seed is left
/// to [`draw`], so that many runs can share one reading.
///
/// # Errors
/// The reader's, or that nothing is left.
pub fn collect(mut reader: Reader, options: &Options) -> Result<Workload, TraceError> {
    let mut requests = reader.by_ref().collect::<Result<Vec<_>, _>>()?;
    let seen = reader.seen().clone();
    let (name, format) = (reader.file().to_owned(), reader.format());
    let empty =
        |left_out: String| TraceError::Empty { file: name.clone(), read: seen.rows, skipped: seen.skipped, left_out };
    if requests.is_empty() {
        return Err(empty(seen.left_out()));
    }
    let mut notes = seen.notes();
    let stamps = Stamps::of(&requests);
    requests.sort_by_key(|r| r.at);
    if !matches!(format, Format::Wildchat | Format::Sharegpt | Format::Parquet | Format::GuidellmPair) {
        notes.extend(cut_conversations(&mut requests, options.per));
    }
    if requests.is_empty() {
        return Err(empty("all but the turns that `per` asks for".to_owned()));
    }
    notes.extend(unused_options(&requests, options, seen.texts));
    if options.prompts == Prompts::Whole && matches!(format, Format::Native | Format::Columns | Format::TimedTrace) {
        notes.extend(shrinking_turns(&requests));
    }
    if matches!(format, Format::Native | Format::Columns) {
        notes.extend(backward_turns(&requests));
    }
    let start = requests[0].at;
    requests.iter_mut().for_each(|r| r.at = Time(r.at.since(start).0));
    let timeless =
        format == Format::GuidellmPair || format == Format::Guidellm && requests.iter().all(|r| r.at == Time::ZERO);
    if timeless {
        for (i, request) in requests.iter_mut().enumerate() {
            request.at = Time::from_ms(i as f64 * 1e3 / RATE_WITHOUT_TIMES);
        }
        if options.arrivals == Arrivals::Recorded {
            notes.push(format!("the format has no times: {RATE_WITHOUT_TIMES} requests per second, evenly"));
        }
    }
    let coarse = matches!(format, Format::Mooncake | Format::Burstgpt | Format::Bailian);
    if coarse && options.spread {
        notes.extend(spread(&mut requests));
    }
    notes.extend(one_block_size(&name, &mut requests, &seen.block_sizes)?);
    link_answers(&mut requests);
    turns::link(&mut requests);
    Ok(Workload { name, format, requests, seen, stamps, notes })
}

/// Draws arrivals and places as the options ask, scales times and cuts what comes later than `duration_s`.
///
/// # Errors
/// When nothing arrives in time.
pub fn draw(workload: &mut Workload, options: &Options) -> Result<(), TraceError> {
    let Workload { name, requests, notes, .. } = workload;
    if matches!(options.arrivals, Arrivals::Poisson(_)) && requests.iter().any(|r| r.delay.is_some()) {
        notes.push(
            "a rate of requests leaves no `delay`: turns do not wait for each other; for that, give a rate of sessions"
                .to_owned(),
        );
    }
    redraw(requests, options.arrivals, options.seed);
    if options.time_scale != 1.0 {
        for request in requests.iter_mut() {
            request.at = Time::from_ms(request.at.ms() * options.time_scale);
            request.delay = request.delay.map(|delay| Span::from_ms(delay.ms() * options.time_scale));
        }
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
        notes.extend(draw_places(requests, weights, options.seed));
    }
    Ok(())
}

/// The requests a second of so many `requests` in `span_s` seconds, where they are far fewer than the `rate` asked for.
pub fn below_rate(requests: usize, span_s: f64, rate: f64) -> Option<f64> {
    /// Share of the rate below which a run is another one than was asked for.
    const LITTLE: f64 = 0.8;
    let had = requests as f64 / span_s;
    (span_s > 0.0 && had < LITTLE * rate).then_some(had)
}

/// A note for each option on tokens that no row makes use of.
fn unused_options(requests: &[TraceRequest], options: &Options, texts: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(size) = options.block_tokens.filter(|&size| requests.iter().all(|r| r.block_tokens != size)) {
        notes.push(format!("block_tokens = {size} has no effect: every row gives its own block size"));
    }
    if let Some(bytes) = options.bytes_per_token.filter(|_| !texts) {
        notes.push(format!("bytes_per_token = {bytes} has no effect: no row has a text"));
    }
    notes
}

/// Share of the later turns from which on shorter ones are no exception.
const SHRINKING: f64 = 0.25;

/// A note where many prompts are shorter than the one before them in their session: a prompt that holds its history grows.
fn shrinking_turns(requests: &[TraceRequest]) -> Option<String> {
    let mut last: BTreeMap<u64, u32> = BTreeMap::new();
    let (mut later, mut shorter) = (0, 0);
    for request in requests {
        if let Some(before) = last.insert(request.session, request.input_tokens) {
            later += 1;
            shorter += usize::from(request.input_tokens < before);
        }
    }
    (later > 0 && shorter as f64 >= SHRINKING * later as f64).then(|| {
        format!(
            "{shorter} of {later} later turns have shorter prompts than the turn before them; if rows hold what each turn adds, give prompts = \"added\" (--prompts added)"
        )
    })
}

/// A note on sessions whose turns do not count up in the order of their times.
fn backward_turns(requests: &[TraceRequest]) -> Option<String> {
    let mut last: BTreeMap<u64, u32> = BTreeMap::new();
    let back = requests.iter().filter(|r| last.insert(r.session, r.turn).is_some_and(|before| r.turn < before)).count();
    (back > 0).then(|| {
        format!(
            "{back} later turns have a lower number than the turn before them; sessions follow the times of their rows"
        )
    })
}

/// Keeps one request of each conversation: its first, or its last.
fn cut_conversations(requests: &mut Vec<TraceRequest>, per: Per) -> Option<String> {
    let before = requests.len();
    let mut sessions = BTreeSet::new();
    match per {
        Per::Turn => return None,
        Per::FirstPrompt => requests.retain(|r| sessions.insert(r.session)),
        Per::Conversation => {
            requests.reverse();
            requests.retain(|r| sessions.insert(r.session));
            requests.reverse();
        }
    }
    // The one turn that is left says nothing about the next, and waits for none.
    requests.iter_mut().for_each(|r| (r.answer_blocks, r.delay) = ([].into(), None));
    let left_out = before - requests.len();
    (left_out > 0).then(|| format!("{left_out} left out: other turns of their conversations"))
}

/// Least block size that two sizes are brought to, tokens.
const LEAST_BLOCK: u32 = 16;

/// Brings blocks of several sizes to their greatest common divisor: a block becomes several, which share a prefix with
/// each other exactly as before. Answers are linked anew.
fn one_block_size(
    file: &str,
    requests: &mut [TraceRequest],
    lines: &BTreeMap<u32, u64>,
) -> Result<Option<String>, TraceError> {
    let sizes: BTreeSet<u32> = requests.iter().map(|r| r.block_tokens).collect();
    if sizes.len() < 2 {
        return Ok(None);
    }
    let common = sizes.iter().fold(0, |a, &b| gcd(a, b));
    let mut by_line: Vec<(u64, u32)> =
        sizes.iter().map(|&size| (lines.get(&size).copied().unwrap_or(0), size)).collect();
    by_line.sort_unstable();
    if common < LEAST_BLOCK && !sizes.contains(&common) {
        let [(_, other), (line, size), ..] = by_line[..] else { return Ok(None) };
        return Err(TraceError::BlockSizes { file: file.to_owned(), line, size, other });
    }
    for request in requests.iter_mut().filter(|r| r.block_tokens != common) {
        let parts = u64::from(request.block_tokens / common);
        let whole = request.input_tokens.div_ceil(common) as usize;
        let split = request.blocks.iter().flat_map(|&id| (0..parts).map(move |part| mix(id, part)));
        request.blocks = split.take(whole).collect();
        request.answer_blocks = [].into();
        request.block_tokens = common;
    }
    let sizes: Vec<String> = sizes.iter().map(u32::to_string).collect();
    Ok(Some(format!("blocks of {} tokens were brought to {common}", sizes.join(" and "))))
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Spreads requests of equal stamp evenly over one tick, the most frequent step between two stamps; the smaller of
/// equally frequent ones. So neither a quiet hour after a stamp nor one odd stamp changes how all others are spread.
fn spread(requests: &mut [TraceRequest]) -> Option<String> {
    let mut steps: BTreeMap<Span, usize> = BTreeMap::new();
    for pair in requests.windows(2) {
        let step = pair[1].at - pair[0].at;
        if step > Span::ZERO {
            *steps.entry(step).or_default() += 1;
        }
    }
    let most = steps.values().copied().max().unwrap_or(0);
    let tick = steps.into_iter().find(|&(_, n)| n == most).map_or(Span::ZERO, |(step, _)| step);
    let (mut start, mut stamps) = (0, 0);
    while start < requests.len() {
        let at = requests[start].at;
        let end = start + requests[start..].iter().take_while(|r| r.at == at).count();
        let room = requests.get(end).map_or(tick, |next| tick.min(next.at - at));
        let n = (end - start) as u64;
        for (i, request) in requests[start..end].iter_mut().enumerate() {
            request.at = at + Span((u128::from(room.0) * i as u128 / u128::from(n)) as u64);
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
                (request.at, request.delay, request.awaited) = (at, None, false);
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

#[cfg(test)]
mod tests {
    use crate::workload::{Options, Per, Prompts, read_bytes};

    fn row(at: u64, more: &str) -> String {
        format!(r#"{{"timestamp":{at},"output_length":5,{more}}}"#)
    }

    #[test]
    fn times_count_from_the_first_row_in_every_format() {
        for text in [
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5270407,x,4,2,6,a\n5270450,x,4,2,6,a\n".to_owned(),
            [row(1_714_000_000_000, "\"input_length\":9"), row(1_714_000_043_000, "\"input_length\":9")].join("\n"),
            [row(1_714_000_000_000, "\"input_length\":9,\"hash_ids\":[1]"), row(1_714_000_043_000, "\"input_length\":9,\"hash_ids\":[1]")].join("\n"),
        ] {
            let times: Vec<f64> =
                read_bytes("t", text.as_bytes(), &Options::default()).unwrap().requests.iter().map(|r| r.at.secs()).collect();
            assert_eq!(times, [0.0, 43.0], "{text}");
        }
    }

    #[test]
    fn one_odd_stamp_leaves_the_spread_of_all_others() {
        let rows = |odd: bool| -> String {
            let mut rows: Vec<String> =
                (0..100).map(|i| row(3000 * (i / 10), &format!("\"input_length\":9,\"hash_ids\":[{i}]"))).collect();
            rows.extend(odd.then(|| row(1, "\"input_length\":9,\"hash_ids\":[999]")));
            rows.join("\n")
        };
        let times = |odd| -> Vec<u64> {
            let requests = read_bytes("t", rows(odd).as_bytes(), &Options::default()).unwrap().requests;
            requests.iter().map(|r| r.at.0).filter(|&at| at >= 3_000_000_000).collect()
        };
        assert_eq!(times(true), times(false));
        let first = read_bytes("t", rows(true).as_bytes(), &Options::default()).unwrap().requests;
        assert!(first[..10].iter().all(|r| r.at.ms() < 1.0), "no request passes the next stamp");
    }

    #[test]
    fn per_holds_where_rows_know_their_conversations_and_is_refused_elsewhere() {
        let rows: Vec<String> = [(0, "a", 10), (5, "b", 20), (9, "a", 30), (12, "a", 50)]
            .map(|(at, session, n)| row(at, &format!("\"session_id\":\"{session}\",\"input_length\":{n}")))
            .to_vec();
        let lengths = |per| -> Vec<u32> {
            let options = Options { per, ..Options::default() };
            read_bytes("t", rows.join("\n").as_bytes(), &options)
                .unwrap()
                .requests
                .iter()
                .map(|r| r.input_tokens)
                .collect()
        };
        assert_eq!(lengths(Per::Turn), [10, 20, 30, 50]);
        assert_eq!(lengths(Per::FirstPrompt), [10, 20]);
        assert_eq!(lengths(Per::Conversation), [20, 50]);
        let azure = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,3,4\n";
        let refuse = |options: Options| read_bytes("t", azure, &options).unwrap_err().to_string();
        assert!(refuse(Options { per: Per::FirstPrompt, ..Options::default() }).contains("rows of azure have none"));
        assert!(refuse(Options { min_chars: 3, ..Options::default() }).contains("min_chars needs texts"));
        let ids = row(0, "\"input_length\":600,\"hash_ids\":[900,901],\"block_size\":512");
        for (text, has) in [(rows[0].as_str(), "lengths only"), (&ids, "block ids only")] {
            let native = read_bytes("t", text.as_bytes(), &Options { min_chars: 3, ..Options::default() });
            let message = native.unwrap_err().to_string();
            assert!(message.contains("min_chars needs texts") && message.contains(has), "{message}");
        }
    }

    #[test]
    fn options_that_no_row_uses_and_turns_that_shrink_are_noted() {
        let own = row(0, "\"input_length\":40,\"hash_ids\":[1],\"block_size\":64");
        let notes = |text: &str, options: &Options| read_bytes("t", text.as_bytes(), options).unwrap().notes;
        let options = Options { block_tokens: Some(32), bytes_per_token: Some(3.0), ..Options::default() };
        let found = notes(&own, &options);
        assert!(found[0].starts_with("block_tokens = 32 has no effect"), "{found:?}");
        assert!(found[1].starts_with("bytes_per_token = 3 has no effect"), "{found:?}");
        let text = row(0, "\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]");
        assert!(notes(&text, &options).is_empty());
        let turns = |lengths: [u32; 3]| {
            let turn = |n: u32| row(u64::from(n), &format!("\"session_id\":\"a\",\"input_length\":{n}"));
            lengths.map(turn).join("\n").replace("\"timestamp\":", "\"turn\":1,\"timestamp\":")
        };
        let rising = turns([10, 20, 30]);
        assert!(notes(&rising, &Options::default()).is_empty());
        let shrinking = rising.replace("\"input_length\":20", "\"input_length\":5");
        let found = notes(&shrinking, &Options::default());
        assert!(found[0].starts_with("1 of 2 later turns have shorter prompts"), "{found:?}");
        assert!(notes(&shrinking, &Options { prompts: Prompts::Added, ..Options::default() }).is_empty());
    }

    #[test]
    fn first_counts_rows_and_nothing_left_says_why() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,3,0\n2023-11-16 18:15:47,3,4\n2023-11-16 18:15:48,3,4\n";
        let read = |first| read_bytes("t", text.as_bytes(), &Options { first: Some(first), ..Options::default() });
        assert_eq!(read(2).unwrap().requests.len(), 1);
        let message = read(1).unwrap_err().to_string();
        assert!(
            message.contains("1 rows read") && message.contains("1 left out: no prompt or no answer tokens"),
            "{message}"
        );
    }

    #[test]
    fn two_block_sizes_become_one_that_keeps_the_shared_prefixes_or_are_refused_with_the_line() {
        let rows = [
            row(0, "\"input_length\":600,\"hash_ids\":[900,901],\"block_size\":512"),
            row(1, "\"input_length\":640,\"hash_ids\":[0,1,2,3,4,5,6,7,8,9],\"block_size\":64"),
            row(2, "\"input_length\":600,\"hash_ids\":[900,902],\"block_size\":512"),
        ];
        let workload = read_bytes("t", rows.join("\n").as_bytes(), &Options::default()).unwrap();
        let [a, b, c] = workload.requests.as_slice() else { panic!("three rows") };
        assert_eq!((a.block_tokens, a.blocks.len(), b.blocks.len()), (64, 10, 10));
        assert_eq!(a.blocks.iter().zip(&c.blocks[..]).take_while(|(x, y)| x == y).count(), 8, "512 tokens are shared");
        assert_eq!(workload.notes, ["blocks of 64 and 512 tokens were brought to 64"]);
        let odd = [rows[0].clone(), row(1, "\"input_length\":30,\"hash_ids\":[1,2],\"block_size\":15")].join("\n");
        let message = read_bytes("t", odd.as_bytes(), &Options::default()).unwrap_err().to_string();
        assert!(message.starts_with("t:2: blocks of 15 tokens, but others have 512"), "{message}");
    }
}
