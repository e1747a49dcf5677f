//! Every moment at which the power can be cut, and everything that can be left then.

use std::ops::Range;

use crate::fault::{RequestFault, badness};
use crate::medium::{Block, Medium};
use crate::model::{Change, Model, Standing};
use crate::naive::{self, Found};
use crate::plan::{Setup, Start};
use crate::record::Event;
use crate::survivors::choose;

/// A machine whose power can be cut at any moment of a record.
#[derive(Debug)]
pub struct Cuts<'a> {
    setup: &'a Setup,
    record: &'a [Event],
    mediums: Vec<Medium>,
    model: Model,
    fired: Vec<(usize, RequestFault)>,
    /// What lay on a COW disk when a snapshot began to be made there.
    before: Vec<Option<Found>>,
    /// Events so far.
    at: usize,
    /// The blocks with volatile writes, disk by disk.
    blocks: Vec<Vec<Block>>,
}

/// What is known at a cut besides what the disks hold.
#[derive(Debug)]
pub struct Known<'a> {
    /// The machine.
    pub setup: &'a Setup,
    /// What clients know.
    pub model: &'a Model,
    /// What went wrong with which disk.
    pub fired: &'a [(usize, RequestFault)],
    /// What lay on a COW disk when a snapshot began to be made there.
    pub before: &'a [Option<Found>],
}

/// One content of all disks after a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Events before the cut.
    pub cut: usize,
    /// For each disk, whether growth survived, and the version of each volatile block.
    pub versions: Vec<(bool, Vec<usize>)>,
}

impl<'a> Cuts<'a> {
    /// Before anything has happened.
    pub fn new(setup: &'a Setup, start: &Start, record: &'a [Event]) -> Self {
        let block = setup.block as usize;
        let mediums = start.contents.iter().map(|it| Medium::new(it.clone(), block)).collect();
        Self {
            setup,
            record,
            mediums,
            model: start.model.clone(),
            fired: Vec::new(),
            before: vec![None; setup.slots.len()],
            at: 0,
            blocks: Vec::new(),
        }
    }

    /// Events so far.
    pub fn at(&self) -> usize {
        self.at
    }

    /// What is known now.
    pub fn known(&self) -> Known<'_> {
        Known { setup: self.setup, model: &self.model, fired: &self.fired, before: &self.before }
    }

    /// Goes on to just before event `at`.
    pub fn go_to(&mut self, at: usize) {
        while self.at < at {
            self.step();
        }
    }

    /// The next event; `None` at the end. A write tells where.
    fn step(&mut self) -> Option<Option<(usize, Range<usize>)>> {
        let event = self.record.get(self.at)?;
        self.at += 1;
        self.blocks.clear();
        match event {
            Event::Write { disk, id, at, data } => {
                self.mediums[*disk].write(*id, *at, data.clone());
                return Some(Some((*disk, *at..*at + data.len())));
            }
            Event::Flush { disk, open } => self.mediums[*disk].flush(open),
            Event::Lost { disk } => self.mediums[*disk].lose(),
            Event::Grown { disk, len, durable } => self.mediums[*disk].grow(*len, *durable),
            Event::Fault { disk, fault } => self.fired.push((*disk, *fault)),
            Event::Told(change) => {
                if let Change::Add { slot } = change {
                    let cow = self.mediums[self.setup.below() + slot - 1].seen();
                    self.before[slot - 1] = Some(naive::read(&cow));
                }
                self.model.apply(change);
            }
        }
        Some(None)
    }

    /// Goes on to the next moment at which a cut can leave something new, and tells every image
    /// that was not tried before: all of them, or where that is too many, a telling choice.
    pub fn next_images(&mut self, seed: u64) -> Option<Vec<Image>> {
        let mut written = match self.at {
            0 => None,
            _ => self.step()?,
        };
        while let Some(event) = self.record.get(self.at) {
            match event {
                Event::Told(change) if promises(change) => written = None,
                Event::Told(_) | Event::Fault { .. } => {}
                _ => break,
            }
            self.step();
        }
        // So that the first one is not taken for the begin again.
        if self.at == 0 {
            return self.record.first().map(|_| Vec::new()).inspect(|_| {
                self.step();
            });
        }
        Some(self.images(written.as_ref(), seed))
    }

    /// The images of a cut now.
    pub fn images_now(&mut self, seed: u64) -> Vec<Image> {
        self.images(None, seed)
    }

    /// Life after an image: its disks, and what clients know once they have looked. `None` if
    /// something went wrong with a disk before, so that too little is known.
    pub fn restart(&mut self, image: &Image) -> Option<Start> {
        if self
            .fired
            .iter()
            .any(|(_, fault)| !matches!(fault, RequestFault::Slow | RequestFault::Hangs))
        {
            return None;
        }
        let contents = self.contents(image);
        let origin = self.setup.origin().content(&contents).ok()?;
        let view = |slot: usize| match (
            self.known().standing(slot),
            naive::read(&contents[self.setup.below() + slot - 1]),
        ) {
            (Standing::Present | Standing::Shaky, Found::Store(store)) if store.valid => {
                Some(store.view(&origin, &contents[self.setup.below() + slot - 1]))
            }
            _ => None,
        };
        let snapshots: Vec<_> = (1..=self.setup.slots.len()).map(view).collect();
        Some(Start { model: Model::new(&origin, &snapshots), contents })
    }

    /// Images of a cut now. With `written`, only those that hold something of that write.
    fn images(&mut self, written: Option<&(usize, Range<usize>)>, seed: u64) -> Vec<Image> {
        self.look();
        let blocks = &self.blocks;
        let mut options = Vec::new();
        let mut fresh = Vec::new();
        for (disk, blocks) in blocks.iter().enumerate() {
            for block in blocks {
                let end = block.at + block.versions[0].len();
                if written.is_some_and(|(other, range)| {
                    *other == disk && range.start < end && block.at < range.end
                }) {
                    fresh.push(options.len());
                }
                options.push(block.versions.len() + 1);
            }
        }
        options.extend(self.mediums.iter().filter(|it| it.may_shrink()).map(|_| 2));
        let choices = choose(&options, &fresh, seed ^ self.at as u64);
        choices.into_iter().map(|choice| self.image(&choice)).collect()
    }

    fn look(&mut self) {
        if self.blocks.is_empty() {
            self.blocks = self.mediums.iter().map(Medium::blocks).collect();
        }
    }

    fn image(&self, choice: &[usize]) -> Image {
        let mut rest = choice;
        let mut versions = Vec::new();
        for blocks in &self.blocks {
            let (own, others) = rest.split_at(blocks.len());
            versions.push((true, own.to_vec()));
            rest = others;
        }
        for (medium, (grown, _)) in self.mediums.iter().zip(&mut versions) {
            if medium.may_shrink() {
                *grown = rest[0] == 1;
                rest = &rest[1..];
            }
        }
        Image { cut: self.at, versions }
    }

    /// What the disks hold in an image of a cut now.
    pub fn contents(&mut self, image: &Image) -> Vec<Vec<u8>> {
        self.look();
        let disks = self.mediums.iter().zip(&self.blocks).zip(&image.versions);
        disks
            .map(|((medium, blocks), (grown, versions))| {
                medium.survivor(blocks.iter().zip(versions.iter().copied()), *grown)
            })
            .collect()
    }

    /// An image in words.
    pub fn words(&self, image: &Image) -> String {
        let mut words = Vec::new();
        for (disk, (medium, (grown, versions))) in
            self.mediums.iter().zip(&image.versions).enumerate()
        {
            for (block, version) in medium.blocks().iter().zip(versions) {
                words.push(format!(
                    "disk {disk}, bytes {} on: {} of {} volatile versions",
                    block.at,
                    if *version == 0 { "none".into() } else { format!("number {version}") },
                    block.versions.len()
                ));
            }
            if !grown {
                words.push(format!("disk {disk} has its old length"));
            }
        }
        if words.is_empty() {
            words.push("nothing was volatile".into());
        }
        words.join("; ")
    }
}

/// True if more is promised after it than before.
fn promises(change: &Change) -> bool {
    matches!(
        change,
        Change::Flushed { ok: true, .. }
            | Change::Added { ok: true, .. }
            | Change::Merging { ok: true, .. }
            | Change::Dropped { .. }
            | Change::Remove { .. }
    )
}

impl Known<'_> {
    /// True if a disk did what its users cannot get over.
    pub(crate) fn badness(&self, disk: usize) -> usize {
        badness(self.fired, disk)
    }

    /// The slots that a snapshot should be found in, or may.
    pub(crate) fn standing(&self, slot: usize) -> Standing {
        let standing = self.model.standing(slot);
        let bad = self.badness(self.setup.below() + slot - 1);
        if standing != Standing::Absent && self.setup.slots[slot - 1].transient {
            return Standing::Absent;
        }
        match standing {
            // It may have been dropped, and the mark may be missing; what is valid is right.
            Standing::Present | Standing::Dropped if bad > 0 => Standing::Shaky,
            other => other,
        }
    }
}
