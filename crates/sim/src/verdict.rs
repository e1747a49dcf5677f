use std::rc::Rc;

use dmsnap::copy::Silent;
use dmsnap::device::{Device, Memory};
use dmsnap::format::TagState;
use dmsnap::ops;
use dmsnap::volume::{MergeState, View};

use crate::below::{SimView, SimVolume, any};
use crate::cuts::Known;
use crate::excuses::{droppable, in_step};
use crate::fault::RequestFault;
use crate::machine::plain;
use crate::model::Standing;
use crate::naive::{self, Found, SECTOR};
use crate::soundness::sound;

/// Holds what the disks hold after a power cut against what was promised, without a line of what is
/// tested; and then goes on: opens everything, compares, fills stores beyond their next area, writes
/// to the origin, opens again, merges.
///
/// # Errors
///
/// In words, the first promise that is broken.
pub(crate) fn judge(known: &Known<'_>, contents: Vec<Vec<u8>>) -> Result<(), String> {
    let origin = match known.setup.origin().content(&contents) {
        Ok(origin) => origin,
        // The disks below have failed.
        Err(_) if (0..known.setup.below()).any(|disk| known.badness(disk) > 0) => return Ok(()),
        Err(wrong) => return Err(wrong),
    };
    let mut there = Vec::new();
    for slot in 1..=known.model.slots() {
        if let Some(view) = look_at(known, slot, &origin, &contents)? {
            there.push((slot, view));
        }
    }
    // A volume below that takes no more writes has lost those that waited for it; flushes said so.
    let lost = known.setup.stacked
        && known.setup.backlog > 0
        && (0..known.setup.below()).any(|disk| known.badness(disk) > 0);
    if known.model.merging().is_none() && !lost {
        known.model.after_cut(0, &origin)?;
    }
    let mut on = Life::open(known, contents, origin, there)?;
    on.go_on().map_err(|wrong| format!("opened again after the power cut: {wrong}"))
}

/// What a kernel sees of a snapshot; `None` if there is none to be opened.
fn look_at(
    known: &Known<'_>,
    slot: usize,
    origin: &[u8],
    contents: &[Vec<u8>],
) -> Result<Option<Vec<u8>>, String> {
    let cow = &contents[known.setup.below() + slot - 1];
    let setup = &known.setup.slots[slot - 1];
    let wrong = |what: String| Err(format!("snapshot {slot} after the power cut: {what}"));
    let standing = known.standing(slot);
    let found = naive::read(cow);
    if standing == Standing::Coming {
        let as_before = known.before[slot - 1].as_ref() == Some(&found);
        return match found {
            Found::Blank => Ok(None),
            Found::Store(store) if store.valid && store.exceptions.is_empty() => Ok(None),
            _ if as_before => Ok(None),
            other => wrong(format!("it was being made, and there is {other:?}")),
        };
    }
    if !matches!(standing, Standing::Present | Standing::Shaky | Standing::Dropped) {
        return Ok(None);
    }
    // One that is dropped for want of room may lose its header just before the mark is written.
    let disk = known.setup.below() + slot - 1;
    let had_no_room = known.fired.contains(&(disk, RequestFault::Full));
    if standing == Standing::Shaky && had_no_room && matches!(found, Found::Blank) {
        return Ok(None);
    }
    let in_step = in_step(known.setup, known.fired);
    if let Err(what) = sound(setup, cow, origin.len(), in_step) {
        return wrong(what);
    }
    let Found::Store(store) = found else { return wrong("its store is gone".into()) };
    match (store.valid, standing) {
        (false, Standing::Present) if !droppable(known.setup, known.fired, slot) => {
            wrong("it is invalid".into())
        }
        (false, _) => Ok(None),
        (true, Standing::Dropped) => wrong("it was dropped, and is valid again".into()),
        (true, _) => {
            let view = store.view(origin, cow);
            known.model.after_cut(slot, &view)?;
            Ok(Some(view))
        }
    }
}

/// The machine after the power cut, and what its devices must hold.
struct Life<'a> {
    known: &'a Known<'a>,
    disks: Vec<Rc<Memory>>,
    volume: Rc<SimVolume>,
    /// Slot by slot, those that are there; the origin is slot 0.
    expected: Vec<(usize, Vec<u8>)>,
    tag: u32,
}

/// Devices in memory never wait.
fn now<T>(task: impl Future<Output = T>) -> Result<T, String> {
    let mut task = std::pin::pin!(task);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match task.as_mut().poll(&mut context) {
        std::task::Poll::Ready(ended) => Ok(ended),
        std::task::Poll::Pending => Err("everybody waits, and nothing will ever happen".into()),
    }
}

impl<'a> Life<'a> {
    fn open(
        known: &'a Known<'a>,
        contents: Vec<Vec<u8>>,
        origin: Vec<u8>,
        there: Vec<(usize, Vec<u8>)>,
    ) -> Result<Self, String> {
        let disks: Vec<_> = contents.into_iter().map(|it| Rc::new(Memory::from(it))).collect();
        let mut expected = vec![(0, origin)];
        expected.extend(there);
        let volume = Self::volume(known, &disks, &expected)?;
        Ok(Self { known, disks, volume, expected, tag: 1 << 30 })
    }

    fn volume(
        known: &Known<'_>,
        disks: &[Rc<Memory>],
        expected: &[(usize, Vec<u8>)],
    ) -> Result<Rc<SimVolume>, String> {
        now(async {
            let volume = Rc::new(SimVolume::new(known.setup.origin().open(disks).await?)?);
            for (slot, _) in &expected[1..] {
                let cow = any(&disks[known.setup.below() + slot - 1]);
                volume.open(&slot.to_string(), cow, plain()).await?;
            }
            Ok(volume)
        })?
        .map_err(|error: std::io::Error| format!("cannot be opened after the power cut: {error}"))
    }

    fn view(&self, slot: usize) -> Option<SimView> {
        match slot {
            0 => Some(View::origin(&self.volume)),
            _ => Some(View::snapshot(&self.volume, &self.volume.snapshot(&slot.to_string())?)),
        }
    }

    fn cow(&self, slot: usize) -> &Rc<Memory> {
        &self.disks[self.known.setup.below() + slot - 1]
    }

    fn go_on(&mut self) -> Result<(), String> {
        self.compare("as it was opened")?;
        self.checked("as it was opened")?;
        for n in 1..self.expected.len() {
            self.fill(n)?;
        }
        self.write_origin()?;
        self.compare("after writes")?;
        self.volume = Self::volume(self.known, &self.disks, &self.expected)?;
        self.compare("after writes, opened again")?;
        self.checked("after writes")?;
        self.merge()
    }

    fn compare(&self, when: &str) -> Result<(), String> {
        for (slot, expected) in &self.expected {
            let Some(view) = self.view(*slot) else { return Err(format!("{slot} is not there")) };
            let found = now(view.read(0, expected.len()))?;
            let found = found.map_err(|error| format!("{when}: cannot read {slot}: {error}"))?;
            if let Some(n) = differ(expected, &found) {
                let range = n * SECTOR..(n + 1) * SECTOR;
                return Err(format!(
                    "{when}, {} reads {} in sector {n}, and should read {}",
                    crate::model::name(*slot),
                    naive::words(&found[range.clone()]),
                    naive::words(&expected[range]),
                ));
            }
        }
        Ok(())
    }

    fn checked(&self, when: &str) -> Result<(), String> {
        for (slot, _) in &self.expected[1..] {
            let mut findings = Vec::new();
            let cow = self.cow(*slot);
            let report = now(ops::check(&**cow, None::<&Memory>, |it| findings.push(it)))?;
            if !report.is_ok_and(|report| report.sound) {
                return Err(format!("{when}, check of snapshot {slot} finds {findings:?}"));
            }
            if let Found::Store(store) = naive::read(&cow.content())
                && store.strays > 0
            {
                return Err(format!("{when}, snapshot {slot} has {} strays", store.strays));
            }
        }
        Ok(())
    }

    fn put(&mut self, n: usize, at: usize, len: usize) -> Result<bool, String> {
        self.tag += 1;
        let (slot, data) = (self.expected[n].0, naive::content(self.tag, at, len));
        let Some(view) = self.view(slot) else { return Err(format!("{slot} is not there")) };
        match now(view.write(at as u64, data.clone()))? {
            Ok(()) => {
                self.expected[n].1[at..at + len].copy_from_slice(&data);
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                self.partly(n, at, &data)?;
                Ok(false)
            }
            Err(error) => Err(format!("a write to {slot} fails: {error}")),
        }
    }

    /// A write found no room for all of it: each sector is old or new.
    fn partly(&mut self, n: usize, at: usize, data: &[u8]) -> Result<(), String> {
        let Some(view) = self.view(self.expected[n].0) else { return Ok(()) };
        let found = now(view.read(at as u64, data.len()))?.map_err(|error| error.to_string())?;
        let expected = &mut self.expected[n].1[at..at + data.len()];
        let sectors = expected.chunks_mut(SECTOR).zip(data.chunks(SECTOR));
        for ((old, new), found) in sectors.zip(found.chunks(SECTOR)) {
            if found == new {
                old.copy_from_slice(new);
            }
        }
        Ok(())
    }

    /// Gives a snapshot new exceptions until its list reaches into the next area, or it is full.
    fn fill(&mut self, n: usize) -> Result<(), String> {
        let slot = self.expected[n].0;
        let chunk = self.known.setup.slots[slot - 1].chunk * SECTOR;
        let Some(snapshot) = self.volume.snapshot(&slot.to_string()) else { return Ok(()) };
        let per_area = (chunk / 16) as u64;
        let want = (per_area - snapshot.exceptions() % per_area).min(40) + 1;
        let want = snapshot.exceptions() + want;
        let len = self.expected[n].1.len();
        let changed = snapshot.changes(0..len as u64, usize::MAX);
        let mut at = 0;
        for (bytes, has) in changed {
            let end = at + usize::try_from(bytes).unwrap_or(0);
            let mut next = at;
            at = end;
            while !has && next < end && snapshot.exceptions() < want {
                let more = usize::try_from(want - snapshot.exceptions()).unwrap_or(1);
                let part = (more.min(9) * chunk).min(end - next);
                if !self.put(n, next, part)? {
                    return self.flush(n);
                }
                next += part;
            }
        }
        self.flush(n)
    }

    fn flush(&self, n: usize) -> Result<(), String> {
        let Some(view) = self.view(self.expected[n].0) else { return Ok(()) };
        now(view.flush())?.map_err(|error| format!("a flush fails: {error}"))
    }

    fn write_origin(&mut self) -> Result<(), String> {
        let sectors = self.expected[0].1.len() / SECTOR;
        for at in [0, sectors / 3, sectors - 2] {
            self.put(0, at * SECTOR, 2 * SECTOR)?;
        }
        self.flush(0)
    }

    /// Merges one snapshot, in windows of a few chunks; the others do not notice.
    fn merge(&mut self) -> Result<(), String> {
        let candidates = self.expected.len() - 1;
        if candidates == 0 {
            return Ok(());
        }
        let n =
            1 + self.expected[0].1.iter().map(|it| usize::from(*it)).sum::<usize>() % candidates;
        let (slot, content) = self.expected[n].clone();
        let Some(snapshot) = self.volume.snapshot(&slot.to_string()) else { return Ok(()) };
        let window = (self.known.setup.slots[slot - 1].chunk * SECTOR * 11) as u64;
        // One that keeps the way back of the other: that is taken.
        let is_keeper = snapshot.tag().is_some_and(|it| it.state == TagState::Undo);
        let partner = self.volume.partner(&snapshot).filter(|_| is_keeper);
        let started = match &partner {
            Some(shown) => now(self.volume.exchange_merge(shown))?.map(drop),
            None if is_keeper => return Ok(()),
            None => now(self.volume.start_merge(&snapshot))?,
        };
        match started.map_err(std::io::Error::from) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(format!("a merge does not start: {error}")),
        }
        self.expected[0].1 = content;
        self.compare("at the begin of a merge")?;
        match now(self.volume.run_merge(window, &Silent))? {
            Ok(MergeState::Finished) => {}
            // Another snapshot has no room for what the merge overwrites.
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                return self.compare("after a merge that found no room");
            }
            other => return Err(format!("a merge ends with {other:?}")),
        }
        self.compare("after a merge")?;
        let contents: Vec<_> = self.disks.iter().map(|disk| disk.content()).collect();
        if !self.known.setup.stacked && contents[0] != self.expected[0].1 {
            return Err("after a merge the origin's disk is not the snapshot".into());
        }
        match naive::read(&contents[self.known.setup.below() + slot - 1]) {
            Found::Store(store) if store.valid && store.exceptions.is_empty() => Ok(()),
            other => Err(format!("after a merge there is {other:?}")),
        }
    }
}

/// The first sector that differs.
fn differ(expected: &[u8], found: &[u8]) -> Option<usize> {
    if expected == found {
        return None;
    }
    expected.chunks(SECTOR).zip(found.chunks(SECTOR)).position(|(a, b)| a != b)
}
