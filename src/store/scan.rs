use std::io;
use std::ops::Range;

use dmsnap_format::{Exception, Extents, Layout, RawException, SLOT_BYTES};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesOrdered, StreamExt};

use super::StoreError;
use crate::device::{Buffer, Device};
use crate::planted::{Planted, planted};

/// The most that is read of an area at a time: chunks, and so areas, can have 1 GiB.
const PIECE_BYTES: u64 = 64 << 10;

/// Reads in flight, once it has shown that there is much to read.
const DEPTH: usize = 64;

/// How a list of exceptions ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a slot whose COW chunk is 0.
    Terminator,
    /// The area with this number should follow but does not lie on the device.
    Missing {
        /// The area.
        area: u64,
    },
}

/// A stretch of slots within one area.
struct Piece {
    first: u64,
    bytes: Buffer,
}

/// Cuts a range of slots into pieces that lie within one area and can be read at once, widened to
/// whole sectors.
fn cut(layout: Layout, slots: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let per_piece = (PIECE_BYTES / SLOT_BYTES).min(layout.exceptions_per_area());
    let mut next = slots.start - slots.start % per_piece;
    std::iter::from_fn(move || {
        let first = next;
        next += per_piece;
        (first < slots.end).then_some(first..next)
    })
}

async fn read_piece<D: Device>(
    cow: &D,
    layout: Layout,
    slots: Range<u64>,
) -> Result<Piece, StoreError> {
    let (area, _) = layout.position(slots.start);
    let failed = || StoreError::io(format!("cannot read area {area}"));
    let at = layout.slot_byte(slots.start).ok_or(io::ErrorKind::UnexpectedEof);
    let at = at.map_err(io::Error::from).map_err(failed())?;
    let len = usize::try_from((slots.end - slots.start) * SLOT_BYTES).unwrap_or(0);
    let bytes = match planted(Planted::BelieveCache) {
        true => cow.read(at, len).await,
        false => cow.read_medium(at, len).await,
    };
    let bytes = bytes.map_err(failed())?;
    Ok(Piece { first: slots.start, bytes })
}

/// Reads exceptions from the first slot up to the terminator and hands them to `visit` with their
/// index, in order. Many areas are read at a time; what lies after the terminator is not read.
///
/// Nothing is believed: see [`Ledger`](super::Ledger).
///
/// # Errors
///
/// An error of the device, or of `visit`.
pub async fn read_exceptions<D: Device, E: From<StoreError>>(
    cow: &D,
    extents: Extents,
    visit: impl FnMut(u64, Exception) -> Result<(), E>,
) -> Result<(u64, End), E> {
    read_exceptions_from(cow, extents, 0, visit).await
}

/// The same from slot `first` on.
///
/// # Errors
///
/// As [`read_exceptions`].
pub(super) async fn read_exceptions_from<D: Device, E: From<StoreError>>(
    cow: &D,
    extents: Extents,
    first: u64,
    mut visit: impl FnMut(u64, Exception) -> Result<(), E>,
) -> Result<(u64, End), E> {
    let layout = extents.layout;
    let areas = areas_on_device(extents);
    let all = first..areas.saturating_mul(layout.exceptions_per_area());
    let mut pieces = cut(layout, all.clone());
    let mut in_flight: FuturesOrdered<LocalBoxFuture<'_, _>> = FuturesOrdered::new();
    // Most stores are small: begin with one read, and double as long as there is more.
    let mut depth = 1;
    loop {
        while in_flight.len() < depth {
            match pieces.next() {
                Some(slots) => in_flight.push_back(Box::pin(read_piece(cow, layout, slots))),
                None => break,
            }
        }
        let Some(piece) = in_flight.next().await else {
            return Ok((all.end, End::Missing { area: areas }));
        };
        let Piece { first, bytes } = piece?;
        let slots = (first..).zip(RawException::slots(&bytes));
        for (index, slot) in slots.skip_while(|(index, _)| *index < all.start) {
            match slot.decode() {
                Some(exception) => visit(index, exception)?,
                None => return Ok((index, End::Terminator)),
            }
        }
        depth = (depth * 2).min(DEPTH);
    }
}

/// Reads the slots of `range`, which the caller knows to be exceptions.
///
/// # Errors
///
/// An error of the device; [`io::ErrorKind::InvalidData`] if a terminator is met: somebody else
/// changes the store.
pub async fn read_range<D: Device>(
    cow: &D,
    layout: Layout,
    range: Range<u64>,
) -> Result<Vec<Exception>, StoreError> {
    let mut found = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
    let pieces = cut(layout, range.clone()).map(|slots| read_piece(cow, layout, slots));
    let mut pieces = std::pin::pin!(futures_util::stream::iter(pieces).buffered(DEPTH));
    while let Some(piece) = pieces.next().await {
        let Piece { first, bytes } = piece?;
        let slots = (first..).zip(RawException::slots(&bytes));
        for (index, slot) in slots.filter(|(index, _)| range.contains(index)) {
            let (area, slot_number) = layout.position(index);
            found.push(slot.decode().ok_or_else(|| {
                StoreError::io(format!("area {area}, slot {slot_number} has become empty"))(
                    io::ErrorKind::InvalidData.into(),
                )
            })?);
        }
    }
    Ok(found)
}

/// Visits the slots that are not zero after the terminator in slot `terminator`, up to the end of
/// its area. The terminator's own slot counts if its origin chunk is not zero.
///
/// # Errors
///
/// An error of the device.
pub async fn read_strays<D: Device>(
    cow: &D,
    layout: Layout,
    terminator: u64,
    mut visit: impl FnMut(u64, RawException),
) -> Result<(), StoreError> {
    let (area, _) = layout.position(terminator);
    let range = terminator..(area + 1) * layout.exceptions_per_area();
    let pieces = cut(layout, range.clone()).map(|slots| read_piece(cow, layout, slots));
    let mut pieces = std::pin::pin!(futures_util::stream::iter(pieces).buffered(DEPTH));
    while let Some(piece) = pieces.next().await {
        let Piece { first, bytes } = piece?;
        for (index, slot) in (first..).zip(RawException::slots(&bytes)) {
            if range.contains(&index) && *slot != RawException::default() {
                visit(index, *slot);
            }
        }
    }
    Ok(())
}

/// How many areas lie on the device whole.
fn areas_on_device(extents: Extents) -> u64 {
    match extents.cow_chunks {
        0 | 1 => 0,
        chunks => (chunks - 2) / extents.layout.stride() + 1,
    }
}
