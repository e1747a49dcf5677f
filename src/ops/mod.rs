//! Whole tasks on stores, one function each. They know nothing of terminals and exit statuses;
//! what takes long tells an [`Observer`] how far it is.

mod error; // what can go wrong, and with which device
mod observer; // progress, rate, stop
mod survey; // everything a task wants to know before it begins
mod create;
mod info;
mod finding; // what a check has to say
mod strays; // what lies behind the terminator
mod check;
mod dump;
mod export;
mod merge;
mod open;

pub use check::{Report, check};
pub use create::{Created, create};
pub use dump::{PlacedRun, dump};
pub use error::{Error, Which};
pub use export::{ExportOptions, Exported, export};
pub use finding::{Finding, Place, Severity};
pub use info::{Info, info};
pub use merge::{MergeOptions, MergePlan, Merged, merge, plan_merge};
pub use observer::{Observer, Progress, Silent};
pub use open::open_snapshot;
