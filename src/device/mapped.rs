use std::io;
use std::ops::Range;

use bytes::Bytes;
use dmsnap_format::SECTOR_BYTES;

use super::buffer::Buffer;
use super::interface::{Allocation, Change, Device, within};
use super::segment::{Column, Segment, index};
use crate::sync::join_all;

/// Why segments make no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// A length or a position that is not a multiple of 512 bytes, or a stripe of no bytes.
    #[error("segment {segment} does not lie on whole sectors")]
    Unaligned {
        /// Counted from 0.
        segment: usize,
    },
    /// A column that leads past the end of the device below.
    #[error("segment {segment} ends at byte {end} of device {device}, which has {len_bytes}")]
    Beyond {
        /// Counted from 0.
        segment: usize,
        /// Counted from 0.
        device: usize,
        /// Where the segment ends.
        end: u64,
        /// What the device has.
        len_bytes: u64,
    },
    /// A column on a device that there is not, or a segment without columns.
    #[error("segment {segment} lies on no device")]
    NoDevice {
        /// Counted from 0.
        segment: usize,
    },
    /// The sum of the lengths does not fit into 64 bits.
    #[error("the segments are too long")]
    TooLong,
}

/// A device that is made of stretches of others.
///
/// A request is split at the bounds of segments and stripes, each part is driven to its end, and the
/// first error is the request's. It does not grow.
#[derive(Debug)]
pub struct Mapped<D> {
    devices: Vec<D>,
    /// Each with its first byte.
    segments: Vec<(u64, Segment)>,
    len_bytes: u64,
    block_bytes: u32,
}

/// Consecutive bytes of a device below, and the parts of the request that they are.
#[derive(Debug)]
struct Part {
    device: usize,
    at: u64,
    len: u64,
    pieces: Vec<Range<usize>>,
}

impl<D: Device> Mapped<D> {
    /// A device of these segments, one after the other.
    ///
    /// # Errors
    ///
    /// [`MapError`] wrapped as [`io::ErrorKind::InvalidInput`]; an error of a device that is asked
    /// for its size.
    pub fn new(devices: Vec<D>, segments: Vec<Segment>) -> io::Result<Self> {
        let refused = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let mut placed = Vec::new();
        let mut len_bytes = 0_u64;
        for (n, segment) in segments.into_iter().enumerate() {
            admit(n, &segment, &devices)?.map_err(refused)?;
            let start = len_bytes;
            let end = start.checked_add(segment.len_bytes);
            len_bytes = end.ok_or_else(|| refused(MapError::TooLong))?;
            placed.push((start, segment));
        }
        let block_bytes = untorn_bytes(&devices, &placed);
        Ok(Self { devices, segments: placed, len_bytes, block_bytes })
    }

    /// The part of one device from `at` on.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn window(device: D, at: u64, len_bytes: u64) -> io::Result<Self> {
        Self::new(vec![device], vec![Segment::linear(0, at, len_bytes)])
    }

    /// The devices below.
    pub fn devices(&self) -> &[D] {
        &self.devices
    }

    /// The number of the segment that holds a byte.
    fn segment_at(&self, at: u64) -> usize {
        self.segments.partition_point(|(start, _)| *start <= at).saturating_sub(1)
    }

    /// What a request is on the devices below: one part for each column that it touches.
    fn parts(&self, at: u64, len: u64) -> io::Result<Vec<Part>> {
        within(at, len, self.len_bytes)?;
        let mut parts = Vec::new();
        let mut done = 0;
        let mut number = self.segment_at(at);
        while done < len {
            let (start, segment) = &self.segments[number];
            let from = at + done - start;
            let part = (len - done).min(segment.len_bytes - from);
            split_by_column(segment, from..from + part, index(done), &mut parts);
            done += part;
            number += 1;
        }
        Ok(parts)
    }

    /// Reads from the devices below; past their caches if `medium` says so.
    async fn read_parts(&self, at: u64, len: usize, medium: bool) -> io::Result<Buffer> {
        let from = async |device: usize, at, len| match medium {
            true => self.devices[device].read_medium(at, len).await,
            false => self.devices[device].read(at, len).await,
        };
        let parts = self.parts(at, len as u64)?;
        if let [Part { device, at, pieces, .. }] = &parts[..]
            && pieces.len() == 1
        {
            return from(*device, *at, len).await;
        }
        let reads = parts.iter().map(|part| from(part.device, part.at, index(part.len)));
        let mut whole = Buffer::recycled(len);
        for (part, read) in parts.iter().zip(join_all(reads).await) {
            let read = read?;
            let mut from = 0;
            for piece in &part.pieces {
                let end = from + piece.len();
                whole[piece.clone()].copy_from_slice(&read[from..end]);
                from = end;
            }
        }
        Ok(whole)
    }

    async fn for_each<F: Future<Output = io::Result<()>>>(
        &self,
        parts: Vec<Part>,
        act: impl Fn(Part) -> F,
    ) -> io::Result<()> {
        let ended = join_all(parts.into_iter().map(act)).await;
        ended.into_iter().collect()
    }

    /// The next data of a segment at or after `from`, both as bytes of the segment.
    async fn data_in(&self, segment: &Segment, from: u64) -> io::Result<Option<Range<u64>>> {
        let mut found: Vec<Option<Range<u64>>> = Vec::new();
        for (n, column) in segment.columns.iter().enumerate() {
            let (first, end) = (segment.first_at(n, from), segment.column_len(n));
            if first >= end {
                found.push(None);
                continue;
            }
            let data = self.devices[column.device].next_data(column.at + first).await?;
            let data = data.map(|data| {
                let start = data.start.saturating_sub(column.at).max(first);
                start..data.end.saturating_sub(column.at).min(end)
            });
            found.push(data.filter(|data| data.start < data.end));
        }
        let starts = found.iter().enumerate();
        let starts = starts.filter_map(|(n, data)| Some(segment.byte(n, data.as_ref()?.start)));
        let Some(start) = starts.min() else { return Ok(None) };
        Ok(Some(start..data_end(segment, start, &found)))
    }
}

/// Where data that begins at `start` ends, as far as `found`, the next data of each column, tells.
fn data_end(segment: &Segment, start: u64, found: &[Option<Range<u64>>]) -> u64 {
    /// Who asks may ask again.
    const MAX_STRIPES: usize = 4096;
    let stripe = segment.stripe();
    let mut end = start;
    for _ in 0..MAX_STRIPES {
        let (column, at) = segment.locate(end);
        let Some(data) = found[column].as_ref().filter(|data| data.contains(&at)) else { break };
        let next = (at - at % stripe).saturating_add(stripe);
        end += next.min(data.end) - at;
        if data.end < next || end == segment.len_bytes {
            break;
        }
    }
    end
}

/// Checks one segment. The outer error is a device's.
fn admit<D: Device>(
    number: usize,
    segment: &Segment,
    devices: &[D],
) -> io::Result<Result<(), MapError>> {
    let whole = |bytes: u64| bytes.is_multiple_of(SECTOR_BYTES);
    let stripe = segment.stripe();
    if segment.columns.is_empty() {
        return Ok(Err(MapError::NoDevice { segment: number }));
    }
    let sizes = whole(segment.len_bytes) && whole(stripe) && segment.len_bytes > 0 && stripe > 0;
    if !sizes || !segment.columns.iter().all(|column| whole(column.at)) {
        return Ok(Err(MapError::Unaligned { segment: number }));
    }
    for (n, column) in segment.columns.iter().enumerate() {
        let Some(device) = devices.get(column.device) else {
            return Ok(Err(MapError::NoDevice { segment: number }));
        };
        let end = column.at.saturating_add(segment.column_len(n));
        let len_bytes = device.len_bytes()?.next_multiple_of(SECTOR_BYTES);
        if end > len_bytes {
            let device = column.device;
            return Ok(Err(MapError::Beyond { segment: number, device, end, len_bytes }));
        }
    }
    Ok(Ok(()))
}

/// What every device below writes untorn, as far as segments and stripes begin at such a block: an
/// aligned write would else be two half ones.
fn untorn_bytes<D: Device>(devices: &[D], segments: &[(u64, Segment)]) -> u32 {
    let mut least = devices.iter().map(Device::block_bytes).min().unwrap_or(512);
    for (start, segment) in segments {
        let stripe = if segment.columns.len() > 1 { segment.stripe_bytes } else { 0 };
        let places = segment.columns.iter().map(|column| column.at);
        for bytes in places.chain([*start, stripe]) {
            while least > 512 && !bytes.is_multiple_of(least.into()) {
                least /= 2;
            }
        }
    }
    least
}

/// Adds what a range of a segment is on the devices below. The range begins at byte `done` of the
/// request.
fn split_by_column(segment: &Segment, range: Range<u64>, done: usize, parts: &mut Vec<Part>) {
    let stripe = segment.stripe();
    let first = parts.len();
    let mut columns: Vec<Option<usize>> = vec![None; segment.columns.len()];
    let mut from = range.start;
    while from < range.end {
        let (column, at) = segment.locate(from);
        let len = (stripe - at % stripe).min(range.end - from);
        let begin = done + index(from - range.start);
        let piece = begin..begin + index(len);
        // Stripes of one column that follow each other lie together.
        let part = *columns[column].get_or_insert_with(|| {
            let Column { device, at: base } = segment.columns[column];
            parts.push(Part { device, at: base + at, len: 0, pieces: Vec::new() });
            parts.len() - 1
        });
        debug_assert!(part >= first, "a column's part is of this segment");
        parts[part].len += len;
        parts[part].pieces.push(piece);
        from += len;
    }
}

/// The bytes `range` of what `pieces` are together.
fn slice(pieces: &[Bytes], range: &Range<usize>, into: &mut Vec<Bytes>) {
    let mut start = 0;
    for piece in pieces {
        let end = start + piece.len();
        if start < range.end && range.start < end {
            into.push(piece.slice(range.start.max(start) - start..range.end.min(end) - start));
        }
        start = end;
    }
}

impl<D: Device> Device for Mapped<D> {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.read_parts(at, len, false).await
    }

    async fn read_medium(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.read_parts(at, len, true).await
    }

    async fn forget_cached(&self) -> io::Result<()> {
        for device in &self.devices {
            device.forget_cached().await?;
        }
        Ok(())
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        let parts = self.parts(at, data.len() as u64)?;
        if let [Part { device, at, pieces, .. }] = &parts[..]
            && pieces.len() == 1
        {
            return self.devices[*device].write(*at, data).await;
        }
        self.for_each(parts, |part| {
            let pieces = part.pieces.into_iter().map(|piece| data.slice(piece)).collect();
            self.devices[part.device].write_vectored(part.at, pieces)
        })
        .await
    }

    async fn write_vectored(&self, at: u64, pieces: Vec<Bytes>) -> io::Result<()> {
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        let parts = self.parts(at, len)?;
        if let [Part { device, at, pieces: one, .. }] = &parts[..]
            && one.len() == 1
        {
            return self.devices[*device].write_vectored(*at, pieces).await;
        }
        self.for_each(parts, |part| {
            let mut own = Vec::new();
            part.pieces.iter().for_each(|piece| slice(&pieces, piece, &mut own));
            self.devices[part.device].write_vectored(part.at, own)
        })
        .await
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        let parts = self.parts(at, len)?;
        let zero =
            |part: Part| self.devices[part.device].write_zeroes(part.at, part.len, allocation);
        self.for_each(parts, zero).await
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        let parts = self.parts(at, len)?;
        self.for_each(parts, |part| self.devices[part.device].discard(part.at, part.len)).await
    }

    async fn flush(&self) -> io::Result<()> {
        let ended = join_all(self.devices.iter().map(Device::flush)).await;
        ended.into_iter().collect()
    }

    async fn claim(&self) -> io::Result<()> {
        for device in &self.devices {
            device.claim().await?;
        }
        Ok(())
    }

    fn is_read_only(&self) -> bool {
        self.devices.iter().any(Device::is_read_only)
    }

    async fn change(&self) -> io::Result<Option<Change>> {
        for device in &self.devices {
            if let Some(change) = device.change().await? {
                return Ok(Some(change));
            }
        }
        Ok(None)
    }

    async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        if at >= self.len_bytes {
            return Ok(None);
        }
        for (start, segment) in &self.segments[self.segment_at(at)..] {
            let data = self.data_in(segment, at.saturating_sub(*start)).await?;
            if let Some(data) = data {
                return Ok(Some(start + data.start..start + data.end));
            }
        }
        Ok(None)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len_bytes)
    }

    fn logical_block_bytes(&self) -> u32 {
        self.devices.iter().map(Device::logical_block_bytes).max().unwrap_or(512)
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes
    }
}
