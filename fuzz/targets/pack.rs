//! Packs, as they were written and as anybody else may write them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsnap_fuzz::pack::run(data));
