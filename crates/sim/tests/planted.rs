//! Laws of page caches, marks, growth, what waits in memory, and the way back of a merge, broken on purpose: each has a small device of its
//! own in the tests of `dmsnap`, which notice it.

#[path = "../../../tests/common/mod.rs"]
mod common;

#[path = "../../../tests/merge_undo.rs"]
mod merge_undo;
#[path = "../../../tests/merge_undo_live.rs"]
mod merge_undo_live;
#[path = "../../../tests/no_room.rs"]
mod no_room;
#[path = "../../../tests/reopen.rs"]
mod reopen;
#[path = "../../../tests/shared_origin.rs"]
mod shared_origin;
#[path = "../../../tests/volume_backlog.rs"]
mod volume_backlog;
