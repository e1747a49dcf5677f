//! The way back of a merge that begins with the server, or while it runs.

use std::fs;
use std::path::{Path, PathBuf};

use dmsnap::device::{AnyDevice, Caching, File, Mode};
use dmsnap::format::Layout;
use dmsnap::ops::{self, Owner, Which};
use dmsnap_serve::control::WayBack;
use dmsnap_serve::{Snapshot, SnapshotOptions};
use rustix::fs::statvfs;

use super::plan::Plan;
use crate::cmd::spec::{Spec, Store, device_arg};
use crate::device_arg::{DeviceArg, is_address};
use crate::devices::Devices;
use crate::refusals::advise_undo;
use crate::report::Failure;

/// A new file has room for at least this much more than the merge alone needs.
const LEAST_ROOM_BYTES: u64 = 16 << 20;

/// How large the store of a way back is, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    chunk_size: dmsnap::format::ChunkSize,
    exceptions: u64,
    /// What the merge takes without clients.
    needed_bytes: u64,
    /// Of a file that is made.
    pub(super) new_bytes: u64,
    /// Up to this it grows.
    max_bytes: u64,
}

impl Size {
    /// For a merge of `snapshot` into an origin of that size.
    pub(super) fn of(
        snapshot: &Snapshot<AnyDevice>,
        origin_bytes: u64,
        max_bytes: Option<u64>,
    ) -> Result<Self, String> {
        let (chunk_size, exceptions) = (snapshot.chunk_size(), snapshot.exceptions());
        let needed_bytes = ops::undo_bytes(Layout::new(chunk_size), exceptions);
        let usual = || ops::size_for(origin_bytes, chunk_size, 100).max(needed_bytes);
        let max_bytes = max_bytes.unwrap_or_else(usual);
        if max_bytes < needed_bytes {
            let found = "the way back takes";
            return Err(format!("{found} {needed_bytes} bytes, and the most is {max_bytes}"));
        }
        let room_bytes = LEAST_ROOM_BYTES.max(needed_bytes / 8);
        let new_bytes = needed_bytes.saturating_add(room_bytes).min(max_bytes);
        Ok(Self { chunk_size, exceptions, needed_bytes, new_bytes, max_bytes })
    }

    /// Refuses what is there if it cannot become the store.
    pub(super) async fn refuse_unusable(&self, path: &Path, file: &File) -> Result<(), Failure> {
        let refused = ops::refuse_undo_device(file, self.chunk_size, self.exceptions).await;
        let nobody = (String::new(), String::new(), String::new());
        refused.map_err(|error| advise_undo(Failure::about(path, &error), &error, &nobody))
    }

    /// Refuses a file system without room for what is known to be needed.
    pub(super) fn refuse_full(&self, path: &Path) -> Result<(), Failure> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        // What cannot be asked says so when the file is made.
        let Ok(system) = statvfs(folder) else { return Ok(()) };
        let free_bytes = system.f_bavail.saturating_mul(system.f_frsize);
        if free_bytes >= self.needed_bytes {
            return Ok(());
        }
        let needed = self.needed_bytes;
        let found = format_args!("the way back takes {needed} bytes, and {free_bytes} are free");
        Err(Failure::about(path, found).advise("name a file on another file system"))
    }

    /// How its snapshot behaves.
    pub(super) fn options(&self) -> SnapshotOptions {
        SnapshotOptions { max_bytes: Some(self.max_bytes), ..SnapshotOptions::default() }
    }
}

/// `--undo` of a server.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) path: &'a Path,
    /// Of its snapshot.
    pub(super) name: String,
    pub(super) max_bytes: Option<u64>,
}

impl Wanted<'_> {
    /// Looks what is there. The way back of this very merge, which another server has begun, is served with the
    /// others; anything else is to be made: what is returned says how.
    pub(super) async fn plan(
        &self,
        plan: &mut Plan,
        merge: &str,
    ) -> Result<Option<WayBack>, Failure> {
        let path = std::path::absolute(self.path).map_err(|it| Failure::about(self.path, it))?;
        if is_address(self.path) {
            return Err(Failure::about(self.path, "is in a volume group")
                .advise("name a file or a disk for the way back"));
        }
        plan.refuse_known(&path)?;
        let name = self.name.clone();
        match self.is_partner(plan, merge, &path).await? {
            true => {
                let options =
                    SnapshotOptions { max_bytes: self.max_bytes, ..SnapshotOptions::default() };
                plan.push(Spec { name, cow: path, store: Store::Persistent, options });
                Ok(None)
            }
            false => {
                let cow = path.into_os_string().into_string();
                let cow =
                    cow.map_err(|_| Failure::about(self.path, "is a path that is not text"))?;
                Ok(Some(WayBack { cow, name: Some(name), max_size_bytes: self.max_bytes }))
            }
        }
    }

    /// Is the other store of the merge there already? Another store is refused.
    async fn is_partner(&self, plan: &Plan, merge: &str, path: &Path) -> Result<bool, Failure> {
        if path.symlink_metadata().is_err() {
            return Ok(false);
        }
        let there = DeviceArg::from(path.to_owned());
        let Some((theirs, exceptions)) = owner(&there).await? else { return Ok(false) };
        let cow: Option<PathBuf> = plan.cow_of(merge);
        let cow = cow.and_then(|cow| device_arg(&cow).ok());
        let ours = match cow {
            Some(cow) => owner(&cow).await?.and_then(|(ours, _)| ours),
            None => None,
        };
        if let (Some(ours), Some(theirs)) = (&ours, &theirs)
            && theirs.partner.as_ref() == Some(&ours.id)
            && (ours.partner.is_none() && exceptions == 0 && theirs.state == "undo")
            && fs::symlink_metadata(path).is_ok_and(|it| it.is_file())
        {
            // It was made for this merge by a server that was killed before it was needed.
            fs::remove_file(path).map_err(|error| Failure::about(path, error))?;
            return Ok(false);
        }
        let are_partners = ours.zip(theirs).is_some_and(|(ours, theirs)| {
            ours.partner.as_ref() == Some(&theirs.id) && theirs.partner.as_ref() == Some(&ours.id)
        });
        match are_partners {
            true => Ok(true),
            false => {
                Err(Failure::about(path, ops::Error::HoldsStore)
                    .advise("name another file or device"))
            }
        }
    }
}

/// Refuses to add a store to a running server that shows what it should only together with another one: what clients
/// have written since the server began is not kept in it.
pub(super) async fn refuse_shared(cow: &Path) -> Result<(), Failure> {
    let device = device_arg(cow).map_err(|found| Failure::about(cow, found))?;
    let devices = Devices::of_cow(&device);
    let device = devices.open(Which::Cow, Mode::Look, Caching::Buffered).await?;
    let owner = ops::owner(&device).await.map_err(|error| devices.failure(&error))?;
    let shared = owner.filter(|it| matches!(it.state.as_str(), "merging" | "undo"));
    match shared.and_then(|it| it.partner) {
        Some(partner) => {
            let found = format_args!("shares an undoable merge with the store {partner}");
            Err(Failure::about(cow, found).advise(
                "`dmsnap serve` takes both when it starts; --forget-undo gives the way back up",
            ))
        }
        None => Ok(()),
    }
}

/// Whom a store belongs to, if it says so, and how many exceptions it has; `None` if there is no store.
async fn owner(cow: &DeviceArg) -> Result<Option<(Option<Owner>, u64)>, Failure> {
    let devices = Devices::of_cow(cow);
    let device = devices.open(Which::Cow, Mode::Look, Caching::Buffered).await?;
    let is_store = ops::begins_with_store(&device, Which::Cow).await;
    match is_store.map_err(|error| devices.failure(&error))? {
        false => Ok(None),
        true => {
            let info = ops::info(&device).await.map_err(|error| devices.failure(&error))?;
            Ok(Some((info.owner, info.exceptions)))
        }
    }
}
