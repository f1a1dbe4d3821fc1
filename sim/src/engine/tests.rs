//! Tests of the whole engine. `harness` has what they share, `traps` and `cache_traps` one test for each known
//! mistake of SGLang simulators, `behaviour` everything around the steps, `laws` properties of random workloads,
//! `vllm` the rules of vLLM's scheduler, `recorded` its presets against the runs they were fitted on.

mod behaviour;
mod cache_traps;
mod harness;
mod laws;
mod recorded;
mod traps;
mod vllm;
