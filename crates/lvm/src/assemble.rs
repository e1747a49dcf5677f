use std::collections::HashMap;

use crate::area::{Area, AreaError};
use crate::bytes::{Extent, Uuid};
use crate::group::{GroupError, MapError, Mapping, VolumeGroup};
use crate::scan::{Disk, FoundPv};

/// Where a PV is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PvPlace {
    /// Index of the disk, as they were given.
    pub disk: usize,
    /// Index into [`Disk::pvs`].
    pub pv: usize,
    /// The partition of the disk.
    pub partition: Option<u32>,
    /// Where it is on the disk.
    pub place: Extent,
}

/// A volume group and where its PVs are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Group {
    /// By the newest text.
    pub vg: VolumeGroup,
    /// That text, byte for byte, without its NUL.
    pub text: Vec<u8>,
    /// For each of [`VolumeGroup::pvs`] where it is; `None` if it is on none of the disks, or on
    /// more than one.
    pub places: Vec<Option<PvPlace>>,
    /// Every metadata area of those PVs, also the damaged and the ignored ones.
    pub copies: Vec<TextCopy>,
    /// What is not as it should be: see [`GroupProblem`].
    pub problems: Vec<GroupProblem>,
    /// By PV, the one of its problems that keeps its bytes, or some of them, from being read.
    unreadable: HashMap<usize, GroupProblem>,
}

/// A metadata area of a group's PV.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TextCopy {
    /// Its PV, as an index into [`VolumeGroup::pvs`].
    pub pv: usize,
    /// Its header, if that is sound.
    pub area: Option<Area>,
    /// What its text says of the group.
    pub state: CopyState,
}

/// What the text of a metadata area is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyState {
    /// The same bytes as [`Group::text`].
    Current,
    /// An older text, or another one of the same age.
    Differs,
    /// Not to be used: LVM keeps nothing there.
    Ignored,
    /// No text of this group can be read there.
    Unusable,
}

/// What is not as it should be in a volume group. Nothing may be written then; reading goes as far
/// as [`Group::mapping`] allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum GroupProblem {
    /// A PV is on none of the disks.
    #[error("PV {pv} with uuid {id}{} is on none of the disks", last_seen(device))]
    MissingPv { pv: String, id: Uuid, device: Option<String> },
    /// A PV is there more than once: which one is right cannot be known.
    #[error("PV {pv} with uuid {id} is there {count} times")]
    TwicePv { pv: String, id: Uuid, count: usize },
    /// A PV ends before its extents do.
    #[error("PV {pv} with uuid {id} has {found} bytes, and needs {needed}")]
    ShortPv { pv: String, id: Uuid, found: u64, needed: u64 },
    /// LVM wrote without this PV once: what is on it may be old.
    #[error("PV {pv} with uuid {id} was missing when the group was last written")]
    MarkedMissing { pv: String, id: Uuid },
    /// A text that is older than another.
    #[error("a metadata area of PV {pv} has an old text: seqno {found}, the newest is {newest}")]
    OldText { pv: String, found: u64, newest: u64 },
    /// Two texts of the same age.
    #[error("metadata areas disagree about seqno {seqno}; the text of PV {pv} is not used")]
    Disagree { pv: String, seqno: u64 },
    /// A metadata area that cannot be read.
    #[error("a metadata area of PV {pv}: {error}")]
    Area { pv: String, error: AreaError },
    /// A metadata area without a text, which LVM gives every PV of a group.
    #[error("a metadata area of PV {pv} has no text")]
    NoText { pv: String },
    /// A PV whose own text says that it belongs to the group, which does not know it.
    #[error("the PV with uuid {id} has an old text of the group, and is not part of it any more")]
    LeftOver { id: Uuid },
}

fn last_seen(device: &Option<String>) -> String {
    device.as_ref().map_or(String::new(), |device| format!(" (last seen as {device})"))
}

/// The volume groups on some disks.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Groups {
    /// Sorted by name.
    pub groups: Vec<Group>,
    /// PVs of no group that is known: their group's other PVs may be missing.
    pub unused: Vec<PvPlace>,
    /// Texts that are whole, but are not the metadata of a volume group.
    pub unreadable: Vec<(PvPlace, GroupError)>,
}

/// Why a volume group was not found by its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum FindError {
    /// There is none of that name.
    #[error("there is no volume group {name}")]
    NotFound { name: String },
    /// There are several.
    #[error("there are {count} volume groups {name}")]
    Ambiguous { name: String, count: usize },
}

impl Groups {
    /// Puts together what is on `disks`.
    pub fn assemble(disks: &[Disk]) -> Self {
        let pvs = places(disks);
        let mut found = Self::default();
        let mut newest: HashMap<Uuid, (VolumeGroup, &[u8])> = HashMap::new();
        let mut known: HashMap<&[u8], Option<(Uuid, u64)>> = HashMap::new();
        for (place, pv) in &pvs {
            for text in texts(pv) {
                if known.contains_key(text) {
                    continue;
                }
                let group = VolumeGroup::parse(text);
                known.insert(text, group.as_ref().ok().map(|group| (group.id, group.seqno)));
                match group {
                    Err(error) => found.unreadable.push((*place, error)),
                    Ok(group) => match newest.get(&group.id) {
                        Some((best, _)) if best.seqno >= group.seqno => {}
                        _ => drop(newest.insert(group.id, (group, text))),
                    },
                }
            }
        }
        let mut used = vec![false; pvs.len()];
        for (_, (vg, text)) in newest {
            found.groups.push(Group::new(vg, text, &pvs, &known, &mut used));
        }
        found.groups.sort_by(|a, b| (&a.vg.name, a.vg.id).cmp(&(&b.vg.name, b.vg.id)));
        let unused = pvs.iter().zip(&used).filter(|(_, used)| !**used);
        found.unused = unused.map(|((place, _), _)| *place).collect();
        found
    }

    /// The group of that name, or with that uuid.
    ///
    /// # Errors
    ///
    /// If there is none, or more than one.
    pub fn find(&self, name: &str) -> Result<&Group, FindError> {
        let id = |group: &&Group| group.vg.id.to_string() == name;
        if let Some(group) = self.groups.iter().find(id) {
            return Ok(group);
        }
        let mut named = self.groups.iter().filter(|group| group.vg.name == name);
        let name = || name.to_owned();
        let first = named.next().ok_or_else(|| FindError::NotFound { name: name() })?;
        match named.count() {
            0 => Ok(first),
            more => Err(FindError::Ambiguous { name: name(), count: more + 1 }),
        }
    }
}

type Known<'a> = HashMap<&'a [u8], Option<(Uuid, u64)>>;

fn places(disks: &[Disk]) -> Vec<(PvPlace, &FoundPv)> {
    let on = |(disk, found): (usize, &'_ Disk)| {
        (0..found.pvs.len()).map(move |pv| (disk, pv)).collect::<Vec<_>>()
    };
    let all = disks.iter().enumerate().flat_map(on);
    let place = |(disk, pv): (usize, usize)| {
        let found = &disks[disk].pvs[pv];
        (PvPlace { disk, pv, partition: found.partition, place: found.place }, found)
    };
    all.map(place).collect()
}

/// The texts in force on a PV.
fn texts(pv: &FoundPv) -> impl Iterator<Item = &[u8]> {
    let used =
        |area: &&crate::scan::FoundArea| area.header.as_ref().is_ok_and(|area| !area.ignored);
    let areas = pv.areas.iter().filter(used);
    areas.filter_map(|area| area.text.as_ref().ok()?.as_deref())
}

impl Group {
    fn new(
        vg: VolumeGroup,
        text: &[u8],
        pvs: &[(PvPlace, &FoundPv)],
        known: &Known<'_>,
        used: &mut [bool],
    ) -> Self {
        let places = vec![None; vg.pvs.len()];
        let (copies, problems) = (Vec::new(), Vec::new());
        let (text, unreadable) = (text.to_owned(), HashMap::new());
        let mut group = Self { vg, text, places, copies, problems, unreadable };
        for index in 0..group.vg.pvs.len() {
            group.find_pv(index, pvs, known, used);
        }
        let of_group =
            |text: &[u8]| matches!(known.get(text), Some(Some((id, _))) if *id == group.vg.id);
        for ((_, pv), used) in pvs.iter().zip(used) {
            if !*used && texts(pv).any(of_group) {
                group.problems.push(GroupProblem::LeftOver { id: pv.label.uuid });
                *used = true;
            }
        }
        group
    }

    fn find_pv(
        &mut self,
        index: usize,
        pvs: &[(PvPlace, &FoundPv)],
        known: &Known<'_>,
        used: &mut [bool],
    ) {
        let (pv, id) = (self.vg.pvs[index].name.clone(), self.vg.pvs[index].id);
        let matching = |at: &usize| pvs[*at].1.label.uuid == id;
        let found: Vec<usize> = (0..pvs.len()).filter(matching).collect();
        found.iter().for_each(|at| used[*at] = true);
        match found[..] {
            [] => {
                let device = self.vg.pvs[index].device.clone();
                self.unreadable(index, GroupProblem::MissingPv { pv, id, device });
            }
            [at] => {
                let (place, found) = pvs[at];
                self.places[index] = Some(place);
                self.check_size(index, place);
                for area in &found.areas {
                    self.copy(index, area, known);
                }
                if self.vg.pvs[index].is_missing() {
                    self.problems.push(GroupProblem::MarkedMissing { pv, id });
                }
            }
            _ => self.unreadable(index, GroupProblem::TwicePv { pv, id, count: found.len() }),
        }
    }

    fn check_size(&mut self, index: usize, place: PvPlace) {
        let pv = &self.vg.pvs[index];
        let extents = pv.pe_count.saturating_mul(self.vg.extent_bytes());
        let start = pv.pe_start_sectors.saturating_mul(crate::bytes::SECTOR_BYTES);
        let (needed, found) = (start.saturating_add(extents), place.place.len);
        if needed > found {
            let (pv, id) = (pv.name.clone(), pv.id);
            self.unreadable(index, GroupProblem::ShortPv { pv, id, found, needed });
        }
    }

    fn unreadable(&mut self, pv: usize, problem: GroupProblem) {
        self.problems.push(problem.clone());
        self.unreadable.insert(pv, problem);
    }

    fn copy(&mut self, pv: usize, found: &crate::scan::FoundArea, known: &Known<'_>) {
        let name = self.vg.pvs[pv].name.clone();
        let newest = self.vg.seqno;
        let area = found.header.as_ref().ok().cloned();
        let ignored = area.as_ref().is_some_and(|area| area.ignored);
        let mut state = CopyState::Unusable;
        let problem = match (&found.header, &found.text) {
            _ if ignored => {
                state = CopyState::Ignored;
                None
            }
            (Err(error), _) | (Ok(_), Err(error)) => {
                Some(GroupProblem::Area { pv: name, error: error.clone() })
            }
            (Ok(_), Ok(None)) => Some(GroupProblem::NoText { pv: name }),
            (Ok(_), Ok(Some(text))) if *text == self.text => {
                state = CopyState::Current;
                None
            }
            (Ok(_), Ok(Some(text))) => match known.get(&text[..]).copied().flatten() {
                Some((id, seqno)) if id == self.vg.id => {
                    state = CopyState::Differs;
                    Some(if seqno == newest {
                        GroupProblem::Disagree { pv: name, seqno }
                    } else {
                        GroupProblem::OldText { pv: name, found: seqno, newest }
                    })
                }
                _ => Some(GroupProblem::NoText { pv: name }),
            },
        };
        self.problems.extend(problem);
        self.copies.push(TextCopy { pv, area, state });
    }

    /// Where the bytes of an LV lie, and all of them are there. Of a snapshot's name, those of its
    /// COW device.
    ///
    /// # Errors
    ///
    /// As [`VolumeGroup::mapping`]; and if a PV is missing, twice there, or ends before the LV does.
    pub fn mapping(&self, lv: &str) -> Result<Mapping, LocateError> {
        let mapping = self.vg.mapping(lv)?;
        for (column, len) in mapping.columns() {
            match (self.unreadable.get(&column.pv), self.places[column.pv]) {
                (None, _) => {}
                (Some(GroupProblem::ShortPv { .. }), Some(place))
                    if column.at.saturating_add(len) <= place.place.len => {}
                (Some(problem), _) => {
                    return Err(LocateError::Pv { lv: lv.to_owned(), problem: problem.clone() });
                }
            }
        }
        Ok(mapping)
    }

    /// Of the PVs that an LV lies on, one that ends before its extents do, though not before those of
    /// the LV: it may be a copy of a disk that is whole elsewhere, so nothing is to be written to it.
    pub fn short_pv(&self, lv: &str) -> Option<&GroupProblem> {
        let mapping = self.vg.mapping(lv).ok()?;
        let mut short = mapping.pvs().into_iter().filter_map(|pv| self.unreadable.get(&pv));
        short.find(|problem| matches!(problem, GroupProblem::ShortPv { .. }))
    }

    /// Whether any PV is not there: what LVM calls partial.
    pub fn is_partial(&self) -> bool {
        self.places.iter().any(Option::is_none)
    }
}

/// Why the bytes of an LV cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum LocateError {
    /// The metadata does not say where they are.
    #[error(transparent)]
    Map(#[from] MapError),
    /// They lie on a PV that cannot be used.
    #[error("{lv} cannot be read: {problem}")]
    Pv { lv: String, problem: GroupProblem },
}
