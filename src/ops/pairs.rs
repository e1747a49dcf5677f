use std::ops::Range;

use bytes::Bytes;
use futures_util::future::join;
use futures_util::stream::{FuturesOrdered, StreamExt};

use super::content::Content;
use super::{Error, Observer, Progress};

/// The most that is read of each at a time.
pub(super) const PIECE_BYTES: u64 = 1 << 20;

/// Pieces that are read ahead.
const AHEAD: usize = 16;

/// What two contents hold in the same range of bytes, each as far as it reaches.
pub(super) struct Pair {
    pub(super) at: u64,
    pub(super) halves: [Half; 2],
}

/// One of the two.
pub(super) struct Half {
    pub(super) len: u64,
    /// `None` is a hole.
    pub(super) data: Option<Bytes>,
}

impl Pair {
    /// Bytes that were read for it.
    pub(super) fn read_bytes(&self) -> u64 {
        self.halves.iter().filter(|half| half.data.is_some()).map(|half| half.len).sum()
    }

    /// The first byte of `range` of the pieces in which they differ, if there is one; both reach as far.
    pub(super) fn difference(&self, range: Range<usize>) -> Option<usize> {
        let [left, right] = self.halves.each_ref().map(|half| half.data.as_ref());
        let found = match (left, right) {
            (None, None) => return None,
            (Some(one), None) | (None, Some(one)) => {
                one[range.clone()].iter().position(|byte| *byte != 0)
            }
            (Some(left), Some(right)) => {
                let (left, right) = (&left[range.clone()], &right[range.clone()]);
                // One call tells for nearly all of them.
                if left == right {
                    return None;
                }
                left.iter().zip(right).position(|(left, right)| left != right)
            }
        };
        found.map(|at| range.start + at)
    }
}

/// The parts of a range between multiples of `most`.
pub(super) fn cut(range: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> {
    let Range { mut start, end } = range;
    std::iter::from_fn(move || {
        let part = start..(start / most + 1).saturating_mul(most).min(end);
        start = part.end;
        (part.start < part.end).then_some(part)
    })
}

/// Reads both in these ranges, of at most [`PIECE_BYTES`] each, and tells `each` in their order, as long as it
/// says true. A piece of holes costs no request. `total` bytes are expected, for the progress.
///
/// # Errors
///
/// An error of a device, or of `each`; [`Error::Stopped`].
pub(super) async fn each_pair(
    (left, right): (&impl Content, &impl Content),
    pieces: impl Iterator<Item = Range<u64>>,
    (observer, total): (&impl Observer, u64),
    mut each: impl FnMut(Pair) -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut done = 0;
    let mut ahead = FuturesOrdered::new();
    let mut pieces = pieces.map(|range| read(left, right, range)).fuse();
    loop {
        ahead.extend(pieces.by_ref().take(AHEAD - ahead.len()));
        let Some(pair) = ahead.next().await else { return Ok(()) };
        let pair: Pair = pair?;
        if observer.stop_requested() {
            return Err(Error::Stopped);
        }
        observer.pace(pair.read_bytes()).await;
        done += pair.halves.iter().map(|half| half.len).max().unwrap_or(0);
        if !each(pair)? {
            return Ok(());
        }
        observer.progress(Progress { done, total });
    }
}

async fn read(left: &impl Content, right: &impl Content, range: Range<u64>) -> Result<Pair, Error> {
    let at = range.start;
    let (left, right) = join(half(left, range.clone()), half(right, range)).await;
    Ok(Pair { at, halves: [left?, right?] })
}

async fn half(content: &impl Content, range: Range<u64>) -> Result<Half, Error> {
    let end = range.end.min(content.len_bytes());
    match range.start < end {
        true => Ok(Half { len: end - range.start, data: content.piece(range.start..end).await? }),
        false => Ok(Half { len: 0, data: None }),
    }
}
