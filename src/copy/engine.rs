use std::cell::Cell;
use std::io;

use bytes::Bytes;
use dmsnap_format::Exception;

use super::observer::{Observer, Progress};
use super::ranges::{Transfer, Write, all};
use super::reader::Reader;
use super::target::Target;
use crate::device::{Device, share};
use crate::store::StoreError;

/// Requests to share extents in flight; a file system takes them one by one.
const SHARES: usize = 2;

/// Why chunks could not be moved.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// The COW device, or the store on it.
    Source(StoreError),
    /// The device they go to: what was being done, and what the device said.
    Target(String, io::Error),
}

impl CopyError {
    /// For `map_err` on what the target said.
    pub(crate) fn target(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Target(doing, source)
    }
}

impl From<StoreError> for CopyError {
    fn from(error: StoreError) -> Self {
        Self::Source(error)
    }
}

/// Chunks that are to be moved.
pub(crate) enum Moves {
    /// Their data is in memory.
    Writes(Vec<Write>),
    /// They are still to be read, or shared.
    Copies(Vec<Transfer>),
}

/// How many requests are in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    /// Writes of data that is in memory.
    pub(crate) writes: usize,
    /// Copies, each of up to a request.
    pub(crate) copies: usize,
}

/// Brings chunks of a COW device to a target, and counts them.
pub(crate) struct Engine<'a, C, T, P> {
    pub(crate) reader: Reader<'a, C>,
    pub(crate) target: T,
    pub(crate) observer: &'a P,
    in_flight: InFlight,
    /// Bytes to move in all.
    total: Cell<u64>,
    done: Cell<u64>,
    shared: Cell<u64>,
    /// Extents are shared as long as that has always worked.
    sharing: Cell<bool>,
    /// What the target holds already is not written again.
    skips_equal: Cell<bool>,
}

impl<'a, C: Device, T: Target, P: Observer> Engine<'a, C, T, P> {
    /// Nothing is shared until [`try_sharing`](Self::try_sharing) found that it works.
    pub(crate) fn new(
        reader: Reader<'a, C>,
        target: T,
        observer: &'a P,
        in_flight: InFlight,
    ) -> Self {
        let (total, done, shared) = (Cell::default(), Cell::default(), Cell::default());
        let (sharing, skips_equal) = (Cell::default(), Cell::default());
        Self { reader, target, observer, in_flight, total, done, shared, sharing, skips_equal }
    }

    /// How many bytes are to be moved in all, as far as the observer hears of it.
    pub(crate) fn set_total(&self, bytes: u64) {
        self.total.set(bytes);
    }

    /// From now on the target is read first, and only what differs is written to it.
    pub(crate) fn skip_equal(&self) {
        self.skips_equal.set(true);
    }

    /// Bytes moved so far, shared ones included.
    pub(crate) fn done(&self) -> u64 {
        self.done.get()
    }

    /// Bytes whose extents are shared instead of copied.
    pub(crate) fn shared(&self) -> u64 {
        self.shared.get()
    }

    /// Reads chunks, or only their places where that is better: where extents are shared, or runs have
    /// `long_run_bytes` on average on both devices.
    pub(crate) async fn moves(
        &self,
        exceptions: Vec<Exception>,
        long_run_bytes: u64,
    ) -> Result<Moves, StoreError> {
        let bytes = exceptions.len() as u64 * self.reader.layout.chunk_size().bytes();
        let runs = self.reader.runs(exceptions.clone());
        let are_long = bytes / (runs.len() as u64).max(1) >= long_run_bytes;
        match self.sharing.get() || are_long {
            true => Ok(Moves::Copies(runs)),
            false => Ok(Moves::Writes(
                self.reader.read(exceptions, async || self.observer.give_way().await).await?,
            )),
        }
    }

    /// Brings chunks to the target. Every request is driven to its end, even if another one fails: a write
    /// that was given up might come later than the caller's next.
    ///
    /// # Ordering
    ///
    /// In any order, without a flush.
    pub(crate) async fn bring(&self, moves: Moves) -> Result<(), CopyError> {
        match moves {
            Moves::Writes(writes) => {
                let writes = writes.into_iter().map(|it| self.write(it));
                all(self.in_flight.writes, writes).await
            }
            Moves::Copies(runs) if self.sharing.get() => {
                all(SHARES, runs.into_iter().map(|it| self.share_or_copy(it))).await
            }
            Moves::Copies(runs) => {
                let most = self.reader.request_bytes;
                let pieces = runs.into_iter().flat_map(|run| run.pieces(most));
                all(self.in_flight.copies, pieces.map(|it| self.copy(it))).await
            }
        }
    }

    /// Tries to share the last whole chunk of these, and shares from then on if that works. It is brought
    /// again later, which changes nothing.
    pub(crate) async fn try_sharing(&self, exceptions: &[Exception]) -> Result<(), CopyError> {
        let chunk = self.reader.layout.chunk_size().bytes();
        let whole = |it: &&Exception| (it.old.get() + 1) * chunk <= self.reader.origin_bytes;
        if let Some(Exception { old, new }) = exceptions.iter().rfind(whole) {
            let (at, from) = (old.get() * chunk, new.get() * chunk);
            self.sharing.set(self.share(Transfer { at, len: chunk, from }).await?);
        }
        Ok(())
    }

    async fn write(&self, Write { at, len, mut pieces }: Write) -> Result<(), CopyError> {
        self.observer.pace(len).await;
        self.observer.give_way().await;
        let device = self.target.device();
        if self.skips_equal.get() && holds(device, at, &pieces).await? {
            self.count(len);
            return Ok(());
        }
        self.target.wait_unread(at..at + len).await;
        let written = match pieces.len() {
            1 => device.write(at, pieces.remove(0)).await,
            _ => device.write_vectored(at, pieces).await,
        };
        written.map_err(CopyError::target(format!("cannot write at byte {at}")))?;
        self.count(len);
        Ok(())
    }

    /// Copies at most a request.
    async fn copy(&self, Transfer { at, len, from }: Transfer) -> Result<(), CopyError> {
        self.observer.give_way().await;
        let data = self.reader.read_bytes(from, len).await?;
        self.write(Write { at, len, pieces: vec![data] }).await
    }

    async fn share_or_copy(&self, it: Transfer) -> Result<(), CopyError> {
        if self.share(it).await? {
            self.shared.set(self.shared.get() + it.len);
            self.count(it.len);
            return Ok(());
        }
        for piece in it.pieces(self.reader.request_bytes) {
            self.copy(piece).await?;
        }
        Ok(())
    }

    async fn share(&self, it: Transfer) -> Result<bool, CopyError> {
        let Transfer { at, len, from } = it;
        let shared = share((self.reader.cow, from), (self.target.device(), at), len).await;
        shared.map_err(CopyError::target(format!("cannot share extents at byte {at}")))
    }

    fn count(&self, len: u64) {
        self.done.set(self.done.get() + len);
        self.observer.progress(Progress { done: self.done.get(), total: self.total.get() });
    }
}

/// Whether a device holds just this from byte `at` on.
async fn holds<D: Device>(device: &D, mut at: u64, pieces: &[Bytes]) -> Result<bool, CopyError> {
    for piece in pieces {
        let found = device.read(at, piece.len()).await;
        if found.map_err(CopyError::target(format!("cannot read at byte {at}")))?[..] != piece[..] {
            return Ok(false);
        }
        at += piece.len() as u64;
    }
    Ok(true)
}
