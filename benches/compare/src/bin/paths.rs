//! Request paths on devices in memory, to have their instructions and their I/O counted. What it
//! prints is JSON; `benches/compare/guard` reads it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;

use clap::{Parser, Subcommand, ValueEnum};
use compio::driver::DriverType;
use compio::io::AsyncRead;
use compio::net::UnixStream;
use compio::runtime::Runtime;
use dmsnap::format::{ChunkSize, Layout, StoreId};
use dmsnap::ops::{self, MergeOptions, Silent, UndoOptions};
use dmsnap::volume::{SnapshotOptions, Volume};
use dmsnap_compare::client::Connection;
use dmsnap_compare::counted::{Counted, Counts};
use dmsnap_compare::load;
use dmsnap_compare::path::{Costs, Operation, World, full_store};
use dmsnap_serve::export::{Exports, VolumeExport};
use dmsnap_serve::nbd::{Limits, Listener, Server};
use futures_executor::block_on;
use serde::Serialize;

/// Do one operation many times, in memory
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    way: Way,
}

#[derive(Debug, Subcommand)]
enum Way {
    /// Call the volume
    Volume { operation: Operation, count: u64 },
    /// Ask a server in this process, from a process of its own
    Nbd { operation: Operation, count: u64 },
    /// Be the client of that server
    Client { operation: Operation, count: u64, socket: PathBuf },
    /// Merge this many scattered exceptions, offline
    Merge { count: u64 },
    /// The same with a way back
    MergeUndo { count: u64 },
    /// Take such a merge back
    Undo { count: u64 },
    /// Open a store with this many scattered exceptions
    Open { count: u64 },
    /// Which way I/O goes here
    Driver,
}

fn main() -> io::Result<()> {
    match Args::parse().way {
        Way::Volume { operation, count } => {
            let costs = block_on(async {
                let world = World::new(operation).await?;
                world.run(operation, count).await
            })?;
            println!("{}", serde_json::to_string(&costs)?);
            Ok(())
        }
        Way::Nbd { operation, count } => serve(operation, count),
        Way::Client { operation, count, socket } => {
            let export = if operation.to_origin() { "origin" } else { "s" };
            let mut connection = Connection::new(&socket, export)?;
            load::run(&mut connection, &operation.plan(count))?;
            connection.disconnect()
        }
        Way::Merge { count } => merge(count),
        Way::MergeUndo { count } => {
            println!("{}", serde_json::to_string(&block_on(undoable(count))?[0])?);
            Ok(())
        }
        Way::Undo { count } => {
            println!("{}", serde_json::to_string(&block_on(undoable(count))?[1])?);
            Ok(())
        }
        Way::Open { count } => {
            let costs = block_on(open(count))?;
            println!("{}", serde_json::to_string(&costs)?);
            Ok(())
        }
        Way::Driver => {
            let ring = Runtime::new()?.driver_type() == DriverType::IoUring;
            println!("{}", if ring { "ring" } else { "polling" });
            Ok(())
        }
    }
}

/// The client runs as a child, so that its instructions are not counted. Its end is seen on a
/// socket: valgrind lets no second thread go on while the ring waits.
fn serve(operation: Operation, count: u64) -> io::Result<()> {
    let dir = std::env::temp_dir().join(format!("dmsnap-paths-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let served = Runtime::new()?.block_on(serve_at(&dir.join("nbd"), operation, count));
    std::fs::remove_dir_all(&dir)?;
    served
}

async fn serve_at(socket: &Path, operation: Operation, count: u64) -> io::Result<()> {
    let world = World::new(operation).await?;
    let exports = Exports::new();
    exports.add(VolumeExport::origin(&world.volume, false)).map_err(io::Error::other)?;
    let snapshot = VolumeExport::snapshot(&world.volume, &world.snapshot, false);
    exports.add(snapshot).map_err(io::Error::other)?;
    let listener = Listener::unix(socket).await?;
    let name = operation.to_possible_value().map(|it| it.get_name().to_owned());
    let (ours, its) = std::os::unix::net::UnixStream::pair()?;
    let mut client = Command::new(std::env::current_exe()?)
        .args(["client", &name.unwrap_or_default(), &count.to_string()])
        .arg(socket)
        .stdin(Stdio::from(OwnedFd::from(its)))
        .spawn()?;
    let mut life = UnixStream::from_std(ours)?;
    let shutdown = async { drop(life.read(vec![0]).await) };
    Server::new(exports, Limits::default()).run(vec![listener], shutdown).await?;
    match client.wait()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("the client has failed: {status}"))),
    }
}

fn merge(count: u64) -> io::Result<()> {
    block_on(async {
        let (cow, origin) = full_store(count).await?;
        let options = MergeOptions { window_bytes: 4 << 20, ..MergeOptions::default() };
        let merged = ops::merge(cow, origin, options, &Silent).await.map_err(io::Error::other)?;
        println!("{}", serde_json::to_string(&merged)?);
        Ok(())
    })
}

/// What three devices were asked for.
#[derive(Serialize)]
struct UndoCosts {
    origin: Counts,
    cow: Counts,
    undo: Counts,
}

/// A merge with a way back, and that way: the costs of each.
async fn undoable(count: u64) -> io::Result<[UndoCosts; 2]> {
    let (cow, origin) = full_store(count).await?;
    let len =
        ops::undo_bytes(Layout::new(ChunkSize::from_sectors(8).map_err(io::Error::other)?), count);
    let undo = Counted::zeroed(usize::try_from(len).map_err(io::Error::other)?);
    let counts = || [&origin, &cow, &undo].map(Counted::counts);
    let costs = |before: [Counts; 3]| {
        let [origin, cow, undo] = counts();
        let [o, c, u] = before;
        UndoCosts { origin: origin.since(o), cow: cow.since(c), undo: undo.since(u) }
    };
    let merge = MergeOptions { window_bytes: 4 << 20, ..MergeOptions::default() };
    let options = UndoOptions { merge, ..UndoOptions::default() };
    let ids = [1, 2].map(|byte| StoreId::new([byte; 16]));
    let [Some(first), Some(second)] = ids else { return Err(io::Error::other("no names")) };
    let pair = (&cow, &origin);
    let before = counts();
    let merged = ops::merge_undoable(pair, (&undo, [first, second]), &[], options, &Silent).await;
    merged.map_err(io::Error::other)?;
    let merged = costs(before);
    let before = counts();
    ops::undo(pair, &undo, &[], options, &Silent).await.map_err(io::Error::other)?;
    Ok([merged, costs(before)])
}

async fn open(count: u64) -> io::Result<Costs> {
    let (cow, origin) = full_store(count).await?;
    let cow = Rc::new(cow);
    let (volume, before) = (Volume::new(origin)?, cow.counts());
    let options = SnapshotOptions::default();
    volume.open("s", cow.clone(), options).await?;
    Ok(Costs { origin: volume.origin_device().counts(), cow: cow.counts().since(before) })
}
