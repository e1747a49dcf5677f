use dmsnap_format::Layout;

use super::scan::read_strays;
use super::{Place, StoreError};
use crate::device::Device;

/// Slots in a row after the terminator that are not zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    /// The index of the first.
    first: u64,
    /// In slots.
    pub(crate) len: u64,
    /// Every slot holds the chunk an in-order writer would have given it.
    in_step: bool,
}

impl Stretch {
    /// Where it begins.
    pub(crate) fn place(&self, layout: Layout) -> Place {
        Place::of(layout, self.first)
    }

    /// The index of its first slot.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The index of its last slot.
    pub(super) fn last(&self) -> u64 {
        self.first + self.len - 1
    }

    /// True if these are the exceptions of an area whose front was zeroed: cut on a sector, in step,
    /// with nothing left before them. A torn write does not leave that, an unaligned discard in a
    /// kernel does.
    pub(crate) fn front_was_zeroed(&self, layout: Layout, terminator: u64) -> bool {
        let first = self.place(layout).slot;
        let (_, end) = layout.position(terminator);
        end == 0 && first > 0 && first.is_multiple_of(32) && self.in_step
    }

    /// What it shows of exceptions that were lost.
    pub(super) fn lost_front(&self, layout: Layout, terminator: u64) -> Option<Lost> {
        let Place { area, chunk, .. } = Place::of(layout, terminator);
        let lost = Lost { area, chunk, left: self.len };
        self.front_was_zeroed(layout, terminator).then_some(lost)
    }
}

/// An area whose front was zeroed by an unaligned discard in a kernel: the exceptions in it are lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    pub(super) area: u64,
    /// Its chunk of the COW device.
    pub(super) chunk: u64,
    /// Slots that are left of it.
    pub(super) left: u64,
}

/// Visits what lies after the terminator in slot `terminator`, stretch by stretch. An area can have
/// millions of them: they are not collected.
///
/// # Errors
///
/// An error of the device.
pub(super) async fn each_stretch<C: Device>(
    cow: &C,
    layout: Layout,
    terminator: u64,
    mut each: impl FnMut(Stretch),
) -> Result<(), StoreError> {
    let mut open: Option<Stretch> = None;
    read_strays(cow, layout, terminator, |index, raw| {
        let in_step = raw.new.get() == layout.lock_step_chunk(index).get();
        match &mut open {
            Some(stretch) if stretch.first + stretch.len == index => {
                stretch.len += 1;
                stretch.in_step &= in_step;
            }
            _ => open
                .replace(Stretch { first: index, len: 1, in_step })
                .into_iter()
                .for_each(&mut each),
        }
    })
    .await?;
    open.into_iter().for_each(each);
    Ok(())
}
