use std::iter;
use std::ops::Range;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::StreamExt;

/// The most that one request reads or writes.
pub(crate) const REQUEST_BYTES: u64 = 1 << 20;

/// Pieces in one vectored write.
const REQUEST_PIECES: usize = 256;

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
pub(crate) struct Transfer {
    /// First byte on the origin.
    pub(crate) at: u64,
    /// In bytes.
    pub(crate) len: u64,
    /// First byte on the COW device.
    pub(crate) from: u64,
}

impl Transfer {
    /// The same in pieces of at most this many bytes.
    pub(crate) fn pieces(self, most: u64) -> impl Iterator<Item = Self> {
        let Self { at, len, from } = self;
        (0..len).step_by(index(most)).map(move |offset| Self {
            at: at + offset,
            len: most.min(len - offset),
            from: from + offset,
        })
    }
}

/// Joins neighbours on the origin into one write each, of at most this many bytes.
pub(super) fn join_chunks(chunks: Vec<(u64, Bytes)>, request_bytes: u64) -> Vec<Write> {
    let writes = joined(chunks, request_bytes).into_iter();
    writes.map(|(at, pieces, len)| Write { at, len, pieces }).collect()
}

/// Joins data at places, sorted, into requests of at most `most` bytes: where each begins, what it writes,
/// and how many bytes.
pub(crate) fn joined(parts: Vec<(u64, Bytes)>, most: u64) -> Vec<(u64, Vec<Bytes>, u64)> {
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

/// Joins ranges that come by their starts, ascending, where they touch or overlap.
#[derive(Debug, Default)]
pub(crate) struct Joined<T>(Option<Range<T>>);

impl<T: Copy + Ord> Joined<T> {
    /// Takes the next range, and gives one that no later range can join.
    pub(crate) fn push(&mut self, range: Range<T>) -> Option<Range<T>> {
        match &mut self.0 {
            Some(last) if range.start <= last.end => {
                last.end = last.end.max(range.end);
                None
            }
            last => last.replace(range),
        }
    }

    /// The last one.
    pub(crate) fn finish(&mut self) -> Option<Range<T>> {
        self.0.take()
    }
}

/// Ranges that ascend by their starts, joined as they come.
pub(crate) fn touching<T: Copy + Ord>(
    mut ascending: impl Iterator<Item = Range<T>>,
) -> impl Iterator<Item = Range<T>> {
    let mut joined = Joined(None);
    iter::from_fn(move || {
        let whole = ascending.by_ref().find_map(|range| joined.push(range));
        whole.or_else(|| joined.finish())
    })
}

/// The ranges in order, joined where they touch or overlap.
pub(crate) fn union<T: Copy + Ord>(mut ranges: Vec<Range<T>>) -> Vec<Range<T>> {
    ranges.sort_unstable_by_key(|range| range.start);
    touching(ranges.into_iter()).collect()
}

/// Drives every request to its end, even if another one fails, `at_once` at a time. Returns the first
/// error.
pub(crate) async fn all<E>(
    at_once: usize,
    requests: impl Iterator<Item = impl Future<Output = Result<(), E>>>,
) -> Result<(), E> {
    let requests = requests.map(FutureExt::boxed_local);
    let requests = futures_util::stream::iter(requests).buffer_unordered(at_once);
    requests.fold(Ok(()), |ended, one| std::future::ready(ended.and(one))).await
}

/// A length that is known to fit into memory.
pub(crate) fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
