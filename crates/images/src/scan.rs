use std::path::{Path, PathBuf};
use std::rc::Rc;

use dmsnap::device::{Caching, Device, File, Mode, Shared};
use dmsnap::signature::{self, Class, Found};
use dmsnap_lvm::{Disk, DiskScan, Groups, PvPlace};

use crate::error::{Candidate, ImageError, ImageErrorKind, Subject};
use crate::files::{Warn, refuse_raid_member};
use crate::group::Group;
use crate::images::{Image, Images};
use crate::name::Name;

/// What lies on some images.
#[derive(Debug)]
pub struct Scan {
    images: Vec<Image>,
    found: Groups,
    /// What could not be used.
    doubts: Vec<ImageError>,
    /// What is not a fault, but may not be what the user expects.
    notes: Vec<ImageError>,
}

impl Scan {
    /// Reads labels and metadata without a lock, and warns of nothing but what [`Images`] warns of.
    ///
    /// # Errors
    ///
    /// As [`of`](Self::of).
    pub async fn look(paths: &[PathBuf], warn: Warn) -> Result<Self, ImageError> {
        Self::of(&Images::new(warn), paths, Mode::Look, Caching::Buffered).await
    }

    /// Reads labels and metadata of all images.
    ///
    /// # Errors
    ///
    /// An image that cannot be read or comes twice. Where no volume group is described: what is there
    /// instead, else what is damaged.
    pub async fn of(
        images: &Images,
        paths: &[PathBuf],
        mode: Mode,
        caching: Caching,
    ) -> Result<Self, ImageError> {
        let (mut open, mut disks) = (Vec::<Image>::new(), Vec::new());
        let (mut doubts, mut notes) = (Vec::new(), Vec::new());
        for path in paths {
            let file = images.open(path, mode, caching).await?;
            if let Some(known) = open.iter().find(|known| Rc::ptr_eq(&known.file, &file)) {
                let same = ImageErrorKind::SameImage(known.path.clone());
                return Err(ImageError::about(path, same));
            }
            let disk = scan(path, &file).await?;
            let foreign = match disk.pvs.is_empty() {
                true => foreign(path, &file).await,
                false => None,
            };
            notes.extend(foreign.or_else(|| note(path, &disk)));
            let problems = disk.problems.iter().cloned().map(ImageErrorKind::Disk);
            doubts.extend(problems.map(|problem| ImageError::about(path, problem)));
            disks.push(disk);
            open.push(Image { path: path.clone(), file });
        }
        let found = Groups::assemble(&disks);
        let mut scan = Self { images: open, found, doubts, notes };
        scan.doubt(&disks);
        if !scan.found.groups.is_empty() {
            return Ok(scan);
        }
        // What lies there instead says more than what is damaged.
        let has_pvs = disks.iter().any(|disk| !disk.pvs.is_empty());
        let notes = std::mem::take(&mut scan.notes).into_iter().filter(|_| !has_pvs);
        let first = notes.chain(std::mem::take(&mut scan.doubts)).next();
        Err(first.unwrap_or_else(|| scan.error(ImageErrorKind::NoGroup)))
    }

    /// Adds what the assembled groups lack, and what is wrong with areas that belong to no group.
    fn doubt(&mut self, disks: &[Disk]) {
        let about = |place: &PvPlace, kind| ImageError::new(self.subject(place), kind);
        let texts = self.found.unreadable.iter();
        let mut doubts: Vec<_> =
            texts.map(|(place, error)| about(place, ImageErrorKind::Text(error.clone()))).collect();
        for place in &self.found.unused {
            for area in &disks[place.disk].pvs[place.pv].areas {
                let error = area.header.as_ref().err().or(area.text.as_ref().err());
                doubts.extend(error.map(|it| about(place, ImageErrorKind::Area(it.clone()))));
            }
        }
        for group in &self.found.groups {
            let name = Subject::Group(group.vg.name.clone());
            let problems = group.problems.iter().cloned().map(ImageErrorKind::Group);
            doubts.extend(problems.map(|problem| ImageError::new(name.clone(), problem)));
        }
        self.doubts.extend(doubts);
    }

    /// Refuses images, and partitions with a PV, that are one disk of a RAID: to be called before anything
    /// is written. With its superblock at the end such a disk looks like a PV.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::RaidMember`]
    pub async fn refuse_raid_members(&self) -> Result<(), ImageError> {
        for Image { path, file } in &self.images {
            refuse_raid_member(path, file).await?;
        }
        let places = self.found.groups.iter().flat_map(|group| group.places.iter().flatten());
        for place in places.filter(|place| place.partition.is_some()) {
            let within = place.place.start..place.place.start.saturating_add(place.place.len);
            let file = &self.images[place.disk].file;
            if let Some(found) = signature::raid_member(file, within).await {
                let member = ImageErrorKind::RaidMember(found);
                return Err(ImageError::new(self.subject(place), member));
            }
        }
        Ok(())
    }

    /// What could not be used, or may not be what the user expects, though something could be used.
    pub fn warnings(&self) -> impl Iterator<Item = &ImageError> {
        self.notes.iter().chain(&self.doubts)
    }

    /// Whether everything that is there could be used.
    pub fn is_sound(&self) -> bool {
        self.doubts.is_empty()
    }

    /// The volume groups, by name.
    pub fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        let found = &self.found.groups;
        found.iter().map(|group| {
            let same = found.iter().filter(|other| other.vg.name == group.vg.name);
            Group { found: group, images: &self.images, shares_name: same.count() > 1 }
        })
    }

    /// The group that a volume of this name is in.
    ///
    /// # Errors
    ///
    /// There is none of that name, or more than one.
    pub fn group_of(&self, name: &Name) -> Result<Group<'_>, ImageError> {
        let named = |it: &Group<'_>| {
            let vg = &it.found.vg;
            let is = |group: &String| *group == vg.name || *group == vg.id.to_string();
            name.group.as_ref().is_none_or(is)
        };
        let groups: Vec<_> = self.groups().filter(named).collect();
        if groups.is_empty() {
            let known = self.groups().map(|it| it.found.vg.name.clone()).collect();
            let group = name.group.clone().unwrap_or_default();
            return Err(self.error(ImageErrorKind::GroupNotFound { group, known }));
        }
        let mut with = groups.iter().filter(|it| it.has(&name.volume));
        match (with.next(), with.next()) {
            (Some(one), None) => Ok(*one),
            (None, _) => {
                let known = groups.iter().flat_map(Group::volumes).map(str::to_owned).collect();
                Err(self.error(ImageErrorKind::VolumeNotFound { name: name.clone(), known }))
            }
            (Some(first), Some(second)) => {
                let is_same_group_name = first.found.vg.name == second.found.vg.name;
                let candidates = Box::new([first, second].map(|it| {
                    let image = it.first_image().filter(|_| is_same_group_name);
                    let image = image.map(Path::to_owned);
                    Candidate { name: it.name_of(&name.volume), image }
                }));
                let name = name.clone();
                let kind = ImageErrorKind::Ambiguous { name, candidates, is_same_group_name };
                Err(self.error(kind))
            }
        }
    }

    /// All images, as they were given.
    pub fn images(&self) -> Subject {
        Subject::Images(self.images.iter().map(|image| image.path.clone()).collect())
    }

    fn error(&self, kind: ImageErrorKind) -> ImageError {
        ImageError::new(self.images(), kind)
    }

    fn subject(&self, place: &PvPlace) -> Subject {
        let path = self.images[place.disk].path.clone();
        match place.partition {
            Some(number) => Subject::Partition { path, number },
            None => Subject::Path(path),
        }
    }
}

/// What lies there, if it is known and cannot hold volumes as it is.
async fn foreign(path: &Path, file: &Shared<File>) -> Option<ImageError> {
    let found = signature::name(file).await.filter(|found| !may_hold_volumes(*found))?;
    Some(ImageError::about(path, ImageErrorKind::Foreign(found)))
}

/// Whether a volume manager, a partition table or nothing may lie there, as far as a look for physical
/// volumes is concerned.
fn may_hold_volumes(found: Found) -> bool {
    matches!(found.kind.class, Class::PartitionTable) || found.kind.name == "LVM2_member"
}

/// What an image has that nobody may expect: no physical volume, or one that counts for nothing.
fn note(path: &Path, disk: &Disk) -> Option<ImageError> {
    let found = match (disk.table, disk.partitions.len()) {
        _ if disk.covered.is_some() => ImageErrorKind::HiddenLabel,
        _ if !disk.pvs.is_empty() || !disk.problems.is_empty() => return None,
        (None, _) => ImageErrorKind::NoPartitionTable,
        (Some(_), 0) => ImageErrorKind::NoPartitions,
        (Some(_), _) => ImageErrorKind::NoPhysicalVolume,
    };
    Some(ImageError::about(path, found))
}

/// Reads what is to be known of one image.
async fn scan(path: &Path, file: &Shared<File>) -> Result<Disk, ImageError> {
    let len = file.len_bytes().map_err(ImageError::io(path))?;
    let mut scan = DiskScan::new(len);
    while let Some(range) = scan.needs() {
        let size = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let at = range.start;
        let failed = |source| ImageError::about(path, ImageErrorKind::Read { at, source });
        scan.give(&file.read(at, size).await.map_err(failed)?);
    }
    Ok(scan.finish())
}
