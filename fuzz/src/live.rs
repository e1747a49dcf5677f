use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap::copy::Observer;
use dmsnap::device::{Allocation, Device};
use dmsnap::format::{ChunkSize, Layout};
use dmsnap::ops::{self, ExportOptions, MergeOptions, Silent};
use dmsnap::volume::{MergeState, OnFull, Snapshot, SnapshotOptions, State, View, Volume};
use futures_executor::block_on;

use crate::content::Content;
use crate::input::{Input, told};
use crate::sparse::{Sparse, index};

/// So much is done to a volume, at most.
const MOST_STEPS: usize = 60;

type Disk = Volume<Rc<Sparse>, Rc<Sparse>>;

/// One snapshot: its COW device and what is known about it.
struct Layer {
    name: &'static str,
    cow: Rc<Sparse>,
    on_full: OnFull,
    /// `None` if it is not there, or dropped.
    content: Option<Content>,
    /// A device of it has failed since it was opened.
    sick: bool,
    /// It was dropped, and the mark must be on the medium.
    marked: bool,
    /// Exceptions were cleared since it was opened: their chunks may be lost until it is again.
    cleared: bool,
    /// What the origin was when it was made, if that was seen.
    moment: Option<Vec<u8>>,
}

struct World {
    origin: Rc<Sparse>,
    origin_sick: bool,
    /// What the origin reads as, unless a merge makes it one with a layer.
    content: Content,
    layers: [Layer; 2],
    merging: Option<usize>,
    volume: Rc<Disk>,
    /// For origin writes that wait in memory.
    backlog_bytes: u64,
    next_tag: u8,
}

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

impl Layer {
    /// Is it to be dropped for an origin write, and full? If that write failed in the end, the
    /// exceptions made for it are gone: `failing`, that can be.
    fn must_give_way(&self, snapshot: &Snapshot<Rc<Sparse>>, failing: bool) -> bool {
        let layout = Layout::new(snapshot.chunk_size());
        let chunks = self.cow.len_bytes().expect("known") / snapshot.chunk_size().bytes();
        let full = snapshot.exceptions() == layout.capacity(chunks);
        self.on_full == OnFull::Invalidate && (full || failing || self.cleared)
    }
}

/// Serves the store as the first of two snapshots, if it can be opened.
pub(crate) fn run(cow: Rc<Sparse>, origin: Rc<Sparse>, input: &mut Input<'_>) {
    let policies = [OnFull::Invalidate, OnFull::Fail];
    let layer = |name, cow, on_full| Layer {
        name,
        cow,
        on_full,
        content: None,
        sick: false,
        marked: false,
        cleared: false,
        moment: None,
    };
    let second = layer("b", Rc::new(Sparse::default()), input.pick(&policies));
    let layers = [layer("a", cow, input.pick(&policies)), second];
    let volume = Rc::new(Volume::new(origin.clone()).expect("a size"));
    let len = volume.len_bytes();
    let content = Content::of(origin.content(0..len));
    let before = (layers[0].cow.copy(), content.now.clone());
    let backlog_bytes = input.pick(&[0, 16 << 10, 64 << 10]);
    volume.allow_backlog(backlog_bytes);
    let mut world = World {
        origin,
        origin_sick: false,
        content,
        layers,
        merging: None,
        volume,
        backlog_bytes,
        next_tag: 0,
    };
    if len == 0 || world.open(0).is_err() {
        assert!(*world.layers[0].cow == before.0, "written to, and then refused");
        return;
    }
    assert!(world.origin.content(0..len) == before.1, "written to by an opening");
    world.live(input);
    world.end();
}

impl World {
    fn live(&mut self, input: &mut Input<'_>) {
        let mut steps = 0;
        while !input.is_empty() && steps < MOST_STEPS {
            steps += 1;
            let what = input.u8();
            told(|| format!("step {steps}: {what:#x}; {}", self.summary()));
            match what {
                0..=0x2F => self.read(input),
                0x30..=0x9F => self.change(input),
                0xA0..=0xAF => self.flush(input),
                0xB0..=0xBF => self.start_merge(input),
                0xC0..=0xCF => self.run_merge(input),
                0xD0..=0xD7 => self.cancel_merge(),
                0xD8..=0xDF => self.create(input),
                0xE0..=0xE3 => self.remove(),
                0xE4..=0xE7 => self.invalidate(input),
                0xE8..=0xEF => self.fail(input),
                0xF0..=0xF3 => self.grow(input),
                0xF4..=0xF9 => self.reopen(),
                _ => self.verify(),
            }
            self.look_for_the_dropped();
        }
        self.verify();
    }

    fn summary(&self) -> String {
        let layers = self.layers.iter().map(|layer| {
            let there = layer.content.is_some();
            format!("{} there {there}, sick {}, {:?}", layer.name, layer.sick, layer.on_full)
        });
        let layers: Vec<String> = layers.collect();
        format!("{}; merging {:?}", layers.join("; "), self.volume.merge_state())
    }

    fn len(&self) -> u64 {
        self.volume.len_bytes()
    }

    fn snapshot(&self, n: usize) -> Option<Rc<Snapshot<Rc<Sparse>>>> {
        self.volume.snapshot(self.layers[n].name)
    }

    fn view(&self, layer: Option<usize>) -> View<Rc<Sparse>, Rc<Sparse>> {
        match layer.and_then(|n| self.snapshot(n)) {
            Some(snapshot) => View::snapshot(&self.volume, &snapshot),
            None => View::origin(&self.volume),
        }
    }

    /// The content behind a device: while a layer merges, the origin is one with it.
    fn content(&mut self, layer: Option<usize>) -> &mut Content {
        match layer.or(self.merging) {
            Some(n) => self.layers[n].content.as_mut().expect("it is there"),
            None => &mut self.content,
        }
    }

    /// The origin, or a layer that is there.
    fn device(&self, input: &mut Input<'_>) -> Option<usize> {
        let layer = usize::from(input.u8()) % 3;
        layer.checked_sub(1).filter(|n| self.layers[*n].content.is_some())
    }

    fn range(&self, input: &mut Input<'_>) -> Range<u64> {
        let sectors = self.len() / 512;
        let start = input.below(sectors);
        let len = input.below((sectors - start).min(40)) + 1;
        start * 512..(start + len) * 512
    }

    /// May requests of this device fail?
    fn is_sick(&self, layer: Option<usize>) -> bool {
        let sick = |layer: Option<usize>| layer.is_some_and(|n| self.layers[n].sick);
        self.origin_sick || sick(layer) || sick(self.merging)
    }

    /// May the device refuse to change? The origin does, too, while a snapshot was dropped whose COW device has
    /// not taken the mark.
    fn is_held(&self, layer: Option<usize>) -> bool {
        let of_the_origin = layer.is_none() || layer == self.merging;
        let unmarked = || self.volume.snapshots().iter().any(|it| it.is_unmarked());
        self.is_sick(layer) || of_the_origin && unmarked()
    }

    /// What waits in memory is lost if the origin does not take it.
    fn is_losing(&self, layer: Option<usize>) -> bool {
        layer.is_none() && self.merging.is_none() && self.origin_sick
    }

    fn read(&mut self, input: &mut Input<'_>) {
        let (layer, range) = (self.device(input), self.range(input));
        self.is_right(layer, range.clone());
        let next = block_on(self.view(layer).next_data(range.start));
        let next = next.expect("known").map_or(self.len(), |data| {
            assert!(data.end > range.start && data.start < data.end, "{data:?} of {range:?}");
            data.start
        });
        let hole = index(range.start)..index(next.max(range.start));
        let losing = self.is_losing(layer);
        let content = self.content(layer);
        let lost = |at| content.unsure.contains_key(&at) || losing && !content.safe[at];
        let zero = |at: usize| content.now[at] == 0 || lost(at);
        assert!(hole.into_iter().all(zero), "a hole with data");
    }

    fn is_right(&mut self, layer: Option<usize>, range: Range<u64>) {
        let read = block_on(self.view(layer).read(range.start, index(range.end - range.start)));
        match read {
            Ok(found) => {
                let losing = self.is_losing(layer);
                let content = self.content(layer);
                let right =
                    content.learn(index(range.start), &found, |it, at| losing && !it.safe[at]);
                assert!(right, "{layer:?}, {range:?}");
            }
            Err(error) => assert!(self.is_sick(layer), "{layer:?}, {range:?}: {error}"),
        }
    }

    fn change(&mut self, input: &mut Input<'_>) {
        let (layer, range) = (self.device(input), self.range(input));
        let (view, len) = (self.view(layer), range.end - range.start);
        let kind = input.u8() % 8;
        self.next_tag = self.next_tag.wrapping_add(1).max(1);
        let (byte, ended) = match kind {
            0 => (0, block_on(view.write_zeroes(range.start, len, Allocation::MayPunch))),
            1 if self.is_of_the_origin(layer) => (0, block_on(view.discard(range.start, len))),
            1 => {
                // Does nothing, there.
                let ended = block_on(view.discard(range.start, len));
                assert!(ended.is_ok() || self.is_held(layer), "{ended:?}");
                return;
            }
            _ => {
                let data = Bytes::from(vec![self.next_tag; index(len)]);
                (self.next_tag, block_on(view.write(range.start, data)))
            }
        };
        told(|| format!("{kind} at {range:?} of {layer:?}, byte {byte}: {ended:?}"));
        self.changed(layer, range, byte, ended);
    }

    /// Is it the origin alone, under one of its names?
    fn is_of_the_origin(&self, layer: Option<usize>) -> bool {
        match self.merging {
            None => layer.is_none(),
            Some(n) => !self.is_busy(n) && (layer.is_none() || layer == Some(n)),
        }
    }

    /// What a snapshot calls unchanged is what the origin was when it was made.
    fn unchanged_is_right(&mut self) {
        let sick = self.is_losing(None);
        for n in 0..2 {
            let (Some(snapshot), Some(moment)) = (self.snapshot(n), self.layers[n].moment.clone())
            else {
                continue;
            };
            let Ok(told) = self.volume.changes(&snapshot, 0..self.len(), usize::MAX) else {
                continue;
            };
            let content = self.content(None);
            let mut at = 0;
            for (len, changed) in told {
                let range = at..at + index(len);
                at = range.end;
                let right = |at: usize| {
                    let lost = content.unsure.contains_key(&at) || sick && !content.safe[at];
                    lost || content.now[at] == moment[at]
                };
                assert!(changed || range.clone().all(right), "{n}: a change in {range:?}");
            }
            assert_eq!(at, moment.len());
        }
    }

    /// What was written is there; of what could not be, every sector is the old or the new one.
    fn changed(
        &mut self,
        layer: Option<usize>,
        range: Range<u64>,
        byte: u8,
        ended: io::Result<()>,
    ) {
        self.look_for_the_dropped();
        if layer.is_some_and(|n| self.layers[n].content.is_none()) {
            return;
        }
        let bytes = index(range.start)..index(range.end);
        let Err(error) = ended else { return self.content(layer).put(bytes, byte) };
        let full = error.kind() == io::ErrorKind::StorageFull;
        assert!(full || self.is_held(layer), "{layer:?}, {range:?}: {error}");
        let found = block_on(self.view(layer).read(range.start, bytes.len()));
        let content = self.content(layer);
        content.may_be(bytes.clone(), byte);
        match found {
            Ok(found) => {
                let right = content.learn(bytes.start, &found, |_, _| false);
                assert!(right, "{layer:?}, {range:?}: neither old nor new");
            }
            Err(error) => assert!(self.is_sick(layer), "{error}"),
        }
        self.content(layer).safe[bytes].fill(false);
    }

    fn flush(&mut self, input: &mut Input<'_>) {
        let layer = self.device(input);
        let ended = block_on(self.view(layer).flush());
        told(|| format!("flush of {layer:?}: {ended:?}"));
        assert!(ended.is_ok() || self.is_held(layer), "{layer:?}: {ended:?}");
        if ended.is_ok() {
            self.content(layer).safe.fill(true);
        }
    }

    /// A snapshot may be dropped only for a reason. That is looked for after whatever may have written
    /// to the origin: also what waited in memory is written before many a thing, and needs room then.
    fn look_for_the_dropped(&mut self) {
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
    fn learn_the_origin(&mut self) {
        let len = self.len();
        self.content = Content::of(self.origin.content(0..len));
    }

    fn verify(&mut self) {
        self.look_for_the_dropped();
        for layer in [None, Some(0), Some(1)] {
            if layer.is_none_or(|n| self.layers[n].content.is_some()) {
                self.is_right(layer, 0..self.len());
            }
        }
        self.unchanged_is_right();
    }

    fn start_merge(&mut self, input: &mut Input<'_>) {
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
                assert!(self.volume.changes(&snapshot, 0..512, 1).is_err(), "it is merged");
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

    fn run_merge(&mut self, input: &mut Input<'_>) {
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

    fn cancel_merge(&mut self) {
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
    fn create(&mut self, input: &mut Input<'_>) {
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

    fn open(&mut self, n: usize) -> io::Result<()> {
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

    fn remove(&mut self) {
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

    fn invalidate(&mut self, input: &mut Input<'_>) {
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

    /// Does this layer merge, and not all of it has?
    fn is_busy(&self, n: usize) -> bool {
        let state = self.volume.merge_state().map(|(state, _)| state);
        self.merging == Some(n) && state != Some(MergeState::Finished)
    }

    /// A device stops working, now or a little later.
    fn fail(&mut self, input: &mut Input<'_>) {
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

    fn grow(&mut self, input: &mut Input<'_>) {
        let cow = &self.layers[usize::from(input.u8()) % 2].cow;
        let len = cow.len_bytes().expect("known");
        cow.resize(len + 512 * u64::from(input.u8()));
    }

    /// The server ends, the devices heal, and it starts again.
    fn reopen(&mut self) {
        let ended = block_on(self.volume.flush_all());
        // What waited in memory may have needed room.
        self.look_for_the_dropped();
        let sick = self.origin_sick || self.layers.iter().any(|layer| layer.sick);
        assert!(ended.is_ok() || sick, "{ended:?}");
        if ended.is_ok() && !sick {
            let layers = self.layers.iter_mut().filter_map(|layer| layer.content.as_mut());
            layers.chain([&mut self.content]).for_each(|content| content.safe.fill(true));
        }
        self.origin.fail_after(None);
        self.origin_sick = false;
        self.layers.iter().for_each(|layer| layer.cow.fail_after(None));
        self.volume = Rc::new(Volume::new(self.origin.clone()).expect("a size"));
        self.volume.allow_backlog(self.backlog_bytes);
        // What the origin should be is known unless a merge was under way.
        let merging = self.merging.take();
        let expected = self.content.clone();
        self.learn_the_origin();
        if merging.is_none() {
            expected.has_kept(&self.content.now, "the origin");
        }
        for n in 0..2 {
            self.reopen_layer(n);
        }
    }

    fn reopen_layer(&mut self, n: usize) {
        let Some(expected) = self.layers[n].content.take() else {
            if self.layers[n].marked {
                assert!(self.open(n).is_err(), "{} was dropped", self.layers[n].name);
            }
            return;
        };
        let opened = self.open(n);
        assert!(opened.is_ok(), "{}: {opened:?}", self.layers[n].name);
        let found = self.layers[n].content.clone().expect("it was opened");
        expected.has_kept(&found.now, self.layers[n].name);
    }

    /// What lies on the devices is what the commands find.
    fn end(&mut self) {
        self.reopen();
        let options = MergeOptions { force: true, ..MergeOptions::default() };
        for layer in &self.layers {
            let Some(expected) = &layer.content else { continue };
            let checked = block_on(ops::check(&layer.cow, None::<&Sparse>, |_| {}));
            assert!(checked.as_ref().is_ok_and(|report| report.sound), "{checked:?}");
            let image = Sparse::zeroed(self.volume.len_bytes());
            let exported =
                ops::export(&layer.cow, &self.origin, &image, ExportOptions::default(), &Silent);
            block_on(exported).expect("sound");
            let all = 0..self.volume.len_bytes();
            assert!(image.content(all.clone()) == expected.now, "{}: exported", layer.name);
            let (cow, origin) = (layer.cow.copy(), self.origin.copy());
            block_on(ops::merge(&cow, &origin, options, &Silent)).expect("sound");
            assert!(origin.content(all) == expected.now, "{}: merged", layer.name);
        }
    }
}
