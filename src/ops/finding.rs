use std::fmt;

use serde::{Serialize, Serializer};

use crate::store::{self, Damage, Severity};

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

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Told {
            severity: Severity,
            kind: &'static str,
            #[serde(flatten)]
            place: Place,
            message: String,
        }

        let Self { place, damage } = *self;
        let (severity, kind, message) = (damage.severity(), damage.name(), damage.to_string());
        Told { severity, kind, place, message }.serialize(serializer)
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
