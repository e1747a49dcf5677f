//! What must hold whenever nothing is under way: every device reads as the model says, every store
//! is sound.

use dmsnap::device::Device;
use dmsnap::ops;

use crate::disk::Disk;
use crate::excuses::in_step;
use crate::machine::Machine;
use crate::model::{Reading, Standing};
use crate::naive::{self, Found, SECTOR};
use crate::plan::Slot;

impl Machine<'_> {
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
    pub(crate) fn take_in(&self, reading: &Reading, bytes: &[u8]) {
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
