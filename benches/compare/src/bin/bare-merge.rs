//! Copies a store's data to the origin and does nothing else: what merging costs at least.
//!
//! It reads all exceptions, sorts them by origin chunk, joins neighbours, streams the COW device
//! into memory, writes every run and ends with one flush. It checks nothing, keeps everything in
//! memory and forgets no exception: killed half-way it has to begin anew, and nobody knows that it
//! has to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use compio::runtime::Runtime;
use dmsnap::device::{self, Caching, Device, Mode};
use dmsnap::format::{Exception, Run};
use dmsnap_compare::store::read_areas;
use futures_util::stream::{self, StreamExt, TryStreamExt};

/// Of the COW device, in one read, in bytes.
const PIECE: usize = 1 << 20;

/// Reads in flight.
const READS: usize = 8;

/// Runs of the origin that are one write to the file that keeps them.
const KEPT_TOGETHER: usize = 256;

/// Writes in flight.
const WRITES: usize = 128;

/// Copy a store's data to the origin, with one flush
#[derive(Debug, Parser)]
struct Args {
    cow: PathBuf,
    origin: PathBuf,
    #[arg(long, value_enum, default_value = "direct")]
    io: Way,
    /// First copy what is written over into this file, in the order of the origin, and flush it: with direct I/O
    #[arg(long)]
    keep: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Way {
    /// Around the page cache, over a ring
    Direct,
    /// Through the page cache, one system call after the other
    Buffered,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let (layout, mut exceptions) = read_areas(&File::open(&args.cow)?)?;
    exceptions.sort_unstable_by_key(|exception| exception.old);
    let runs = joined(exceptions);
    let chunk = layout.chunk_size().bytes();
    if let Some(keep) = &args.keep {
        Runtime::new()?.block_on(kept(&args.origin, keep, &runs, chunk))?;
    }
    match args.io {
        Way::Direct => Runtime::new()?.block_on(direct(&args.cow, &args.origin, &runs, chunk)),
        Way::Buffered => buffered(&args.cow, &args.origin, &runs, chunk),
    }
}

fn joined(exceptions: Vec<Exception>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for exception in exceptions {
        if !runs.last_mut().is_some_and(|run| run.extend(exception)) {
            runs.push(exception.into());
        }
    }
    runs
}

fn buffered(cow: &Path, origin: &Path, runs: &[Run], chunk: u64) -> io::Result<()> {
    let cow = File::open(cow)?;
    let origin = OpenOptions::new().write(true).open(origin)?;
    let mut bytes = vec![0; len(cow.metadata()?.len())];
    for (piece, at) in bytes.chunks_mut(PIECE).zip((0_u64..).step_by(PIECE)) {
        cow.read_exact_at(piece, at)?;
    }
    for run in runs {
        let data = &bytes[len(run.new.get() * chunk)..][..len(run.len * chunk)];
        origin.write_all_at(data, run.old.get() * chunk)?;
    }
    origin.sync_data()
}

async fn direct(cow: &Path, origin: &Path, runs: &[Run], chunk: u64) -> io::Result<()> {
    let open = async |path: &Path, mode| {
        device::File::open(path, mode, Caching::Direct).await.map_err(io::Error::other)
    };
    let (cow, origin) = (open(cow, Mode::Read).await?, open(origin, Mode::Write).await?);
    let end = len(cow.len_bytes()?);
    let reads = (0..end).step_by(PIECE).map(|at| cow.read(at as u64, PIECE.min(end - at)));
    let pieces: Vec<_> = stream::iter(reads).buffered(READS).try_collect().await?;
    let pieces: Vec<_> = pieces.into_iter().map(device::Buffer::freeze).collect();
    let writes = runs.iter().map(|run| {
        let (mut from, mut left) = (len(run.new.get() * chunk), len(run.len * chunk));
        let mut data = Vec::new();
        while left > 0 {
            let piece = &pieces[from / PIECE];
            let here = left.min(piece.len() - from % PIECE);
            data.push(piece.slice(from % PIECE..from % PIECE + here));
            (from, left) = (from + here, left - here);
        }
        origin.write_vectored(run.old.get() * chunk, data)
    });
    stream::iter(writes).buffer_unordered(WRITES).try_collect::<()>().await?;
    origin.flush().await
}

/// Reads many runs at a time and writes them as one, like the merge does the other way round.
async fn kept(origin: &Path, keep: &Path, runs: &[Run], chunk: u64) -> io::Result<()> {
    let bytes = runs.iter().map(|run| run.len * chunk).sum();
    File::create(keep)?.set_len(bytes)?;
    let open = async |path: &Path, mode| {
        device::File::open(path, mode, Caching::Direct).await.map_err(io::Error::other)
    };
    let (origin, keep) = (open(origin, Mode::Read).await?, open(keep, Mode::Write).await?);
    let reads = runs.iter().map(|run| origin.read(run.old.get() * chunk, len(run.len * chunk)));
    let batches = stream::iter(reads).buffered(WRITES).chunks(KEPT_TOGETHER);
    let mut at = 0;
    let writes = batches.map(|batch| {
        let batch = batch.into_iter().collect::<io::Result<Vec<_>>>();
        let data = batch.map(|it| it.into_iter().map(device::Buffer::freeze).collect::<Vec<_>>());
        let from = at;
        at += data.as_ref().map_or(0, |data| data.iter().map(|it| it.len() as u64).sum());
        let keep = &keep;
        async move { keep.write_vectored(from, data?).await }
    });
    writes.buffer_unordered(READS).try_collect::<()>().await?;
    keep.flush().await
}

fn len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
