//! What `dmsnap-images` refuses or warns of, in the command's words: with what can be done about it.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::Path;

use dmsnap::device::{OpenError, User};
use dmsnap::ops::Error;
use dmsnap::signature::Class;
use dmsnap_images::{Group, ImageError, ImageErrorKind, Subject};
use dmsnap_lvm::{GroupProblem, RewriteError};

use crate::device_arg::is_address;
use crate::formats::advice;
use crate::report::{Failure, tell};
use crate::size::Count;

impl From<&ImageError> for Failure {
    fn from(error: &ImageError) -> Self {
        match (&error.subject, &*error.kind) {
            (Subject::Path(path), ImageErrorKind::Open(error)) => open_failure(path, error),
            (Subject::Group(name), kind @ ImageErrorKind::Group(_)) => {
                failure(&format!("volume group {name}"), kind)
            }
            (subject, kind) => failure(&subject.to_string(), kind),
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::from(&error)
    }
}

/// With another name for what it is about.
pub(crate) fn failure(subject: &str, kind: &ImageErrorKind) -> Failure {
    let failure = Failure::of(subject, kind);
    match kind {
        ImageErrorKind::RaidMember(found) => failure.advise(advice(*found)),
        ImageErrorKind::SameImage(_) => failure.advise("give it once"),
        ImageErrorKind::Foreign(found) => match found.kind.class {
            Class::FileSystem => failure.advise("give the disk of the volume group"),
            _ => failure.advise(advice(*found)),
        },
        ImageErrorKind::Group(GroupProblem::OldText { .. }) => {
            failure.advise("`vgck --updatemetadata` brings it up to date")
        }
        ImageErrorKind::NoGroup => failure.advise("give all its disks"),
        ImageErrorKind::Ambiguous { is_same_group_name: true, .. } => {
            failure.advise("name the group by its uuid, as here, or give only the images of one")
        }
        ImageErrorKind::Ambiguous { .. } => failure.advise("name the group as well"),
        ImageErrorKind::SameGroupName { example, .. } => {
            failure.advise(format_args!("a volume of this one is {example}"))
        }
        ImageErrorKind::NotSnapshot { known } => match known.is_empty() {
            true => failure.advise("there is none in this group"),
            false => failure.advise(format_args!("there is {}", known.join(", "))),
        },
        ImageErrorKind::IsSnapshot { .. } => failure.advise("name its origin"),
        ImageErrorKind::Short(_) => failure.advise("give the whole disk"),
        ImageErrorKind::VirtualOrigin { .. } => {
            failure.advise("`dmsnap lvm export` makes an image of it")
        }
        ImageErrorKind::OtherMerges { .. } => failure.advise("merge that one first"),
        ImageErrorKind::Merge(error) => advise_merge(advise(failure, error), error),
        ImageErrorKind::WayBack(error) => {
            advise_undo(failure, error, &(String::new(), String::new(), String::new()))
        }
        ImageErrorKind::Store(error) | ImageErrorKind::CannotKeep(error) => advise(failure, error),
        ImageErrorKind::NoRoom { chunks } => no_room(subject, *chunks),
        ImageErrorKind::Rewrite(error) => failure.advise(rewrite_advice(error)),
        ImageErrorKind::BackupExists | ImageErrorKind::Backup(_) => {
            failure.advise("name another file with --backup")
        }
        ImageErrorKind::WriteMetadata { merged, .. } => {
            let so_far = if *merged { "the data is merged" } else { "nothing was merged" };
            failure.advise(format_args!("{so_far}; the same command finishes it"))
        }
        _ => failure,
    }
}

fn rewrite_advice(error: &RewriteError) -> &'static str {
    match error {
        RewriteError::Exported => "`vgimport` it first, or merge the data only with --no-metadata",
        RewriteError::Problem(GroupProblem::MissingPv { .. }) => {
            "give all disks, or merge the data only with --no-metadata"
        }
        // Nothing is written to such a disk.
        RewriteError::Problem(GroupProblem::ShortPv { .. }) => "give the whole disk",
        _ => "--no-metadata merges the data only",
    }
}

/// What can be done about what a task found, whatever the task is.
pub(crate) fn advise(failure: Failure, error: &Error) -> Failure {
    match error {
        Error::Swapped => failure.advise("the COW device comes first, then the origin"),
        Error::OriginIsStore => failure.advise("`dmsnap check` tells which it is"),
        Error::Damaged(_) => failure.advise("`dmsnap check` lists everything"),
        Error::OriginChanged(_) => failure.advise("give the right one, or go on with --no-fence"),
        Error::RepairBegun => {
            failure.advise("`dmsnap unpack` writes the backup of the repair to it")
        }
        _ => failure,
    }
}

/// What can be done about a merge with a way back; `names` are those of COW, ORIGIN and UNDO.
pub(crate) fn advise_undo(
    failure: Failure,
    error: &Error,
    (cow, origin, undo): &(String, String, String),
) -> Failure {
    let inner = match error {
        Error::OfUndo(inner) => inner,
        other => other,
    };
    match inner {
        Error::WrongOrder => failure.advise(format_args!("dmsnap undo {undo} {origin} {cow}")),
        Error::HoldsStore => failure.advise("name another file or device"),
        Error::NotPartners => failure.advise("`dmsnap info` tells the partner of a store"),
        Error::PartnerMissing { .. } => failure.advise("name that one"),
        Error::NoRoomToKeep { .. } => {
            failure.advise("make it larger, or give --drop-snapshot to lose what it shows")
        }
        Error::Occupied { .. } | Error::NotEmpty { .. } => failure.advise("--force overwrites it"),
        Error::OriginChanged(_) => failure.advise("--no-fence goes on"),
        Error::Stopped => failure.advise("the same command goes on"),
        _ => failure,
    }
}

/// What can be done about a merge that was refused, besides.
pub(crate) fn advise_merge(failure: Failure, error: &Error) -> Failure {
    match error {
        Error::OriginIsStore => failure.advise("if it is the origin, --force goes on"),
        Error::FrontZeroed { .. } => failure.advise("--force merges what is left"),
        Error::Invalid => failure.advise("it cannot be merged"),
        Error::IsWayBack { .. } => {
            failure.advise("`dmsnap undo` merges it, and keeps what that one shows")
        }
        _ => failure,
    }
}

/// About another snapshot that has no room for what it shows, by the name that the user knows.
pub(crate) fn no_room(name: &str, chunks: u64) -> Failure {
    let chunks = Count(chunks, "chunk");
    let found = format!("has no room for {chunks} that it would have to keep");
    Failure::of(name, found).advise("--drop-full merges all the same, and loses it")
}

/// Why `path` could not be opened, and what can be done about it.
pub(crate) fn open_failure(path: &Path, error: &OpenError) -> Failure {
    let failure = Failure::about(path, error);
    match error {
        OpenError::InUse(User::Loop(node)) => {
            let node = node.display();
            failure.advise(format_args!("deactivate what lies on it, then `losetup -d {node}`"))
        }
        OpenError::InUse(_) => failure.advise("stop, unmount or remove what uses it first"),
        OpenError::ReadOnly(_) => failure.advise("make it writable first"),
        OpenError::NotStorage => failure.advise("give a file or a disk"),
        OpenError::System(error) => match error.kind() {
            ErrorKind::NotFound if is_address(path) => {
                failure.advise("LVM volumes are not taken here")
            }
            ErrorKind::NotFound => failure.advise("check the name"),
            ErrorKind::PermissionDenied => failure.advise("check its mode, or run as its owner"),
            _ => failure,
        },
        _ => failure,
    }
}

/// Says what may go wrong with something that is used all the same.
pub(crate) fn warn(error: &ImageError) {
    match (&error.subject, &*error.kind) {
        (
            Subject::Path(path),
            kind @ (ImageErrorKind::NotLocked | ImageErrorKind::InUse { .. }),
        ) => {
            tell(Failure::about(path, format_args!("warning: {kind}")));
        }
        _ => tell(format_args!("warning: {}", Failure::from(error))),
    }
}

/// About a volume of a group, by its whole name.
pub(crate) fn about_volume(group: Group<'_>, name: &str, found: impl Display) -> Failure {
    Failure::of(&group.name_of(name).to_string(), found)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Those that no disk of the tests leads to.
    #[test]
    fn what_is_rarely_refused_is_told_with_what_can_be_done() {
        let denied = || io::Error::from_raw_os_error(13);
        let origin = || "root".to_owned();
        for (kind, expected) in [
            (
                ImageErrorKind::WriteMetadata { merged: false, source: denied() },
                "x: cannot write the metadata: Permission denied; nothing was merged; \
                 the same command finishes it",
            ),
            (
                ImageErrorKind::WriteMetadata { merged: true, source: denied() },
                "x: cannot write the metadata: Permission denied; the data is merged; \
                 the same command finishes it",
            ),
            (
                ImageErrorKind::Backup(denied()),
                "x: cannot keep the old metadata: Permission denied; name another file with --backup",
            ),
            (
                ImageErrorKind::OtherMerges { origin: origin() },
                "x: another snapshot merges into root; merge that one first",
            ),
            (
                ImageErrorKind::VirtualOrigin { origin: origin() },
                "x: its origin root is virtual; `dmsnap lvm export` makes an image of it",
            ),
            (
                ImageErrorKind::IsSnapshot { origin: origin() },
                "x: is a snapshot of root; name its origin",
            ),
            (
                ImageErrorKind::Read { at: 512, source: denied() },
                "x: cannot read at byte 512: Permission denied",
            ),
            (
                ImageErrorKind::NotSnapshot { known: Vec::new() },
                "x: is not a snapshot; there is none in this group",
            ),
            (
                ImageErrorKind::CannotKeep(Error::Invalid),
                "x: cannot keep what it shows: this store is invalid: the snapshot was dropped, and \
                 the origin may have changed since without copies",
            ),
            (
                ImageErrorKind::Rewrite(RewriteError::NoArea),
                "x: the volume group has no metadata area in use; --no-metadata merges the data only",
            ),
        ] {
            assert_eq!(failure("x", &kind).to_string(), expected);
        }
    }
}
