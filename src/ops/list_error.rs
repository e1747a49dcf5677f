use std::io;

use dmsnap_format::Exception;

use crate::store::Fault;

/// Why a list is not one that a store can be made from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// What it is read from failed.
    #[error("cannot read the dump: {0}")]
    Read(#[source] io::Error),
    /// Something else begins it, or nothing does.
    #[error("not a restorable dump: its first line does not describe a store")]
    NoStore,
    /// It ends without its last entry.
    #[error("the dump is cut off after line {lines}: it has no end line")]
    CutOff {
        /// Entries before the cut.
        lines: u64,
    },
    /// An entry cannot be what was dumped.
    #[error("the dump is damaged: line {line} {found}")]
    Line {
        /// From 1.
        line: u64,
        /// What is wrong with it, as in "is not a run".
        found: &'static str,
    },
    /// The end does not fit what comes before it.
    #[error("the dump is damaged: {told} does not fit what its end line says")]
    Sum {
        /// The exceptions, or the checksum.
        told: &'static str,
    },
    /// An exception that no store may have.
    #[error("line {line}: the exception {} -> {} {fault}", exception.old, exception.new)]
    Fault {
        /// From 1.
        line: u64,
        /// What it says.
        exception: Exception,
        /// What is wrong with it.
        fault: Fault,
    },
    /// It was another one when it was read again.
    #[error("the dump was changed while it was read; no store is left on the device")]
    Changed,
}
