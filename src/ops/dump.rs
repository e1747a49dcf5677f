use std::io;

use dmsnap_format::{Layout, Run};

use super::Error;
use crate::device::Device;
use crate::store::Reader;

/// A run of exceptions and the slot of its first one. Runs are cut where the old or the new chunks
/// are not consecutive in the order of the slots, and at the end of each area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PlacedRun {
    /// First chunk on the origin.
    pub old: u64,
    /// First chunk on the COW device.
    pub new: u64,
    /// In chunks.
    pub len: u64,
    /// Area of the first exception.
    pub area: u64,
    /// Slot of the first exception in it.
    pub slot: u64,
}

/// Tells `each` every run in the order of the slots, in constant memory, of an invalid store too.
/// What the exceptions say is passed on as it stands.
///
/// # Errors
///
/// As [`info`](super::info); an error of `each` ends it, as [`Error::Consumer`].
pub async fn dump<C: Device>(
    cow: &C,
    each: impl FnMut(PlacedRun) -> io::Result<()>,
) -> Result<(), Error> {
    runs(&Reader::open(cow, None).await?, each).await
}

/// The same for a store whose header has been read.
pub(super) async fn runs<C: Device>(
    reader: &Reader<'_, C>,
    mut each: impl FnMut(PlacedRun) -> io::Result<()>,
) -> Result<(), Error> {
    let layout = reader.layout();
    let mut open: Option<(u64, Run)> = None;
    let listed = reader.exceptions(|index, exception| {
        let (_, slot) = layout.position(index);
        let continues = |(_, run): &mut (u64, Run)| slot != 0 && run.extend(exception);
        if open.as_mut().is_some_and(continues) {
            return Ok(());
        }
        match open.replace((index, exception.into())) {
            Some(run) => each(place(layout, run)).map_err(Error::Consumer),
            None => Ok(()),
        }
    });
    let listed = listed.await;
    if let Some(run) = open.filter(|_| !matches!(listed, Err(Error::Consumer(_)))) {
        each(place(layout, run)).map_err(Error::Consumer)?;
    }
    listed.map(|_| ())
}

fn place(layout: Layout, (index, run): (u64, Run)) -> PlacedRun {
    let (area, slot) = layout.position(index);
    PlacedRun { old: run.old.get(), new: run.new.get(), len: run.len, area, slot }
}
