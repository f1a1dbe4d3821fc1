//! Tests of the whole engine. `harness` has what they share, `traps` one test for each known mistake of SGLang
//! simulators, `behaviour` everything around the steps, `laws` properties of random workloads.

mod behaviour;
mod harness;
mod laws;
mod traps;
