#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| gorgo_live::wire::answer_tap::fuzz(data));
