use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::Rc;

use dmsnap_format::{ChunkSize, Exception, SECTOR_BYTES, Tag};

use super::error::VolumeError;
use super::gates;
use super::options::SnapshotOptions;
use super::snapshot::Snapshot;
use super::standing::State;
use super::volume::Volume;
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::store::{AnyStore, BaseFence, Loaded, Transient, refuse_part_blocks};
use crate::sync::Closed;
use crate::table::Table;

/// A step of a removal that takes longer than this many ticks is not waited for, or by this call alone.
const STEP_TICKS: u64 = 3;

impl<O: Device, C: Device> Volume<O, C> {
    /// Adds a snapshot with the exceptions its store has: an empty store makes one of this
    /// moment. Writes to the origin that are under way are waited for, and the origin is flushed; new ones
    /// wait a moment. If a device hangs, only this call waits for it.
    ///
    /// # Errors
    ///
    /// [`VolumeError::NameTaken`]; [`VolumeError::Duplicate`]; as [`snapshot_bytes`](Self::snapshot_bytes);
    /// [`VolumeError::Merging`] while a merge is not finished: the origin is half merged then, and a snapshot
    /// of it would be one of nothing; an error of a device.
    pub async fn add(
        &self,
        name: &str,
        store: AnyStore<C>,
        exceptions: Vec<Exception>,
        options: SnapshotOptions,
    ) -> Result<Rc<Snapshot<C>>, VolumeError> {
        self.join(name, (store, exceptions, BaseFence::default()), options).await
    }

    /// The same for a store that may remember its origin: it is held against it when nobody writes.
    async fn join(
        &self,
        name: &str,
        store: (AnyStore<C>, Vec<Exception>, BaseFence),
        options: SnapshotOptions,
    ) -> Result<Rc<Snapshot<C>>, VolumeError> {
        let (snapshot, nobody_writes) = self.join_closed(name, store, options).await?;
        drop(nobody_writes);
        Ok(snapshot)
    }

    /// The same; nobody writes to the origin as long as what is returned keeps them out.
    async fn join_closed(
        &self,
        name: &str,
        (store, exceptions, fence): (AnyStore<C>, Vec<Exception>, BaseFence),
        options: SnapshotOptions,
    ) -> Result<(Rc<Snapshot<C>>, Vec<Closed<'_>>), VolumeError> {
        let len_bytes = self.snapshot_bytes(&options)?;
        let table = Table::from_exceptions(exceptions)?;
        if !planted(Planted::BelieveCache) {
            store.device().forget_cached().await?;
        }
        let nobody_writes = self.flush_for_new().await?;
        self.refuse_changed(&fence, &options).await?;
        if self.snapshot(name).is_some() {
            return Err(VolumeError::NameTaken { name: name.into() });
        }
        self.merges().refuse_unfinished()?;
        let id = self.members().next_id();
        let snapshot = Rc::new(Snapshot::new(
            name.into(),
            id,
            len_bytes,
            store,
            table,
            options,
            self.changes_rc(),
        ));
        self.members().add(snapshot.clone());
        snapshot.set_added();
        Ok((snapshot, nobody_writes))
    }

    /// Makes durable what a new snapshot shows of the origin, and keeps out who would change it.
    ///
    /// It must not be lost to the snapshot by a power cut. After a flush that failed a system may keep what was
    /// lost in its cache, as if all were well, and the next to open the file believes it: what a snapshot shows
    /// shall be what the medium has. Inside the gate it is flushed once more, unless nobody was there since
    /// before the first flush.
    async fn flush_for_new(&self) -> Result<Vec<Closed<'_>>, VolumeError> {
        let flushed = Cell::new(None);
        let prepare = async || -> Result<(), VolumeError> {
            let empty_since = self.gate().empty_since();
            if empty_since.is_some() && flushed.get() == empty_since {
                return Ok(());
            }
            match planted(Planted::AddWithoutFlush) {
                true => self.write_back().await?,
                false => self.origin_writes().flush().await?,
            }
            flushed.set(empty_since);
            self.forget_cached().await
        };
        match planted(Planted::AddBesideWrites) {
            true => prepare().await.map(|()| Vec::new()),
            false => gates::close(self.clock(), &[self.gate()], prepare).await,
        }
    }

    /// The size of a snapshot with these options, in bytes.
    ///
    /// # Errors
    ///
    /// [`VolumeError::SizeNotWhole`], [`VolumeError::SizeTooLarge`].
    pub fn snapshot_bytes(&self, options: &SnapshotOptions) -> Result<u64, VolumeError> {
        let origin = self.len_bytes();
        let found = options.len_bytes.unwrap_or(origin);
        match found {
            _ if !found.is_multiple_of(SECTOR_BYTES) => Err(VolumeError::SizeNotWhole { found }),
            // No file is as long.
            _ if i64::try_from(found).is_err() => Err(VolumeError::SizeTooLarge { found, origin }),
            _ => Ok(found),
        }
    }

    /// Opens the store on `cow` and adds it as a snapshot. What lies after the end of its list is zeroed; but a
    /// store that has lost exceptions to an unaligned discard in a kernel is refused, because that would wipe
    /// what is left of them ([`SnapshotOptions::strays`]).
    ///
    /// # Ordering
    ///
    /// Everything is read and judged, then [`Loaded::into_writable`] is called.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Store`] if the store cannot be opened, or contradicts the devices or itself. Or as
    /// [`add`](Self::add).
    pub async fn open(
        &self,
        name: &str,
        cow: C,
        options: SnapshotOptions,
    ) -> Result<Rc<Snapshot<C>>, VolumeError> {
        let (snapshot, nobody_writes) = self.open_closed(name, cow, options).await?;
        drop(nobody_writes);
        Ok(snapshot)
    }

    /// The same; nobody writes to the origin as long as what is returned keeps them out.
    pub(super) async fn open_closed(
        &self,
        name: &str,
        cow: C,
        options: SnapshotOptions,
    ) -> Result<(Rc<Snapshot<C>>, Vec<Closed<'_>>), VolumeError> {
        let (loaded, exceptions, options) = self.load(cow, options).await?;
        let chunk_size = loaded.layout().chunk_size();
        refuse_part_blocks(chunk_size, loaded.device()).map_err(VolumeError::Store)?;
        refuse_part_blocks(chunk_size, self.origin_device()).map_err(VolumeError::Store)?;
        let fence = loaded.fence().clone();
        self.refuse_changed(&fence, &options).await?;
        let store = loaded.into_writable(options.strays).await.map_err(VolumeError::Store)?;
        self.join_closed(name, (AnyStore::Persistent(store), exceptions, fence), options).await
    }

    /// The same, for looking at: the snapshot refuses every write, and nothing is ever written to `cow`.
    /// Writes to the origin that it would have to keep old data of are refused as well.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_read_only(
        &self,
        name: &str,
        cow: C,
        options: SnapshotOptions,
    ) -> Result<Rc<Snapshot<C>>, VolumeError> {
        let (loaded, exceptions, options) = self.load(cow, options).await?;
        let fence = loaded.fence().clone();
        let store = AnyStore::Persistent(loaded.into_read_only());
        self.join(name, (store, exceptions, fence), options).await
    }

    /// Holds the origin against what a store remembers. What clients wrote and still waits in memory is seen only once
    /// it is written back, so this is asked again then.
    async fn refuse_changed(
        &self,
        fence: &BaseFence,
        options: &SnapshotOptions,
    ) -> Result<(), VolumeError> {
        if options.ignore_fence {
            return Ok(());
        }
        match fence.compare(self.origin_device(), self.len_bytes()).await? {
            Some(found) => Err(VolumeError::OriginChanged(found)),
            None => Ok(()),
        }
    }

    /// Adds a snapshot of this moment that is gone with the process. Whatever lies on `cow` is
    /// overwritten.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub async fn open_transient(
        &self,
        name: &str,
        cow: C,
        chunk_size: ChunkSize,
        options: SnapshotOptions,
    ) -> Result<Rc<Snapshot<C>>, VolumeError> {
        let store = AnyStore::Transient(Transient::new(cow, chunk_size));
        self.add(name, store, Vec::new(), options).await
    }

    /// Drops a snapshot, durably and for good. Nobody waits for it but writes that rely on it.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Merging`] while it merges: clients would lose what they see on the origin.
    /// An error of its COW device: then it is dropped in memory only.
    pub async fn invalidate(&self, snapshot: &Rc<Snapshot<C>>) -> Result<(), VolumeError> {
        self.merges().refuse_unfinished_of(snapshot)?;
        snapshot.standing().present()?;
        Ok(snapshot.invalidate().await?)
    }

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
        self.merges().refuse_unfinished_of(snapshot)?;
        let clock = self.clock();
        // Nobody keeps old data in it from here on but this call, unless a device hangs: then the call goes
        // on without.
        let gates = [self.gate()];
        let closing = gates::close(clock, &gates, async || Ok::<(), VolumeError>(()));
        let mut closed = clock.at_most(STEP_TICKS, pin!(closing)).await.ok().transpose()?;
        let mut turn = clock.at_most(STEP_TICKS, self.origin().backlog().turn()).await.ok();
        let kept = match clock.at_most(STEP_TICKS, pin!(self.keep_held_back(snapshot))).await {
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
            snapshot.last_flush().await
        };
        let ended = match clock.at_most(STEP_TICKS, pin!(last)).await {
            Ok(ended) => ended,
            Err(rest) => {
                drop((closed, turn));
                rest.await
            }
        };
        Ok(ended.and(kept)?)
    }

    /// The snapshot keeps the old data of every origin write that waits in memory.
    async fn keep_held_back(&self, snapshot: &Rc<Snapshot<C>>) -> io::Result<()> {
        let waiting = match planted(Planted::RemoveBeforeBacklog) {
            true => Vec::new(),
            false => self.origin().backlog().ranges(),
        };
        let _nobody_writes = snapshot.gate().close().await;
        match snapshot.state() {
            State::Invalid => Ok(()),
            _ => self.protect().these(vec![snapshot.clone()], &waiting).await,
        }
    }

    fn take_out(&self, snapshot: &Rc<Snapshot<C>>) -> Result<(), VolumeError> {
        self.merges().refuse_unfinished_of(snapshot)?;
        self.members().remove(snapshot);
        match self.merges().of(snapshot) {
            Some(_) => drop(self.merges().end()),
            None => self.merges().has_moved(),
        }
        Ok(())
    }

    /// Reads a store, and with it the size that it says of its snapshot, if nobody else says one.
    async fn load(
        &self,
        cow: C,
        mut options: SnapshotOptions,
    ) -> Result<(Loaded<C>, Vec<Exception>, SnapshotOptions), VolumeError> {
        self.snapshot_bytes(&options)?;
        let size = |tag: Option<&Tag>| {
            let says = tag.map(|tag| tag.snapshot_bytes).filter(|bytes| *bytes > 0);
            options.len_bytes = options.len_bytes.or(says);
            Some(options.len_bytes.unwrap_or(self.len_bytes()))
        };
        let mut exceptions = Vec::new();
        let loaded = Loaded::read_of_size(cow, size, |it| exceptions.push(it)).await;
        let loaded = loaded.map_err(VolumeError::Store)?;
        self.snapshot_bytes(&options)?;
        Ok((loaded, exceptions, options))
    }
}
