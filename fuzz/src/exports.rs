//! What the NBD server of the fuzz targets offers.

/// Of every export.
pub(crate) const LEN_BYTES: u64 = 64 << 10;

/// What is served, the default first.
pub(crate) const NAMES: [&str; 3] = ["origin", "s", "ro"];
