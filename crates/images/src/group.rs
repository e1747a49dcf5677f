use std::path::Path;
use std::rc::Rc;

use dmsnap::device::{AnyDevice, Column, Mapped, Segment, Zeroes};
use dmsnap::ops;
use dmsnap_lvm::{LogicalVolume, Snapshot};

use crate::error::{ImageError, ImageErrorKind, Subject};
use crate::images::Image;
use crate::name::Name;

/// A volume group on some images.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// What the metadata says, and where it lies.
    pub found: &'a dmsnap_lvm::Group,
    /// All that were given together: places count them.
    pub(crate) images: &'a [Image],
    /// Another group on them has the same name.
    pub(crate) shares_name: bool,
}

/// The origin of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origin {
    /// Its whole name.
    pub name: Name,
    /// Of what the snapshot shows, in bytes: the origin may have become larger since.
    pub snapshot_bytes: u64,
}

/// A snapshot of an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotOf {
    /// Its whole name.
    pub name: Name,
    /// Of what it shows, in bytes: the origin may have become larger since.
    pub len_bytes: u64,
    /// It is on its way back into the origin.
    pub merging: bool,
    /// False if it was dropped: its store cannot be used any more.
    pub valid: bool,
}

impl<'a> Group<'a> {
    /// Whether users know a volume by this name.
    pub fn has(&self, name: &str) -> bool {
        self.volumes().any(|known| known == name)
    }

    /// The names that users know, also those of a snapshot that merges and of a virtual origin.
    pub fn volumes(&self) -> impl Iterator<Item = &'a str> {
        let vg = &self.found.vg;
        let known = |lv: &&LogicalVolume| {
            let is_part =
                || vg.snapshot(&lv.name).is_some() || vg.snapshots_of(&lv.name).next().is_some();
            !lv.is_holder() && (vg.is_visible(lv) || is_part())
        };
        vg.lvs.iter().filter(known).map(|lv| &*lv.name)
    }

    /// The snapshot of this name.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::NotSnapshot`]
    pub fn snapshot(&self, name: &str) -> Result<&'a Snapshot, ImageError> {
        let vg = &self.found.vg;
        vg.snapshot(name).ok_or_else(|| {
            let known = vg.snapshots().iter().map(|it| it.name.clone()).collect();
            self.error(name, ImageErrorKind::NotSnapshot { known })
        })
    }

    /// The origin of a snapshot; `None` if the volume is not one.
    pub fn origin(&self, snapshot: &str) -> Option<Origin> {
        let vg = &self.found.vg;
        let snapshot = vg.snapshot(snapshot)?;
        let name = self.name_of(&snapshot.origin);
        Some(Origin { name, snapshot_bytes: vg.snapshot_bytes(snapshot) })
    }

    /// The snapshots of an origin. Their stores are read.
    ///
    /// # Errors
    ///
    /// A store that cannot be read, or that lies where nothing can be read.
    pub async fn snapshots_of(&self, origin: &str) -> Result<Vec<SnapshotOf>, ImageError> {
        let vg = &self.found.vg;
        let mut snapshots = Vec::new();
        for snapshot in vg.snapshots_of(origin) {
            let info = ops::info(&self.device(&snapshot.name)?).await;
            let info =
                info.map_err(|error| self.error(&snapshot.name, ImageErrorKind::Store(error)))?;
            snapshots.push(SnapshotOf {
                name: self.name_of(&snapshot.name),
                len_bytes: vg.snapshot_bytes(snapshot),
                merging: snapshot.merging,
                valid: info.valid,
            });
        }
        Ok(snapshots)
    }

    /// The whole name of a volume: with the group's uuid where another group has the same name.
    pub fn name_of(&self, volume: &str) -> Name {
        let vg = &self.found.vg;
        let group = if self.shares_name { vg.id.to_string() } else { vg.name.clone() };
        Name { group: Some(group), volume: volume.into() }
    }

    /// The first image that it lies on.
    pub(crate) fn first_image(&self) -> Option<&'a Path> {
        let place = self.found.places.iter().flatten().next()?;
        Some(&self.images[place.disk].path)
    }

    /// Says how this group is chosen, if another one has the same name.
    pub fn same_name(&self) -> Option<ImageError> {
        if !self.shares_name {
            return None;
        }
        let group = self.found.vg.name.clone();
        let image = self.first_image().unwrap_or(Path::new(&group)).to_owned();
        let kind = ImageErrorKind::SameGroupName { group, example: self.name_of("LV") };
        Some(ImageError::about(&image, kind))
    }

    /// About a volume, by its whole name.
    pub(crate) fn error(&self, name: &str, kind: ImageErrorKind) -> ImageError {
        ImageError::new(Subject::Volume(self.name_of(name)), kind)
    }

    /// Refuses what would write to a volume on a disk that ends before its physical volume does: it
    /// may be a copy that was cut off.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::Short`]
    pub fn refuse_short(&self, name: &str) -> Result<(), ImageError> {
        let short = self.found.short_pv(name).cloned();
        short.map_or(Ok(()), |problem| Err(self.error(name, ImageErrorKind::Short(problem))))
    }

    /// The bytes of a volume; of a snapshot's name, those of its COW device.
    ///
    /// # Errors
    ///
    /// No volume has this name, or its bytes cannot be found on these disks.
    pub fn device(&self, name: &str) -> Result<AnyDevice, ImageError> {
        let mapping = self.found.mapping(name).map_err(|error| {
            let group = Subject::Group(self.found.vg.name.clone());
            ImageError::new(group, ImageErrorKind::Locate(error))
        })?;
        let on_pvs = mapping.segments.iter().filter(|segment| !segment.columns.is_empty()).count();
        match on_pvs {
            0 => return Ok(Zeroes::new(mapping.len_bytes()).into()),
            all if all == mapping.segments.len() => {}
            _ => return Err(self.error(name, ImageErrorKind::ZeroesInPart)),
        }
        let (mut files, mut places) = (Vec::new(), Vec::new());
        for pv in mapping.pvs() {
            // A mapping is of volumes that are there.
            let place = self.found.places[pv];
            let place = place.ok_or_else(|| self.error(name, ImageErrorKind::LacksDisk))?;
            files.push(Rc::clone(&self.images[place.disk].file));
            places.push((pv, place.place.start));
        }
        let segments = mapping.segments.iter().map(|segment| {
            let columns = segment.columns.iter().filter_map(|column| {
                let device = places.iter().position(|(pv, _)| *pv == column.pv)?;
                Some(Column { device, at: places[device].1 + column.at })
            });
            let (len_bytes, stripe_bytes) = (segment.len_bytes, segment.stripe_bytes);
            Segment { len_bytes, stripe_bytes, columns: columns.collect() }
        });
        let mapped = Mapped::new(files, segments.collect());
        Ok(mapped.map_err(|error| self.error(name, ImageErrorKind::Io(error)))?.into())
    }
}
