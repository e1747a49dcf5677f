//! Volumes of LVM's, straight from disks and images: which images, which group, which volume.

mod in_use; // who else has an image
mod images; // disks and images, each opened once
mod scan; // physical volumes and groups on them
mod group; // a group and its volumes as devices
mod room; // what a snapshot must take over, and whether it can
mod merge; // a snapshot back into its origin, beside others
mod rewrite; // the group without it

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use dmsnap::device::{AnyDevice, Caching, Mode};
use dmsnap::ops::{self, Which};

use crate::devices::open_file;
use crate::place::{Address, Name, Place};
use crate::report::Failure;

pub(crate) use group::Group;
pub(crate) use images::Images;
pub(crate) use merge::{Kept, Merge, advise};
pub(crate) use rewrite::Rewrite;
pub(crate) use scan::Scan;

/// The devices of a command: what several of them lie in is opened once.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    images: Images,
    scans: RefCell<Vec<(Vec<PathBuf>, Rc<Scan>)>>,
}

impl Volumes {
    /// Opens a file, or a volume: as a COW device the one that a snapshot has.
    pub(crate) async fn open(
        &self,
        place: &Place,
        which: Which,
        mode: Mode,
        caching: Caching,
    ) -> Result<AnyDevice, Failure> {
        match place {
            Place::Path(path) => Ok(open_file(path, mode, caching).await?.into()),
            Place::Volume(address) => {
                let scan = self.scan(&address.images, mode, caching).await?;
                let group = scan.group_of(&address.name)?;
                if which == Which::Origin {
                    refuse_snapshot(group, place, &address.name)?;
                }
                group.device(&address.name.volume)
            }
        }
    }

    /// What lies on these images; what could not be used is told the first time.
    pub(crate) async fn scan(
        &self,
        paths: &[PathBuf],
        mode: Mode,
        caching: Caching,
    ) -> Result<Rc<Scan>, Failure> {
        let known = |(known, _): &&(Vec<PathBuf>, _)| known == paths;
        if let Some((_, scan)) = self.scans.borrow().iter().find(known) {
            return Ok(scan.clone());
        }
        let scan = Rc::new(Scan::of(&self.images, paths, mode, caching).await?);
        scan.warn();
        self.scans.borrow_mut().push((paths.to_vec(), scan.clone()));
        Ok(scan)
    }
}

/// A snapshot's name stands for its COW device, which is no origin.
fn refuse_snapshot(group: Group<'_>, place: &Place, name: &Name) -> Result<(), Failure> {
    match group.found.vg.snapshot(&name.volume) {
        None => Ok(()),
        Some(snapshot) => {
            let found = format!("is a snapshot of {}", snapshot.origin);
            Err(Failure::of(&place.to_string(), found).advise("name its origin"))
        }
    }
}

/// A snapshot of an origin.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) address: Address,
    pub(crate) merging: bool,
    pub(crate) valid: bool,
}

impl Address {
    /// The snapshots of an origin.
    pub(crate) async fn snapshots(&self) -> Result<Vec<Snapshot>, Failure> {
        let images = Images::default();
        let scan = Scan::of(&images, &self.images, Mode::Look, Caching::Buffered).await?;
        let group = scan.group_of(&self.name)?;
        let vg = &group.found.vg;
        let mut snapshots = Vec::new();
        for snapshot in vg.snapshots_of(&self.name.volume) {
            let name = Name { group: Some(vg.name.clone()), volume: snapshot.name.clone() };
            let info = ops::info(&group.device(&snapshot.name)?).await;
            let info = info.map_err(|error| group.failure(&snapshot.name, error))?;
            let address = Self { images: self.images.clone(), name };
            snapshots.push(Snapshot { address, merging: snapshot.merging, valid: info.valid });
        }
        Ok(snapshots)
    }

    /// The origin of a snapshot; `None` if the volume is none.
    pub(crate) async fn origin(&self) -> Result<Option<Self>, Failure> {
        let images = Images::default();
        let scan = Scan::of(&images, &self.images, Mode::Look, Caching::Buffered).await?;
        let group = scan.group_of(&self.name)?;
        let vg = &group.found.vg;
        let origin = vg.snapshot(&self.name.volume).map(|snapshot| &snapshot.origin);
        Ok(origin.map(|origin| {
            let name = Name { group: Some(vg.name.clone()), volume: origin.clone() };
            Self { images: self.images.clone(), name }
        }))
    }
}
