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
    pub stretches: Vec<Stretch>,
}

/// Consecutive bytes of an LV in one, two or more stripes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stretch {
    /// First byte in the LV.
    pub start: u64,
    /// In bytes, all stripes together.
    pub len: u64,
    /// Bytes that lie in one stripe before the next one's turn; with one stripe, all of them.
    pub stripe_bytes: u64,
    /// One for each stripe; none where all bytes are zeroes that lie nowhere.
    pub legs: Vec<Leg>,
}

/// Where a stripe lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Index into [`VolumeGroup::pvs`].
    pub pv: usize,
    /// First byte on the PV.
    pub start: u64,
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
        let stretches = lv.segments.iter().map(|segment| self.stretch(lv, segment));
        Ok(Mapping { stretches: stretches.collect::<Result<_, _>>()? })
    }

    fn stretch(&self, lv: &LogicalVolume, segment: &Segment) -> Result<Stretch, MapError> {
        let (start, len) = (
            segment.start_extent * self.extent_bytes(),
            segment.extent_count * self.extent_bytes(),
        );
        let (stripe_sectors, stripes) = match &segment.kind {
            SegmentKind::Striped { stripe_sectors, stripes } => (stripe_sectors, stripes),
            SegmentKind::Zero => {
                return Ok(Stretch { start, len, stripe_bytes: len, legs: Vec::new() });
            }
            other => {
                let (lv, kind) = (lv.name.clone(), other.name().to_owned());
                return Err(MapError::Unsupported { lv, kind });
            }
        };
        let legs = stripes.iter().map(|stripe| self.leg(lv, &stripe.on, stripe.start_extent));
        let stripe_bytes = if stripes.len() == 1 { len } else { stripe_sectors * SECTOR_BYTES };
        Ok(Stretch { start, len, stripe_bytes, legs: legs.collect::<Result<_, _>>()? })
    }

    fn leg(&self, lv: &LogicalVolume, on: &Target, extent: u64) -> Result<Leg, MapError> {
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
        let start = (pv.pe_start_sectors + extent * self.extent_sectors) * SECTOR_BYTES;
        Ok(Leg { pv: index, start })
    }
}

impl Mapping {
    /// The size of the LV.
    pub fn len_bytes(&self) -> u64 {
        self.stretches.last().map_or(0, |last| last.start + last.len)
    }

    /// The longest piece that begins with byte `at` of the LV; `None` at its end, and where it lies
    /// on no PV.
    pub fn piece(&self, at: u64) -> Option<Piece> {
        let behind = self.stretches.partition_point(|stretch| stretch.start <= at);
        let stretch = self.stretches.get(behind.checked_sub(1)?)?;
        stretch.piece(at.checked_sub(stretch.start)?)
    }

    /// All that lies on PVs in pieces, in the order of the LV.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.stretches.iter().flat_map(|stretch| {
            let mut at = 0;
            std::iter::from_fn(move || {
                let piece = stretch.piece(at)?;
                at += piece.len;
                Some(piece)
            })
        })
    }

    /// Each leg, with the bytes that it has.
    pub(crate) fn legs(&self) -> impl Iterator<Item = (Leg, u64)> {
        self.stretches.iter().flat_map(|stretch| {
            let len = stretch.len.div_ceil((stretch.legs.len() as u64).max(1));
            stretch.legs.iter().map(move |leg| (*leg, len))
        })
    }

    /// Indices of the PVs in it, each once, in ascending order.
    pub fn pvs(&self) -> Vec<usize> {
        let legs = self.stretches.iter().flat_map(|stretch| &stretch.legs);
        let mut found: Vec<_> = legs.map(|leg| leg.pv).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Stretch {
    /// Kernel: stripe_map.
    fn piece(&self, at: u64) -> Option<Piece> {
        if at >= self.len {
            return None;
        }
        let legs = self.legs.len() as u64;
        if legs == 0 {
            return None;
        }
        let (stripe, within) = (at / self.stripe_bytes, at % self.stripe_bytes);
        let leg = self.legs[usize::try_from(stripe % legs).ok()?];
        Some(Piece {
            pv: leg.pv,
            start: leg.start + stripe / legs * self.stripe_bytes + within,
            len: (self.stripe_bytes - within).min(self.len - at),
        })
    }
}
