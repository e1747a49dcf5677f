use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap_format::SECTOR_BYTES;

use super::backlog::Backlog;
use super::clock::Clock;
use super::error::VolumeError;
use super::payload::Payload;
use super::scratch::Share;
use super::stretches::Stretches;
use crate::copy::{REQUEST_BYTES, all, index, joined};
use crate::device::{Barrier, Buffer, Device, is_no_room};
use crate::planted::{Planted, planted};
use crate::sync::Tracked;

/// Writes that were held back, in flight.
const WRITES: usize = 64;

/// The device that snapshots are of, with the writes to it that are held back. It knows no snapshot: what has to
/// be kept of its old data before it is written is a call that is handed in.
#[derive(Debug)]
pub(super) struct Origin<O> {
    device: O,
    len_bytes: u64,
    barrier: Barrier,
    /// Reads no longer see what the cache held before the volume.
    cache_forgotten: Cell<bool>,
    backlog: Backlog,
    /// Reads of snapshots under way that went to the device.
    reads: Tracked,
    /// Of the memory for copying.
    share: Rc<Share>,
    /// It may be written.
    claimed: Cell<bool>,
    /// Why it could not be, when it was to be last.
    refusal: RefCell<Option<String>>,
}

impl<O: Device> Origin<O> {
    /// Whole sectors: where the last one is cut short its rest reads as zeroes.
    ///
    /// # Errors
    ///
    /// An error of the device when asked for its size.
    pub(super) fn new(device: O) -> Result<Self, VolumeError> {
        let len = device.len_bytes().map_err(VolumeError::Device)?;
        let whole = len.checked_next_multiple_of(SECTOR_BYTES);
        Ok(Self {
            device,
            len_bytes: whole.unwrap_or(len - len % SECTOR_BYTES),
            barrier: Barrier::default(),
            cache_forgotten: Cell::default(),
            backlog: Backlog::default(),
            reads: Tracked::default(),
            share: Rc::default(),
            claimed: Cell::default(),
            refusal: RefCell::default(),
        })
    }

    /// The device below, without what is held back.
    pub(super) fn device(&self) -> &O {
        &self.device
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    pub(super) fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// Reads of the device that writes to the same bytes have to wait for.
    pub(super) fn reads(&self) -> &Tracked {
        &self.reads
    }

    /// Of the memory for copying.
    pub(super) fn share(&self) -> &Rc<Share> {
        &self.share
    }

    /// Makes sure that the device may be written, before anything is acknowledged, or kept for a write that is then
    /// refused: it may be shared with others until then.
    ///
    /// # Errors
    ///
    /// As [`Device::claim`].
    pub(super) async fn claim(&self) -> io::Result<()> {
        if self.claimed.get() || planted(Planted::WriteUnclaimed) {
            return Ok(());
        }
        let claimed = self.device.claim().await;
        self.claimed.set(claimed.is_ok());
        self.refusal.replace(claimed.as_ref().err().map(io::Error::to_string));
        claimed
    }

    /// Why the device could not be written when it was to be last, if it could not.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal.borrow().clone()
    }

    /// Drops what the system's cache holds of the device, once.
    ///
    /// # Errors
    ///
    /// As [`Device::forget_cached`].
    pub(super) async fn forget_cached(&self) -> io::Result<()> {
        match planted(Planted::BelieveCache) || self.cache_forgotten.replace(true) {
            true => Ok(()),
            false => self.device.forget_cached().await,
        }
    }

    /// What the cache holds stays: others read the device as well, and nobody writes it.
    pub(super) fn keep_cached(&self) {
        self.cache_forgotten.set(true);
    }

    /// Reads it as its clients see it.
    pub(super) async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        // What waits now is taken before the read begins: it may leave meanwhile.
        let over = self.backlog.over(&(at..at + len as u64));
        let mut read = self.device.read(at, len).await?;
        for (start, data) in over.into_iter().filter(|_| !planted(Planted::BacklogUnseen)) {
            let offset = index(start - at);
            read[offset..offset + data.len()].copy_from_slice(&data);
        }
        Ok(read)
    }

    /// Reads the device, as snapshots do that do not hold the bytes: what lies past its end reads as zeroes.
    pub(super) async fn read_old(&self, at: u64, len: usize) -> io::Result<Buffer> {
        let there = self.len_bytes.saturating_sub(at);
        if len as u64 <= there {
            return self.device.read(at, len).await;
        }
        let mut whole = Buffer::zeroed(len);
        if there > 0 {
            let read = self.device.read(at, index(there)).await?;
            whole[..read.len()].copy_from_slice(&read);
        }
        Ok(whole)
    }

    /// The next stretch at or after `at` that may hold something else than zeroes.
    pub(super) async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        let waiting = self.backlog.next(at).map(|it| it.start.max(at)..it.end);
        let below = self.device.next_data(at).await?;
        Ok([waiting, below].into_iter().flatten().min_by_key(|it| it.start))
    }

    /// Writes what nothing has to be kept of any more, once nobody reads the old data.
    pub(super) async fn write_kept(&self, at: u64, payload: Payload) -> io::Result<()> {
        if !planted(Planted::ReadsNotHeld) {
            self.reads.wait_clear(at..at + payload.len()).await;
        }
        payload.write_to(&self.device, at).await
    }

    async fn write_kept_pieces(&self, at: u64, pieces: Vec<Bytes>) -> io::Result<()> {
        let len: usize = pieces.iter().map(Bytes::len).sum();
        self.reads.wait_clear(at..at + len as u64).await;
        self.device.write_vectored(at, pieces).await
    }

    /// Discards what nothing has to be kept of any more, once nobody reads the old data.
    pub(super) async fn discard_kept(&self, at: u64, len: u64) -> io::Result<()> {
        self.reads.wait_clear(at..at + len).await;
        self.device.discard(at, len).await
    }

    /// Everything written is durable afterwards. Once that has failed it always does: a merge must not forget
    /// exceptions whose data a client's flush was told to be lost.
    pub(super) async fn flush(
        &self,
        clock: &Clock,
        keep: impl AsyncFn(&[Range<u64>]) -> io::Result<()>,
    ) -> io::Result<()> {
        if !planted(Planted::BacklogNotFlushed) {
            self.write_back(clock, keep).await?;
        }
        if planted(Planted::OriginFlushForgotten) {
            return self.device.flush().await;
        }
        self.barrier.flush(&self.device).await
    }

    /// Writes every write that was acknowledged before the call. `keep` makes that no snapshot needs the old
    /// data of some ranges any more.
    ///
    /// # Ordering
    ///
    /// As [`Volume::write_back`](super::Volume::write_back).
    ///
    /// # Errors
    ///
    /// Why something waits on, or was lost.
    pub(super) async fn write_back(
        &self,
        clock: &Clock,
        keep: impl AsyncFn(&[Range<u64>]) -> io::Result<()>,
    ) -> io::Result<()> {
        let _turn = self.backlog.turn().await;
        self.write_back_round(clock, &keep).await
    }

    /// Writes back until a write of `len` bytes can be held back. False if what waits cannot be written, and
    /// leaves no room.
    pub(super) async fn make_room(
        &self,
        len: u64,
        clock: &Clock,
        keep: impl AsyncFn(&[Range<u64>]) -> io::Result<()>,
    ) -> bool {
        while !self.backlog.has_room(len) {
            let _turn = self.backlog.turn().await;
            let is_full = !self.backlog.has_room(len);
            if is_full && self.write_back_round(clock, &keep).await.is_err() {
                return false;
            }
        }
        true
    }

    async fn write_back_round(
        &self,
        clock: &Clock,
        keep: &impl AsyncFn(&[Range<u64>]) -> io::Result<()>,
    ) -> io::Result<()> {
        let group = self.backlog.leave();
        let (mut ended, mut left) = (Ok(()), Stretches::default());
        if !group.is_empty() && self.write_group(&group, keep).await.is_err() {
            // Only what cannot be written shall be held back or lost, not its whole group.
            for (at, data) in group {
                let range = at..at + data.len() as u64;
                let kept = keep(std::slice::from_ref(&range)).await;
                let is_kept = kept.is_ok();
                let written = match kept {
                    Ok(()) => self.write_kept_pieces(at, vec![data.clone()]).await,
                    not_kept => not_kept,
                };
                match &written {
                    Ok(()) => {}
                    Err(_) if planted(Planted::BacklogForgets) => {}
                    Err(error) if is_kept && !is_no_room(error) => self.barrier.fail(),
                    Err(_) => left.put(at, data),
                }
                ended = ended.and(written);
            }
        }
        self.backlog.left(left, clock.now());
        ended
    }

    async fn write_group(
        &self,
        group: &[(u64, Bytes)],
        keep: &impl AsyncFn(&[Range<u64>]) -> io::Result<()>,
    ) -> io::Result<()> {
        let ranges: Vec<_> = group.iter().map(|(at, data)| *at..at + data.len() as u64).collect();
        if !planted(Planted::BacklogUnprotected) {
            keep(&ranges).await?;
        }
        let writes = joined(group.to_vec(), REQUEST_BYTES).into_iter();
        let writes = writes.map(|(at, pieces, _)| self.write_kept_pieces(at, pieces));
        all(WRITES, writes).await
    }
}
