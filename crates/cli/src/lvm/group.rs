use std::fmt::Display;
use std::rc::Rc;

use dmsnap::device::{AnyDevice, Column, Mapped, Segment};
use dmsnap_lvm::{LogicalVolume, Snapshot};

use super::Scan;
use crate::report::Failure;

/// A volume group on some images.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group<'a> {
    pub(super) scan: &'a Scan,
    pub(crate) found: &'a dmsnap_lvm::Group,
}

impl<'a> Group<'a> {
    /// Whether users know a volume by this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.volumes().any(|known| known == name)
    }

    /// The names that users know, also that of a snapshot that merges.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = &'a str> {
        let vg = &self.found.vg;
        let known = |lv: &&LogicalVolume| {
            !lv.is_holder() && (vg.is_visible(lv) || vg.snapshot(&lv.name).is_some())
        };
        vg.lvs.iter().filter(known).map(|lv| &*lv.name)
    }

    /// The snapshot of this name.
    pub(crate) fn snapshot(&self, name: &str) -> Result<&'a Snapshot, Failure> {
        let vg = &self.found.vg;
        vg.snapshot(name).ok_or_else(|| {
            let all: Vec<_> = vg.snapshots().iter().map(|it| &*it.name).collect();
            let failure = self.failure(name, "is no snapshot");
            match all.is_empty() {
                true => failure.advise("there is none in this group"),
                false => failure.advise(format_args!("there is {}", all.join(", "))),
            }
        })
    }

    /// About a volume, by its whole name.
    pub(crate) fn failure(&self, name: &str, found: impl Display) -> Failure {
        Failure::of(&format!("{}/{name}", self.found.vg.name), found)
    }

    /// The bytes of a volume; of a snapshot's name, those of its COW device.
    pub(crate) fn device(&self, name: &str) -> Result<AnyDevice, Failure> {
        let vg = &self.found.vg.name;
        let mapping = self.found.mapping(name).map_err(|error| Failure::of(vg, error))?;
        let (mut files, mut places) = (Vec::new(), Vec::new());
        for pv in mapping.pvs() {
            // A mapping is of volumes that are there.
            let place = self.found.places[pv].ok_or_else(|| self.failure(name, "lacks a disk"))?;
            files.push(Rc::clone(self.scan.file_of(place.disk)));
            places.push((pv, place.place.start));
        }
        let segments = mapping.stretches.iter().map(|stretch| {
            let columns = stretch.legs.iter().filter_map(|leg| {
                let device = places.iter().position(|(pv, _)| *pv == leg.pv)?;
                Some(Column { device, at: places[device].1 + leg.start })
            });
            let columns = columns.collect();
            Segment { len_bytes: stretch.len, stripe_bytes: stretch.stripe_bytes, columns }
        });
        let mapped = Mapped::new(files, segments.collect());
        Ok(mapped.map_err(|error| self.failure(name, error))?.into())
    }
}
