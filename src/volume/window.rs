use std::ops::Range;

use bytes::Bytes;
use dmsnap_format::{Exception, Layout, Run};
use futures_util::stream::{StreamExt, TryStreamExt};

use crate::device::Device;
use crate::store::{StoreError, read_range};

/// The most that one request reads or writes.
pub(crate) const REQUEST_BYTES: u64 = 1 << 20;

/// Pieces in one vectored write.
const REQUEST_PIECES: usize = 256;

/// Reads in flight.
const READS: usize = 8;

/// Where the merge of a store with `end` exceptions cuts its next window: the window is the
/// exceptions from there to `end`, at most `most` of them (at least one).
///
/// The cut is such that clearing the window takes one untorn write, however many areas it spans:
/// what is cleared in the area of the cut lies in one unit of `unit_slots`, and the areas behind
/// it need no write at all. So a window costs one flush of the origin and one of the COW device.
pub(crate) fn cut(layout: Layout, unit_slots: u64, end: u64, most: u64) -> u64 {
    let lowest = end.saturating_sub(most.max(1));
    let (lowest_area, _) = layout.position(lowest);
    let area_end = (lowest_area + 1) * layout.exceptions_per_area();
    let last = area_end.min(end) - 1;
    lowest.max(last - last % unit_slots)
}

/// Data for one stretch of the origin, read.
pub(crate) struct Write {
    /// First byte on the origin.
    pub(crate) at: u64,
    /// In bytes.
    pub(crate) len: u64,
    /// In order.
    pub(crate) pieces: Vec<Bytes>,
}

/// A stretch of the origin that is still to be read, or shared.
#[derive(Clone, Copy)]
pub(crate) struct Copy {
    /// First byte on the origin.
    pub(crate) at: u64,
    /// In bytes.
    pub(crate) len: u64,
    /// First byte on the COW device.
    pub(crate) from: u64,
}

/// What reading a window needs to know.
pub(crate) struct Reader<'a, C> {
    pub(crate) cow: &'a C,
    pub(crate) layout: Layout,
    /// In bytes; the last chunk may reach beyond.
    pub(crate) origin_bytes: u64,
    /// The most that one request brings, or takes to the origin; at most [`REQUEST_BYTES`].
    pub(crate) request_bytes: u64,
}

impl Copy {
    /// The same in pieces of at most so many bytes.
    pub(crate) fn pieces(self, most: u64) -> impl Iterator<Item = Self> {
        let Self { at, len, from } = self;
        (0..len).step_by(index(most)).map(move |offset| Self {
            at: at + offset,
            len: most.min(len - offset),
            from: from + offset,
        })
    }
}

impl<C: Device> Reader<'_, C> {
    /// Reads the slots of a window.
    pub(crate) async fn slots(&self, slots: Range<u64>) -> Result<Vec<Exception>, StoreError> {
        read_range(self.cow, self.layout, slots).await
    }

    /// Reads the chunks of a window in large reads in the order of the COW device, before each of which
    /// `ready` is asked, with its length in bytes. Returns them in the order of the origin, to be written
    /// in one sweep. Memory: the window's data, at most doubled by what lies between.
    pub(crate) async fn read(
        &self,
        mut exceptions: Vec<Exception>,
        ready: impl AsyncFn(u64),
    ) -> Result<Vec<Write>, StoreError> {
        exceptions.sort_unstable_by_key(|exception| exception.new);
        let (chunk, ready) = (self.layout.chunk_size().bytes(), &ready);
        let reads = self.spans(&exceptions).into_iter().map(|span| async move {
            ready(span.len() as u64 * chunk).await;
            self.read_span(span).await
        });
        let mut chunks: Vec<(u64, Bytes)> = Vec::with_capacity(exceptions.len());
        let mut reads = std::pin::pin!(futures_util::stream::iter(reads).buffer_unordered(READS));
        while let Some(read) = reads.try_next().await? {
            chunks.extend(read);
        }
        chunks.sort_unstable_by_key(|(at, _)| *at);
        Ok(join_chunks(chunks, self.request_bytes))
    }

    /// The runs of a window, in the order of the origin.
    pub(crate) fn runs(&self, mut exceptions: Vec<Exception>) -> Vec<Copy> {
        exceptions.sort_unstable_by_key(|exception| exception.old);
        let mut runs: Vec<Run> = Vec::new();
        for exception in exceptions {
            if !runs.last_mut().is_some_and(|run| run.extend(exception)) {
                runs.push(exception.into());
            }
        }
        let chunk = self.layout.chunk_size().bytes();
        let mut copies = Vec::with_capacity(runs.len() + 1);
        for run in runs {
            let (at, from) = (run.old.get() * chunk, run.new.get() * chunk);
            // A last chunk that is cut short by the origin's end goes by itself: extents are
            // shared in whole blocks.
            let whole = (run.len * chunk).min((self.origin_bytes - at) / chunk * chunk);
            let rest = (run.len * chunk).min(self.origin_bytes - at) - whole;
            copies.extend((whole > 0).then_some(Copy { at, len: whole, from }));
            let (at, from) = (at + whole, from + whole);
            copies.extend((rest > 0).then_some(Copy { at, len: rest, from }));
        }
        copies
    }

    /// Groups exceptions, sorted by COW chunk, into what one read brings. A gap of one chunk is
    /// read over: that is an area between two ranges of data.
    fn spans<'e>(&self, exceptions: &'e [Exception]) -> Vec<&'e [Exception]> {
        let chunk = self.layout.chunk_size().bytes();
        let most = (self.request_bytes / chunk).max(1);
        let mut spans = Vec::new();
        let mut rest = exceptions;
        while let Some(first) = rest.first() {
            let mut end = first.new.get();
            let belongs = |exception: &&Exception| {
                let new = exception.new.get();
                let near = new <= end + 1 && new - first.new.get() < most;
                end = new + 1;
                near
            };
            let (span, later) = rest.split_at(rest.iter().take_while(belongs).count());
            spans.push(span);
            rest = later;
        }
        spans
    }

    /// Reads a span and cuts it into chunks, each with its place on the origin. A chunk larger
    /// than a request is read in several.
    async fn read_span(&self, span: &[Exception]) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let chunk = self.layout.chunk_size().bytes();
        let [first, .., last] = span else {
            return self.read_chunk(span).await;
        };
        let start = first.new.get() * chunk;
        let len = last.new.get() * chunk + chunk - start;
        let bytes = self.read_bytes(start, len).await?;
        let cut = |exception: &Exception| {
            let from = exception.new.get() * chunk - start;
            let at = exception.old.get() * chunk;
            let len = chunk.min(self.origin_bytes - at);
            (at, bytes.slice(index(from)..index(from + len)))
        };
        Ok(span.iter().map(cut).collect())
    }

    async fn read_chunk(&self, span: &[Exception]) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let chunk = self.layout.chunk_size().bytes();
        let mut pieces = Vec::new();
        for exception in span {
            let (from, to) = (exception.new.get() * chunk, exception.old.get() * chunk);
            let len = chunk.min(self.origin_bytes - to);
            for offset in (0..len).step_by(index(self.request_bytes)) {
                let piece = self.request_bytes.min(len - offset);
                pieces.push((to + offset, self.read_bytes(from + offset, piece).await?));
            }
        }
        Ok(pieces)
    }

    /// Reads `len` bytes of the COW device from byte `at` on.
    pub(crate) async fn read_bytes(&self, at: u64, len: u64) -> Result<Bytes, StoreError> {
        let read = self.cow.read(at, index(len)).await;
        let chunk = at / self.layout.chunk_size().bytes();
        Ok(read.map_err(StoreError::io(format!("cannot read chunk {chunk}")))?.freeze())
    }
}

/// Joins neighbours on the origin into one write each, of at most so many bytes.
fn join_chunks(chunks: Vec<(u64, Bytes)>, request_bytes: u64) -> Vec<Write> {
    let writes = joined(chunks, request_bytes).into_iter();
    writes.map(|(at, pieces, len)| Write { at, len, pieces }).collect()
}

/// Joins data at places, sorted, into requests of at most `most` bytes: where each begins, what it writes,
/// and how many bytes.
pub(super) fn joined(parts: Vec<(u64, Bytes)>, most: u64) -> Vec<(u64, Vec<Bytes>, u64)> {
    let mut requests: Vec<(u64, Vec<Bytes>, u64)> = Vec::new();
    for (at, data) in parts {
        let len = data.len() as u64;
        match requests.last_mut() {
            Some((before, pieces, so_far))
                if *before + *so_far == at
                    && *so_far + len <= most
                    && pieces.len() < REQUEST_PIECES =>
            {
                pieces.push(data);
                *so_far += len;
            }
            _ => requests.push((at, vec![data], len)),
        }
    }
    requests
}

/// Drives every request to its end, also beside one that fails, `at_once` at a time. Returns the first
/// error.
pub(crate) async fn all<E>(
    at_once: usize,
    requests: impl Iterator<Item = impl Future<Output = Result<(), E>>>,
) -> Result<(), E> {
    let requests = futures_util::stream::iter(requests).buffer_unordered(at_once);
    requests.fold(Ok(()), |ended, one| std::future::ready(ended.and(one))).await
}

/// A length that is known to fit into memory.
pub(crate) fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use dmsnap_format::ChunkSize;

    use super::*;

    /// Every store of up to four areas, every window size, every unit: the windows together clear
    /// everything, none is larger than asked, and none touches two units of the area it cuts.
    #[test]
    fn every_window_is_cleared_by_one_untorn_write() {
        let layout = Layout::new(ChunkSize::from_sectors(8).expect("legal"));
        let per_area = layout.exceptions_per_area();
        for unit_slots in [32, 64, 256] {
            for exceptions in 1..=4 * per_area {
                for most in [1, 31, 33, 255, 256, 257, 700, 5000] {
                    let mut end = exceptions;
                    while end > 0 {
                        let first = cut(layout, unit_slots, end, most);
                        let area_end = (layout.position(first).0 + 1) * per_area;
                        let last = area_end.min(end) - 1;
                        assert!(first < end && end - first <= most);
                        assert_eq!(first / unit_slots, last / unit_slots, "{first}..{end}");
                        end = first;
                    }
                }
            }
        }
    }

    #[test]
    fn a_large_window_spans_areas() {
        let layout = Layout::new(ChunkSize::from_sectors(8).expect("legal"));
        // 64 MiB of 4 KiB chunks; with a unit of 4 KiB the cut falls on the begin of an area.
        assert_eq!(cut(layout, 256, 131_072, 16_384), 131_072 - 16_384);
        assert_eq!(cut(layout, 32, 131_072, 16_384), 131_072 - 16_384 + 224);
        assert_eq!(cut(layout, 256, 100, 16_384), 0);
    }
}
