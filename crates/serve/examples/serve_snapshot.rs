//! Serves an origin and a snapshot of it over a Unix socket, until the standard input ends.
//!
//! ```text
//! dmsnap create --size 1G snapshot.cow
//! cargo run --example serve_snapshot -- disk.img snapshot.cow /run/user/1000/nbd.sock
//! nbdinfo --list 'nbd+unix:///?socket=/run/user/1000/nbd.sock'
//! ```
//!
//! Writes to the origin keep the old data for the snapshot, writes to the snapshot go to its COW device.
//! Killed, it loses nothing that was flushed.

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::rc::Rc;

use compio::runtime::{Runtime, spawn_blocking};
use dmsnap::device::{Caching, File, Mode};
use dmsnap_serve::nbd::Listener;
use dmsnap_serve::{Service, ServiceOptions, SnapshotOptions, Volume};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [origin, cow, socket] = &arguments[..] else {
        return Err("usage: serve_snapshot ORIGIN COW SOCKET".into());
    };
    Runtime::new()?.block_on(async {
        let origin = File::open(Path::new(origin), Mode::Write, Caching::Buffered).await?;
        let cow = File::open(Path::new(cow), Mode::Write, Caching::Buffered).await?;
        let volume = Rc::new(Volume::new(origin)?);
        volume.open("snapshot", cow, SnapshotOptions::default()).await?;
        let listener = Listener::unix(Path::new(socket)).await?;
        let input_ends = spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let stop = async { drop(input_ends.await) };
        Service::new(volume, ServiceOptions::default()).nbd(listener).run(stop).await?;
        Ok(())
    })
}
