//! An origin with its snapshots, made of files, disks and LVM volumes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use dmsnap::device::{AnyDevice, Caching};
use dmsnap::format::Tag;
use dmsnap::ops::{self, Error, Which};
use dmsnap_serve::Volume;
use rustix::fs::{major, minor};

use crate::cmd::spec::{NewStore, Spec, Store, device_arg};
use crate::device_arg::is_address;
use crate::devices::access_of;
use crate::files::{NewFile, new_id};
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

/// Makes a store where a kernel would: where the magic is zero. What else lies there is kept. It remembers the size
/// of the snapshot, if that is another than the origin's, and the origin, if it is to.
pub(super) async fn make_if_blank(
    spec: &Spec,
    cow: &AnyDevice,
    origin: &AnyDevice,
    wanted: NewStore,
) -> Result<(), Failure> {
    let path = &spec.cow;
    let refused = |error: Error| not_made(path, &error);
    if !ops::is_blank(cow).await.map_err(refused)? {
        return Ok(());
    }
    let chunk_size = wanted.chunk_size;
    ops::refuse_chunk_size(chunk_size, cow, Which::Cow).map_err(refused)?;
    let snapshot_bytes = spec.options.len_bytes.filter(|_| wanted.makes_file).unwrap_or(0);
    let made = match wanted.knows_base {
        true => {
            let tag = ops::tag_for(origin, new_id()?, chunk_size).await.map_err(refused)?;
            ops::create_tagged(cow, chunk_size, Tag { snapshot_bytes, ..tag }, false).await
        }
        false if snapshot_bytes > 0 => {
            let tag = Tag { snapshot_bytes, ..Tag::new(new_id()?) };
            ops::create_tagged(cow, chunk_size, tag, false).await
        }
        false => ops::create(cow, chunk_size, false).await,
    };
    made.map(drop).map_err(refused)
}

/// The file for a new store, if one is to be made and there is none.
pub(super) async fn make_file<'a>(
    spec: &'a Spec,
    (origin, origin_bytes): (&Path, u64),
    caching: Caching,
) -> Result<Option<(AnyDevice, NewFile<'a>)>, Failure> {
    let Store::MaybeNew(wanted) = spec.store else { return Ok(None) };
    if !wanted.makes_file || is_address(&spec.cow) || spec.cow.symlink_metadata().is_ok() {
        return Ok(None);
    }
    let shown_bytes = spec.options.len_bytes.unwrap_or(origin_bytes);
    let room = || ops::size_for(shown_bytes, wanted.chunk_size, 100);
    let access = device_arg(origin).map(|origin| access_of(&origin)).unwrap_or_default();
    let bytes = wanted.size_bytes.unwrap_or_else(room);
    let (file, new) = NewFile::create_in_place(&spec.cow, bytes, caching, access).await?;
    Ok(Some((file.into(), new)))
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
