use std::fmt;
use std::ops::Range;

use crate::size::Bytes;

/// A range of bytes: the first, how many, and that for people.
pub(super) struct Line(pub(super) Range<u64>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.0.end - self.0.start;
        write!(f, "{} {length}  {}", self.0.start, Bytes(length))
    }
}
