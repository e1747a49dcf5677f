use std::io;
use std::pin::pin;
use std::rc::Rc;

use super::error::to_io;
use super::snapshot::{Snapshot, State};
use super::{Volume, VolumeError};
use crate::device::Device;
use crate::planted::{Planted, planted};

/// A step of a removal that takes longer than this many ticks is not waited for, or by this call alone.
const STEP_TICKS: u64 = 3;

impl<O: Device, C: Device> Volume<O, C> {
    /// Takes a snapshot out: everything written to it is published first, and origin writes no
    /// longer keep old data for it. Its store stays as it is.
    ///
    /// # Ordering
    ///
    /// 1. writes to it and to the origin that are under way end, new ones wait
    /// 2. old data of what waits to be written to the origin is kept, and published
    /// 3. it is taken out
    /// 4. nobody begins to write to its store any more, and what is being written there ends
    /// 5. what is not published yet is, with a flush of the COW device
    ///
    /// A crash before 5 leaves its store as a crash of the volume would. A device that takes more than
    /// `STEP_TICKS` over 1 or 2 does not delay 3: from then on no origin write needs the snapshot, while
    /// the call goes on. When it returns the COW device is the caller's.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Merging`] while it merges; an error of its COW device, or of an origin write that
    /// waited, and then it is out all the same.
    pub async fn remove(&self, snapshot: &Rc<Snapshot<C>>) -> Result<(), VolumeError> {
        self.refuse_merging(snapshot)?;
        // Nobody keeps old data in it from here on but this call, unless a device hangs: then the call goes
        // on without.
        let gates = [&self.gate];
        let quiet = self.quiet(&gates, async || Ok::<(), VolumeError>(()));
        let mut closed = self.at_most(STEP_TICKS, pin!(quiet)).await.ok().transpose()?;
        let mut turn = self.at_most(STEP_TICKS, self.backlog.turn.lock()).await.ok();
        let kept = match self.at_most(STEP_TICKS, pin!(self.keep_what_waits(snapshot))).await {
            Ok(kept) => kept,
            Err(rest) => {
                // Refused if a merge has begun, and then again below: what writes is driven to its end first.
                let _taken = self.take_out(snapshot);
                drop((closed.take(), turn.take()));
                rest.await
            }
        };
        self.take_out(snapshot)?;
        let last = async {
            snapshot.take_out();
            snapshot.at_rest().await;
            self.last_flush(snapshot).await
        };
        let ended = match self.at_most(STEP_TICKS, pin!(last)).await {
            Ok(ended) => ended,
            Err(rest) => {
                drop((closed, turn));
                rest.await
            }
        };
        Ok(ended.and(kept)?)
    }

    /// The snapshot keeps the old data of every origin write that waits in memory.
    async fn keep_what_waits(&self, snapshot: &Rc<Snapshot<C>>) -> io::Result<()> {
        let waiting = match planted(Planted::RemoveBeforeBacklog) {
            true => Vec::new(),
            false => self.backlog.ranges(),
        };
        let _nobody_writes = snapshot.gate.close().await;
        match snapshot.state() {
            State::Invalid => Ok(()),
            _ => self.protect_in(vec![snapshot.clone()], &waiting).await,
        }
    }

    fn take_out(&self, snapshot: &Rc<Snapshot<C>>) -> Result<(), VolumeError> {
        self.refuse_merging(snapshot)?;
        self.snapshots.borrow_mut().retain(|other| !Rc::ptr_eq(other, snapshot));
        if self.merging_of(snapshot).is_some() {
            self.merging.take();
        }
        self.has_moved();
        Ok(())
    }

    /// What was written to it is published, or that it was dropped is marked.
    pub(super) async fn last_flush(&self, snapshot: &Snapshot<C>) -> io::Result<()> {
        match snapshot.state() {
            State::Invalid if !snapshot.is_unmarked() => {
                snapshot.marked().await;
                Ok(())
            }
            State::Invalid => snapshot.mark_again().await.map_err(to_io),
            _ => self.flush_snapshot(snapshot).await,
        }
    }
}
