//! Lists of exceptions.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsnap_fuzz::areas::run(data));
