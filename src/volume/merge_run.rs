use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use dmsnap_format::Exception;

use super::error::{VolumeError, to_io};
use super::merging::{MergeState, Merges, Merging};
use super::origin::Origin;
use super::origin_writes::OriginWrites;
use crate::copy::{
    CopyError, Engine, InFlight, LARGE_READS, Observer, Reader, Target, all, index, union,
};
use crate::device::Device;
use crate::merge::window_start;
use crate::planted::{Planted, planted};
use crate::store::{Persistent, Store};

/// The most that one request brings: a client on the same thread may have to wait for it.
const LIVE_REQUEST_BYTES: u64 = 128 << 10;

/// Requests in flight.
const IN_FLIGHT: InFlight = InFlight { writes: 64, copies: 64 };

/// When no more than this many chunks were rewritten meanwhile, they are copied again with their writers held.
const MAX_RECOPIED_HELD: usize = 8;

/// Rounds of copying again what was written meanwhile; then writers are held whatever is left.
const ROUNDS: u32 = 16;

/// The origin, while clients read it and its snapshots.
struct Shared<'a, O>(&'a Origin<O>);

impl<O: Device> Target for Shared<'_, O> {
    type Device = O;

    fn device(&self) -> &O {
        self.0.device()
    }

    async fn wait_unread(&self, range: Range<u64>) {
        if !planted(Planted::MergeOverReads) {
            self.0.reads().wait_clear(range).await;
        }
    }
}

/// One run of a merge, until it has finished, pauses or fails.
pub(super) struct MergeRun<'a, O, C, P> {
    merging: &'a Merging<C>,
    merges: &'a Merges<C>,
    store: &'a Persistent<C>,
    origin_writes: OriginWrites<'a, O, C>,
    engine: Engine<'a, C, Shared<'a, O>, P>,
    window_bytes: u64,
}

impl<'a, O: Device, C: Device, P: Observer> MergeRun<'a, O, C, P> {
    pub(super) fn new(
        (merging, merges): (&'a Merging<C>, &'a Merges<C>),
        store: &'a Persistent<C>,
        origin_writes: OriginWrites<'a, O, C>,
        window_bytes: u64,
        observer: &'a P,
    ) -> Self {
        let reader = Reader {
            cow: store.device(),
            layout: store.layout(),
            origin_bytes: merging.snapshot().len_bytes(),
            request_bytes: LIVE_REQUEST_BYTES,
            reads: LARGE_READS,
        };
        let target = Shared(origin_writes.protect.origin);
        let engine = Engine::new(reader, target, observer, IN_FLIGHT);
        Self { merging, merges, store, origin_writes, engine, window_bytes }
    }

    /// Merges window by window.
    ///
    /// # Ordering
    ///
    /// As [`Volume::run_merge`](super::Volume::run_merge).
    pub(super) async fn run(&self) -> Result<MergeState, VolumeError> {
        let merging = self.merging;
        self.merges.set_state(merging, MergeState::Running);
        while merging.state() == MergeState::Running {
            if self.store.published() == 0 {
                self.settle().await;
                self.merges.set_state(merging, MergeState::Finished);
                break;
            }
            if self.engine.observer.stop_requested() {
                self.merges.set_state(merging, MergeState::Paused);
                break;
            }
            let ended = self.window().await;
            merging.close();
            if let Err(error) = ended {
                let waited = VolumeError::ticks_to_wait(&error).is_some();
                if merging.state() == MergeState::Paused && waited {
                    break;
                }
                self.merges.set_state(merging, MergeState::Failed);
                return Err(error.into());
            }
        }
        Ok(merging.state())
    }

    /// The merge is done: nobody needs the other store any more, unless to take it back.
    ///
    /// An error is not one of the merge: a tag that was not written asks for a partner that is not needed.
    async fn settle(&self) {
        let snapshot = self.merging.snapshot();
        let keeper = self.origin_writes.protect.snapshots.partner(snapshot);
        let _ = snapshot.settle().await;
        if let Some(keeper) = keeper.filter(|it| !it.is_way_back()) {
            let _ = keeper.settle().await;
        }
    }

    async fn window(&self) -> io::Result<()> {
        let end = self.store.published();
        let (snapshot, layout) = (self.merging.snapshot(), self.store.layout());
        let most = self.window_bytes / layout.chunk_size().bytes();
        let first = window_start(layout, self.store.unit_slots(), end, most);
        let exceptions = self.engine.reader.slots(first..end).await.map_err(to_io)?;
        self.merging.open(&exceptions);
        self.keep_for_others(&exceptions).await?;
        self.engine.set_total(self.engine.done() + end * layout.chunk_size().bytes());
        self.bring(&exceptions).await?;
        self.bring_rewritten().await?;
        if !planted(Planted::ClearBeforeOriginFlush) {
            self.origin_writes.flush().await?;
        }
        self.store.clear(end - first).await.map_err(to_io)?;
        snapshot.forget(&exceptions);
        self.merges.window_merged();
        Ok(())
    }

    /// Every other snapshot gets published exceptions for these chunks.
    async fn keep_for_others(&self, exceptions: &[Exception]) -> io::Result<()> {
        let snapshot = self.merging.snapshot();
        let range = |it: &Exception| snapshot.map().chunk_range(it.old.get(), snapshot.len_bytes());
        let ranges = union(exceptions.iter().map(range).collect());
        let wanted = || self.merging.state() == MergeState::Running;
        let protect = &self.origin_writes.protect;
        let attempt = async || protect.all_but(Some(snapshot), &ranges).await;
        match planted(Planted::MergeUnprotected) {
            true => Ok(()),
            false => self.origin_writes.clock.wait_for_room(wanted, attempt).await,
        }
    }

    /// Brings these chunks to the origin.
    async fn bring(&self, exceptions: &[Exception]) -> io::Result<()> {
        // Where a chunk is a request or more, each is one stretch of both devices in any case: nothing is
        // gained by having more of them in memory, and a chunk may have a gibibyte.
        let chunk_bytes = self.store.layout().chunk_size().bytes();
        let long_run_bytes = if chunk_bytes >= LIVE_REQUEST_BYTES { 0 } else { u64::MAX };
        let moves = self.engine.moves(exceptions.to_vec(), long_run_bytes).await.map_err(to_io)?;
        self.engine.bring(moves).await.map_err(|error| match error {
            CopyError::Source(error) => to_io(error),
            CopyError::Target(_, error) => error,
        })
    }

    /// Brings again what clients have written to the window's chunks meanwhile, the last few with their
    /// writers held from then on.
    async fn bring_rewritten(&self) -> io::Result<()> {
        let merging = self.merging;
        for _ in 0..ROUNDS {
            if merging.rewritten_len() <= MAX_RECOPIED_HELD {
                break;
            }
            self.copy_again(merging.take_rewritten()).await?;
        }
        merging.hold_writes();
        let origin_bytes = self.origin_writes.protect.origin.len_bytes();
        merging.snapshot().cow_writes().wait_clear(0..origin_bytes).await;
        self.copy_again(merging.take_rewritten()).await
    }

    async fn copy_again(&self, olds: BTreeSet<u64>) -> io::Result<()> {
        let snapshot = self.merging.snapshot();
        let map = snapshot.map();
        let pieces = olds.into_iter().flat_map(|old| {
            let Range { start, end } = map.chunk_range(old, map.len_bytes());
            let starts = (start..end).step_by(index(LIVE_REQUEST_BYTES));
            starts.map(move |at| (old, at - start, at..(at + LIVE_REQUEST_BYTES).min(end)))
        });
        let origin = self.origin_writes.protect.origin.device();
        let copies = pieces.map(|(old, offset, piece)| async move {
            let Some(new) = map.get(old) else { return Ok(()) };
            let byte = map.cow_byte(new) + offset;
            let data = snapshot.cow_device().read(byte, index(piece.end - piece.start)).await?;
            origin.write(piece.start, data.freeze()).await
        });
        all(IN_FLIGHT.copies, copies).await
    }
}
