//! Every legal chunk size: one after the other, or drawn at random.

use dmsnap_format::{ChunkSize, Layout};
use proptest::prelude::*;

/// How many chunk sizes are legal: 1, 2, 4 ... 2097152 sectors.
pub(crate) const SIZES: u32 = 22;

/// The layouts of all legal chunk sizes, smallest first.
pub(crate) fn layouts() -> impl Iterator<Item = Layout> {
    (0..SIZES).map(with_shift)
}

/// The layout of any legal chunk size.
pub(crate) fn any_layout() -> impl Strategy<Value = Layout> {
    (0..SIZES).prop_map(with_shift)
}

fn with_shift(shift: u32) -> Layout {
    Layout::new(ChunkSize::from_sectors(1 << shift).expect("a legal chunk size"))
}
