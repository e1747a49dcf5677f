//! Whole tasks on stores, one function each. They know nothing of terminals and exit statuses;
//! what takes long tells an [`Observer`] how far it is.

mod error; // what can go wrong, and with which device
mod devices; // sizes, blocks, and which of them is the store
mod create;
mod info;
mod finding; // what a check has to say
mod walk; // a list read, and everything found in it
mod check;
mod repair; // a sound store, made of what is left of a damaged one
mod dump;
mod checksum; // of dumps and packs
mod list_error; // what can be wrong with a list of exceptions
mod listing; // a dump from which a store can be made again
mod restore; // that store
mod wipe; // a store that is given away
mod pack; // metadata alone, in one file
mod export_options;
mod believed; // a store that is refused or believed as a whole
mod sparse; // a device, and what is known of its holes
mod content; // bytes that can be read piece by piece
mod source; // what a snapshot shows
mod export;
mod stream; // the same, to a pipe
mod pairs; // two contents, read side by side
mod compare; // a snapshot and an image
mod diff_side; // the origin, or a snapshot by its store
mod diff_page; // which of the differences, and how they are told
mod diff; // where two of those differ
mod merge;
mod room; // what a store would have to take over, and whether it fits
mod keeping; // a merge that other snapshots do not notice
mod pair; // what the tags of two stores allow
mod old_data; // what the origin holds where a merge is about to write
mod exchange; // two stores, each the way back of the other's merge
mod undo; // a merge that can be taken back

pub use crate::copy::{Observer, Progress, Rate, Silent, wait_until};
pub use crate::store::{Damage, Severity};

pub use check::{Report, check, check_sized};
pub use compare::{Compared, compare};
pub use create::{
    Created, create, create_for, create_if_blank, create_tagged, is_blank, size_for, tag_for,
};
pub use devices::{begins_with_store, refuse_chunk_size, shown_bytes};
pub use diff::Diff;
pub use diff_page::{DiffPage, Differences};
pub use diff_side::{DiffOptions, DiffSide};
pub use dump::{PlacedRun, dump};
pub use error::{Error, Which};
pub use export::{Exported, export};
pub use export_options::ExportOptions;
pub use finding::{Finding, Place};
pub use info::{Info, Owner, info, owner};
pub use keeping::{Kept, Other, merge_keeping, plan_merge_keeping};
pub use list_error::ListError;
pub use listing::{Entry, ListEnd, ListHead, ListSum, list};
pub use merge::{MergeOptions, MergePlan, Merged, merge, plan_merge};
pub use pack::{PackError, PackHead, PackOptions, Packed, Unpacked, pack, read_pack, unpack};
pub use repair::{
    Condition, Duplicates, RepairOptions, RepairPlan, RepairTarget, Repaired, Salvage, Treatment,
    salvage,
};
pub use restore::{Restored, plan_restore, restore};
pub use stream::{Sink, stream};
pub use undo::{
    UndoOptions, UndoPlan, Undoable, keep_way_back, merge_undoable, plan_merge_undoable, plan_undo,
    refuse_undo_device, undo, undo_bytes,
};
pub use wipe::{WipeOptions, WipePlan, Wiped, plan_wipe, wipe};
