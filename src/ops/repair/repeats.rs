use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use dmsnap_format::{CowChunk, Exception, Extents};
use roaring::RoaringTreemap;

use super::options::Duplicates;
use crate::device::Device;
use crate::ops::{Error, Which};
use crate::store::{Judged, Reader};

/// The most exceptions that repeat a chunk of the origin and are looked at one by one: 16 MiB of memory.
const MOST: usize = 1 << 18;

/// The most that is compared at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// What an exception is to a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has no data, or no place on the origin.
    Lost,
    /// The first with data for its chunk of the origin.
    First,
    /// Another one for the same chunk.
    Again,
}

/// Says which exceptions have data, and which of them are the first for their chunk of the origin.
#[derive(Debug)]
pub(super) struct Turns {
    extents: Extents,
    /// Chunks of the origin whose exceptions so far were lost.
    lost: RoaringTreemap,
}

impl Turns {
    /// For devices of these extents.
    pub(super) fn new(extents: Extents) -> Self {
        Self { extents, lost: RoaringTreemap::new() }
    }

    /// The next exception of the list.
    pub(super) fn next(&mut self, exception: Exception, judged: Judged) -> Turn {
        let old = exception.old.get();
        match (judged.device, judged.repeats_old) {
            (Some(_), repeats) => {
                let on_origin = self.extents.origin_chunks.is_none_or(|chunks| old < chunks);
                if on_origin && !repeats {
                    self.lost.insert(old);
                }
                Turn::Lost
            }
            (None, false) => Turn::First,
            (None, true) if !self.lost.is_empty() && self.lost.remove(old) => Turn::First,
            (None, true) => Turn::Again,
        }
    }
}

/// Exceptions that repeat the chunk of the origin of an earlier one that has data, as they are found.
#[derive(Debug, Default)]
pub(super) struct Found {
    list: Vec<(u64, Exception)>,
    more: bool,
}

impl Found {
    pub(super) fn add(&mut self, index: u64, exception: Exception) {
        self.more |= self.list.len() == MOST;
        if !self.more {
            self.list.push((index, exception));
        }
    }
}

/// The same, compared with the first.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// By chunk of the origin: slot and data of the first exception, and the slot of the last.
    groups: BTreeMap<u64, Group>,
    /// Chunks of the origin about which exceptions say different things.
    differ: BTreeSet<u64>,
    /// There were too many to look at.
    unknown: bool,
}

#[derive(Debug, Default)]
struct Group {
    first: Option<(u64, CowChunk)>,
    last: u64,
}

/// What is to be done with an exception that repeats the chunk of the origin of an earlier one.
pub(super) enum Repeat {
    /// It is the first that has data.
    First,
    /// It says the same as the first.
    Same,
    /// It says something else.
    Differs,
}

impl Repeats {
    /// Looks the first ones up, and compares what they say: a second reading of the list if there are any.
    pub(super) async fn compare<C: Device>(
        found: Found,
        reader: &Reader<'_, C>,
        stretches: &[Range<u64>],
    ) -> Result<Self, Error> {
        if found.list.is_empty() || found.more {
            return Ok(Self { unknown: found.more, ..Self::default() });
        }
        let mut groups: BTreeMap<u64, Group> = BTreeMap::new();
        for (index, exception) in &found.list {
            groups.entry(exception.old.get()).or_default().last = *index;
        }
        for slots in stretches {
            let look_up = |index, exception: Exception| {
                let group = groups.get_mut(&exception.old.get());
                if let Some(group) = group.filter(|group| group.first.is_none())
                    && reader.extents().check(exception).is_ok()
                {
                    group.first = Some((index, exception.new));
                }
            };
            reader.each(slots.clone(), look_up).await?;
        }
        let mut differ = BTreeSet::new();
        for (_, exception) in found.list {
            let old = exception.old.get();
            let first = groups.get(&old).and_then(|group| group.first);
            let Some((_, first)) = first.filter(|_| !differ.contains(&old)) else { continue };
            if !same_data(reader, first, exception.new).await? {
                differ.insert(old);
            }
        }
        Ok(Self { groups, differ, unknown: false })
    }

    /// What to do with the exception in slot `index`.
    pub(super) fn of(&self, index: u64, exception: Exception) -> Repeat {
        let old = exception.old.get();
        match self.groups.get(&old) {
            _ if self.unknown => Repeat::Differs,
            None => Repeat::First,
            Some(Group { first: Some((first, _)), .. }) if *first == index => Repeat::First,
            Some(_) if self.differ.contains(&old) => Repeat::Differs,
            Some(_) => Repeat::Same,
        }
    }

    /// Which is kept of those that say different things, as far as that can be done.
    pub(super) fn keep(&self, wanted: Option<Duplicates>) -> Option<Duplicates> {
        wanted.filter(|wanted| !self.unknown || *wanted == Duplicates::First)
    }

    /// Whether the exception in slot `index`, which has data, is the one that is kept.
    pub(super) fn keeps(
        &self,
        turn: Turn,
        index: u64,
        exception: Exception,
        wanted: Option<Duplicates>,
    ) -> bool {
        let old = exception.old.get();
        match (wanted, self.groups.get(&old)) {
            (Some(Duplicates::Last), Some(group)) if self.differ.contains(&old) => {
                index == group.last
            }
            _ => turn == Turn::First,
        }
    }
}

/// Whether two chunks of the COW device hold the same.
async fn same_data<C: Device>(
    reader: &Reader<'_, C>,
    a: CowChunk,
    b: CowChunk,
) -> Result<bool, Error> {
    let chunk_bytes = reader.layout().chunk_size().bytes();
    let read = async |chunk: CowChunk, offset: u64| {
        let len = usize::try_from(PIECE_BYTES.min(chunk_bytes - offset)).unwrap_or(usize::MAX);
        let at = chunk.get() * chunk_bytes + offset;
        let read = reader.device().read(at, len).await;
        read.map_err(Error::io(Which::Cow, format!("cannot read chunk {chunk}")))
    };
    let mut offset = 0;
    while a != b && offset < chunk_bytes {
        if read(a, offset).await?[..] != read(b, offset).await?[..] {
            return Ok(false);
        }
        offset += PIECE_BYTES;
    }
    Ok(true)
}
