//! The state of each replica at the dispatch of each recorded request: waiting and running requests, the idle
//! connection, and the prefills that delayed its decode.

use crate::records::Row;
use gorgo_core::suggest::did_you_mean;
use gorgo_sim::engine::DecodeTimes;
use std::collections::{BTreeMap, HashSet};

/// One answered request with the state of its replica.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Index of the replica.
    pub(super) replica: usize,
    /// Dispatch, ms.
    pub(super) at: f64,
    pub(super) ttft: f64,
    /// From the first to the last token, ms.
    pub(super) decode: f64,
    pub(super) prompt: f64,
    pub(super) output: f64,
    /// Prompt tokens that the engine had to compute.
    pub(super) uncached: f64,
    /// Requests there without a first token at dispatch, and the sum of their uncached tokens.
    pub(super) waiting: f64,
    pub(super) waiting_tokens: f64,
    /// Requests there that were decoding at dispatch.
    pub(super) running: f64,
    /// How long the connection that was used last had been idle, ms; infinite when none was free. Older ones are closed
    /// before it, so a request opens one exactly if this is beyond the limit.
    pub(super) idle: f64,
    /// Mean batch of its decode steps, as the engine pads it.
    pub(super) batch: f64,
    /// Largest batch while it decoded.
    pub(super) most: f64,
    /// Prefills there while it decoded: of tiny prompts, of others, and the uncached tokens of these others.
    pub(super) tiny_stalls: f64,
    pub(super) other_stalls: f64,
    pub(super) stalled_tokens: f64,
}

/// The requests of one arm and its replicas.
#[derive(Debug, Clone, Default)]
pub(super) struct Fleet {
    pub(super) replicas: Vec<String>,
    pub(super) seen: Vec<Seen>,
}

/// Prompts up to this many tokens show the network and the least step of an engine, and nothing else.
pub(super) const TINY: f64 = 64.0;

/// The replica of records that name none.
const LONE: &str = "server";

/// A request while its replica's state is made.
struct Life {
    seen: Option<usize>,
    at: f64,
    first: f64,
    done: f64,
    uncached: f64,
    tiny: bool,
}

/// Prompt tokens to compute: known from the engine, else in proportion to what the router believed to be cached, because
/// template and tool text that routers do not count is cached with the rest.
fn uncached(row: &Row) -> Option<f64> {
    let prompt = row.tokens()?;
    let share = match (row.cached_tokens, row.believed_tokens.zip(row.router_tokens)) {
        (Some(cached), _) => return Some((prompt - cached).max(1.0)),
        (None, Some((believed, counted))) if counted > 0.0 => (believed / counted).clamp(0.0, 1.0),
        _ => 0.0,
    };
    Some((prompt * (1.0 - share)).max(1.0))
}

/// Dispatch, first token at the router after it, and the time from the first to the last token. Stages take out the way
/// between user and router and the router's queue; without them the table's times are taken to be a proxy's.
fn instants(row: &Row) -> Option<(f64, f64, f64)> {
    let (at, ttft, e2e) = (row.at?, row.ttft?, row.e2e?);
    let stage = |name: &str| row.stages.iter().find(|(known, _)| &**known == name).map(|(_, length)| *length);
    let first = match (stage("forward"), stage("first-token")) {
        (Some(way), Some(wait)) => way + wait,
        _ => return Some((at, ttft, e2e - ttft)),
    };
    Some((at + stage("uplink").unwrap_or_default() + stage("queue").unwrap_or_default(), first, e2e - ttft))
}

impl Fleet {
    /// The state of the replicas at each request of one arm. Rows of a load generator name no replica: without any name they
    /// are those of one server.
    pub(super) fn of(rows: &[&Row]) -> Self {
        let mut names: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        let mut replicas: Vec<String> =
            rows.iter().filter_map(|row| row.replica.as_deref()).map(str::to_owned).collect();
        replicas.sort();
        replicas.dedup();
        let lone = replicas.is_empty();
        if lone {
            replicas.push(LONE.to_owned());
        }
        let mut fleet = Self { replicas, seen: Vec::new() };
        let mut lives: Vec<Vec<Life>> = Vec::new();
        for row in rows {
            let named = row.replica.as_deref().or(lone.then_some(LONE));
            let (Some(at), Some(replica)) = (row.at, named) else { continue };
            // Runs do not meet each other.
            let next = names.len();
            let place = *names.entry((&row.run, replica)).or_insert(next);
            if place == lives.len() {
                lives.push(Vec::new());
            }
            let life = match (row.ok, instants(row), uncached(row)) {
                (true, Some((at, ttft, decode)), Some(uncached)) if decode >= 0.0 && ttft >= 0.0 => {
                    let index = fleet.replicas.binary_search_by(|name| name.as_str().cmp(replica)).unwrap_or_default();
                    fleet.seen.push(Seen {
                        replica: index,
                        at,
                        ttft,
                        decode,
                        prompt: row.tokens().unwrap_or_default(),
                        output: row.output_tokens.unwrap_or_default(),
                        uncached,
                        ..Seen::default()
                    });
                    let tiny = row.tokens().is_some_and(|tokens| tokens <= TINY);
                    Life {
                        seen: Some(fleet.seen.len() - 1),
                        at,
                        first: at + ttft,
                        done: at + ttft + decode,
                        uncached,
                        tiny,
                    }
                }
                // A refused request uses a connection and nothing else.
                _ => {
                    let end = at + row.e2e.unwrap_or_default();
                    Life { seen: None, at, first: end, done: end, uncached: 0.0, tiny: false }
                }
            };
            lives[place].push(life);
        }
        for lives in &lives {
            fleet.dispatches(lives);
            fleet.decodes(lives);
        }
        fleet
    }

    /// What each request met at its dispatch.
    fn dispatches(&mut self, lives: &[Life]) {
        // 0: done, 1: first token, 2: dispatch; what ends at an instant makes room for what begins there.
        let mut events: Vec<(f64, u8, usize)> = Vec::with_capacity(lives.len() * 3);
        for (i, life) in lives.iter().enumerate() {
            events.extend([(life.at, 2, i), (life.first, 1, i), (life.done, 0, i)]);
        }
        events.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let (mut waiting, mut tokens, mut running) = (0.0, 0.0, 0.0);
        // Idle connections, the latest last: that one is taken.
        let mut idle: Vec<f64> = Vec::new();
        let mut begun = vec![0u8; lives.len()];
        for (at, kind, i) in events {
            let life = &lives[i];
            let works = life.seen.is_some();
            match kind {
                2 => {
                    let since = idle.pop();
                    let silent = since.map_or(f64::INFINITY, |since| at - since);
                    if let Some(seen) = life.seen {
                        let seen = &mut self.seen[seen];
                        (seen.waiting, seen.waiting_tokens, seen.running) = (waiting, tokens, running);
                        seen.idle = silent;
                    }
                    begun[i] = 1;
                    if works {
                        (waiting, tokens) = (waiting + 1.0, tokens + life.uncached);
                    }
                }
                1 if works && begun[i] == 1 => {
                    (waiting, tokens, running) = (waiting - 1.0, tokens - life.uncached, running + 1.0);
                    begun[i] = 2;
                }
                0 => {
                    if works && begun[i] == 2 {
                        running -= 1.0;
                    }
                    idle.push(at);
                }
                _ => {}
            }
        }
    }

    /// What each answer met while it was decoded.
    fn decodes(&mut self, lives: &[Life]) {
        let graphs = DecodeTimes { cuda_graph_max_bs: 256, ..gorgo_sim::engine::EngineConfig::default().decode };
        let works: Vec<&Life> = lives.iter().filter(|life| life.seen.is_some()).collect();
        let mut steps: Vec<(f64, i32)> = works.iter().flat_map(|life| [(life.first, 1), (life.done, -1)]).collect();
        steps.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        // The integral of the padded batch over time, at each step.
        let (mut areas, mut levels) = (Vec::with_capacity(steps.len()), Vec::with_capacity(steps.len()));
        let (mut sum, mut level, mut last) = (0.0, 0i32, steps.first().map_or(0.0, |s| s.0));
        for &(at, step) in &steps {
            sum += f64::from(graphs.padded(level.max(0) as u32)) * (at - last);
            (level, last) = (level + step, at);
            areas.push(sum);
            levels.push(level);
        }
        let integral = |at: f64| {
            let next = steps.partition_point(|step| step.0 <= at);
            let Some(before) = next.checked_sub(1) else { return 0.0 };
            areas[before] + f64::from(graphs.padded(levels[before].max(0) as u32)) * (at - steps[before].0)
        };
        let mut firsts: Vec<&Life> = works.clone();
        firsts.sort_by(|a, b| a.first.total_cmp(&b.first));
        // Sums over the first tokens up to each: tiny prompts, others, uncached tokens of the others.
        let mut sums = vec![[0.0; 3]];
        for life in &firsts {
            let [tiny, other, tokens] = sums[sums.len() - 1];
            let next =
                if life.tiny { [tiny + 1.0, other, tokens] } else { [tiny, other + 1.0, tokens + life.uncached] };
            sums.push(next);
        }
        for life in works {
            let Some(seen) = life.seen.map(|i| &mut self.seen[i]) else { continue };
            let length = life.done - life.first;
            if length > 0.0 {
                seen.batch = ((integral(life.done) - integral(life.first)) / length).max(1.0);
            }
            let (from, to) = (
                firsts.partition_point(|other| other.first <= life.first),
                firsts.partition_point(|other| other.first < life.done),
            );
            if to > from {
                let between = |i: usize| sums[to][i] - sums[from][i];
                (seen.tiny_stalls, seen.other_stalls, seen.stalled_tokens) = (between(0), between(1), between(2));
            }
            let (a, b) = (steps.partition_point(|s| s.0 <= life.first), steps.partition_point(|s| s.0 < life.done));
            // A look at some of the steps is enough for a range that is only shown.
            let stride = ((b.max(a) - a) / 64).max(1);
            seen.most = levels[a.min(b)..b].iter().step_by(stride).map(|&n| f64::from(n)).fold(seen.batch, f64::max);
        }
    }
}

/// The rows without copies (same run, id, time and replica), which would meet themselves at their replica, and how many
/// copies there were.
pub(super) fn without_copies(rows: Vec<&Row>) -> (Vec<&Row>, usize) {
    let all = rows.len();
    let mut seen = HashSet::new();
    let once: Vec<&Row> = rows
        .into_iter()
        .filter(|row| seen.insert((&*row.run, &*row.id, row.at.map(f64::to_bits), row.replica.as_deref())))
        .collect();
    let copies = all - once.len();
    (once, copies)
}

/// The arm to fit on: the one that is named, or the only one.
pub(super) fn arm_of<'a>(arms: &'a [std::sync::Arc<str>], wanted: Option<&str>) -> Result<&'a str, String> {
    let names = || arms.iter().map(|name| &**name);
    match wanted {
        Some(name) => names().find(|known| *known == name).ok_or_else(|| {
            format!(
                "the records have no arm `{name}`; {}",
                did_you_mean(name, names().collect::<Vec<_>>().iter().copied())
            )
        }),
        None if arms.len() == 1 => Ok(&arms[0]),
        None => {
            let all = names().take(12).collect::<Vec<_>>().join(", ");
            Err(format!(
                "the records have {} arms ({all}); name the one to fit on with --arm, best one that chose at random",
                arms.len()
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u32, at: f64, ttft: f64, e2e: f64, prompt: f64, output: f64) -> Row {
        Row {
            arm: "x".into(),
            run: "".into(),
            id: id.to_string().into(),
            at: Some(at),
            scheduled: None,
            replica: Some("a".into()),
            prompt_tokens: Some(prompt),
            router_tokens: None,
            cached_tokens: Some(0.0),
            believed_tokens: None,
            output_tokens: Some(output),
            ttft: Some(ttft),
            e2e: Some(e2e),
            ok: true,
            stages: Vec::new(),
        }
    }

    #[test]
    fn each_request_sees_who_waited_ran_and_which_connection_was_free() {
        let rows = [
            row(0, 0.0, 100.0, 1000.0, 50.0, 10.0),
            row(1, 50.0, 200.0, 400.0, 900.0, 10.0),
            row(2, 300.0, 100.0, 900.0, 20.0, 10.0),
            row(3, 9000.0, 100.0, 900.0, 20.0, 10.0),
        ];
        let fleet = Fleet::of(&rows.iter().collect::<Vec<_>>());
        let [a, b, c, d] = &fleet.seen[..] else { panic!() };
        assert_eq!((a.waiting, a.running, a.idle), (0.0, 0.0, f64::INFINITY));
        assert_eq!((b.waiting, b.waiting_tokens, b.running, b.idle), (1.0, 50.0, 0.0, f64::INFINITY));
        // The first answers, the second has its first token at 250 and ends at 450.
        assert_eq!((c.waiting, c.running), (0.0, 2.0));
        assert_eq!((d.idle, d.running), (7800.0, 0.0));
        // While the first decodes (100 to 1000), a long and a short prompt are prefilled.
        assert_eq!((a.tiny_stalls, a.other_stalls, a.stalled_tokens), (1.0, 1.0, 900.0));
        // Batches: 1 to 250, 2 to 400, 3 (padded to 4) to 450, 2 to 1000.
        let mean = (150.0 + 150.0 * 2.0 + 50.0 * 4.0 + 550.0 * 2.0) / 900.0;
        assert!((a.batch - mean).abs() < 1e-9, "{} {mean}", a.batch);
    }

    #[test]
    fn copies_of_a_row_count_once_and_a_second_attempt_counts() {
        let mut again = row(0, 700.0, 100.0, 500.0, 50.0, 10.0);
        again.replica = Some("b".into());
        let rows = [row(0, 0.0, 100.0, 500.0, 50.0, 10.0), row(0, 0.0, 100.0, 500.0, 50.0, 10.0), again];
        let (once, copies) = without_copies(rows.iter().collect());
        assert_eq!((once.len(), copies), (2, 1));
    }

    #[test]
    fn a_kept_connection_is_taken_and_a_refused_request_uses_one() {
        let mut refused = row(1, 600.0, 0.0, 50.0, 10.0, 1.0);
        (refused.ok, refused.ttft) = (false, None);
        let rows = [row(0, 0.0, 100.0, 500.0, 50.0, 10.0), refused, row(2, 5500.0, 100.0, 900.0, 20.0, 10.0)];
        let fleet = Fleet::of(&rows.iter().collect::<Vec<_>>());
        assert_eq!(fleet.seen.len(), 2);
        assert_eq!(fleet.seen[1].idle, 4850.0);
        assert_eq!(fleet.seen[1].running, 0.0);
    }

    #[test]
    fn what_a_router_believed_stands_for_the_engines_cache_in_proportion() {
        let mut one = row(0, 0.0, 1.0, 2.0, 2000.0, 1.0);
        (one.cached_tokens, one.believed_tokens, one.router_tokens) = (None, Some(500.0), Some(1000.0));
        assert_eq!(uncached(&one), Some(1000.0));
        (one.believed_tokens, one.router_tokens) = (None, None);
        assert_eq!(uncached(&one), Some(2000.0));
    }
}
