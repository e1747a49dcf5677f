//! Where two snapshots differ, or a snapshot and its origin: by their stores and while clients write, against a
//! naive comparison of what they show.

mod histories; // whatever is written
mod stores; // those of kernels
mod refused; // what cannot be compared
mod compare; // a snapshot and an image

use std::num::NonZeroU64;
use std::ops::Range;

use dmsnap::device::{Device, Memory};
use dmsnap::ops::{self, Diff, DiffPage, DiffSide, ExportOptions, Silent};
use dmsnap_sim::run;

use crate::common::{World, bytes};

pub(super) const SECTORS: u64 = 96;
pub(super) const SECTOR: u64 = 512;

pub(super) type Found = Vec<Range<u64>>;

/// Of two sides of one origin.
pub(super) fn between<'a, C: Device, O: Device>(
    a: DiffSide<'a, C, O>,
    b: DiffSide<'a, C, O>,
) -> Diff<'a, C, O> {
    Diff::new(a, b).expect("one origin")
}

/// The differences of a page, and where the next one begins.
pub(super) fn page<C: Device, O: Device>(
    diff: &Diff<'_, C, O>,
    page: DiffPage,
) -> (Found, Option<u64>) {
    let mut found = Found::new();
    let told = run(diff.each(page, &Silent, |range| {
        found.push(range);
        Ok(())
    }));
    let told = told.expect("told");
    assert_eq!(told.ranges, found.len() as u64);
    assert_eq!(told.bytes, found.iter().map(|it| it.end - it.start).sum::<u64>());
    assert!(found.iter().all(|it| it.start < it.end), "{found:?}");
    assert!(found.windows(2).all(|two| two[0].end < two[1].start), "not joined: {found:?}");
    (found, told.next)
}

pub(super) fn all<C: Device, O: Device>(diff: &Diff<'_, C, O>) -> Found {
    let (found, next) = page(diff, DiffPage::default());
    assert_eq!(next, None);
    found
}

/// Page after page is the whole, and what begins later is cut.
pub(super) fn pages_are_the_whole<C: Device, O: Device>(diff: &Diff<'_, C, O>, end: u64) {
    let whole = all(diff);
    for most in 1..4 {
        let (mut found, mut from) = (Found::new(), Some(0));
        while let Some(at) = from {
            let (part, next) = page(diff, DiffPage { from: at, most: NonZeroU64::new(most) });
            assert!(part.len() as u64 <= most && (next.is_none() || part.len() as u64 == most));
            found.extend(part);
            from = next;
        }
        assert_eq!(found, whole, "pages of {most}");
    }
    for from in (0..=end).step_by(bytes(end / 13 + 1)).chain([end]) {
        let cut: Found =
            whole.iter().filter(|it| it.end > from).map(|it| it.start.max(from)..it.end).collect();
        assert_eq!(page(diff, DiffPage { from, most: None }).0, cut, "from {from}");
    }
}

/// Units of bytes that two contents do not share; what only one has is one of them.
pub(super) fn naive(a: &[u8], b: &[u8], unit: u64) -> Found {
    let unit = bytes(unit);
    let mut found = Found::new();
    let end = a.len().max(b.len());
    let in_common = a.len().min(b.len());
    let mut put = |range: Range<u64>| match found.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => found.push(range),
    };
    for at in (0..in_common).step_by(unit) {
        let to = (at + unit).min(in_common);
        if a[at..to] != b[at..to] {
            put(at as u64..to as u64);
        }
    }
    if in_common < end {
        put(in_common as u64..end as u64);
    }
    found
}

/// The sectors that lie in any of the ranges.
pub(super) fn sectors(found: &[Range<u64>], count: u64) -> Vec<bool> {
    (0..count).map(|n| found.iter().any(|it| it.contains(&(n * SECTOR)))).collect()
}

/// The sectors for which a store has an exception, by its dump.
pub(super) fn excepted<C: Device>(cow: &C, chunk_sectors: u64, count: u64) -> Vec<bool> {
    let mut is = vec![false; bytes(count)];
    let dumped = ops::dump(cow, |it| {
        let end = ((it.old + it.len) * chunk_sectors).min(count);
        is[bytes(it.old * chunk_sectors)..bytes(end)].fill(true);
        Ok(())
    });
    run(dumped).expect("dumped");
    is
}

/// In memory: a device that a kernel has left.
pub(super) fn memory(content: &[u8]) -> Memory {
    let memory = Memory::zeroed(content.len());
    futures_executor::block_on(memory.write(0, content.to_vec().into())).expect("written");
    memory
}

pub(super) fn shown(cow: &Memory, origin: &Memory) -> Vec<u8> {
    let output = Memory::zeroed(origin.content().len().next_multiple_of(512));
    let exported = ops::export(cow, origin, &output, ExportOptions::default(), &Silent);
    futures_executor::block_on(exported).expect("exported");
    output.content()
}

/// A store with exceptions for these chunks of 4 sectors.
pub(super) fn world(olds: &[u64]) -> World {
    World::new(4, 64, SECTORS).with_exceptions(olds)
}
