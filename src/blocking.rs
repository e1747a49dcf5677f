//! For programs without a runtime: calls that return when all is done.
//!
//! The calls work on files and disks, and bring a runtime of their own. What is not here is a task for
//! [`run`]: everything else in this library works inside it.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use dmsnap::blocking::{self, Snapshot};
//! use dmsnap::ops::MergeOptions;
//!
//! # use dmsnap::device::{Caching, File, Mode};
//! # use dmsnap::format::{ChunkSize, OriginChunk};
//! # use dmsnap::store::Builder;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let (cow, origin) = (dir.path().join("cow.img"), dir.path().join("origin.img"));
//! # for path in [&cow, &origin] {
//! #     std::fs::write(path, vec![0; 1 << 20])?;
//! # }
//! # blocking::run(async {
//! #     let cow = File::open(&cow, Mode::Write, Caching::Direct).await?;
//! #     let mut store = Builder::new(&cow, ChunkSize::from_sectors(8)?).await?;
//! #     store.add(OriginChunk::new(5), vec![7; 4096].into()).await?;
//! #     store.finish().await?;
//! #     Ok::<_, Box<dyn std::error::Error>>(())
//! # })??;
//! let snapshot = Snapshot::open(&cow, &origin)?;
//! assert_eq!(snapshot.changed(), [5 * 4096..6 * 4096]);
//! let mut bytes = [0; 4];
//! snapshot.read_exact_at(&mut bytes, 5 * 4096)?;
//! assert_eq!(bytes, [7; 4]);
//! drop(snapshot);
//!
//! let merged = blocking::merge(&cow, &origin, MergeOptions::default(), |progress| {
//!     println!("{} of {} bytes", progress.done, progress.total);
//!     ControlFlow::Continue(())
//! })?;
//! assert!(merged.finished);
//! assert_eq!(std::fs::read(&origin)?[5 * 4096], 7);
//! # Ok(())
//! # }
//! ```

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use compio::runtime::Runtime;

use crate::device::{Caching, Device, File, Mode, OpenError};
use crate::ops::{self, MergeOptions, Merged, Observer, Progress, Which};
use crate::volume::{self, SnapshotOptions, View, Volume, VolumeError};

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system gives no runtime.
    #[error("cannot start a runtime: {0}")]
    Runtime(#[source] io::Error),
    /// A file or disk cannot be opened.
    #[error("{}: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// The task failed.
    #[error("{}: {source}", path.display())]
    Task {
        /// The file or disk that it is about.
        path: PathBuf,
        /// Why.
        source: ops::Error,
    },
}

/// Drives a task to its end, in a runtime of its own.
///
/// # Errors
///
/// If the system gives no runtime.
pub fn run<T>(task: impl Future<Output = T>) -> io::Result<T> {
    Ok(Runtime::new()?.block_on(task))
}

/// A snapshot that is only read. Nobody who takes locks writes to its files meanwhile, and nothing is written to
/// them.
#[derive(Debug)]
pub struct Snapshot {
    view: View<File, File>,
    snapshot: Rc<volume::Snapshot<File>>,
    // After the files: they are closed first.
    runtime: Runtime,
}

impl Snapshot {
    /// Opens the snapshot whose store is on `cow`.
    ///
    /// # Errors
    ///
    /// If one of them cannot be opened, or there is no store that fits the origin.
    pub fn open(cow: impl AsRef<Path>, origin: impl AsRef<Path>) -> Result<Self, Error> {
        let paths = Paths { cow: cow.as_ref(), origin: origin.as_ref() };
        let runtime = Runtime::new().map_err(Error::Runtime)?;
        let opened = runtime.block_on(async {
            let (cow, origin) = paths.open(Mode::Read).await?;
            let unknown =
                |error: VolumeError| ops::Error::unknown_size(Which::Origin)(error.into());
            let volume = Volume::new(origin).map_err(|error| paths.failed(unknown(error)))?;
            let volume = Rc::new(volume);
            let opened = volume.open_read_only("snapshot", cow, SnapshotOptions::default()).await;
            let snapshot = opened.map_err(|error| paths.failed(ops::Error::of_opening(error)))?;
            Ok((View::snapshot(&volume, &snapshot), snapshot))
        });
        opened.map(|(view, snapshot)| Self { view, snapshot, runtime })
    }

    /// Its size, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.snapshot.len_bytes()
    }

    /// The unit of copying, in bytes.
    pub fn chunk_bytes(&self) -> u64 {
        self.snapshot.chunk_size().bytes()
    }

    /// The bytes in which origin and snapshot may differ, in whole chunks: those that were written on either
    /// side since the snapshot was made.
    pub fn changed(&self) -> Vec<Range<u64>> {
        let mut at = 0;
        let stretches = self.snapshot.changes(0..self.len_bytes(), usize::MAX).into_iter();
        let ranges = stretches.map(|(len, changed)| {
            let from = at;
            at += len;
            (from..at, changed)
        });
        ranges.filter_map(|(range, changed)| changed.then_some(range)).collect()
    }

    /// Fills `buffer` with what the snapshot shows from byte `at` on.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] if it ends before; any error of the files.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let read = self.runtime.block_on(self.view.read(at, buffer.len()))?;
        buffer.copy_from_slice(&read);
        Ok(())
    }
}

/// Merges a snapshot into its origin, as [`ops::merge`] does. `progress` is told now and then how far it is, and
/// may stop it; the same call goes on later.
///
/// # Errors
///
/// If a file cannot be opened for writing, or as [`ops::merge`].
pub fn merge(
    cow: impl AsRef<Path>,
    origin: impl AsRef<Path>,
    options: MergeOptions,
    progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Merged, Error> {
    let paths = Paths { cow: cow.as_ref(), origin: origin.as_ref() };
    let told = Told { progress: RefCell::new(progress), stop: Cell::default() };
    let merged = run(async {
        let (cow, origin) = paths.open(Mode::Write).await?;
        let merged = ops::merge(cow, origin, options, &told).await;
        merged.map_err(|error| paths.failed(error))
    });
    merged.map_err(Error::Runtime)?
}

/// What a task works on.
#[derive(Clone, Copy)]
struct Paths<'a> {
    cow: &'a Path,
    origin: &'a Path,
}

impl Paths<'_> {
    async fn open(self, mode: Mode) -> Result<(File, File), Error> {
        let open = async |path: &Path| {
            let opened = File::open(path, mode, Caching::Direct).await;
            opened.map_err(|source| Error::Open { path: path.to_owned(), source })
        };
        Ok((open(self.cow).await?, open(self.origin).await?))
    }

    fn failed(self, source: ops::Error) -> Error {
        let path = if source.device() == Which::Origin { self.origin } else { self.cow };
        Error::Task { path: path.to_owned(), source }
    }
}

/// An observer that is a closure.
struct Told<P> {
    progress: RefCell<P>,
    stop: Cell<bool>,
}

impl<P: FnMut(Progress) -> ControlFlow<()>> Observer for Told<P> {
    fn progress(&self, progress: Progress) {
        if (self.progress.borrow_mut())(progress).is_break() {
            self.stop.set(true);
        }
    }

    fn stop_requested(&self) -> bool {
        self.stop.get()
    }
}
