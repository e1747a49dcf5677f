use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use compio::time::sleep;
use dmsnap::device::{File, Mode, is_same};
use dmsnap::format::ChunkSize;
use dmsnap_serve::nbd::{Exports, Limits, Listener, Server};
use dmsnap_serve::{
    Keeper, Live, MergeState, ORIGIN, OnFull, Snapshot, SnapshotOptions, State, Volume,
};

use crate::devices::{Io, open_failure};
use crate::exit::Outcome;
use crate::output::Output;
use crate::progress::Watch;
use crate::report::{Failure, tell};
use crate::signals::Stop;
use crate::size;

/// Serve an origin and its snapshots as block devices over NBD
///
/// Clients of the protocol can use them: QEMU, libnbd, fio. The export
/// `origin` is the origin (and the default), each snapshot has its own name. Writes to the origin
/// keep the old data for every snapshot, durably, before they change anything; writes to a snapshot
/// go to its COW device, and a flush makes them durable.
///
/// SIGINT or SIGTERM ends it: requests are finished, everything is published and flushed. Killed, it
/// loses nothing that was flushed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// Origin: a device or an image
    #[arg(value_name = "ORIGIN")]
    origin: PathBuf,

    /// A snapshot of it, and how it behaves
    ///
    /// COW holds a store (`dmsnap create` makes one; an empty store is a snapshot of this moment).
    /// Options, each behind a comma:
    ///
    /// on-full=invalidate|fail|wait:SECONDS - what an origin write does when the store is full: drop
    /// the snapshot (as kernels do), fail, or wait for room.
    ///
    /// max-size=SIZE - the COW file grows up to this when it is full.
    ///
    /// transient=CHUNK - no store: the snapshot is gone with the server, COW is overwritten.
    ///
    /// discard-zeroes, discard-passdown - the kernel's discard features.
    #[arg(long = "snapshot", value_name = "NAME=COW[,OPTION]...")]
    snapshots: Vec<Spec>,

    /// Listen here; may be given several times
    #[arg(long, value_name = "unix:PATH|HOST:PORT", default_value = "127.0.0.1:10809")]
    nbd: Vec<String>,

    /// Merge this snapshot into the origin meanwhile
    ///
    /// From now on both exports are one device with the snapshot's content; clients may go on
    /// writing to it.
    #[arg(long, value_name = "NAME")]
    merge: Option<String>,

    /// Most bytes a second that the merge moves
    #[arg(long, value_name = "SIZE", value_parser = size::parse, requires = "merge")]
    rate: Option<u64>,

    /// Most data in one window of the merge
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = size::parse)]
    window: u64,

    /// Refuse every write
    #[arg(long, conflicts_with = "merge")]
    read_only: bool,

    /// Around the page cache or through it
    #[arg(long, value_enum, value_name = "WAY", default_value_t)]
    io: Io,
}

const EXAMPLES: &str = "\
Examples:
  A writable overlay on a golden image, for QEMU:
    dmsnap create --size 2G vm1.cow
    dmsnap serve golden.img --snapshot vm1=vm1.cow --nbd unix:/run/vm.sock
    qemu-system-x86_64 -drive 'file=nbd+unix:///vm1?socket=/run/vm.sock,format=raw'
  The same, gone when the server ends:
    dmsnap serve golden.img --snapshot vm1=scratch.img,transient=64k --nbd unix:/run/vm.sock
  Merge while clients go on:
    dmsnap serve disk.img --snapshot s=snap.cow --merge s --rate 50M
  Which chunks have changed since the snapshot:
    nbdinfo --map=qemu:dirty-bitmap:s nbd://localhost/origin";

/// `NAME=COW[,OPTION]...`
#[derive(Clone, Debug)]
struct Spec {
    name: String,
    cow: PathBuf,
    transient: Option<ChunkSize>,
    options: SnapshotOptions,
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text
            .split_once('=')
            .ok_or_else(|| format!("found `{text}`; a snapshot is NAME=COW[,OPTION]..."))?;
        if name.is_empty() || name == ORIGIN {
            return Err(format!("found the name `{name}`; it must not be empty or `{ORIGIN}`"));
        }
        let mut parts = rest.split(',');
        let cow = PathBuf::from(parts.next().unwrap_or_default());
        let options = SnapshotOptions::default();
        let mut spec = Self { name: name.into(), cow, transient: None, options };
        parts.try_for_each(|part| spec.option(part))?;
        Ok(spec)
    }
}

impl Spec {
    fn option(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let options = &mut self.options;
        match (name, value) {
            ("on-full", "invalidate") => options.on_full = OnFull::Invalidate,
            ("on-full", "fail") => options.on_full = OnFull::Fail,
            ("on-full", wait) if wait.starts_with("wait:") => {
                let ticks = wait["wait:".len()..].parse();
                let ticks = ticks.map_err(|_| format!("found `{wait}`; seconds come last"))?;
                options.on_full = OnFull::Wait { ticks };
            }
            ("max-size", size) => options.max_bytes = Some(size::parse(size)?),
            ("transient", size) => self.transient = Some(size::parse_chunk_size(size)?),
            ("discard-zeroes", "") => options.discard_zeroes = true,
            ("discard-passdown", "") => options.discard_passdown = true,
            _ => return Err(format!("found the option `{text}`, which there is not")),
        }
        Ok(())
    }
}

type Disk = Volume<File, File>;

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        self.refuse_same()?;
        let stop = Stop::on_signals()
            .map_err(|error| Failure::of("signals", format_args!("cannot be received: {error}")))?;
        let volume = self.open().await?;
        let exports = self.exports(&volume);
        let mut listeners = Vec::new();
        for address in &self.nbd {
            let listener = listen(address).await.map_err(|error| Failure::of(address, error))?;
            out.line(format_args!("listening on {}", told(address, &listener)))?;
            listeners.push(listener);
        }
        let merging = self.start_merge(&volume).await?;
        out.flush()?;

        let serving = Server::new(exports, Limits::default()).run(listeners, stopped(&stop));
        let keeping = keep(&volume, &stop);
        let (served, (), ()) = futures_util::join!(serving, keeping, self.merge(&volume, merging));
        served.map_err(|error| Failure::about(&self.origin, error))?;
        let flushed = volume.flush_all().await;
        flushed
            .map_err(|error| Failure::of("shutdown", format_args!("not all durable: {error}")))?;
        Ok(Outcome::Yes)
    }

    async fn open(&self) -> Result<Rc<Disk>, Failure> {
        let mode = if self.read_only { Mode::Read } else { Mode::Write };
        let open = async |path: &Path, mode: Mode| {
            let opened = File::open(path, mode, self.io.into()).await;
            opened.map_err(|error| open_failure(path, &error))
        };
        let origin = open(&self.origin, mode).await?;
        let volume = Volume::new(origin).map_err(|error| Failure::about(&self.origin, error))?;
        for spec in &self.snapshots {
            // Opening a store may have to clean it, so it is opened for writing in any case.
            let cow = open(&spec.cow, Mode::Write).await?;
            let options = spec.options.clone();
            let added = match spec.transient {
                Some(chunk) => volume.open_transient(&spec.name, cow, chunk, options).await,
                None => volume.open(&spec.name, cow, options).await,
            };
            added.map_err(|error| Failure::about(&spec.cow, error))?;
        }
        Ok(Rc::new(volume))
    }

    fn exports(&self, volume: &Rc<Disk>) -> Exports {
        let exports = Exports::new();
        // Names were told apart when the snapshots were added.
        let _ = exports.add(Live::origin(volume, self.read_only));
        for snapshot in volume.snapshots() {
            let _ = exports.add(Live::snapshot(volume, &snapshot, self.read_only));
        }
        exports
    }

    /// Writing to one name must not change what is read through another.
    fn refuse_same(&self) -> Result<(), Failure> {
        let cows = self.snapshots.iter().map(|spec| &spec.cow);
        let paths: Vec<_> = [&self.origin].into_iter().chain(cows).collect();
        for (n, path) in paths.iter().enumerate() {
            for other in &paths[..n] {
                if is_same(path, other).unwrap_or(false) {
                    let found = format!("the same file or device as {}", other.display());
                    return Err(Failure::about(path, found).advise("each must be its own"));
                }
            }
        }
        Ok(())
    }

    async fn start_merge(&self, volume: &Disk) -> Result<Option<Rc<Snapshot<File>>>, Failure> {
        let Some(name) = &self.merge else { return Ok(None) };
        let snapshot = volume
            .snapshot(name)
            .ok_or_else(|| Failure::of("--merge", format_args!("no snapshot is named {name}")))?;
        let started = volume.start_merge(&snapshot).await;
        started.map_err(|error| Failure::of(name, format_args!("cannot be merged: {error}")))?;
        Ok(Some(snapshot))
    }

    /// Merges beside the clients. What goes wrong is told; they are served all the same.
    async fn merge(&self, volume: &Disk, snapshot: Option<Rc<Snapshot<File>>>) {
        let Some(snapshot) = snapshot else { return };
        let watch = match Watch::new(false, self.rate) {
            Ok(watch) => watch,
            Err(failure) => return tell(failure),
        };
        let window = self.window.min(self.rate.unwrap_or(u64::MAX));
        let stopping = async {
            stopped(&watch.stop()).await;
            volume.pause_merge();
        };
        let merging = async {
            let ended = volume.run_merge(window, &watch).await;
            let name = snapshot.name();
            match ended {
                Ok(MergeState::Finished) => tell(format_args!("{name}: merged")),
                Ok(_) => tell(format_args!(
                    "{name}: {} exceptions left; dmsnap merge goes on with them",
                    snapshot.exceptions()
                )),
                Err(error) => tell(format_args!("{name}: the merge has stopped: {error}")),
            }
        };
        futures_util::join!(merging, stopping);
    }
}

/// Listens; a socket file that nobody listens on any more is taken over.
async fn listen(address: &str) -> io::Result<Listener> {
    let Some(path) = address.strip_prefix("unix:").map(Path::new) else {
        return Listener::tcp(address).await;
    };
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if std::os::unix::net::UnixStream::connect(path).is_err_and(refused) {
        std::fs::remove_file(path)?;
    }
    Listener::unix(path).await
}

/// How a client names what it can connect to.
fn told(address: &str, listener: &Listener) -> String {
    match (address.strip_prefix("unix:"), listener.tcp_address()) {
        (Some(path), _) => format!("nbd+unix:///?socket={path}"),
        (None, Ok(bound)) => format!("nbd://{bound}"),
        (None, Err(_)) => format!("nbd://{address}"),
    }
}

/// Returns after the first signal.
async fn stopped(stop: &Stop) {
    while !stop.requested() {
        sleep(Duration::from_millis(50)).await;
    }
}

/// Lets the volume's time pass, and says so when a snapshot is lost.
async fn keep(volume: &Rc<Disk>, stop: &Stop) {
    let mut keeper = Keeper::new(volume.clone());
    let mut lost: Vec<String> = Vec::new();
    while !stop.requested() {
        keeper.tick().await;
        for snapshot in volume.snapshots() {
            let name = snapshot.name();
            if snapshot.state() == State::Invalid && !lost.iter().any(|known| known == name) {
                tell(format_args!("{name}: dropped: its store is full or its COW device failed"));
                lost.push(name.into());
            }
        }
        for _ in 0..20 {
            if !stop.requested() {
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
