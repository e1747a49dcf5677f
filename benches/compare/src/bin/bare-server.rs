//! An NBD server that maps through an array and does nothing else: what serving costs at least.
//!
//! One blocking thread, one client at a time, requests in whole chunks of 4 KiB only. It answers
//! when the system call has returned, as a disk with a volatile cache may, and a flush is a
//! fdatasync of the data. It writes no metadata: with the process everything is lost.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use dmsnap_compare::map::{Origin, Overlay, Raw};
use dmsnap_compare::wire::{Disk, serve};

/// Serve files over NBD, with an array as the map
#[derive(Debug, Parser)]
struct Args {
    /// Socket to listen on
    socket: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A file as it is
    Raw { file: PathBuf },
    /// An origin that is never written, and where writes go
    Overlay { origin: PathBuf, cow: PathBuf },
    /// An origin whose old data goes to every COW file first
    Origin {
        origin: PathBuf,
        cows: Vec<PathBuf>,
        /// Flush the COW files before every write to the origin
        #[arg(long)]
        durable: bool,
    },
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let listener = UnixListener::bind(&args.socket)?;
    match args.what {
        What::Raw { file } => serve_all(&listener, Raw(open(&file)?)),
        What::Overlay { origin, cow } => {
            serve_all(&listener, Overlay::new(open(&origin)?, open(&cow)?)?)
        }
        What::Origin { origin, cows, durable } => {
            let cows: io::Result<Vec<File>> = cows.iter().map(|cow| open(cow)).collect();
            serve_all(&listener, Origin::new(open(&origin)?, cows?, durable)?)
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn serve_all(listener: &UnixListener, mut disk: impl Disk) -> io::Result<()> {
    loop {
        serve(listener.accept()?.0, &mut disk)?;
    }
}
