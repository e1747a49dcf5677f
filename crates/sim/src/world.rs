use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::rc::Rc;

use dmsnap::device::Device;
use dmsnap::format::ChunkSize;
use dmsnap::ops;
use dmsnap::volume::{OnFull, Snapshot, SnapshotOptions, State, View, Volume};
use dmsnap_serve::Keeper;

use crate::below::Below;
use crate::disk::Disk;
use crate::liveness::Clock;
use crate::model::{Change, Model, Standing};
use crate::naive::{self, Found, SECTOR};
use crate::plan::{Action, Setup, Slot, Start};
use crate::power::{Fault, Power};
use crate::record::Event;
use crate::scheduler::Scheduler;
use crate::tasks::Tasks;

/// A volume of a simulated machine.
pub(crate) type Sim<B> = Volume<<B as Below>::Origin<Disk>, Rc<Disk>>;

/// What looks after it.
pub(crate) type SimKeeper<B> = Keeper<<B as Below>::Origin<Disk>, Rc<Disk>>;

/// What is in a slot.
type Slotted = Option<Rc<Snapshot<Rc<Disk>>>>;

/// A machine that runs: the code that is tested on simulated disks, and beside it the model of what
/// its clients know.
pub(crate) struct World<'a, B: Below> {
    pub(crate) setup: &'a Setup,
    pub(crate) power: Power,
    pub(crate) scheduler: Scheduler,
    pub(crate) disks: Vec<Rc<Disk>>,
    pub(crate) volume: RefCell<Option<Rc<Sim<B>>>>,
    pub(crate) snapshots: RefCell<Vec<Slotted>>,
    pub(crate) model: Rc<RefCell<Model>>,
    /// What clients and operators are at.
    pub(crate) running: RefCell<Vec<(u64, Action)>>,
    /// Passes when nothing else happens.
    pub(crate) clock: Clock,
    pub(crate) keeper: RefCell<Option<SimKeeper<B>>>,
    pub(crate) tasks: Rc<Tasks>,
    /// Requests under way on each device.
    pub(crate) busy: RefCell<Vec<usize>>,
    /// What each slot's store has exceptions for when the machine begins.
    pub(crate) kept: Vec<HashSet<u64>>,
    /// Slots in which a store was made.
    pub(crate) made: RefCell<Vec<usize>>,
    /// Discards under way that go to the origin.
    pub(crate) discards: Cell<usize>,
    /// An operator is at work.
    pub(crate) operator: Cell<bool>,
    /// A merge is being given up: what is asked of the origin now belongs to either side.
    pub(crate) parting: Cell<bool>,
    /// The snapshot that merged last, perhaps not any more: what was asked of it and of the origin then may
    /// still be under way.
    pub(crate) merged: Cell<Option<usize>>,
    /// A device that is about to go.
    pub(crate) leaving: RefCell<Vec<usize>>,
    pub(crate) next_id: Cell<u64>,
    /// What broke a promise first.
    pub(crate) broken: RefCell<Option<String>>,
    /// The machine cannot go on, and has an excuse.
    pub(crate) over: Cell<bool>,
}

impl<'a, B: Below> World<'a, B> {
    /// Plugs the disks in. [`open`](Self::open) comes next.
    pub(crate) fn new(setup: &'a Setup, start: &Start, power: &Power) -> Self {
        let scheduler = match setup.order {
            Some(seed) => Scheduler::seeded(seed),
            None => Scheduler::in_order(),
        };
        let plug = |content: &Vec<u8>| {
            Rc::new(Disk::scheduled(content.clone(), setup.block, power, &scheduler))
        };
        let disks: Vec<_> = start.contents.iter().map(plug).collect();
        let kept = start.contents[setup.below()..].iter().map(|cow| match naive::read(cow) {
            Found::Store(store) => store.exceptions.iter().map(|(old, _)| *old).collect(),
            _ => HashSet::new(),
        });
        for (slot, disk) in setup.slots.iter().zip(&disks[setup.below()..]) {
            disk.may_grow_to((slot.grows_to * slot.chunk * SECTOR) as u64);
        }
        let model = Rc::new(RefCell::new(start.model.clone()));
        let (lost, below) = (model.clone(), setup.below());
        let waits = setup.backlog > 0;
        power.when_wrong(move |power, disk, dropped| {
            // An origin write that waits in memory is tried twice, and then it is lost; a flush says so.
            let given_up = waits && disk < below && badness(&power.fired(), disk) > 1;
            if !dropped && !given_up {
                return;
            }
            let merging = lost.borrow().merging();
            let (first, also) = match disk.checked_sub(below) {
                None => (0, merging),
                Some(slot) => (slot + 1, None),
            };
            for device in [Some(first), also].into_iter().flatten() {
                let change = Change::Shaken { device };
                lost.borrow_mut().apply(&change);
                power.tell(|| Event::Told(change));
            }
        });
        Self {
            setup,
            power: power.clone(),
            scheduler,
            disks,
            volume: RefCell::default(),
            snapshots: RefCell::new(vec![None; setup.slots.len()]),
            model,
            running: RefCell::default(),
            clock: Clock::default(),
            keeper: RefCell::default(),
            tasks: Tasks::new(),
            busy: RefCell::new(vec![0; 1 + setup.slots.len()]),
            kept: kept.collect(),
            made: RefCell::default(),
            discards: Cell::default(),
            operator: Cell::default(),
            parting: Cell::default(),
            merged: Cell::default(),
            leaving: RefCell::default(),
            next_id: Cell::new(16),
            broken: RefCell::default(),
            over: Cell::default(),
        }
    }

    pub(crate) fn slot(&self, slot: usize) -> &Slot {
        &self.setup.slots[slot - 1]
    }

    pub(crate) fn cow(&self, slot: usize) -> &Rc<Disk> {
        &self.disks[self.setup.below() + slot - 1]
    }

    pub(crate) fn volume(&self) -> Option<Rc<Sim<B>>> {
        self.volume.borrow().clone()
    }

    pub(crate) fn snapshot(&self, slot: usize) -> Option<Rc<Snapshot<Rc<Disk>>>> {
        self.snapshots.borrow()[slot - 1].clone()
    }

    /// The device as clients have it; `None` if it is not there.
    pub(crate) fn view(&self, device: usize) -> Option<View<B::Origin<Disk>, Rc<Disk>>> {
        let volume = self.volume()?;
        match device.checked_sub(1) {
            None => Some(View::origin(&volume)),
            Some(_) => Some(View::snapshot(&volume, &self.snapshot(device)?)),
        }
    }

    pub(crate) fn tell(&self, change: Change) {
        if let Change::Merge { slot } = change {
            self.merged.set(Some(slot));
        }
        self.model.borrow_mut().apply(&change);
        self.power.tell(|| Event::Told(change));
    }

    pub(crate) fn fresh_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    pub(crate) fn break_promise(&self, what: String) {
        self.broken.borrow_mut().get_or_insert(what);
    }

    /// How badly a disk has behaved: 0 not at all, 2 beyond saving.
    pub(crate) fn badness(&self, disk: usize) -> usize {
        badness(&self.power.fired(), disk)
    }

    pub(crate) fn cow_is_bad(&self, slot: usize) -> bool {
        self.badness(self.cow(slot).number()) > 0
    }

    /// True if a snapshot's disk has behaved badly, or had no room for a while: then the store may take no
    /// more writes until it is opened anew.
    pub(crate) fn cow_was_in_trouble(&self, slot: usize) -> bool {
        let full = (self.cow(slot).number(), Fault::Full);
        self.cow_is_bad(slot) || self.power.fired().contains(&full)
    }

    /// True if any disk has behaved badly, or had no room.
    pub(crate) fn was_in_trouble(&self) -> bool {
        self.power.fired().iter().any(|(_, fault)| !matches!(fault, Fault::Slow | Fault::Hangs))
    }

    pub(crate) fn origin_is_bad(&self) -> bool {
        (0..self.setup.below()).any(|disk| self.badness(disk) > 0)
    }

    /// True if a request of this device may fail with this error.
    pub(crate) fn excused(&self, device: usize, error: &io::Error) -> bool {
        let merging = self.model.borrow().merging();
        if self.origin_is_bad()
            || self.origin_was_full()
            || self.merged.get().is_some_and(|slot| self.cow_was_in_trouble(slot))
        {
            return true;
        }
        let full = error.kind() == io::ErrorKind::StorageFull;
        // A device that says it has no room is a full store.
        let stops = |n: usize, slot: &Slot| {
            (self.is_tight(n) || self.cow_is_bad(n)) && slot.options.on_full != OnFull::Invalidate
        };
        let stopped = full && (1..).zip(&self.setup.slots).any(|(n, slot)| stops(n, slot));
        match device {
            0 => stopped || self.origin_is_held(),
            slot => {
                let is_origin = [merging, self.merged.get()].contains(&Some(slot));
                let one = is_origin && (stopped || self.origin_is_held());
                one || self.cow_was_in_trouble(slot)
                    || full && self.is_tight(slot)
                    || self.may_be_dropped(slot)
            }
        }
    }

    /// True if a COW device may take neither old data nor the mark: origin writes that need one of them fail.
    pub(crate) fn origin_is_held(&self) -> bool {
        let unmarked = |slot| {
            let dropped = self.snapshot(slot).is_some_and(|it| it.state() == State::Invalid);
            self.cow_was_in_trouble(slot) && (dropped || self.may_be_dropped(slot))
        };
        (1..=self.setup.slots.len()).any(unmarked)
    }

    /// It may run out of room.
    pub(crate) fn is_tight(&self, slot: usize) -> bool {
        is_tight(self.setup, &self.power.fired(), slot)
    }

    pub(crate) fn origin_was_full(&self) -> bool {
        let fired = self.power.fired();
        fired.iter().any(|(disk, fault)| *disk < self.setup.below() && *fault == Fault::Full)
    }

    fn may_be_dropped(&self, slot: usize) -> bool {
        self.is_tight(slot) && self.slot(slot).options.on_full == OnFull::Invalidate
            || matches!(
                self.model.borrow().standing(slot),
                Standing::Shaky | Standing::Dropped | Standing::Lost | Standing::Absent
            )
    }

    /// Tells the model of snapshots that were dropped, and why that may be. `settled`: nothing is
    /// under way any more, so that their marks are durable.
    pub(crate) fn notice_drops(&self, settled: bool) {
        for slot in 1..=self.setup.slots.len() {
            let dropped = self.snapshot(slot).is_some_and(|it| it.state() == State::Invalid);
            let standing = self.model.borrow().standing(slot);
            if !dropped || !matches!(standing, Standing::Present | Standing::Shaky) {
                continue;
            }
            if !self.cow_is_bad(slot) && !self.may_be_dropped(slot) {
                self.break_promise(format!("snapshot {slot} was dropped, and nothing was wrong"));
            } else if settled && !self.slot(slot).transient {
                // A mark that was not taken, also one that still has no room when the process ends: from here on
                // the origin may be served without the snapshot.
                let unmarked = self.snapshot(slot).is_some_and(|it| it.is_unmarked());
                if unmarked && !self.cow_was_in_trouble(slot) {
                    self.break_promise(format!(
                        "snapshot {slot} is not marked, and nothing was wrong"
                    ));
                }
                let change = match unmarked {
                    false => Change::Dropped { slot },
                    true => Change::Lose { slot },
                };
                self.tell(change);
            } else if standing == Standing::Present {
                self.tell(Change::Drop { slot });
            }
        }
    }

    /// Opens the origin and every snapshot that is there.
    pub(crate) async fn open(&self) -> io::Result<()> {
        let volume = Rc::new(Volume::new(B::open(&self.disks).await?)?);
        volume.allow_backlog(self.setup.backlog);
        volume.forget_cached().await?;
        for slot in 1..=self.setup.slots.len() {
            if self.model.borrow().standing(slot) == Standing::Present {
                let options = self.slot(slot).options.clone();
                let opened = volume.open(&slot.to_string(), self.cow(slot).clone(), options).await;
                self.snapshots.borrow_mut()[slot - 1] = Some(opened?);
            } else if self.must_be_refused(slot) {
                let opened = volume.open("refused", self.cow(slot).clone(), plain()).await;
                if opened.is_ok() {
                    self.break_promise(format!("the store in slot {slot} should be refused"));
                }
            }
        }
        self.keeper.replace(Some(Keeper::new(volume.clone())));
        self.volume.replace(Some(volume));
        Ok(())
    }

    /// A store that was dropped, or is damaged.
    fn must_be_refused(&self, slot: usize) -> bool {
        let standing = self.model.borrow().standing(slot);
        standing == Standing::Dropped || self.slot(slot).damaged && standing == Standing::Absent
    }

    pub(crate) fn close(&self) {
        self.snapshots.borrow_mut().fill(None);
        self.keeper.take();
        self.volume.take();
    }

    /// Makes a store and opens it as a snapshot of this moment.
    pub(crate) async fn make(&self, slot: usize) -> io::Result<()> {
        let Some(volume) = self.volume() else { return Ok(()) };
        self.made.borrow_mut().push(slot);
        let (cow, options) = (self.cow(slot).clone(), self.slot(slot).options.clone());
        let sectors = u32::try_from(self.slot(slot).chunk).unwrap_or(1);
        let chunk_size = ChunkSize::from_sectors(sectors).map_err(io::Error::other)?;
        let name = slot.to_string();
        let made = if self.slot(slot).transient {
            volume.open_transient(&name, cow, chunk_size, options).await
        } else {
            ops::create(&cow, chunk_size, true).await.map_err(io::Error::other)?;
            volume.open(&name, cow, options).await
        };
        self.snapshots.borrow_mut()[slot - 1] = Some(made?);
        Ok(())
    }

    /// Every device reads as the model says, and every store is sound as it lies there.
    pub(crate) async fn verify(&self) {
        for device in 0..=self.setup.slots.len() {
            let there = device == 0 || self.model.borrow().standing(device) == Standing::Present;
            if let Some(view) = self.view(device).filter(|_| there) {
                let len = self.setup.origin * SECTOR;
                let reading = self.model.borrow().read(device, 0, len);
                match view.read(0, len).await {
                    Ok(bytes) => self.take_in(&reading, &bytes),
                    Err(error) if self.excused(device, &error) => {}
                    Err(error) => {
                        self.break_promise(format!("cannot read device {device}: {error}"));
                    }
                }
            }
        }
        for slot in 1..=self.setup.slots.len() {
            let standing = self.model.borrow().standing(slot);
            if standing == Standing::Present && !self.slot(slot).transient {
                self.check(slot).await;
            }
        }
    }

    /// Holds what a read found against the model.
    pub(crate) fn take_in(&self, reading: &crate::model::Reading, bytes: &[u8]) {
        // A volume below that takes no more writes has lost those that waited for it; flushes say so.
        if self.setup.stacked && self.setup.backlog > 0 && self.origin_is_bad() {
            return;
        }
        let found = self.model.borrow().found(reading, bytes);
        match found {
            Ok(news) => news.into_iter().for_each(|change| self.tell(change)),
            Err(wrong) => self.break_promise(wrong),
        }
    }

    async fn check(&self, slot: usize) {
        let cow = self.cow(slot);
        let in_step = in_step(self.setup, &self.power.fired());
        let len = self.setup.origin * SECTOR;
        if let Err(wrong) = sound(self.slot(slot), &cow.content(), len, in_step) {
            self.break_promise(format!("the store of snapshot {slot}: {wrong}"));
            return;
        }
        let mut findings = Vec::new();
        let report = ops::check(&**cow, None::<&Disk>, |it| findings.push(it)).await;
        // Only a whole disk can be asked what it holds.
        if !report.is_ok_and(|report| report.sound) && !self.cow_is_bad(slot) {
            self.break_promise(format!("check of snapshot {slot} finds {findings:?}"));
        }
    }
}

/// True if a snapshot may run out of room: on its disk, or below it.
pub(crate) fn is_tight(setup: &Setup, fired: &[(usize, Fault)], slot: usize) -> bool {
    let cow = setup.below() + slot - 1;
    setup.slots[slot - 1].tight || fired.contains(&(cow, Fault::Full))
}

/// True if a snapshot may be dropped because it has no room.
pub(crate) fn droppable(setup: &Setup, fired: &[(usize, Fault)], slot: usize) -> bool {
    let dropped = setup.slots[slot - 1].options.on_full == OnFull::Invalidate;
    dropped && is_tight(setup, fired, slot)
}

/// True if every chunk must be in step with its slot: nothing can have made a request give its
/// chunks back while others took the next ones.
pub(crate) fn in_step(setup: &Setup, fired: &[(usize, Fault)]) -> bool {
    fired.is_empty() && (setup.order.is_none() || !setup.slots.iter().any(|slot| slot.tight))
}

/// How badly a disk has behaved.
pub(crate) fn badness(fired: &[(usize, Fault)], disk: usize) -> usize {
    let own = fired.iter().filter(|(other, _)| *other == disk);
    own.map(|(_, fault)| match fault {
        Fault::Slow | Fault::Hangs | Fault::Full => 0,
        Fault::Gone => 2,
        _ => 1,
    })
    .sum()
}

/// A store as it lies there is one that a kernel opens and believes, or none.
///
/// # Errors
///
/// In words, what is wrong.
pub(crate) fn sound(
    slot: &Slot,
    cow: &[u8],
    origin_len: usize,
    in_step: bool,
) -> Result<(), String> {
    match naive::read(cow) {
        Found::Broken(why) => Err(why),
        Found::Blank => Err("its header is gone".into()),
        // No machine here does anything that an in-order writer would not.
        Found::Store(store) if in_step && !store.in_step() => {
            Err("chunks are not in step with their slots".into())
        }
        Found::Store(store) => match store.wrong(cow.len(), origin_len) {
            // As a kernel left it, and nothing was added.
            Some(_) if slot.strays > 0 && slot.filled == Some(store.exceptions.len()) => Ok(()),
            Some(wrong) => Err(wrong),
            None => Ok(()),
        },
    }
}

/// What a snapshot does not do in the simulation: everything as by default.
pub(crate) fn plain() -> SnapshotOptions {
    SnapshotOptions { on_full: OnFull::Fail, ..SnapshotOptions::default() }
}
