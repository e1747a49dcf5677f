use dmsnap_format::Layout;

use super::Error;
use super::finding::Finding;
use crate::device::Device;
use crate::store::{self, read_strays};

/// Slots in a row behind the terminator that are not zero.
pub(super) struct Stretch {
    first: u64,
    len: u64,
    /// Every slot holds the chunk an in-order writer would have given it.
    in_step: bool,
}

impl Stretch {
    /// True if these are the exceptions of an area whose front was zeroed: cut on a sector, in step,
    /// with nothing left before them. A torn write does not leave that, an unaligned discard in a
    /// kernel does.
    fn front_was_zeroed(&self, layout: Layout, terminator: u64) -> bool {
        let first = store::Place::of(layout, self.first).slot;
        let (_, end) = layout.position(terminator);
        end == 0 && first > 0 && first.is_multiple_of(32) && self.in_step
    }

    /// What `check` says of it.
    pub(super) fn finding(&self, layout: Layout, terminator: u64) -> Finding {
        let place = store::Place::of(layout, self.first);
        let end = store::Place::of(layout, terminator);
        let (first, last) = (place.slot, place.slot + self.len - 1);
        let mut message = match first == end.slot {
            true => format!("slots {first} to {last}, from the terminator on, are not empty"),
            false => format!(
                "slots {first} to {last} behind the terminator in slot {} are not empty",
                end.slot
            ),
        };
        if self.front_was_zeroed(layout, terminator) {
            message += ": the front of this area was zeroed, as kernels do when a discard is not \
                        aligned to chunks; the exceptions in it are lost to them";
            return Finding::damage("front-of-area-zeroed", place, message);
        }
        message += ": a kernel that opens this store brings them to life when it fills the gap";
        Finding::damage("stray-slots", place, message)
    }
}

/// Visits what lies behind the terminator in slot `terminator`, stretch by stretch. An area can have
/// millions of them: they are not collected.
pub(super) async fn each_stretch<C: Device>(
    cow: &C,
    layout: Layout,
    terminator: u64,
    mut each: impl FnMut(Stretch),
) -> Result<(), Error> {
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

/// Refuses a store that has lost exceptions it still shows traces of: opening it for writing would
/// wipe them.
pub(super) async fn refuse_lost_front<C: Device>(
    cow: &C,
    layout: Layout,
    terminator: u64,
) -> Result<(), Error> {
    let mut lost = None;
    each_stretch(cow, layout, terminator, |stretch| {
        if stretch.front_was_zeroed(layout, terminator) {
            lost = Some(stretch);
        }
    })
    .await?;
    match lost {
        Some(stretch) => {
            let place = store::Place::of(layout, terminator);
            Err(Error::FrontZeroed { area: place.area, chunk: place.chunk, left: stretch.len })
        }
        None => Ok(()),
    }
}
