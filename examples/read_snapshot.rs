//! Writes some bytes of what a snapshot shows to the standard output.
//!
//! ```text
//! cargo run --example read_snapshot COW ORIGIN POSITION LENGTH
//! ```

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use dmsnap::blocking::Snapshot;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().collect();
    match &args[1..] {
        [cow, origin, position, len] => {
            let (position, len) = (position.parse()?, len.parse()?);
            let bytes = read_snapshot(cow.as_ref(), origin.as_ref(), position, len)?;
            Ok(io::stdout().write_all(&bytes)?)
        }
        _ => Err("usage: read_snapshot COW ORIGIN POSITION LENGTH".into()),
    }
}

/// Wherever the bytes lie now: on the COW device, on the origin, or some on each.
pub(crate) fn read_snapshot(
    cow: &Path,
    origin: &Path,
    position: u64,
    len: usize,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let snapshot = Snapshot::open(cow, origin)?;
    let mut bytes = vec![0; len];
    snapshot.read_exact_at(&mut bytes, position)?;
    Ok(bytes)
}
