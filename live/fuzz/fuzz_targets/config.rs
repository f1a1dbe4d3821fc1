#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| gorgo_live::config::fuzz(data));
