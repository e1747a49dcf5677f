use std::io;
use std::ops::Range;

/// Flag of [`StatusKind::Allocation`]: nothing is allocated here.
pub const HOLE: u32 = 1 << 0;

/// Flag of [`StatusKind::Allocation`]: reads as zeroes.
pub const ZERO: u32 = 1 << 1;

/// Consecutive bytes of the same status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// In bytes.
    pub len_bytes: u64,
    /// What they mean is up to the [`StatusKind`].
    pub flags: u32,
}

/// What can be asked about a range of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StatusKind {
    /// What is a hole and what reads as zeroes: [`HOLE`], [`ZERO`].
    Allocation,
    /// The flags are the depth of the layer that holds the bytes, from 1 on; 0 if none does.
    Depth,
    /// The flags are 1 where the bytes may differ from the origin's, or may have changed on it since this snapshot
    /// was made.
    DiffersFromOrigin,
    /// The flags are 1 where the bytes may have changed since a snapshot was made: may differ from what it shows.
    ChangedSince {
        /// The snapshot's name.
        snapshot: String,
        /// Its number: another snapshot that comes under the same name has another one.
        id: u64,
    },
}

/// What an export said about `range`, as it may be told: cut to the range and to `most`, nothing
/// empty, no two neighbours alike.
pub(super) fn tidied(
    extents: Vec<Extent>,
    range: &Range<u64>,
    most: usize,
) -> io::Result<Vec<Extent>> {
    let mut left = range.end - range.start;
    let mut tidy: Vec<Extent> = Vec::with_capacity(extents.len().min(most));
    for extent in extents {
        let len_bytes = extent.len_bytes.min(left);
        left -= len_bytes;
        let full = tidy.len() == most;
        match tidy.last_mut() {
            _ if len_bytes == 0 => {}
            Some(last) if last.flags == extent.flags => last.len_bytes += len_bytes,
            _ if full => break,
            _ => tidy.push(Extent { len_bytes, ..extent }),
        }
    }
    if tidy.is_empty() {
        return Err(io::Error::other("the export says nothing about the range"));
    }
    Ok(tidy)
}
