use std::collections::VecDeque;
use std::ops::Range;

use crate::area::{AREA_HEADER_BYTES, Area, AreaError, TextPlace, check_place};
use crate::bytes::Extent;
use crate::label::{LABEL_SCAN_BYTES, Label, LabelError};
use crate::partition::{Partition, TableError, TableKind, TableScan, is_partitioned};

/// Metadata areas of one PV that are looked at. LVM makes up to two.
pub const MAX_AREAS: usize = 8;

/// Metadata text that is read from one disk, in bytes: 64 MiB.
pub const MAX_SCAN_BYTES: u64 = 64 << 20;

/// What a disk holds of LVM.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Disk {
    /// Of its partition table, if it has one.
    pub table: Option<TableKind>,
    /// In the order of the table.
    pub partitions: Vec<Partition>,
    /// On the whole disk, or in partitions.
    pub pvs: Vec<FoundPv>,
    /// On the whole disk, below a partition table: LVM takes no account of it.
    pub covered: Option<Label>,
    /// What was looked at and could not be used.
    pub problems: Vec<DiskProblem>,
}

/// A PV on a disk.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FoundPv {
    /// The partition it is in.
    pub partition: Option<u32>,
    /// Where it is on the disk: all its other places count from there.
    pub place: Extent,
    /// What its front says.
    pub label: Label,
    /// One for each metadata area.
    pub areas: Vec<FoundArea>,
}

/// A metadata area of a PV.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FoundArea {
    /// Its header.
    pub header: Result<Area, AreaError>,
    /// The live text, without its NUL; `None` if there is none.
    pub text: Result<Option<Vec<u8>>, AreaError>,
}

/// Something on a disk that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum DiskProblem {
    /// A damaged label.
    #[error("{}{error}", in_partition(*partition))]
    Label { partition: Option<u32>, error: LabelError },
    /// A damaged partition table: there may be more partitions.
    #[error("{0}")]
    Table(TableError),
    /// The caller brought other bytes than asked for.
    #[error("{found} bytes were read at {start}, not {expected}")]
    Short { start: u64, expected: u64, found: u64 },
}

fn in_partition(partition: Option<u32>) -> String {
    partition.map_or(String::new(), |number| format!("in partition {number}: "))
}

/// Finds the PVs of a disk, without reading: it says which bytes it needs, and is given them.
///
/// ```
/// let image = vec![0; 1 << 20];
/// let mut scan = dmsnap_lvm::DiskScan::new(image.len() as u64);
/// while let Some(range) = scan.needs() {
///     scan.give(&image[range.start as usize..range.end as usize]);
/// }
/// assert!(scan.finish().pvs.is_empty());
/// ```
///
/// No range goes over the end of the disk, none is longer than [`MAX_TEXT_BYTES`], and all of
/// them together are bounded by [`MAX_SCAN_BYTES`] and a little more, whatever the disk claims.
///
/// [`MAX_TEXT_BYTES`]: crate::MAX_TEXT_BYTES
#[derive(Clone, Debug)]
pub struct DiskScan {
    disk_bytes: u64,
    disk: Disk,
    table: Option<TableScan>,
    tasks: VecDeque<Task>,
    text_bytes: u64,
}

/// Something to be read.
#[derive(Clone, Debug)]
enum Task {
    /// The front of the whole disk or of a partition.
    Label { partition: Option<u32>, place: Extent },
    /// What the partition table leads to.
    Table,
    /// The header of the last metadata area of this PV.
    Area { pv: usize, place: Extent },
    /// One of the two ranges of the text of that area, and what was read of it.
    Text { pv: usize, area: usize, text: TextPlace, read: Vec<u8> },
}

impl DiskScan {
    /// Of a disk or image of `disk_bytes`.
    pub fn new(disk_bytes: u64) -> Self {
        let whole = Task::Label { partition: None, place: Extent { start: 0, len: disk_bytes } };
        Self {
            disk_bytes,
            disk: Disk::default(),
            table: None,
            tasks: VecDeque::from([whole]),
            text_bytes: 0,
        }
    }

    /// The next bytes of the disk that it needs; `None` when it is done.
    pub fn needs(&self) -> Option<Range<u64>> {
        match self.tasks.front()? {
            Task::Label { place, .. } => {
                Some(place.start..place.start + place.len.min(LABEL_SCAN_BYTES))
            }
            Task::Table => self.table.as_ref()?.needs(),
            Task::Area { pv, place } => {
                let start = self.disk.pvs[*pv].place.start + place.start;
                Some(start..start + AREA_HEADER_BYTES)
            }
            Task::Text { pv, text, read, .. } => {
                let start = self.disk.pvs[*pv].place.start;
                let range = &text.ranges()[usize::from(!read.is_empty())];
                Some(start + range.start..start + range.end)
            }
        }
    }

    /// The bytes that were needed, all of them.
    pub fn give(&mut self, bytes: &[u8]) {
        let Some(needed) = self.needs() else { return };
        let Some(task) = self.tasks.pop_front() else { return };
        let (expected, found) = (needed.end - needed.start, bytes.len() as u64);
        if found != expected {
            let start = needed.start;
            self.disk.problems.push(DiskProblem::Short { start, expected, found });
        }
        match task {
            Task::Label { partition, place } => self.label(partition, place, bytes),
            Task::Table => {
                if let Some(table) = &mut self.table {
                    table.give(bytes);
                }
                self.follow_table();
            }
            Task::Area { pv, place } => self.area(pv, place, bytes),
            Task::Text { pv, area, text, read } => self.text(pv, area, text, read, bytes),
        }
    }

    /// What was found.
    pub fn finish(self) -> Disk {
        self.disk
    }

    /// A disk with a partition table is not a PV for LVM, whatever lies in its label's sector: it was one
    /// before.
    fn label(&mut self, partition: Option<u32>, place: Extent, front: &[u8]) {
        let covered = partition.is_none() && is_partitioned(front);
        match Label::find(front) {
            Ok(None) => {}
            Ok(Some(label)) if covered => self.disk.covered = Some(label),
            Ok(Some(label)) => self.pv(partition, place, label),
            Err(_) if covered => {}
            Err(error) => self.disk.problems.push(DiskProblem::Label { partition, error }),
        }
        if partition.is_none() && self.disk.pvs.is_empty() {
            self.table = Some(TableScan::new(self.disk_bytes, front));
            self.follow_table();
        }
    }

    fn follow_table(&mut self) {
        let Some(table) = &mut self.table else { return };
        if table.needs().is_some() {
            self.tasks.push_back(Task::Table);
            return;
        }
        self.disk.table = table.kind;
        self.disk.partitions = std::mem::take(&mut table.found);
        self.disk.problems.extend(table.error.take().map(DiskProblem::Table));
        for partition in &self.disk.partitions {
            let (number, place) = (Some(partition.number), partition.place);
            self.tasks.push_back(Task::Label { partition: number, place });
        }
    }

    fn pv(&mut self, partition: Option<u32>, place: Extent, label: Label) {
        let pv = self.disk.pvs.len();
        let mut areas = Vec::new();
        for area in label.metadata_areas.iter().take(MAX_AREAS) {
            let header = match check_place(*area, place.len) {
                // Asked for next; this stands in its place if nothing comes.
                Ok(()) => Err(AreaError::Short),
                Err(error) => Err(error),
            };
            if header == Err(AreaError::Short) {
                self.tasks.push_back(Task::Area { pv, place: *area });
            }
            areas.push(FoundArea { header, text: Ok(None) });
        }
        self.disk.pvs.push(FoundPv { partition, place, label, areas });
    }

    fn area(&mut self, pv: usize, place: Extent, bytes: &[u8]) {
        let found = &mut self.disk.pvs[pv];
        let header = Area::parse(bytes, place, found.place.len);
        let areas = found.label.metadata_areas.iter();
        let Some(area) = areas.take(MAX_AREAS).position(|area| *area == place) else { return };
        if let Ok(Area { live: Some(text), .. }) = &header {
            if self.text_bytes + text.size > MAX_SCAN_BYTES {
                found.areas[area].text = Err(AreaError::TooLong { size: text.size });
            } else {
                self.text_bytes += text.size;
                let read = Vec::new();
                self.tasks.push_front(Task::Text { pv, area, text: *text, read });
            }
        }
        found.areas[area].header = header;
    }

    fn text(&mut self, pv: usize, area: usize, text: TextPlace, mut read: Vec<u8>, bytes: &[u8]) {
        let first = read.is_empty();
        read.extend_from_slice(bytes);
        if first && !text.ranges()[1].is_empty() && !bytes.is_empty() {
            self.tasks.push_front(Task::Text { pv, area, text, read });
            return;
        }
        let text = text.check(&read).map(|text| Some(text.to_owned()));
        self.disk.pvs[pv].areas[area].text = text;
    }
}
