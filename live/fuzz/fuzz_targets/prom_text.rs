#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| gorgo_live::prom_text::fuzz(data));
