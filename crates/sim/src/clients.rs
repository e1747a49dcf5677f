//! What clients do.

use std::io;

use bytes::Bytes;
use dmsnap::device::{Allocation, Device};

use crate::machine::Machine;
use crate::model::{Change, Standing};
use crate::naive::{self, SECTOR};

impl Machine<'_> {
    /// True if clients have this device now.
    pub(crate) fn has(&self, device: usize) -> bool {
        let there = device == 0 || self.model.borrow().standing(device) == Standing::Present;
        there && !self.leaving.borrow().contains(&device) && self.volume().is_some()
    }

    pub(crate) fn enter(&self, device: usize) {
        self.busy.borrow_mut()[device] += 1;
    }

    pub(crate) fn leave(&self, device: usize) {
        self.busy.borrow_mut()[device] -= 1;
    }

    /// Says whether a request succeeded, and complains if it had no reason to fail.
    pub(crate) fn settle<T>(
        &self,
        device: usize,
        what: &str,
        ended: Result<T, impl Into<io::Error>>,
    ) -> Option<T> {
        match ended.map_err(Into::into) {
            Ok(value) => Some(value),
            Err(error) => {
                if !self.excused(device, &error) {
                    self.break_promise(format!("{what} of device {device} failed: {error}"));
                }
                None
            }
        }
    }

    pub(crate) async fn read(&self, device: usize, at: usize, len: usize) {
        let Some(view) = self.view(device).filter(|_| self.has(device)) else { return };
        self.enter(device);
        // Whole sectors are compared; the ends of an odd request are left out.
        let (first, end) = (at.next_multiple_of(SECTOR), (at + len) / SECTOR * SECTOR);
        let reading = (first < end).then(|| self.model.borrow().read(device, first, end - first));
        let parting = self.parting.get();
        let ended = view.read(at as u64, len).await;
        let reading = reading.filter(|_| !parting && !self.parting.get());
        if let (Some(bytes), Some(reading)) = (self.settle(device, "a read", ended), reading) {
            self.take_in(&reading, &bytes[first - at..end - at]);
        }
        self.leave(device);
    }

    /// True if nobody could say what a write there leaves behind.
    fn is_unclear(&self, device: usize, at: usize, len: usize) -> bool {
        let model = self.model.borrow();
        let mut odd = [at, at + len].into_iter().filter(|edge| !edge.is_multiple_of(SECTOR));
        odd.any(|edge| !model.known(device, edge / SECTOR)) || model.clashes(device, at, len)
    }

    pub(crate) async fn put(
        &self,
        device: usize,
        at: usize,
        len: usize,
        zeroes: Option<Allocation>,
    ) {
        let Some(view) = self.view(device).filter(|_| self.has(device)) else { return };
        if self.is_unclear(device, at, len) {
            return;
        }
        self.enter(device);
        let id = self.fresh_id();
        let tag = u32::try_from(id).unwrap_or(0);
        let data = match zeroes {
            Some(_) => vec![0; len].into(),
            None => naive::content(tag, at, len),
        };
        self.tell(Change::Write { id, device, at, data: data.clone() });
        let ended = match zeroes {
            Some(allocation) => view.write_zeroes(at as u64, len as u64, allocation).await,
            None if id.is_multiple_of(2) => view.write(at as u64, data).await,
            // The same as writes of their own, as they come in from a client that sends many.
            None => view.write_many(self.by_chunk(device, at, &data)).await,
        };
        let ok = self.settle(device, "a write", ended).is_some();
        self.tell(Change::Written { id, ok });
        self.leave(device);
    }

    /// A write cut at the bounds of a snapshot's chunks.
    fn by_chunk(&self, device: usize, at: usize, data: &Bytes) -> Vec<(u64, Bytes)> {
        let chunk = if device > 0 { self.slot(device).chunk * SECTOR } else { SECTOR };
        let mut writes = Vec::new();
        let mut from = 0;
        while from < data.len() {
            let to = (from + chunk - (at + from) % chunk).min(data.len());
            writes.push(((at + from) as u64, data.slice(from..to)));
            from = to;
        }
        writes
    }

    pub(crate) async fn discard(&self, device: usize, at: usize, len: usize) {
        let Some(view) = self.view(device).filter(|_| self.has(device)) else { return };
        if self.model.borrow().clashes(device, at, len) {
            return;
        }
        self.enter(device);
        // What is under way when a merge begins or ends belongs to either side.
        let options = device.checked_sub(1).map(|n| self.setup.slots[n].options.clone());
        let chunk = (device > 0).then(|| self.slot(device).chunk * SECTOR);
        let passes = options.as_ref().is_none_or(|options| options.discard_passdown);
        let merging = self.model.borrow().merging().is_some();
        if merging || passes && self.model.borrow().clashes(0, at, len) {
            return self.leave(device);
        }
        let (id, below) = (self.fresh_id(), self.fresh_id());
        if chunk.is_some() {
            self.tell(Change::Discard { id, device, at, len, chunk });
        }
        if passes {
            self.tell(Change::Discard { id: below, device: 0, at, len, chunk: None });
        }
        let passed = usize::from(passes);
        self.discards.set(self.discards.get() + passed);
        let ended = view.discard(at as u64, len as u64).await;
        self.discards.set(self.discards.get() - passed);
        let blamed = if passes { 0 } else { device };
        let ok = match ended {
            Err(error) if self.excused(device, &error) => false,
            ended => self.settle(blamed, "a discard", ended).is_some(),
        };
        self.tell(Change::Written { id, ok });
        self.tell(Change::Written { id: below, ok });
        self.leave(device);
    }

    pub(crate) async fn flush(&self, device: usize) {
        let Some(view) = self.view(device).filter(|_| self.has(device)) else { return };
        self.enter(device);
        let id = self.fresh_id();
        self.tell(Change::Flush { id, device });
        let parting = self.parting.get();
        let ok = self.settle(device, "a flush", view.flush().await).is_some();
        self.tell(Change::Flushed { id, ok: ok && !parting && !self.parting.get() });
        self.leave(device);
    }
}
