//! Clients of the NBD server that encrypt, or should.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsnap_fuzz::tls::run(data));
