#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| gorgo_live::testkit::fuzz::request_fields(data));
