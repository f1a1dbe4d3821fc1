#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| gorgo_live::signals::prom_text::fuzz(data));
