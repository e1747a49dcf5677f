use std::ops::Range;

use bytes::Bytes;
use dmsnap_format::{Exception, Layout, Run};
use futures_util::FutureExt;
use futures_util::stream::{StreamExt, TryStreamExt};

use super::ranges::{Transfer, Write, index, join_chunks};
use crate::device::Device;
use crate::store::{StoreError, read_range};

/// Reads in flight where they are large: chunks of a store lie one after the other.
pub(crate) const LARGE_READS: usize = 8;

/// What reading a window needs to know.
pub(crate) struct Reader<'a, C> {
    pub(crate) cow: &'a C,
    pub(crate) layout: Layout,
    /// In bytes; the last chunk may reach beyond.
    pub(crate) origin_bytes: u64,
    /// The most that one request brings, or takes to the origin; at most [`REQUEST_BYTES`].
    pub(crate) request_bytes: u64,
    /// Reads in flight.
    pub(crate) reads: usize,
}

impl<C: Device> Reader<'_, C> {
    /// Reads the slots of a window.
    pub(crate) async fn slots(&self, slots: Range<u64>) -> Result<Vec<Exception>, StoreError> {
        read_range(self.cow, self.layout, slots).await
    }

    /// Reads the chunks of a window in large reads in the order of the COW device, before each of which
    /// `ready` is asked. Returns them in the order of the origin, to be written
    /// in one sweep. Memory: the window's data, at most doubled by what lies between.
    pub(crate) async fn read(
        &self,
        mut exceptions: Vec<Exception>,
        ready: impl AsyncFn(),
    ) -> Result<Vec<Write>, StoreError> {
        exceptions.sort_unstable_by_key(|exception| exception.new);
        let ready = &ready;
        let reads = self.spans(&exceptions).into_iter().map(|span| async move {
            ready().await;
            self.read_span(span).await
        });
        let reads = reads.map(FutureExt::boxed_local);
        let mut chunks: Vec<(u64, Bytes)> = Vec::with_capacity(exceptions.len());
        let mut reads =
            std::pin::pin!(futures_util::stream::iter(reads).buffer_unordered(self.reads));
        while let Some(read) = reads.try_next().await? {
            chunks.extend(read);
        }
        chunks.sort_unstable_by_key(|(at, _)| *at);
        Ok(join_chunks(chunks, self.request_bytes))
    }

    /// The runs of a window, in the order of the origin.
    pub(crate) fn runs(&self, mut exceptions: Vec<Exception>) -> Vec<Transfer> {
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
            copies.extend((whole > 0).then_some(Transfer { at, len: whole, from }));
            let (at, from) = (at + whole, from + whole);
            copies.extend((rest > 0).then_some(Transfer { at, len: rest, from }));
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
