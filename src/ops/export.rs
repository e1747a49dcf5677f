use std::cell::Cell;
use std::ops::Range;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::devices::whole_sectors;
use super::source::{Segment, Source};
use super::{Error, ExportOptions, Observer, Progress, Which};
use crate::copy::union;
use crate::device::{Device, share};

/// The most that is read and written at a time, and shared at a time.
const COPY_BYTES: u64 = 1 << 20;
const SHARE_BYTES: u64 = 64 << 20;

/// Copies in flight.
const COPIES: usize = 32;

/// Zeroes are left out in whole blocks of this size and alignment, which is what file systems
/// allocate.
const BLOCK_BYTES: usize = 4096;

/// What an export did.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Exported {
    /// Size of the image, in bytes.
    pub image_bytes: u64,
    /// Bytes written: what differs from zero.
    pub written_bytes: u64,
    /// Bytes whose extents the output shares with origin or COW device instead of a copy.
    pub shared_bytes: u64,
    /// Exceptions seen.
    pub exceptions: u64,
    /// Flushes of the output.
    pub flushes: u64,
}

/// Writes the snapshot's content to `output`, which must read as zeroes and be at least as long as
/// the snapshot. Only what differs from zero is written, and where all three are files of one file
/// system that can share extents, not even that.
///
/// # Ordering
///
/// Data in any order, then one flush: a crash before it leaves an image of unknown content.
///
/// # Errors
///
/// Before anything is written: devices that look swapped, an invalid store (unless allowed), an
/// exception that cannot be believed, an output that is too small. Later: any error of a device,
/// or [`Error::Stopped`].
pub async fn export<C: Device, O: Device, T: Device>(
    cow: &C,
    origin: &O,
    output: &T,
    options: ExportOptions,
    observer: &impl Observer,
) -> Result<Exported, Error> {
    let source = Source::new((cow, Which::Cow), origin, options).await?;
    let room = whole_sectors(output, Which::Output)?;
    if room < source.image_bytes {
        let image_bytes = source.image_bytes;
        return Err(Error::OutputTooSmall { output_bytes: room, image_bytes });
    }
    let export = Export {
        source: &source,
        output,
        observer,
        sharing: Cell::new(true),
        done: Cell::new(0),
        written: Cell::new(0),
        shared: Cell::new(0),
    };
    export.run().await?;
    output.flush().await.map_err(Error::io(Which::Output, "cannot make the image durable"))?;
    Ok(Exported {
        image_bytes: source.image_bytes,
        written_bytes: export.written.get(),
        shared_bytes: export.shared.get(),
        exceptions: source.exceptions,
        flushes: 1,
    })
}

struct Export<'a, C, O, T, P> {
    source: &'a Source<'a, C, O>,
    output: &'a T,
    observer: &'a P,
    /// As long as it has always worked.
    sharing: Cell<bool>,
    done: Cell<u64>,
    written: Cell<u64>,
    shared: Cell<u64>,
}

impl<C: Device, O: Device, T: Device, P: Observer> Export<'_, C, O, T, P> {
    async fn run(&self) -> Result<(), Error> {
        let mut copies = FuturesUnordered::new();
        for segment in self.source.segments() {
            let mut position = 0;
            while let Some(data) = self.source.next_data(segment, position).await? {
                position = data.end;
                let data = segment.part(data.start, data.end - data.start);
                for part in data.pieces(SHARE_BYTES) {
                    if self.observer.stop_requested() {
                        return Err(Error::Stopped);
                    }
                    if self.share(part).await? {
                        continue;
                    }
                    for piece in part.pieces(COPY_BYTES) {
                        if copies.len() >= COPIES {
                            copies.next().await.transpose()?;
                        }
                        copies.push(self.copy(piece));
                    }
                }
            }
            self.done.set(segment.to + segment.len);
            let progress = Progress { done: self.done.get(), total: self.source.image_bytes };
            self.observer.progress(progress);
        }
        while copies.next().await.transpose()?.is_some() {}
        Ok(())
    }

    async fn share(&self, part: Segment) -> Result<bool, Error> {
        let block = BLOCK_BYTES as u64;
        let aligned = [part.from, part.to, part.len].iter().all(|n| n.is_multiple_of(block));
        if !self.sharing.get() || !aligned {
            return Ok(false);
        }
        let to = (self.output, part.to);
        let shared = match part.from_origin {
            true => share((self.source.origin.device, part.from), to, part.len).await,
            false => share((self.source.cow.device, part.from), to, part.len).await,
        };
        let shared = shared.map_err(Error::io(Which::Output, "cannot share extents"))?;
        self.sharing.set(shared);
        self.shared.set(self.shared.get() + if shared { part.len } else { 0 });
        Ok(shared)
    }

    async fn copy(&self, piece: Segment) -> Result<(), Error> {
        self.observer.pace(piece.len).await;
        let data = self.source.read(piece).await?;
        for range in not_zero(&data) {
            let (at, part) = (piece.to + range.start as u64, data.slice(range));
            self.written.set(self.written.get() + part.len() as u64);
            let written = self.output.write(at, part).await;
            written.map_err(Error::io(Which::Output, format!("cannot write at byte {at}")))?;
        }
        Ok(())
    }
}

/// The stretches of `data`, in whole blocks, that hold something else than zeroes.
fn not_zero(data: &[u8]) -> Vec<Range<usize>> {
    let blocks = data.chunks(BLOCK_BYTES).enumerate();
    let blocks = blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0));
    let ranges = blocks.map(|(n, block)| n * BLOCK_BYTES..n * BLOCK_BYTES + block.len());
    union(ranges.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_blocks_are_left_out_and_nothing_else() {
        let mut data = vec![0; 5 * BLOCK_BYTES + 512];
        assert!(not_zero(&data).is_empty());
        data[BLOCK_BYTES] = 1;
        data[3 * BLOCK_BYTES - 1] = 1;
        data[5 * BLOCK_BYTES + 511] = 1;
        assert_eq!(
            not_zero(&data),
            [BLOCK_BYTES..3 * BLOCK_BYTES, 5 * BLOCK_BYTES..5 * BLOCK_BYTES + 512]
        );
    }
}
