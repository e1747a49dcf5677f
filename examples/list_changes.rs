//! Lists where a snapshot and its origin may differ.
//!
//! ```text
//! cargo run --example list_changes COW ORIGIN
//! ```

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use dmsnap::blocking::Snapshot;

fn main() -> Result<(), Box<dyn Error>> {
    match &std::env::args_os().collect::<Vec<_>>()[..] {
        [_, cow, origin] => list_changes(cow.as_ref(), origin.as_ref(), &mut io::stdout().lock()),
        _ => Err("usage: list_changes COW ORIGIN".into()),
    }
}

/// One line for each stretch: its first byte, and the byte after its last.
pub(crate) fn list_changes(
    cow: &Path,
    origin: &Path,
    out: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    let snapshot = Snapshot::open(cow, origin)?;
    for range in snapshot.changed() {
        writeln!(out, "{} {}", range.start, range.end)?;
    }
    Ok(())
}
