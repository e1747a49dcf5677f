//! Real files, opened by whatever name they have.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsnap_fuzz::open::run(data));
