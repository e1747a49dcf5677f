use std::io;
use std::ops::Range;
use std::rc::Rc;

use dmsnap::device::Device;
use dmsnap::format::Layout;
use dmsnap::volume::{MergeState, OnFull, Snapshot, SnapshotOptions, State, View, Volume};
use futures_executor::block_on;

use crate::content::Content;
use crate::input::Input;
use crate::sparse::{Sparse, index};

pub(super) type Disk = Volume<Rc<Sparse>, Rc<Sparse>>;

/// One snapshot: its COW device and what is known about it.
pub(super) struct Layer {
    pub(super) name: &'static str,
    pub(super) cow: Rc<Sparse>,
    pub(super) on_full: OnFull,
    /// `None` if it is not there, or dropped.
    pub(super) content: Option<Content>,
    /// A device of it has failed since it was opened.
    pub(super) sick: bool,
    /// It was dropped, and the mark must be on the medium.
    pub(super) marked: bool,
    /// Exceptions were cleared since it was opened: their chunks may be lost until it is again.
    pub(super) cleared: bool,
    /// What the origin was when it was made, if that was seen.
    pub(super) moment: Option<Vec<u8>>,
}

pub(super) struct Machine {
    pub(super) origin: Rc<Sparse>,
    pub(super) origin_sick: bool,
    /// What the origin reads as, unless a merge makes it one with a layer.
    pub(super) content: Content,
    pub(super) layers: [Layer; 2],
    pub(super) merging: Option<usize>,
    pub(super) volume: Rc<Disk>,
    /// For origin writes that wait in memory.
    pub(super) backlog_bytes: u64,
    pub(super) next_tag: u8,
}

impl Layer {
    /// Is it to be dropped for an origin write, and full? If that write failed in the end, the
    /// exceptions made for it are gone: `failing`, that can be.
    pub(super) fn must_give_way(&self, snapshot: &Snapshot<Rc<Sparse>>, failing: bool) -> bool {
        let layout = Layout::new(snapshot.chunk_size());
        let chunks = self.cow.len_bytes().expect("known") / snapshot.chunk_size().bytes();
        let full = snapshot.exceptions() == layout.capacity(chunks);
        self.on_full == OnFull::Invalidate && (full || failing || self.cleared)
    }
}

impl Machine {
    pub(super) fn len(&self) -> u64 {
        self.volume.len_bytes()
    }

    pub(super) fn snapshot(&self, n: usize) -> Option<Rc<Snapshot<Rc<Sparse>>>> {
        self.volume.snapshot(self.layers[n].name)
    }

    pub(super) fn view(&self, layer: Option<usize>) -> View<Rc<Sparse>, Rc<Sparse>> {
        match layer.and_then(|n| self.snapshot(n)) {
            Some(snapshot) => View::snapshot(&self.volume, &snapshot),
            None => View::origin(&self.volume),
        }
    }

    /// The content behind a device: while a layer merges, the origin is one with it.
    pub(super) fn content(&mut self, layer: Option<usize>) -> &mut Content {
        match layer.or(self.merging) {
            Some(n) => self.layers[n].content.as_mut().expect("it is there"),
            None => &mut self.content,
        }
    }

    /// The origin, or a layer that is there.
    pub(super) fn device(&self, input: &mut Input<'_>) -> Option<usize> {
        let layer = usize::from(input.u8()) % 3;
        layer.checked_sub(1).filter(|n| self.layers[*n].content.is_some())
    }

    pub(super) fn range(&self, input: &mut Input<'_>) -> Range<u64> {
        let sectors = self.len() / 512;
        let start = input.below(sectors);
        let len = input.below((sectors - start).min(40)) + 1;
        start * 512..(start + len) * 512
    }

    /// May requests of this device fail?
    pub(super) fn is_sick(&self, layer: Option<usize>) -> bool {
        let sick = |layer: Option<usize>| layer.is_some_and(|n| self.layers[n].sick);
        self.origin_sick || sick(layer) || sick(self.merging)
    }

    /// May the device refuse to change? The origin does, too, while a snapshot was dropped whose COW device has
    /// not taken the mark.
    pub(super) fn is_held(&self, layer: Option<usize>) -> bool {
        let of_the_origin = layer.is_none() || layer == self.merging;
        let unmarked = || self.volume.snapshots().iter().any(|it| it.is_unmarked());
        self.is_sick(layer) || of_the_origin && unmarked()
    }

    /// What waits in memory is lost if the origin does not take it.
    pub(super) fn is_losing(&self, layer: Option<usize>) -> bool {
        layer.is_none() && self.merging.is_none() && self.origin_sick
    }

    /// Is it the origin alone, under one of its names?
    pub(super) fn is_of_the_origin(&self, layer: Option<usize>) -> bool {
        match self.merging {
            None => layer.is_none(),
            Some(n) => !self.is_busy(n) && (layer.is_none() || layer == Some(n)),
        }
    }

    /// Does this layer merge, and not all of it has?
    pub(super) fn is_busy(&self, n: usize) -> bool {
        let state = self.volume.merge_state().map(|(state, _)| state);
        self.merging == Some(n) && state != Some(MergeState::Finished)
    }

    /// A snapshot may be dropped only for a reason. That is looked for after whatever may have written
    /// to the origin: also what waited in memory is written before many a thing, and needs room then.
    pub(super) fn look_for_the_dropped(&mut self) {
        for n in 0..2 {
            let snapshot = self.snapshot(n).filter(|it| it.state() == State::Invalid);
            let layer = &mut self.layers[n];
            if let (Some(snapshot), true) = (snapshot, layer.content.is_some()) {
                let by_rule = layer.marked || layer.must_give_way(&snapshot, self.origin_sick);
                assert!(layer.sick || by_rule, "{} is dropped", layer.name);
                layer.content = None;
                layer.marked |= !layer.sick;
                if self.merging == Some(n) {
                    self.merging = None;
                    self.learn_the_origin();
                }
            }
        }
    }

    /// A merge that ended half-way leaves the origin alone as neither one nor the other.
    pub(super) fn learn_the_origin(&mut self) {
        let len = self.len();
        self.content = Content::of(self.origin.content(0..len));
    }

    pub(super) fn open(&mut self, n: usize) -> io::Result<()> {
        let layer = &mut self.layers[n];
        let options = SnapshotOptions { on_full: layer.on_full, ..SnapshotOptions::default() };
        block_on(self.volume.open(layer.name, layer.cow.clone(), options))?;
        let snapshot = self.snapshot(n).expect("it was added");
        let view = View::snapshot(&self.volume, &snapshot);
        let found = block_on(view.read(0, index(self.len()))).expect("readable");
        self.layers[n].content = Some(Content::of(found.to_vec()));
        (self.layers[n].sick, self.layers[n].cleared) = (false, false);
        Ok(())
    }
}
