use std::ops::Range;

use dmsnap::device::DynDevice;
use dmsnap::volume::State;
use dmsnap_serve::export::{Export, Extent, HOLE, StatusKind, VolumeExport, ZERO};

use crate::machine::Machine;
use crate::model::Reading;
use crate::naive::{self, Found, SECTOR};
use crate::plan::Asked;

/// Extents that a client takes at once.
const MOST: usize = 64;

/// What a client was told of a range.
type Told = Vec<(Range<usize>, u32)>;

impl Machine<'_> {
    /// The device as an export.
    fn live(&self, device: usize) -> Option<VolumeExport<DynDevice, DynDevice>> {
        let volume = self.volume()?;
        match device.checked_sub(1) {
            None => Some(VolumeExport::origin(&volume, false)),
            Some(_) => Some(VolumeExport::snapshot(&volume, &self.snapshot(device)?, false)),
        }
    }

    pub(crate) fn is_dropped(&self, slot: usize) -> bool {
        slot > 0 && self.snapshot(slot).is_some_and(|snapshot| snapshot.state() == State::Invalid)
    }

    /// What an export says of a range is so, at some moment from the question to the answer. One of
    /// a dropped snapshot says nothing.
    pub(crate) async fn status(&self, device: usize, asked: Asked, range: Range<usize>) {
        let dropped = device > 0 && self.is_dropped(device);
        let Some(live) = self.live(device).filter(|_| dropped || self.has(device)) else { return };
        let is_asked = |kind: &StatusKind| match (asked, kind) {
            (Asked::Base, StatusKind::Allocation) | (Asked::Depth, StatusKind::Depth) => true,
            (Asked::Dirty(slot), StatusKind::ChangedSince { snapshot, .. }) => {
                *snapshot == slot.to_string()
            }
            _ => false,
        };
        // What is not offered cannot be asked for.
        let Some(kind) = live.status_kinds().into_iter().find(is_asked) else { return };
        // The marks a change makes belong to chunks: whole sectors are compared.
        let range = range.start / SECTOR * SECTOR..range.end.next_multiple_of(SECTOR);
        let since = match asked {
            Asked::Dirty(slot) if self.snapshot(slot).is_none() => return,
            // On its own export the name of a snapshot stands for the origin.
            Asked::Dirty(slot) if slot == device => 0,
            Asked::Dirty(slot) => slot,
            _ => device,
        };
        let not_any_more = self.is_dropped(since);
        let reading = |device| self.model.borrow().read(device, range.start, range.len());
        let (own, other) = (reading(device), reading(since));
        let parting = self.parting.get();
        self.enter(device);
        let ended = live.status(&kind, range.start as u64..range.end as u64, MOST).await;
        self.leave(device);
        match ended {
            Ok(extents) => {
                let told = places(&range, &extents);
                if dropped {
                    self.break_promise(format!("a dropped snapshot answers {asked:?}"));
                } else if !parting && !self.parting.get() {
                    self.hold_against(asked, not_any_more, &told, (&own, &other));
                }
            }
            Err(_) if dropped || not_any_more || self.is_dropped(since) => {}
            ended => {
                self.settle(device, "a question about a range", ended);
            }
        }
    }

    fn hold_against(
        &self,
        asked: Asked,
        not_any_more: bool,
        told: &Told,
        (own, other): (&Reading, &Reading),
    ) {
        // A volume below that takes no more writes has lost those that waited for it; flushes say so.
        if self.setup.stacked && self.setup.backlog > 0 && self.origin_is_bad() {
            return;
        }
        for (sectors, flags) in told {
            let model = self.model.borrow();
            let sectors = sectors.clone();
            let held = match asked {
                Asked::Base if flags & (HOLE | ZERO) != 0 => model.claim_zeroes(own, sectors),
                Asked::Depth if *flags == 0 => model.claim_zeroes(own, sectors),
                Asked::Dirty(slot) if *flags == 0 && not_any_more => {
                    Err(format!("snapshot {slot} was dropped, and sectors count as unchanged"))
                }
                Asked::Dirty(_) if *flags == 0 => model.claim_equal(own, other, sectors),
                _ => Ok(()),
            };
            drop(model);
            if let Err(wrong) = held {
                self.break_promise(wrong);
            }
        }
    }
}

impl Machine<'_> {
    /// The store of a snapshot that was taken out holds what it showed, when it is opened next with an origin that
    /// holds what was acknowledged.
    pub(crate) fn judge_removed(&self, slot: usize, own: &Reading, origin: &Reading) {
        let model = self.model.borrow();
        // While a merge goes on, what the origin shows is not what its disk holds.
        let merging = model.merging().is_some();
        if merging || self.slot(slot).transient || self.cow_is_bad(slot) || self.origin_is_bad() {
            return;
        }
        let cow = self.cow(slot).content();
        let Found::Store(store) = naive::read(&cow) else { return };
        if !store.valid {
            return;
        }
        let held = (0..self.setup.origin).try_for_each(|sector| {
            let saved =
                store.exceptions.iter().rfind(|it| it.0 == (sector * SECTOR / store.chunk) as u64);
            let Some((_, new)) = saved else {
                return model.claim_equal(origin, own, sector..sector + 1);
            };
            let at =
                usize::try_from(*new).unwrap_or(0) * store.chunk + sector * SECTOR % store.chunk;
            model.claim(own, sector, &cow[at..at + SECTOR])
        });
        drop(model);
        if let Err(wrong) = held {
            self.break_promise(format!(
                "snapshot {slot} was taken out, and its store is wrong: {wrong}"
            ));
        }
    }
}

/// The sectors that extents lie in, as far as they are whole ones of the range.
fn places(range: &Range<usize>, extents: &[Extent]) -> Told {
    let mut at = range.start;
    let place = |extent: &Extent| {
        let end = at.saturating_add(usize::try_from(extent.len_bytes).unwrap_or(usize::MAX));
        let sectors = at.div_ceil(SECTOR)..end.min(range.end) / SECTOR;
        at = end;
        (sectors, extent.flags)
    };
    extents.iter().map(place).collect()
}
