use dmsnap_nbd::{Context, Extent};

use crate::export::{self, ORIGIN, StatusKind};

const _: () = assert!(export::HOLE == dmsnap_nbd::HOLE && export::ZERO == dmsnap_nbd::ZERO);

/// What clients call a kind of status.
pub(super) fn context(kind: &StatusKind) -> Context {
    match kind {
        StatusKind::Allocation => Context::base_allocation(),
        StatusKind::Depth => Context::allocation_depth(),
        StatusKind::DiffersFromOrigin => Context::dirty_bitmap(ORIGIN),
        StatusKind::ChangedSince { snapshot, .. } => Context::dirty_bitmap(snapshot),
    }
}

/// The same extents, for a reply.
pub(super) fn told(extents: Vec<export::Extent>) -> Vec<Extent> {
    let told = |export::Extent { len_bytes, flags }| Extent { len_bytes, flags };
    extents.into_iter().map(told).collect()
}
