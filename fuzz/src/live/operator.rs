use std::cell::Cell;
use std::io;
use std::rc::Rc;

use dmsnap::copy::Observer;
use dmsnap::device::Device;
use dmsnap::format::ChunkSize;
use dmsnap::ops;
use dmsnap::volume::MergeState;
use futures_executor::block_on;

use super::machine::{Disk, Machine};
use crate::content::Content;
use crate::input::{Input, told};
use crate::sparse::Sparse;

/// Asks for a pause after a while.
struct Pausing<'a> {
    volume: &'a Disk,
    left: Cell<u8>,
}

impl Observer for Pausing<'_> {
    async fn pace(&self, _: u64) {
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => self.volume.pause_merge(),
        }
    }
}

impl Machine {
    pub(super) fn start_merge(&mut self, input: &mut Input<'_>) {
        let n = usize::from(input.u8()) % 2;
        let (Some(snapshot), true) = (self.snapshot(n), self.layers[n].content.is_some()) else {
            return;
        };
        let state = self.volume.merge_state().map(|(state, _)| state);
        let busy = state.is_some_and(|state| state != MergeState::Finished);
        let started = block_on(self.volume.start_merge(&snapshot));
        self.look_for_the_dropped();
        match started {
            Ok(()) => {
                assert!(!busy);
                self.layers[n].moment = None;
                assert!(self.volume.changed_since(&snapshot, 0..512, 1).is_err(), "it is merged");
                if let Some(before) = self.merging.replace(n) {
                    self.content = self.layers[before].content.clone().expect("it is there");
                }
                self.content(Some(n)).safe.fill(true);
            }
            Err(error) => {
                let dropped = self.layers[n].content.is_none();
                assert!(dropped || busy || self.is_sick(Some(n)), "{error}");
            }
        }
        self.verify();
    }

    pub(super) fn run_merge(&mut self, input: &mut Input<'_>) {
        let control = Pausing { volume: &self.volume, left: input.u8().into() };
        let window = 512 * u64::from(input.u8());
        let ended = block_on(self.volume.run_merge(window, &control));
        let Some(n) = self.merging else { return };
        self.layers[n].cleared = true;
        match ended {
            Ok(MergeState::Finished) => {
                let snapshot = self.snapshot(n).expect("it is there");
                assert_eq!(snapshot.exceptions(), 0);
                let bare = self.origin.content(0..self.len());
                let same = self.content(Some(n)).learn(0, &bare, |_, _| false);
                assert!(same, "merged, and the origin differs");
            }
            Ok(state) => assert_eq!(state, MergeState::Paused),
            Err(error) => {
                let full = error.kind() == io::ErrorKind::StorageFull;
                assert!(full || self.is_held(Some(n)), "{error}");
            }
        }
        self.verify();
    }

    pub(super) fn cancel_merge(&mut self) {
        if let Err(error) = block_on(self.volume.cancel_merge()) {
            // It stays a merge if the origin cannot be flushed, or if clearing exceptions has failed:
            // which are left is not known then. One that is finished may have outlived its snapshot.
            assert!(self.volume.merge_state().is_some() && self.is_sick(None), "{error}");
            return;
        }
        if self.merging.take().is_some() {
            self.learn_the_origin();
        }
        self.verify();
    }

    /// A new snapshot shows what clients see at this moment.
    pub(super) fn create(&mut self, input: &mut Input<'_>) {
        if self.snapshot(1).is_some() || self.is_sick(None) {
            return;
        }
        let size = ChunkSize::from_sectors(input.pick(&[1, 2, 8])).expect("legal");
        let cow = Sparse::zeroed(size.bytes() * input.below(80) + u64::from(input.u8()));
        let layer = &mut self.layers[1];
        (layer.cow, layer.sick, layer.marked) = (Rc::new(cow), false, false);
        (layer.cleared, layer.moment) = (false, None);
        let state = self.volume.merge_state().map(|(state, _)| state);
        let busy = state.is_some_and(|state| state != MergeState::Finished);
        if block_on(ops::create(&self.layers[1].cow, size, false)).is_err() {
            return;
        }
        if self.open(1).is_ok() {
            assert!(!busy, "taken in the middle of a merge");
            let expected = self.content(None).now.clone();
            self.layers[1].content = Some(Content::of(expected.clone()));
            self.layers[1].moment = Some(expected);
            self.verify();
        }
    }

    pub(super) fn remove(&mut self) {
        let Some(snapshot) = self.snapshot(1) else { return };
        let busy = self.is_busy(1);
        match block_on(self.volume.remove(&snapshot)) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                assert!(busy);
                return;
            }
            ended => assert!(ended.is_ok() || self.is_sick(Some(1)), "{ended:?}"),
        }
        assert!(!busy);
        let removed = self.layers[1].content.take();
        self.layers[1].moment = None;
        if self.merging == Some(1) {
            self.merging = None;
            self.content = removed.expect("it was there");
        }
        self.verify();
    }

    pub(super) fn invalidate(&mut self, input: &mut Input<'_>) {
        let n = usize::from(input.u8()) % 2;
        let Some(snapshot) = self.snapshot(n) else { return };
        let ended = block_on(self.volume.invalidate(&snapshot));
        told(|| format!("{n} is dropped: {ended:?}"));
        match &ended {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                assert!(self.is_busy(n));
                return;
            }
            ended => assert!(ended.is_ok() || self.is_sick(Some(n)), "{ended:?}"),
        }
        assert!(!self.is_busy(n));
        self.layers[n].marked |= ended.is_ok();
        self.look_for_the_dropped();
        assert!(block_on(self.view(Some(n)).read(0, 512)).is_err());
        self.verify();
    }

    /// A device stops working, now or a little later.
    pub(super) fn fail(&mut self, input: &mut Input<'_>) {
        let (which, good) = (input.u8() % 3, Some(u64::from(input.u8() % 32)));
        told(|| format!("of device {which}, {good:?} writes succeed"));
        match usize::from(which).checked_sub(1) {
            None => {
                self.origin.fail_after(good);
                self.origin_sick = true;
            }
            Some(n) => {
                self.layers[n].cow.fail_after(good);
                self.layers[n].sick = true;
            }
        }
    }

    pub(super) fn grow(&mut self, input: &mut Input<'_>) {
        let cow = &self.layers[usize::from(input.u8()) % 2].cow;
        let len = cow.len_bytes().expect("known");
        cow.resize(len + 512 * u64::from(input.u8()));
    }
}
