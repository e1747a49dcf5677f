use std::rc::Rc;

use dmsnap::device::Device;
use dmsnap::volume::{Snapshot, State, Volume, VolumeError};

use super::api::{Diff, DiffQuery, DiffRange};
use super::refusal::{Code, Refusal};
use crate::ORIGIN;

/// The most ranges of one answer: to look for more would hold up clients.
const MOST_RANGES: u64 = 4096;

/// Where two devices of a volume differ, by what is known at this moment.
///
/// # Errors
///
/// A snapshot that is not there, or that cannot tell; a question that begins past the end.
pub(super) fn differences<O: Device, C: Device>(
    volume: &Volume<O, C>,
    query: &DiffQuery,
) -> Result<Diff, Refusal> {
    let sides = [side(volume, &query.from)?, side(volume, &query.to)?];
    let snapshots: Vec<_> = sides.iter().flatten().collect();
    let size = match &snapshots[..] {
        [a, b] => a.len_bytes().max(b.len_bytes()),
        _ => volume.len_bytes(),
    };
    if query.start > size {
        let found = format_args!("start is {}, which lies past the end at {size}", query.start);
        return Err(Refusal::new(Code::BadRequest, found));
    }
    let smallest = snapshots.iter().map(|it| it.chunk_size().bytes()).min();
    let most = query.max.unwrap_or(MOST_RANGES).min(MOST_RANGES);
    // They alternate, and one more that differs tells where to go on.
    let extents = usize::try_from(2 * most + 2).unwrap_or(usize::MAX);
    let range = query.start..size;
    let extents = match &snapshots[..] {
        [a, b] if Rc::ptr_eq(a, b) => tells(volume, a).map(|()| Vec::new()),
        [a, b] => volume.different([a, b], range, extents),
        [one] => volume.changed_since(one, range, extents),
        _ => Ok(Vec::new()),
    };
    let extents = extents.map_err(|error| refused(&snapshots, &error))?;
    let (ranges, next) = page(query.start, &extents, most);
    Ok(Diff { size, granularity: smallest.unwrap_or(512), ranges, next })
}

/// The snapshot of this name; `None` is the origin.
fn side<O: Device, C: Device>(
    volume: &Volume<O, C>,
    name: &str,
) -> Result<Option<Rc<Snapshot<C>>>, Refusal> {
    if name == ORIGIN {
        return Ok(None);
    }
    let none = || Refusal::new(Code::NotFound, format_args!("no snapshot is named {name}"));
    volume.snapshot(name).map(Some).ok_or_else(none)
}

fn tells<O: Device, C: Device>(
    volume: &Volume<O, C>,
    snapshot: &Rc<Snapshot<C>>,
) -> Result<(), VolumeError> {
    match volume.tells_changes(snapshot) {
        true => Ok(()),
        false => Err(VolumeError::ChangesUnknown),
    }
}

fn refused<C: Device>(snapshots: &[&Rc<Snapshot<C>>], error: &VolumeError) -> Refusal {
    let dropped = snapshots.iter().find(|it| it.state() == State::Invalid);
    match dropped {
        Some(it) => {
            Refusal::new(Code::Invalid, format_args!("{}: the snapshot was dropped", it.name()))
        }
        None => Refusal::new(Code::ChangesUnknown, error),
    }
}

/// The ranges among the extents from `start` on that differ, and where the next one begins.
fn page(start: u64, extents: &[(u64, bool)], most: u64) -> (Vec<DiffRange>, Option<u64>) {
    let mut at = start;
    let differing = extents.iter().filter_map(|&(length, differs)| {
        let start = at;
        at += length;
        differs.then_some(DiffRange { start, length })
    });
    let mut ranges: Vec<_> = differing.collect();
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let next = ranges.get(most).map(|it| it.start);
    ranges.truncate(most);
    (ranges, next)
}
