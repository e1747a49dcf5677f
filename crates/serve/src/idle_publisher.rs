use std::cell::Cell;
use std::rc::{Rc, Weak};

use dmsnap::device::Device;
use dmsnap::volume::{Snapshot, State, Volume};

use crate::tasks::spawn;

/// Exceptions that nobody flushes are published when this many ticks have added none; and if there is no
/// room for that, again after as many.
const IDLE_TICKS: u32 = 3;

/// What a volume wants to be done about once a second, by a caller with a clock.
#[derive(Debug)]
pub struct IdlePublisher<O, C> {
    volume: Rc<Volume<O, C>>,
    known: Vec<Known<C>>,
    /// Marks are being written.
    marking: Rc<Cell<bool>>,
}

/// What is known of a snapshot. One that was taken out is kept by nobody: its COW device is free at once.
#[derive(Debug)]
struct Known<C> {
    snapshot: Weak<Snapshot<C>>,
    /// Its unpublished exceptions when last looked at,
    unpublished: u64,
    /// and for how many ticks they have been the same.
    ticks: u32,
    /// A publish is under way.
    publishing: Rc<Cell<bool>>,
}

impl<O: Device + 'static, C: Device + 'static> IdlePublisher<O, C> {
    /// For a volume.
    pub fn new(volume: Rc<Volume<O, C>>) -> Self {
        Self { volume, known: Vec::new(), marking: Rc::default() }
    }

    /// Lets the volume's time pass, and has published what idle snapshots have not, each by a task of its
    /// own, and stores of dropped snapshots marked that could not be: a device that hangs must not stop
    /// the clock. A failure to publish is the next client's to
    /// hear: its write or flush meets the same. It is tried again as long as nothing else happens.
    ///
    /// Must run inside the compio runtime of the devices, or where [`spawn_by`](crate::spawn_by) was called.
    pub fn tick(&mut self) {
        self.volume.tick();
        let snapshots = self.volume.snapshots();
        self.known.retain(|known| snapshots.iter().any(|it| known.is(it)));
        for snapshot in snapshots {
            let Some(known) = self.known.iter_mut().find(|known| known.is(&snapshot)) else {
                self.known.push(Known::new(&snapshot));
                continue;
            };
            known.look(&snapshot);
            if known.is_due() && snapshot.state() != State::Invalid {
                let (volume, publishing) = (self.volume.clone(), known.publishing.clone());
                publishing.set(true);
                // It is driven to its end whatever becomes of the clock.
                let publish = async move {
                    let _ = volume.publish(&snapshot).await;
                    publishing.set(false);
                };
                spawn(publish);
            }
        }
        self.mark_dropped();
    }

    /// Marks stores of dropped snapshots that could not be marked.
    fn mark_dropped(&self) {
        let is_unmarked = self.volume.snapshots().iter().any(|it| it.is_unmarked());
        if is_unmarked && !self.marking.replace(true) {
            let (volume, marking) = (self.volume.clone(), self.marking.clone());
            let mark = async move {
                let _tried_again_at_a_later_tick = volume.mark_dropped().await;
                marking.set(false);
            };
            spawn(mark);
        }
    }
}

impl<C: Device> Known<C> {
    fn new(snapshot: &Rc<Snapshot<C>>) -> Self {
        let unpublished = snapshot.unpublished();
        Self { snapshot: Rc::downgrade(snapshot), unpublished, ticks: 0, publishing: Rc::default() }
    }

    fn is(&self, snapshot: &Rc<Snapshot<C>>) -> bool {
        std::ptr::eq(self.snapshot.as_ptr(), Rc::as_ptr(snapshot))
    }

    fn look(&mut self, snapshot: &Snapshot<C>) {
        let before = std::mem::replace(&mut self.unpublished, snapshot.unpublished());
        self.ticks = if before == self.unpublished { self.ticks.saturating_add(1) } else { 0 };
    }

    fn is_due(&self) -> bool {
        let idle = self.ticks > 0 && self.ticks.is_multiple_of(IDLE_TICKS);
        idle && self.unpublished > 0 && !self.publishing.get()
    }
}
