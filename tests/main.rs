//! All integration tests of the package, in one program: it is linked once.

mod common;
mod kernel_stores;
mod sources;

mod block_status;
mod change_counter;
mod check_findings;
mod device;
mod examples;
mod fence;
mod hangs;
mod house;
mod kernel_defects;
mod mapped;
mod merge_crash;
mod merge_keeping;
mod merge_undo;
mod no_room;
mod pack;
mod publish_beside;
mod reopen;
mod repair;
mod restore;
mod signatures;
mod snapshot_sizes;
mod store_laws;
mod table;
mod tidy;
mod volume_backlog;
mod volume_changes;
mod volume_errors;
mod volume_memory;
mod volume_model;
mod volume_rules;
mod wipe;
mod write_many;
