use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::rc::Rc;

use dmsnap::device::DynDevice;
use dmsnap::format::{ChunkSize, StoreId};
use dmsnap::ops;
use dmsnap::volume::{OnFull, SnapshotOptions, View};
use dmsnap_serve::IdlePublisher;

use crate::below::{SimSnapshot, SimView, SimVolume, any};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::fault::{RequestFault, badness};
use crate::model::{Change, Model, Standing};
use crate::naive::{self, Found, SECTOR};
use crate::plan::{Action, Setup, Slot, Start};
use crate::power::Power;
use crate::record::Event;
use crate::scheduler::Scheduler;
use crate::tasks::Tasks;

/// What looks after it.
pub(crate) type SimKeeper = IdlePublisher<DynDevice, DynDevice>;

/// What is in a slot.
type Slotted = Option<Rc<SimSnapshot>>;

/// A machine that runs: the code that is tested on simulated disks, and next to it the model of what
/// its clients know.
pub(crate) struct Machine<'a> {
    pub(crate) setup: &'a Setup,
    pub(crate) power: Power,
    pub(crate) scheduler: Scheduler,
    pub(crate) disks: Vec<Rc<Disk>>,
    pub(crate) volume: RefCell<Option<Rc<SimVolume>>>,
    pub(crate) snapshots: RefCell<Vec<Slotted>>,
    pub(crate) model: Rc<RefCell<Model>>,
    /// What clients and operators are at.
    pub(crate) running: RefCell<Vec<(u64, Action)>>,
    /// Passes when nothing else happens.
    pub(crate) clock: Clock,
    pub(crate) keeper: RefCell<Option<SimKeeper>>,
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

impl<'a> Machine<'a> {
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
        tell_of_losses(setup, power, &model);
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

    pub(crate) fn volume(&self) -> Option<Rc<SimVolume>> {
        self.volume.borrow().clone()
    }

    pub(crate) fn snapshot(&self, slot: usize) -> Option<Rc<SimSnapshot>> {
        self.snapshots.borrow()[slot - 1].clone()
    }

    /// The device as clients have it; `None` if it is not there.
    pub(crate) fn view(&self, device: usize) -> Option<SimView> {
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

    /// Opens the origin and every snapshot that is there.
    pub(crate) async fn open(&self) -> io::Result<()> {
        let volume = Rc::new(SimVolume::new(self.setup.origin().open(&self.disks).await?)?);
        volume.allow_backlog(self.setup.backlog);
        volume.forget_cached().await?;
        for slot in 1..=self.setup.slots.len() {
            if self.model.borrow().standing(slot) == Standing::Present {
                let options = self.slot(slot).options.clone();
                let opened = volume.open(&slot.to_string(), any(self.cow(slot)), options).await;
                self.snapshots.borrow_mut()[slot - 1] = Some(opened?);
            } else if self.must_be_refused(slot) {
                let opened = volume.open("refused", any(self.cow(slot)), plain()).await;
                if opened.is_ok() {
                    self.break_promise(format!("the store in slot {slot} should be refused"));
                }
            }
        }
        self.keeper.replace(Some(IdlePublisher::new(volume.clone())));
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
        let (cow, options) = (any(self.cow(slot)), self.slot(slot).options.clone());
        let sectors = u32::try_from(self.slot(slot).chunk).unwrap_or(1);
        let chunk_size = ChunkSize::from_sectors(sectors).map_err(io::Error::other)?;
        let name = slot.to_string();
        let merged = self.slot(slot).way_back_of.and_then(|of| self.snapshot(of));
        let made = if let Some(merged) = merged {
            let id = |n| StoreId::new([n; 16]).ok_or(io::ErrorKind::InvalidInput);
            let ids = [id(2)?, id(3)?];
            volume.add_way_back(&merged, (&name, cow), ids, options).await
        } else if self.slot(slot).transient {
            volume.open_transient(&name, cow, chunk_size, options).await
        } else {
            ops::create(&cow, chunk_size, true).await.map_err(io::Error::other)?;
            volume.open(&name, cow, options).await
        };
        self.snapshots.borrow_mut()[slot - 1] = Some(made?);
        Ok(())
    }
}

/// From now on the model learns when a disk loses what was written to it.
fn tell_of_losses(setup: &Setup, power: &Power, model: &Rc<RefCell<Model>>) {
    let (lost, below) = (model.clone(), setup.below());
    let waits = setup.backlog > 0;
    power.when_wrong(move |power, disk, dropped| {
        // An origin write that waits in memory is tried twice, and then it is lost; a flush says so. A first time without
        // room leaves it waiting.
        let fired = power.fired();
        let tries =
            badness(&fired, disk) + usize::from(fired.contains(&(disk, RequestFault::Full)));
        let given_up = waits && disk < below && tries > 1;
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
}

/// What a snapshot does not do in the simulation: everything as by default.
pub(crate) fn plain() -> SnapshotOptions {
    SnapshotOptions { on_full: OnFull::Fail, ..SnapshotOptions::default() }
}
