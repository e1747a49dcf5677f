use std::fmt;

use dmsnap_format::{Exception, ExceptionFault, HeaderError};
use serde::Serialize;

use crate::store::{self, Fault};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; the store is sound.
    Note,
    /// The kernel would refuse or misread the store, or data is lost.
    Damage,
}

/// Where on the COW device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u64>,
    /// Area.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub area: Option<u64>,
    /// Slot in the area.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<u64>,
}

impl Place {
    pub(super) const NOWHERE: Self = Self { chunk: None, area: None, slot: None };
    pub(super) const HEADER: Self = Self { chunk: Some(0), area: None, slot: None };
}

impl From<store::Place> for Place {
    fn from(place: store::Place) -> Self {
        Self { chunk: Some(place.chunk), area: Some(place.area), slot: Some(place.slot) }
    }
}

/// One thing that [`check`](super::check) has to say. `Display` is the whole sentence, with the
/// place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What, as a stable word for programs: `bad-magic`, `duplicate-old`, ...
    pub kind: &'static str,
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// In words.
    pub message: String,
}

impl Finding {
    pub(super) fn damage(kind: &'static str, place: impl Into<Place>, message: String) -> Self {
        Self { severity: Severity::Damage, kind, place: place.into(), message }
    }

    pub(super) fn note(kind: &'static str, place: impl Into<Place>, message: String) -> Self {
        Self { severity: Severity::Note, kind, place: place.into(), message }
    }

    /// No store that a kernel would open.
    pub(super) fn header(error: HeaderError) -> Self {
        let kind = match error {
            HeaderError::Blank => "blank",
            HeaderError::Magic { .. } => "bad-magic",
            HeaderError::Version { .. } => "bad-version",
            HeaderError::ChunkSize(_) => "impossible-chunk-size",
            _ => "bad-header",
        };
        Self::damage(kind, Place::HEADER, error.to_string())
    }

    /// An exception that cannot be believed; `in_step` if its COW chunk is the one an in-order
    /// writer gives its slot, and `earlier` the slot it repeats.
    pub(super) fn exception(
        place: store::Place,
        Exception { old, new }: Exception,
        fault: Fault,
        in_step: bool,
        earlier: Option<store::Place>,
    ) -> Self {
        let kind = match fault {
            Fault::Device(ExceptionFault::NewIsMetadata) => "new-is-metadata",
            Fault::Device(ExceptionFault::NewBeyondDevice) if in_step => "truncated",
            Fault::Device(ExceptionFault::NewBeyondDevice) => "new-beyond-device",
            Fault::Device(ExceptionFault::NewTooLarge) => "new-too-large",
            Fault::Device(ExceptionFault::OldBeyondOrigin) => "old-beyond-origin",
            Fault::Device(_) => "bad-exception",
            Fault::DuplicateOld => "duplicate-old",
            Fault::DuplicateNew => "duplicate-new",
        };
        let mut message = format!("the exception {old} -> {new} {fault}");
        if kind == "truncated" {
            message += ", in step with its slot: the end of the device or file was cut off";
        }
        if let Some(earlier) = earlier {
            message += &format!(": {earlier}");
        }
        if fault == Fault::DuplicateOld {
            message +=
                " (kernels differ in which of them they show; a merge ends with the earlier)";
        }
        Self::damage(kind, place, message)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place { chunk: Some(0), .. } => write!(f, "header: ")?,
            Place { chunk: Some(chunk), area: Some(area), slot: Some(slot) } => {
                write!(f, "area {area} (chunk {chunk}), slot {slot}: ")?;
            }
            Place { chunk: Some(chunk), area: Some(area), slot: None } => {
                write!(f, "area {area} (chunk {chunk}): ")?;
            }
            Place { chunk: Some(chunk), .. } => write!(f, "chunk {chunk}: ")?,
            _ => {}
        }
        f.write_str(&self.message)
    }
}
