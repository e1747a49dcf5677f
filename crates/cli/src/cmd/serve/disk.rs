//! An origin with its snapshots, made of files, disks and LVM volumes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use dmsnap::device::AnyDevice;
use dmsnap::format::ChunkSize;
use dmsnap::ops::{self, Error, Which};
use dmsnap_serve::Volume;
use rustix::fs::{major, minor};

use crate::formats::advice;
use crate::report::Failure;
use crate::table;

/// What can be done about a merge, or an opening, that was refused.
pub(super) const MERGE_ANYWAY: &str = "`dmsnap merge --force` merges it all the same";

pub(super) type Disk = Volume<AnyDevice, AnyDevice>;

/// The device node, also where nobody keeps links to all of them by their numbers, and where there is
/// no `/sys`.
pub(super) fn node(path: &Path) -> PathBuf {
    let numbers = || path.strip_prefix(table::BY_NUMBER).ok().filter(|_| !path.exists())?.to_str();
    let Some(numbers) = numbers() else { return path.to_owned() };
    // The name may be left over from another device.
    let is_it = |node: &PathBuf| {
        fs::metadata(node).is_ok_and(|metadata| {
            let rdev = metadata.rdev();
            let found = format!("{}:{}", major(rdev), minor(rdev));
            metadata.file_type().is_block_device() && found == numbers
        })
    };
    let named = || {
        let uevent = fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent")).ok()?;
        let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        Some(Path::new("/dev").join(name)).filter(is_it)
    };
    let seen = || {
        let nodes = ["/dev", "/dev/mapper"].into_iter().flat_map(|dir| fs::read_dir(dir).ok());
        nodes.flatten().flatten().map(|entry| entry.path()).find(is_it)
    };
    named().or_else(seen).unwrap_or_else(|| path.to_owned())
}

/// Whether the origin looks like a store.
pub(super) async fn origin_is_store(volume: &Disk) -> Result<bool, Error> {
    ops::begins_with_store(volume.origin_device(), Which::Origin).await
}

/// Why nothing is merged into such an origin.
pub(super) fn origin_looks_like_store(path: &Path) -> Failure {
    Failure::about(path, Error::OriginIsStore).advise(MERGE_ANYWAY)
}

/// Makes a store where a kernel would: where the magic is zero. What else lies there is kept.
pub(super) async fn make_if_blank(
    path: &Path,
    cow: &AnyDevice,
    wanted: Option<ChunkSize>,
) -> Result<(), Failure> {
    let made = ops::create_if_blank(cow, wanted.unwrap_or(ChunkSize::KERNEL_DEFAULT)).await;
    made.map(drop).map_err(|error| not_made(path, &error))
}

/// Why no store was made.
pub(super) fn not_made(path: &Path, error: &Error) -> Failure {
    let failure = Failure::about(path, error);
    match error {
        Error::Occupied { .. } | Error::NotEmpty { .. } | Error::PartBlocks { .. } => {
            failure.advise("`dmsnap create --force` makes a store there all the same")
        }
        Error::RaidMember { found } => failure.advise(advice(*found)),
        _ => failure,
    }
}
