use std::fmt;

use serde::Serialize;

use super::Error;
use crate::device::Device;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; the store is sound.
    Note,
    /// The kernel would refuse or misread the store, or data is lost.
    Damage,
}

/// Where on the devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Chunk of the COW device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u64>,
    /// Area.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub area: Option<u64>,
    /// Slot in the area.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<u64>,
}

/// One thing that `check` has to say. `Display` is the whole sentence, place included.
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

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

/// The sum of a check.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// True if nothing is damaged.
    pub sound: bool,
    /// Findings of severity damage.
    pub damaged: u64,
    /// Findings of severity note.
    pub notes: u64,
    /// `None` if the header already was beyond use.
    pub exceptions: Option<u64>,
    /// Data chunks no exception uses.
    pub holes: Option<u64>,
    /// Areas read.
    pub areas: Option<u64>,
}

/// Reads everything and tells every finding to `each`, as it is found. Writes nothing.
pub async fn check<C: Device, O: Device>(
    cow: &C,
    origin: Option<&O>,
    each: impl FnMut(Finding),
) -> Result<Report, Error> {
    todo!()
}
