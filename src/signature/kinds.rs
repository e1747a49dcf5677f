use super::table::{Entry, Kind};
use super::{filesystems, images, layers, partitions, raid};

/// Every entry there is, images first.
pub(super) fn entries() -> impl Iterator<Item = &'static Entry> {
    [images::TABLE, raid::TABLE, layers::TABLE, filesystems::TABLE, partitions::TABLE]
        .into_iter()
        .flatten()
}

/// Every kind there is.
pub fn kinds() -> impl Iterator<Item = &'static Kind> {
    entries().map(|entry| &entry.kind)
}
