use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dmsnap::device::{Caching, Device, File, Mode, Shared};
use dmsnap_lvm::{Disk, DiskScan, GroupProblem, Groups, PvPlace};

use super::{Group, Images};
use crate::place::Name;
use crate::report::{Failure, tell};

/// What lies on some images.
#[derive(Debug)]
pub(crate) struct Scan {
    paths: Vec<PathBuf>,
    files: Vec<Rc<Shared<File>>>,
    found: Groups,
    /// What could not be used, in words.
    doubts: Vec<Failure>,
}

impl Scan {
    /// Reads labels and metadata of all images.
    pub(crate) async fn of(
        images: &Images,
        paths: &[PathBuf],
        mode: Mode,
        caching: Caching,
    ) -> Result<Self, Failure> {
        let (mut files, mut disks, mut doubts) = (Vec::new(), Vec::new(), Vec::new());
        for path in paths {
            let file = images.open(path, mode, caching).await?;
            if let Some(at) = files.iter().position(|known| Rc::ptr_eq(known, &file)) {
                let found = format!("the same file or device as {}", paths[at].display());
                return Err(Failure::about(path, found).advise("give it once"));
            }
            let disk = scan(path, &file).await?;
            if disk.pvs.is_empty() && disk.problems.is_empty() {
                let found = "no physical volume of LVM's, nor a partition that is one";
                return Err(Failure::about(path, found).advise("give raw images or disks"));
            }
            doubts.extend(disk.problems.iter().map(|problem| Failure::about(path, problem)));
            disks.push(disk);
            files.push(file);
        }
        let found = Groups::assemble(&disks);
        let mut scan = Self { paths: paths.to_vec(), files, found, doubts };
        scan.doubt(&disks);
        match scan.found.groups.is_empty() {
            false => Ok(scan),
            true => Err(scan.doubts.into_iter().next().unwrap_or_else(|| {
                let images: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                Failure::of(&images.join(","), "no volume group is described here")
                    .advise("give all its disks")
            })),
        }
    }

    /// Adds what the assembled groups lack, and what no group says of areas that belong to none.
    fn doubt(&mut self, disks: &[Disk]) {
        let about = |place: &PvPlace, found: &dyn Display| self.failure(place, found);
        let mut doubts: Vec<_> =
            self.found.unreadable.iter().map(|(place, error)| about(place, error)).collect();
        for place in &self.found.unused {
            for area in &disks[place.disk].pvs[place.pv].areas {
                let error = area.header.as_ref().err().or(area.text.as_ref().err());
                doubts.extend(error.map(|error| about(place, error)));
            }
        }
        for group in &self.found.groups {
            let name = format!("volume group {}", group.vg.name);
            doubts.extend(group.problems.iter().map(|problem| {
                match problem {
                    GroupProblem::OldText { .. } => Failure::of(&name, problem)
                        .advise("`vgck --updatemetadata` brings it up to date"),
                    _ => Failure::of(&name, problem),
                }
            }));
        }
        self.doubts.extend(doubts);
    }

    /// Tells on stderr what could not be used, though something could.
    pub(crate) fn warn(&self) {
        self.doubts.iter().for_each(|doubt| tell(format_args!("warning: {doubt}")));
    }

    /// Whether everything that is there could be used.
    pub(crate) fn is_sound(&self) -> bool {
        self.doubts.is_empty()
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.found.groups.iter().map(|found| Group { scan: self, found })
    }

    /// The group that a volume of this name is in.
    pub(crate) fn group_of(&self, name: &Name) -> Result<Group<'_>, Failure> {
        let failed = |found: String| Failure::of(&self.images(), found);
        let named =
            |it: &Group<'_>| name.group.as_ref().is_none_or(|group| *group == it.found.vg.name);
        let groups: Vec<_> = self.groups().filter(named).collect();
        if groups.is_empty() {
            let all: Vec<_> = self.groups().map(|it| it.found.vg.name.clone()).collect();
            let group = name.group.clone().unwrap_or_default();
            return Err(failed(format!(
                "found no volume group {group}; there is {}",
                all.join(", ")
            )));
        }
        let mut with = groups.iter().filter(|it| it.has(&name.volume));
        match (with.next(), with.next()) {
            (Some(one), None) => Ok(*one),
            (None, _) => {
                let all: Vec<_> = groups.iter().flat_map(Group::volumes).collect();
                Err(failed(format!("found no volume {name}; there is {}", all.join(", "))))
            }
            (Some(first), Some(second)) if first.found.vg.name == second.found.vg.name => {
                let found = format!("found two volume groups {}", first.found.vg.name);
                Err(failed(found).advise("give the images of one only"))
            }
            (Some(first), Some(second)) => {
                let both = [first, second].map(|it| format!("{}/{name}", it.found.vg.name));
                let found = format!("{name} may be {} or {}", both[0], both[1]);
                Err(failed(found).advise("name the group as well"))
            }
        }
    }

    pub(super) fn file_of(&self, disk: usize) -> &Rc<Shared<File>> {
        &self.files[disk]
    }

    pub(super) fn path_of(&self, disk: usize) -> &Path {
        &self.paths[disk]
    }

    /// As they were given.
    fn images(&self) -> String {
        let images: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
        images.join(",")
    }

    fn failure(&self, place: &PvPlace, found: impl Display) -> Failure {
        let partition = place.partition.map_or(String::new(), |it| format!(", partition {it}"));
        Failure::of(&format!("{}{partition}", self.path_of(place.disk).display()), found)
    }
}

/// Reads what is to be known of one image.
async fn scan(path: &Path, file: &Shared<File>) -> Result<Disk, Failure> {
    let len = file.len_bytes().map_err(|error| Failure::about(path, error))?;
    let mut scan = DiskScan::new(len);
    while let Some(range) = scan.needs() {
        let size = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let at = range.start;
        let failed =
            |error| Failure::about(path, format_args!("cannot read at byte {at}: {error}"));
        scan.give(&file.read(at, size).await.map_err(failed)?);
    }
    Ok(scan.finish())
}
