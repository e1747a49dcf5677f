//! Laws that can be broken on purpose, so that those who prove the code see that it is noticed.
//! Without the feature of this name nothing here costs anything, or can be reached.

/// A law, broken in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted"), allow(unreachable_pub))]
#[allow(missing_docs, reason = "each is one line of code, where it says what it leaves out")]
pub enum Planted {
    // The store.
    PublishBeforeData,
    UnitsWithoutFlush,
    AreasAfterLink,
    BelieveWithoutFlush,
    BelieveCache,
    KeepStrays,
    KeepTail,
    NoTerminatorArea,
    LastChunkGiven,
    MetadataGiven,
    MetadataGivenOnLoad,
    OutOfStep,
    ClearFront,
    MemoryBeforeClear,
    InvalidWithoutFlush,
    MarkedOnce,
    InvalidOpens,
    HeaderBeforeArea,
    GoOnAfterFailure,
    ForgetFailedFlush,
    FlushWhenBroken,
    BelieveExceptions,
    FenceOfExceptions,
    KeepFence,
    KeepAfterMerge,
    UndoWithoutKeeping,
    TagBeforeHeader,
    // The volume.
    FlushWithoutPublish,
    TrustVisible,
    OriginWithoutCopy,
    ReadsNotHeld,
    TwoExceptions,
    PartWithoutRest,
    MergeUnprotected,
    MergeOverReads,
    MergingTakesExceptions,
    ForgetDirty,
    HoldNobody,
    DirtyBeforeWrite,
    ClearBeforeOriginFlush,
    OfflineClearBeforeFlush,
    CancelWithoutFlush,
    CancelBroken,
    FlushForgetsOrigin,
    FullLetsThrough,
    GrowthFails,
    UnmarkedLetsThrough,
    CowErrorHarmsOrigin,
    CowErrorKept,
    DiscardTouchesEdges,
    DiscardWhileMerging,
    AddWithoutFlush,
    AddBesideWrites,
    OriginFlushForgotten,
    LostChunksShown,
    BacklogNotFlushed,
    BacklogUnprotected,
    BacklogUnseen,
    BacklogOvertaken,
    BacklogForgets,
    BacklogRoomTaken,
    RemoveBeforeBacklog,
    RemovedIsWritten,
    StatusOfTwoMoments,
    BitmapForgetsMerge,
    GateWaitsForHung,
    KeepsSettledTogether,
    MarksOfOthers,
    GatheredOverTime,
    NeedsNoPartner,
    WriteUnclaimed,
    ExchangeUnflushed,
}

#[cfg(feature = "planted")]
mod chosen {
    use std::cell::Cell;

    use super::Planted;

    thread_local! {
        static CHOSEN: Cell<Option<Planted>> = const { Cell::new(None) };
    }

    /// Breaks this law on this thread, and no other.
    pub fn plant(law: Option<Planted>) {
        CHOSEN.set(law);
    }

    /// True if this law is to be broken here.
    pub(crate) fn planted(law: Planted) -> bool {
        CHOSEN.get() == Some(law)
    }
}

#[cfg(feature = "planted")]
pub use chosen::plant;
#[cfg(feature = "planted")]
pub(crate) use chosen::planted;

/// True if this law is to be broken here: never.
#[cfg(not(feature = "planted"))]
pub(crate) const fn planted(_: Planted) -> bool {
    false
}
