use std::fmt;

use crate::store::{self, Damage};

/// Where on the COW device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Place {
    /// Chunk.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub chunk: Option<u64>,
    /// Area.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub area: Option<u64>,
    /// Slot in the area.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
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
/// place; `Serialize` has that, a stable word and the sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What.
    pub damage: Damage,
}

impl Finding {
    pub(super) fn new(place: impl Into<Place>, damage: Damage) -> Self {
        Self { place: place.into(), damage }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Finding {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Told {
            severity: store::Severity,
            kind: &'static str,
            #[serde(flatten)]
            place: Place,
            message: String,
        }

        let Self { place, damage } = *self;
        let (severity, kind, message) = (damage.severity(), damage.name(), damage.to_string());
        let told = Told { severity, kind, place, message };
        serde::Serialize::serialize(&told, serializer)
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
        self.damage.fmt(f)
    }
}
