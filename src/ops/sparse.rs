use std::cell::Cell;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::devices::whole_sectors;
use super::{Error, Which};
use crate::device::Device;

/// A device, and what is known of its holes.
pub(super) struct Sparse<'a, D> {
    pub(super) device: &'a D,
    which: Which,
    /// Where it ends, and zeroes follow, if they do.
    end: Option<u64>,
    /// What was last found out about holes: from the first byte on there is none or data up to the
    /// begin of the range, and data in it.
    known: Cell<Option<(u64, Range<u64>)>>,
}

/// Stands for no data up to the end.
const NO_MORE: Range<u64> = u64::MAX - 1..u64::MAX;

impl<'a, D: Device> Sparse<'a, D> {
    pub(super) fn new(device: &'a D, which: Which) -> Self {
        Self { device, which, end: None, known: Cell::new(None) }
    }

    /// The same of an origin, which may be shorter than what snapshots of it show.
    ///
    /// # Errors
    ///
    /// If it does not tell its size.
    pub(super) fn origin(device: &'a D) -> Result<Self, Error> {
        let end = Some(whole_sectors(device, Which::Origin)?);
        Ok(Self { end, ..Self::new(device, Which::Origin) })
    }

    /// As [`Device::next_data`], but asks only where it does not know yet.
    pub(super) async fn next_data(&self, at: u64) -> Result<Option<Range<u64>>, Error> {
        if let Some((asked, data)) = self.known.take() {
            let known = (asked..data.end).contains(&at);
            self.known.set(Some((asked, data.clone())));
            if known {
                return Ok(Some(data).filter(|data| *data != NO_MORE));
            }
        }
        let found = self.device.next_data(at).await;
        let found = found.map_err(Error::io(self.which, "cannot look for holes"))?;
        self.known.set(Some((at, found.clone().unwrap_or(NO_MORE))));
        Ok(found)
    }

    /// The first stretch of `range` that is not a hole.
    pub(super) async fn data_in(&self, range: Range<u64>) -> Result<Option<Range<u64>>, Error> {
        let data = self.next_data(range.start).await?;
        Ok(data
            .map(|data| data.start.max(range.start)..data.end.min(range.end))
            .filter(|data| data.start < data.end))
    }

    /// Whether there is no data in `range`.
    pub(super) async fn is_hole(&self, range: Range<u64>) -> Result<bool, Error> {
        Ok(self.data_in(range).await?.is_none())
    }

    pub(super) async fn read(&self, at: u64, len: u64) -> Result<Bytes, Error> {
        let index = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
        let there = self.end.map_or(len, |end| end.saturating_sub(at).min(len));
        let read = self.device.read(at, index(there)).await;
        let doing = format!("cannot read at byte {at}");
        let read = read.map_err(Error::io(self.which, doing))?;
        if there == len {
            return Ok(read.freeze());
        }
        let mut whole = BytesMut::zeroed(index(len));
        whole[..read.len()].copy_from_slice(&read);
        Ok(whole.freeze())
    }
}
