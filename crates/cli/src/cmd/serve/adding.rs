//! Snapshots added to a volume, as a [`Spec`] names them.

use std::path::Path;

use dmsnap::device::{AnyDevice, Caching, Device, Mode};
use dmsnap::ops::{self, Error, Which};
use dmsnap_images::refuse_raid_member;
use dmsnap_serve::{SnapshotOptions, VolumeError};

use super::disk::{Disk, MERGE_ANYWAY, make_if_blank, origin_is_store};
use crate::cmd::spec::{Spec, Store};
use crate::files::open_file;
use crate::formats::refuse_foreign;
use crate::refusals::advise;
use crate::report::{Failure, tell};

/// Opens the COW device of a volume that is served already, and adds it.
pub(super) async fn open(
    spec: &Spec,
    volume: &Disk,
    mode: Mode,
    caching: Caching,
) -> Result<(), Failure> {
    let mode_of_cow = spec.mode(mode);
    let cow = AnyDevice::from(open_file(&spec.cow, mode_of_cow, caching).await?);
    if mode_of_cow == Mode::Write {
        refuse_raid_member(&spec.cow, &cow).await?;
    }
    add(spec, volume, cow, mode).await
}

/// Opens the store, or makes it before.
pub(super) async fn add(
    spec: &Spec,
    volume: &Disk,
    cow: AnyDevice,
    mode: Mode,
) -> Result<(), Failure> {
    // If the origin cannot be read, what reads it next says so.
    let origin_is_store = origin_is_store(volume).await.unwrap_or(false);
    if !origin_is_store && matches!(spec.store, Store::Persistent) {
        refuse_foreign(spec.cow.display(), &cow).await?;
    }
    refuse_small_bound(&spec.cow, &spec.options, &cow)?;
    let failed = |error: VolumeError| Failure::about(&spec.cow, error);
    let refused = |error: Error| refused(&spec.cow, &error, origin_is_store);
    let (name, options) = (&spec.name, spec.options.clone());
    match spec.store {
        Store::Persistent | Store::MaybeNew(_) if mode != Mode::Write => {
            volume.open_read_only(name, cow, options).await.map_err(failed)?;
        }
        Store::Transient(chunk_size) => {
            ops::refuse_chunk_size(chunk_size, &cow, Which::Cow).map_err(refused)?;
            ops::refuse_chunk_size(chunk_size, volume.origin_device(), Which::Origin)
                .map_err(refused)?;
            volume.open_transient(name, cow, chunk_size, options).await.map_err(failed)?;
        }
        Store::Persistent => {
            let added = volume.open(name, cow, options).await;
            added.map_err(Error::of_opening).map_err(refused)?;
        }
        Store::MaybeNew(wanted) => {
            make_if_blank(spec, &cow, volume.origin_device(), wanted).await?;
            let added = volume.open(name, cow, options).await;
            let found = added.map_err(Error::of_opening).map_err(refused)?.chunk_size();
            if wanted.is_other(found) {
                let found = format_args!("warning: its chunks have {found}");
                tell(
                    Failure::about(&spec.cow, found)
                        .advise("the size that was asked for is not used"),
                );
            }
        }
    }
    Ok(())
}

/// A COW file that is longer than it may become.
fn refuse_small_bound(
    path: &Path,
    options: &SnapshotOptions,
    cow: &AnyDevice,
) -> Result<(), Failure> {
    if let (Some(most), Ok(now)) = (options.max_bytes, cow.len_bytes())
        && most < now
    {
        let found = format_args!("has {now} bytes already, and max-size={most} is less");
        let refused = Failure::about(path, found);
        return Err(refused.advise("say a size that it may grow to, or leave max-size out"));
    }
    Ok(())
}

fn refused(path: &Path, error: &Error, origin_is_store: bool) -> Failure {
    let failure = Failure::about(path, error);
    match error {
        Error::FrontZeroed { .. } => failure.advise(MERGE_ANYWAY),
        Error::Header(_) if origin_is_store => {
            let found = "no store here, but there is one on the origin: they look swapped";
            Failure::about(path, found).advise("it is ORIGIN --snapshot NAME=COW")
        }
        Error::Header(_) => failure.advise("is it the COW device? `dmsnap create` makes a store"),
        _ => advise(failure, error),
    }
}
