//! Any store, opened and used.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsnap_fuzz::image::run(data));
