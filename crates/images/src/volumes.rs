use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use dmsnap::device::{AnyDevice, Caching, Mode};
use dmsnap::ops::Which;

use crate::error::{ImageError, ImageErrorKind, Subject};
use crate::files::Warn;
use crate::group::Group;
use crate::images::Images;
use crate::name::Name;
use crate::scan::Scan;

/// Volumes that a task needs: what several of them lie in is opened once.
#[derive(Debug)]
pub struct Volumes {
    images: Images,
    scans: RefCell<Vec<(Vec<PathBuf>, Rc<Scan>)>>,
}

impl Volumes {
    /// Nothing is open yet. `warn` hears what could not be used, though something could be.
    pub fn new(warn: Warn) -> Self {
        Self { images: Images::new(warn), scans: RefCell::default() }
    }

    /// Opens a volume: as a COW device the one that a snapshot has.
    ///
    /// # Errors
    ///
    /// Those of [`scan`](Self::scan) and [`Group::device`]. A snapshot as an origin is refused, and a
    /// volume that is to be written to on disks that must not be written.
    pub async fn open(
        &self,
        images: &[PathBuf],
        name: &Name,
        which: Which,
        mode: Mode,
        caching: Caching,
    ) -> Result<AnyDevice, ImageError> {
        let scan = self.scan(images, mode, caching).await?;
        if mode == Mode::Write {
            scan.refuse_raid_members().await?;
        }
        let group = scan.group_of(name)?;
        if which == Which::Origin {
            refuse_snapshot(group, name)?;
        }
        if mode == Mode::Write {
            group.refuse_short(&name.volume)?;
        }
        group.device(&name.volume)
    }

    /// What lies on these images. The first call warns of what could not be used.
    ///
    /// # Errors
    ///
    /// Those of [`Scan::of`].
    pub async fn scan(
        &self,
        paths: &[PathBuf],
        mode: Mode,
        caching: Caching,
    ) -> Result<Rc<Scan>, ImageError> {
        let known = |(known, _): &&(Vec<PathBuf>, _)| known == paths;
        if let Some((_, scan)) = self.scans.borrow().iter().find(known) {
            return Ok(scan.clone());
        }
        let scan = Rc::new(Scan::of(&self.images, paths, mode, caching).await?);
        scan.warnings().for_each(self.images.warn);
        self.scans.borrow_mut().push((paths.to_vec(), scan.clone()));
        Ok(scan)
    }
}

/// A snapshot's name stands for its COW device, which is not an origin.
fn refuse_snapshot(group: Group<'_>, name: &Name) -> Result<(), ImageError> {
    match group.found.vg.snapshot(&name.volume) {
        None => Ok(()),
        Some(snapshot) => {
            let kind = ImageErrorKind::IsSnapshot { origin: snapshot.origin.clone() };
            Err(ImageError::new(Subject::Volume(name.clone()), kind))
        }
    }
}
