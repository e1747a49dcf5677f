//! Clients of the NBD server.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsnap_fuzz::nbd::run(data));
