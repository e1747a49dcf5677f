//! A way out of damage: what is left of a store is read, every finding gets its treatment, and from what
//! remains a sound store is made.

mod options; // what a repair may do
mod treatment; // what it does about each finding
mod lost_header; // stores without a header
mod repeats; // exceptions that say different things
mod list; // what is left of the exceptions
mod plan; // every finding told, with its treatment
mod salvage; // a store read to be repaired
mod copy; // the repaired store, on another device
mod in_place; // the same, where the damaged one was

pub use copy::Repaired;
pub use options::{Condition, Duplicates, RepairOptions, RepairTarget};
pub use plan::RepairPlan;
pub use salvage::{Salvage, salvage};
pub use treatment::Treatment;
