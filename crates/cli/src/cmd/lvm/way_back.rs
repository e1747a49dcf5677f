use std::path::{Path, PathBuf};

use dmsnap::device::{AnyDevice, Mode};
use dmsnap::ops::{self, UndoPlan, Which};
use dmsnap_images::{Merge, WayBack, refuse_raid_member};

use crate::cmd::merging::Options;
use crate::device_arg::{Address, DeviceArg, is_address};
use crate::devices::{access_of, overlap};
use crate::files::{NewFile, new_id, open_file};
use crate::output::Output;
use crate::report::Failure;

/// Where the way back of a merge is to be, and what it takes.
pub(super) struct Place<'a> {
    path: &'a Path,
    /// What is there already.
    there: Option<AnyDevice>,
    pub(super) plan: UndoPlan,
}

/// The device of a way back, and the file if one was made.
pub(super) struct Made<'a> {
    pub(super) way_back: WayBack,
    new: Option<NewFile<'a>>,
}

impl<'a> Place<'a> {
    /// Looks what is there. Writes nothing.
    pub(super) async fn find(
        path: &'a Path,
        address: &Address,
        options: &Options,
        merge: &Merge<'_>,
    ) -> Result<Self, Failure> {
        if is_address(path) {
            return Err(Failure::about(path, "is in a volume group")
                .advise("name a file or a disk for the way back"));
        }
        let own = DeviceArg::from(path.to_owned());
        let images = address.images.iter().cloned().map(DeviceArg::from);
        if let Some(found) = images.filter_map(|image| overlap(&image, &own)).next() {
            return Err(Failure::about(path, found).advise("each must be its own"));
        }
        let there = match path.symlink_metadata() {
            Ok(_) => {
                let file = open_file(path, Mode::Write, options.io.into()).await?;
                refuse_raid_member(path, &file).await?;
                Some(AnyDevice::from(file))
            }
            Err(_) => None,
        };
        let plan = merge.plan_undoable(there.as_ref()).await?;
        Ok(Self { path, there, plan })
    }

    /// Makes the file, unless something is there.
    pub(super) async fn make(
        self,
        address: &Address,
        options: &Options,
    ) -> Result<Made<'a>, Failure> {
        let (undo, new) = match self.there {
            Some(there) => (there, None),
            None => {
                let access = access_of(&DeviceArg::Volume(address.clone()));
                let made =
                    NewFile::create(self.path, self.plan.undo_bytes, options.io, access).await;
                let (file, new) = made?;
                (file.into(), Some(new))
            }
        };
        Ok(Made { way_back: WayBack { undo, ids: [new_id()?, new_id()?] }, new })
    }
}

impl Made<'_> {
    /// From the moment it is a store, it is the way back, whatever came after.
    pub(super) async fn keep(self) {
        let Self { way_back, new } = self;
        let is_store = ops::begins_with_store(&way_back.undo, Which::Undo).await.unwrap_or(true);
        if let Some(new) = new.filter(|_| is_store) {
            new.keep();
        }
    }
}

/// Says how the merge is taken back.
pub(super) fn show(
    path: &Path,
    (snapshot, origin): (&str, &str),
    backup: Option<&PathBuf>,
    out: &mut Output,
) -> Result<(), Failure> {
    let undo = format!("dmsnap undo lvm:IMAGE:{snapshot} lvm:IMAGE:{origin} {}", path.display());
    let group = origin.split('/').next().unwrap_or_default();
    match backup {
        Some(backup) => out.line(format_args!(
            "the way back: vgcfgrestore -f {} {group}; {undo}",
            backup.display()
        )),
        None => out.line(format_args!("the way back: {undo}")),
    }
}
