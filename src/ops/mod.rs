//! Whole tasks on stores, one function each. They know nothing of terminals and exit statuses;
//! what takes long tells an [`Observer`] how far it is.

mod error; // what can go wrong, and with which device
mod devices; // sizes, blocks, and which of them is the store
mod create;
mod info;
mod finding; // what a check has to say
mod check;
mod dump;
mod checksum; // of dumps and packs
mod list_error; // what can be wrong with a list of exceptions
mod listing; // a dump from which a store can be made again
mod restore; // that store
mod wipe; // a store that is given away
mod pack; // metadata alone, in one file
mod export;
mod stream; // the same, to a pipe
mod merge;
mod room; // what a store would have to take over, and whether it fits
mod keeping; // a merge that other snapshots do not notice

pub use crate::copy::{Observer, Progress, Rate, Silent, wait_until};
pub use crate::store::{Damage, Severity};

pub use check::{Report, check, check_sized};
pub use create::{Created, create, create_if_blank};
pub use devices::{begins_with_store, refuse_chunk_size};
pub use dump::{PlacedRun, dump};
pub use error::{Error, Which};
pub use export::{ExportOptions, Exported, export};
pub use finding::{Finding, Place};
pub use info::{Info, info};
pub use keeping::{Kept, Other, merge_keeping, plan_merge_keeping};
pub use list_error::ListError;
pub use listing::{Entry, ListEnd, ListHead, ListSum, list};
pub use merge::{MergeOptions, MergePlan, Merged, merge, plan_merge};
pub use pack::{PackError, PackHead, PackOptions, Packed, Unpacked, pack, read_pack, unpack};
pub use restore::{Restored, plan_restore, restore};
pub use stream::{Sink, stream};
pub use wipe::{WipeOptions, WipePlan, Wiped, plan_wipe, wipe};
