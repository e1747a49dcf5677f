use super::VolumeGroup;
use super::fault::Fault;
use super::volumes::{LogicalVolume, Segment, SegmentKind, Target};
use crate::bytes::SECTOR_BYTES;

/// Why it cannot be said where an LV's bytes lie.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum MapError {
    /// No LV has that name.
    #[error("volume group {vg} has no logical volume {lv}")]
    NotFound { vg: String, lv: String },
    /// Segments of a type that is only known by name.
    #[error("{lv} is of type {kind}, which is not supported (only linear, striped and zero are)")]
    Unsupported { lv: String, kind: String },
    /// LVM is moving it, or it is built on another LV.
    #[error("{lv} lies on another logical volume, {on}, which is not supported")]
    Stacked { lv: String, on: String },
    /// The metadata contradicts itself.
    #[error("the metadata contradicts itself: {0}")]
    Fault(Fault),
}

/// Where the bytes of an LV lie.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mapping {
    /// In the order of the LV, one after the other from 0 on.
    pub segments: Vec<MappedSegment>,
}

/// Consecutive bytes of an LV in stripes that go round its columns; a [`Segment`] in bytes. One column is a
/// linear segment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MappedSegment {
    /// First byte in the LV.
    pub start: u64,
    /// Of all stripes together.
    pub len_bytes: u64,
    /// Length of a stripe, in bytes; with one column, all of the segment.
    pub stripe_bytes: u64,
    /// Where the stripes lie; none where all bytes are zeroes that lie nowhere.
    pub columns: Vec<Column>,
}

/// Consecutive bytes of a PV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Index into [`VolumeGroup::pvs`].
    pub pv: usize,
    /// First byte on the PV.
    pub at: u64,
}

/// Bytes of an LV that lie one after another on one PV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index into [`VolumeGroup::pvs`].
    pub pv: usize,
    /// First byte on the PV.
    pub start: u64,
    /// How many bytes.
    pub len: u64,
}

impl VolumeGroup {
    /// Where the bytes of an LV lie. Of a snapshot's name, those of its COW device.
    ///
    /// # Errors
    ///
    /// If there is no such LV, if it is of a type that is only known by name, or if the metadata
    /// contradicts itself about it. Every byte of a mapping lies inside its PV, and no other LV
    /// has it.
    pub fn mapping(&self, name: &str) -> Result<Mapping, MapError> {
        let (vg, lv) = (self.name.clone(), name.to_owned());
        let lv = self.lv(name).ok_or(MapError::NotFound { vg, lv })?;
        if let Some(fault) = self.faults.of_lv(name) {
            return Err(MapError::Fault(fault.clone()));
        }
        let segments = lv.segments.iter().map(|segment| self.mapped(lv, segment));
        Ok(Mapping { segments: segments.collect::<Result<_, _>>()? })
    }

    fn mapped(&self, lv: &LogicalVolume, segment: &Segment) -> Result<MappedSegment, MapError> {
        let (start, len_bytes) = (
            segment.start_extent * self.extent_bytes(),
            segment.extent_count * self.extent_bytes(),
        );
        let (stripe_sectors, stripes) = match &segment.kind {
            SegmentKind::Striped { stripe_sectors, stripes } => (stripe_sectors, stripes),
            SegmentKind::Zero => {
                let (stripe_bytes, columns) = (len_bytes, Vec::new());
                return Ok(MappedSegment { start, len_bytes, stripe_bytes, columns });
            }
            other => {
                let (lv, kind) = (lv.name.clone(), other.name().to_owned());
                return Err(MapError::Unsupported { lv, kind });
            }
        };
        let columns = stripes.iter().map(|stripe| self.column(lv, &stripe.on, stripe.start_extent));
        let stripe_bytes =
            if stripes.len() == 1 { len_bytes } else { stripe_sectors * SECTOR_BYTES };
        let columns = columns.collect::<Result<_, _>>()?;
        Ok(MappedSegment { start, len_bytes, stripe_bytes, columns })
    }

    fn column(&self, lv: &LogicalVolume, on: &Target, extent: u64) -> Result<Column, MapError> {
        let index = match on {
            Target::Pv(index) => *index,
            Target::Lv(index) => {
                let on = self.lvs[*index].name.clone();
                return Err(MapError::Stacked { lv: lv.name.clone(), on });
            }
            Target::Unknown(target) => {
                let (lv, target) = (lv.name.clone(), target.clone());
                return Err(MapError::Fault(Fault::UnknownTarget { lv, target }));
            }
        };
        let pv = &self.pvs[index];
        if let Some(fault) = self.faults.of_pv(&pv.name) {
            return Err(MapError::Fault(fault.clone()));
        }
        let at = (pv.pe_start_sectors + extent * self.extent_sectors) * SECTOR_BYTES;
        Ok(Column { pv: index, at })
    }
}

impl Mapping {
    /// The size of the LV.
    pub fn len_bytes(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.start + last.len_bytes)
    }

    /// The longest piece that begins with byte `at` of the LV; `None` at its end, and where it lies
    /// on no PV.
    pub fn piece(&self, at: u64) -> Option<Piece> {
        let after = self.segments.partition_point(|segment| segment.start <= at);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        segment.piece(at.checked_sub(segment.start)?)
    }

    /// All that lies on PVs in pieces, in the order of the LV.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.segments.iter().flat_map(|segment| {
            let mut at = 0;
            std::iter::from_fn(move || {
                let piece = segment.piece(at)?;
                at += piece.len;
                Some(piece)
            })
        })
    }

    /// Each column, with the bytes that it has.
    pub(crate) fn columns(&self) -> impl Iterator<Item = (Column, u64)> {
        self.segments.iter().flat_map(|segment| {
            let len = segment.len_bytes.div_ceil((segment.columns.len() as u64).max(1));
            segment.columns.iter().map(move |column| (*column, len))
        })
    }

    /// Indices of the PVs in it, each once, in ascending order.
    pub fn pvs(&self) -> Vec<usize> {
        let columns = self.segments.iter().flat_map(|segment| &segment.columns);
        let mut found: Vec<_> = columns.map(|column| column.pv).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl MappedSegment {
    /// Kernel: stripe_map.
    fn piece(&self, at: u64) -> Option<Piece> {
        if at >= self.len_bytes {
            return None;
        }
        let columns = self.columns.len() as u64;
        if columns == 0 {
            return None;
        }
        let (stripe, within) = (at / self.stripe_bytes, at % self.stripe_bytes);
        let column = self.columns[usize::try_from(stripe % columns).ok()?];
        Some(Piece {
            pv: column.pv,
            start: column.at + stripe / columns * self.stripe_bytes + within,
            len: (self.stripe_bytes - within).min(self.len_bytes - at),
        })
    }
}
