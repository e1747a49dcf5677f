//! Damaged stores, and what is made of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsnap_fuzz::repair::run(data));
