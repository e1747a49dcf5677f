//! Headers, and what follows from them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsnap_fuzz::header::run(data));
