//! Disks that LVM wrote, spoilt.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsnap_fuzz::lvm::run(data));
