//! Traces that come with the crate. Origin and licence of each stand in `DATA.md`.

/// A built-in trace.
#[derive(Debug, Clone, Copy)]
pub struct Shipped {
    /// The name it is opened by.
    pub name: &'static str,
    /// Description in one line.
    pub about: &'static str,
    /// The file, as it would lie on disk.
    pub bytes: &'static [u8],
}

/// All built-in traces.
pub const SHIPPED: [Shipped; 4] = [
    Shipped {
        name: "wildchat-located",
        about: "176 real WildChat conversations as structure: 663 turns with times, places, lengths, blocks of 16 tokens",
        bytes: include_bytes!("../data/wildchat-located.jsonl.gz"),
    },
    Shipped {
        name: "mooncake-conversation",
        about: "Mooncake FAST'25 conversation trace, whole: 12,031 requests in one hour, blocks of 512 tokens",
        bytes: include_bytes!("../data/mooncake-conversation.jsonl.gz"),
    },
    Shipped {
        name: "azure-conv",
        about: "Azure LLM inference trace 2023, conversation, the first 6,000 requests: times and lengths",
        bytes: include_bytes!("../data/azure-conv.csv.gz"),
    },
    Shipped {
        name: "agentic-sessions",
        about: "692 sessions of coding agents, 46,218 requests that wait for each other, blocks of 256 tokens",
        bytes: include_bytes!("../data/agentic-sessions.jsonl.gz"),
    },
];

/// The built-in trace of that name.
pub fn find(name: &str) -> Option<Shipped> {
    SHIPPED.into_iter().find(|s| s.name == name)
}

/// All names, for messages.
pub fn names() -> String {
    SHIPPED.map(|s| s.name).join(", ")
}

#[cfg(test)]
mod tests {
    use crate::workload::{Arrivals, Format, Options, open, stats::Stats};

    #[test]
    fn located_wildchat_keeps_the_lengths_places_and_reuse_of_its_source() {
        let workload = open("wildchat-located", &Options::default()).unwrap();
        let stats = Stats::of(&workload.requests);
        assert_eq!((workload.format, stats.requests, stats.sessions), (Format::Native, 663, 176));
        assert_eq!((stats.countries.len(), stats.unknown_place), (52, 0));
        assert_eq!((stats.input.p50, stats.input.max, stats.input.mean.round()), (647, 11_105, 1_285.0));
        assert_eq!((stats.prompts.global * 100.0).round(), 68.0);
        assert!(stats.with_answers.own > 0.85, "later turns find the answers too");
        assert!(workload.notes.is_empty());
    }

    #[test]
    fn coding_agents_wait_for_their_answers_and_share_the_heads_of_their_tools() {
        let workload = open("agentic-sessions", &Options::default()).unwrap();
        let requests = &workload.requests;
        let first = requests.iter().filter(|r| r.delay.is_none()).count();
        assert_eq!((requests.len(), first, requests.iter().filter(|r| r.awaited).count()), (46_218, 692, 45_526));
        let heads: std::collections::BTreeSet<u64> =
            requests.iter().filter(|r| r.turn == 1).map(|r| r.blocks[0]).collect();
        assert!((2..400).contains(&heads.len()), "{}", heads.len());
        // Of the source: 96.3 % of a session's prompt tokens repeat its turn before, in blocks of 64.
        let (mut found, mut tokens) = (0, 0);
        let mut before: std::collections::BTreeMap<u64, &[u64]> = std::collections::BTreeMap::new();
        for r in requests {
            let last = before.insert(r.session, &r.blocks).unwrap_or_default();
            found += 256 * last.iter().zip(r.blocks.iter()).take_while(|(a, b)| a == b).count();
            tokens += r.input_tokens as usize;
        }
        let share = found as f64 / tokens as f64;
        assert!((0.93..0.97).contains(&share), "{share}");
        assert!(workload.notes.is_empty(), "{:?}", workload.notes);
    }

    #[test]
    fn no_shipped_trace_holds_text() {
        for trace in super::SHIPPED {
            let lines = crate::workload::lines::Lines::new(trace.name, trace.bytes).unwrap();
            for line in lines {
                let (_, text) = line.unwrap();
                let words = ["content", "messages", "prompt", "hashed_ip"];
                assert!(words.iter().all(|w| !text.contains(w)), "{}", trace.name);
            }
        }
    }

    #[test]
    fn poisson_sessions_keep_pauses_and_reach_the_rate() {
        let recorded = open("wildchat-located", &Options::default()).unwrap().requests;
        let options = Options { arrivals: Arrivals::PoissonSessions(2.0), seed: 3, ..Options::default() };
        let drawn = open("wildchat-located", &options).unwrap().requests;
        let of = |requests: &[gorgo_core::request::TraceRequest], session| -> Vec<_> {
            requests.iter().filter(|r| r.session == session).map(|r| r.at).collect()
        };
        let (a, b) = (of(&recorded, 12), of(&drawn, 12));
        assert_eq!(a.iter().map(|t| *t - a[0]).collect::<Vec<_>>(), b.iter().map(|t| *t - b[0]).collect::<Vec<_>>());
        let last_start = drawn.iter().filter(|r| r.turn == 1).map(|r| r.at).max().unwrap();
        assert!((150.0..600.0).contains(&last_start.secs()), "176 conversations at 0.53/s: {}", last_start.secs());
        assert_eq!(drawn, open("wildchat-located", &options).unwrap().requests, "equal seeds, equal times");
    }

    #[test]
    fn poisson_requests_keep_order_and_rate_and_scale() {
        let options = |time_scale| Options { arrivals: Arrivals::Poisson(5.0), time_scale, ..Options::default() };
        let drawn = open("wildchat-located", &options(1.0)).unwrap().requests;
        let rate = 663.0 / drawn[662].at.secs();
        assert!((4.4..5.6).contains(&rate), "{rate}");
        let recorded = open("wildchat-located", &Options::default()).unwrap().requests;
        assert!(drawn.iter().zip(&recorded).all(|(d, r)| (d.session, d.turn) == (r.session, r.turn)));
        let slow = open("wildchat-located", &options(2.0)).unwrap().requests;
        assert!((slow[662].at.secs() / drawn[662].at.secs() - 2.0).abs() < 1e-6);
    }
}
