//! Helpers of the engine's tests: short request constructors and a driver.

use crate::engine::steps::mix;
use crate::engine::{DecodeTimes, Engine, EngineConfig, EngineEvent, EngineRequest, PrefillTimes};
use gorgo_core::{RequestId, Time};

/// Tokens a block in these tests.
pub(super) const BLOCK: u32 = 16;

/// Easy numbers: prefill 1 ms a token, decode 10 ms a step, no other cost, no noise.
pub(super) fn plain() -> EngineConfig {
    EngineConfig {
        prefill: PrefillTimes { fixed_ms: 0.0, weights_ms: 0.0, ms_per_token: 1.0, ms_per_pair: 0.0, floor_ms: 0.0 },
        decode: DecodeTimes {
            fixed_ms: 10.0,
            weights_ms: 0.0,
            row_compute_ms: 0.0,
            ms_per_row: 0.0,
            ms_per_context_token: 0.0,
            eager_ms: 0.0,
            cuda_graph_max_bs: 256,
        },
        step_noise: 0.0,
        kv_tokens: 100_000,
        tokenizer_fixed_ms: 0.0,
        tokenizer_ms_per_token: 0.0,
        receive_ms: 0.0,
        output_ms: 0.0,
        ..EngineConfig::default()
    }
}

/// A request of conversation `chat`: all requests of a conversation are prefixes of one endless text, and their
/// answers are its continuation.
pub(super) fn ask(id: u64, chat: u64, input: u32, output: u32) -> EngineRequest {
    let whole = |b: u32| mix(mix(chat + 1) ^ u64::from(b));
    let mut blocks: Vec<u64> = (0..input / BLOCK).map(whole).collect();
    if !input.is_multiple_of(BLOCK) {
        blocks.push(mix(mix(chat + 1) ^ (u64::from(input) << 32)));
    }
    EngineRequest {
        id: RequestId(id),
        input_tokens: input,
        output_tokens: output,
        max_new_tokens: Some(output),
        block_tokens: BLOCK,
        refused: false,
        blocks: blocks.into(),
        answer_blocks: (input / BLOCK..(input + output) / BLOCK).map(whole).collect(),
    }
}

/// An engine and all its events so far.
pub(super) struct Bench {
    pub(super) engine: Engine,
    pub(super) events: Vec<EngineEvent>,
}

impl Bench {
    pub(super) fn new(config: EngineConfig) -> Self {
        Self { engine: Engine::new(config, 1).unwrap(), events: Vec::new() }
    }

    pub(super) fn submit(&mut self, ms: f64, request: EngineRequest) {
        self.engine.advance(Time::from_ms(ms), &mut self.events);
        self.engine.submit(Time::from_ms(ms), request).unwrap();
    }

    pub(super) fn to(&mut self, ms: f64) {
        self.engine.advance(Time::from_ms(ms), &mut self.events);
    }

    pub(super) fn cancel(&mut self, ms: f64, id: u64) -> bool {
        self.engine.cancel(Time::from_ms(ms), RequestId(id), &mut self.events)
    }

    /// Follows `next_event` until nothing is left.
    pub(super) fn drain(&mut self) {
        for _ in 0..1_000_000 {
            let Some(at) = self.engine.next_event() else { return };
            self.engine.advance(at, &mut self.events);
        }
        panic!("the engine does not come to rest: {:?}", self.engine.loads(Time::NEVER));
    }

    fn find(&self, id: u64, pick: impl Fn(&EngineEvent) -> Option<f64>) -> f64 {
        self.events.iter().filter(|e| e.id() == RequestId(id)).find_map(pick).unwrap_or(f64::NAN)
    }

    /// Start of the request's first prefill step, ms; NaN if it was not reached. The methods below are alike.
    pub(super) fn prefill(&self, id: u64) -> f64 {
        self.find(id, |e| matches!(e, EngineEvent::PrefillStarted { .. }).then(|| e.at().ms()))
    }

    pub(super) fn first(&self, id: u64) -> f64 {
        self.find(id, |e| matches!(e, EngineEvent::FirstToken { .. }).then(|| e.at().ms()))
    }

    pub(super) fn finished(&self, id: u64) -> f64 {
        self.find(id, |e| matches!(e, EngineEvent::Finished { .. }).then(|| e.at().ms()))
    }

    pub(super) fn cached(&self, id: u64) -> u32 {
        self.find(id, |e| match e {
            EngineEvent::PrefillStarted { cached_tokens, .. } => Some(f64::from(*cached_tokens)),
            _ => None,
        }) as u32
    }

    pub(super) fn retractions(&self, id: u64) -> u32 {
        self.find(id, |e| match e {
            EngineEvent::Finished { retractions, .. } => Some(f64::from(*retractions)),
            _ => None,
        }) as u32
    }
}
