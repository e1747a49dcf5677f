mod examples; // of its command line
mod disk; // an origin with its snapshots
mod base; // an origin that others have as well
mod adding; // a snapshot, opened and added
mod plan; // what is served, before it is opened
mod listening; // where clients come from
mod encryption; // TLS
mod access; // who can connect
mod way_back; // of a merge
mod state; // what clients have changed, in a file
mod opener; // what clients of the control socket may open
mod first_merge; // the merge it begins with
mod recall; // and planned again
mod lifetime; // when it begins and ends
mod pid_file; // its process number
mod background; // --fork
mod captive; // --run
mod events; // what a server has to tell, in words

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;

use clap::ArgGroup;
use dmsnap::device::Mode;
use dmsnap_serve::{MIN_MEMORY_BYTES, Service, ServiceOptions, State};
use futures_util::future::{Either, select};
use sd_notify::NotifyState;

use super::spec::{Spec, unix_path};
use crate::descriptors;
use crate::exit::Outcome;
use crate::files::Io;
use crate::output::Output;
use crate::report::{self, Failure};
use crate::runtime;
use crate::signals::{self, Asked, Stop};
use crate::size::{self, Bytes};

use access::Access;
use base::Base;
use captive::Captive;
use encryption::Encryption;
use examples::EXAMPLES;
use first_merge::FirstMerge;
use lifetime::Lifetime;
use listening::{Listening, notify, open_control};
use opener::FileOpener;
use pid_file::PidFile;
use plan::Plan;
use recall::recall;
use state::StateFile;

/// Serve an origin and its snapshots as block devices over NBD
///
/// Clients of the protocol can use them: QEMU, libnbd, fio. The export
/// `origin` is the origin (and the default), each snapshot has its own name. Writes to the origin
/// keep the old data for every snapshot, durably, before they change anything; writes to a snapshot
/// go to its COW device, and a flush makes them durable.
///
/// SIGINT or SIGTERM ends it: requests are finished, everything is published and flushed. Killed, it
/// loses nothing that was flushed. SIGHUP and SIGUSR2 do nothing: clients go on when a terminal is
/// closed. SIGUSR1 prints a line on stderr for the origin, for each snapshot (state, fill, exceptions)
/// and for the merge.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(group(ArgGroup::new("merging").args(["merge", "table"]).multiple(true)))]
pub(crate) struct Args {
    /// Origin: a device or an image
    ///
    /// With --table it may be left out. An LVM volume, as lvm:IMAGE[,IMAGE]...:VG/LV, is served
    /// under its own name as well, and with it all its snapshots that are valid, under theirs. One
    /// that LVM merges is merged, as at an activation; with --read-only it and the origin are shown
    /// as LVM would show them. The volume group's metadata stays as it is: `dmsnap lvm merge` ends what
    /// was merged.
    #[arg(value_name = "ORIGIN", required_unless_present = "table")]
    origin: Option<PathBuf>,

    /// A snapshot of it, and how it behaves
    ///
    /// COW holds a store (`dmsnap create` makes one; an empty store is a snapshot of this moment). A
    /// comma in its path is written twice. Options, separated by commas:
    ///
    /// on-full=invalidate|fail|wait:SECONDS - what an origin write does when the store is full: drop
    /// the snapshot (as kernels do), fail, or wait for room.
    ///
    /// max-size=SIZE - the COW file grows up to this when it is full.
    ///
    /// make - if COW is not there, a file with an empty store is made, for those who may read the origin. With
    /// size=SIZE it has that size; without, room for every chunk of the origin (the file is sparse). With
    /// for=base the new store remembers its origin, as with `dmsnap create --base`; chunk-size=SIZE is 4k
    /// unless given. A store that is there is opened as it is.
    ///
    /// virtual-size=SIZE - the snapshot has another size than the origin: zeroes follow an origin that is shorter, and of
    /// one that is longer the rest is not shown. With make the store remembers it.
    ///
    /// transient=CHUNK - no store: the snapshot is gone with the server, COW is overwritten.
    ///
    /// discard-zeroes, discard-passdown - the kernel's discard features.
    #[arg(long = "snapshot", value_name = "NAME=COW[,OPTION]...", value_parser = Spec::parser())]
    snapshots: Vec<Spec>,

    /// Serve what this table of the kernel's targets says
    ///
    /// Lines as `dmsetup table` prints them, for one origin, with lengths in sectors: of the origin its whole length, of
    /// a snapshot what it is to have (zeroes follow an origin that is shorter):
    ///
    /// NAME: 0 LENGTH snapshot-origin ORIGIN
    ///
    /// NAME: 0 LENGTH snapshot ORIGIN COW P|PO|N CHUNK, then COUNT FEATURE...
    ///
    /// NAME: 0 LENGTH snapshot-merge ORIGIN COW P|PO CHUNK, then COUNT FEATURE...
    ///
    /// NAME: may be left out: then a snapshot has the name of its COW file. So may COUNT and features.
    /// Devices are paths or MAJOR:MINOR. In a path a space is \\040, as in fstab, or has a backslash
    /// before it, as for the kernel; a backslash is \\134 or two of them. Empty lines and lines that begin
    /// with # are ignored. Both the origin and every snapshot are served, whatever lines there are.
    ///
    /// P and PO: COW holds a store, whose own chunk size counts. If its magic is zero, one is made there
    /// as by `dmsnap create`, with chunks of CHUNK sectors (0: 32, that is 16k, as in kernels). A full
    /// store is dropped by a write to the origin, as in kernels. A write to the snapshot then fails and the snapshot stays: that is what
    /// PO asks for; a kernel would drop one with P.
    ///
    /// N: no store; COW is overwritten, and CHUNK must not be 0.
    ///
    /// The features are discard_zeroes_cow and, only together with it, discard_passdown_origin. A
    /// snapshot-merge is merged from the start, as with --merge.
    #[arg(long, value_name = "FILE", conflicts_with = "snapshots")]
    table: Option<PathBuf>,

    /// Listen here; may be given several times
    ///
    /// A Unix socket is open to its owner alone (mode 0600); a socket file that nobody listens on any more is
    /// taken over. A port of TCP is open to every user of the machine, and to others as far as its
    /// address reaches: see --tls.
    ///
    /// A service manager may listen instead and hand its sockets over (LISTEN_FDS, as systemd does
    /// for a socket unit). Then this is left out.
    #[arg(long, value_name = "unix:PATH|HOST:PORT", value_parser = listening::address)]
    nbd: Vec<String>,

    #[command(flatten)]
    access: Access,

    #[command(flatten)]
    encryption: Encryption,

    /// Most connections at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,

    /// Most memory for the whole server, at least 128M
    ///
    /// It is for what clients ask for, however many they are, for copying, for a merge's window, for
    /// --write-back, and for buffers that are kept for the next requests; what nobody needs is given back within
    /// seconds. A client that asks for more than is left waits; every client and every export is left a share.
    /// A client that neither sends nor receives for 30 seconds while others wait for its memory is sent
    /// away. Besides, there are the tables of exceptions, some 5 to 16 bytes for each, and up to 0.2 MiB for
    /// each connection, 0.8 if it is encrypted. By default it is a quarter of the machine's memory (or
    /// of its control group's), but not more than 1G.
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    memory: Option<u64>,

    /// Most memory for the requests of one connection; one request may take 32 MiB in any case
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size::parse)]
    connection_memory: u64,

    /// Let this server be looked at and changed over a socket there, by its owner alone
    ///
    /// `dmsnap ctl` is its client. It speaks HTTP with JSON, and has metrics for Prometheus.
    #[arg(long, value_name = "unix:PATH", value_parser = unix_path)]
    control: Option<PathBuf>,

    /// Keep what `dmsnap ctl` changes in this file: it is there again at the next start
    ///
    /// Snapshots that it adds (but for transient ones) and removes, and the merge that it starts, tunes, pauses, cancels and takes
    /// back, are in the file before it is answered, whatever becomes of the server then. A server with the same command
    /// line and this file serves the same and goes on with the merge. Where the file and the command line say
    /// different things, the file is right: what was removed is not served, a snapshot of both is the one of the file,
    /// and the merge is that of the file; stderr says so. To forget it all, remove the file.
    ///
    /// It is made if it is not there. One that is damaged, or of another version, is refused, and left as it is; so is
    /// one with a snapshot whose store is not there.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,

    #[command(flatten)]
    first_merge: FirstMerge,

    /// Go on although the origin is not what a store remembers of it (`dmsnap create --base`)
    ///
    /// That is for every snapshot, also those that are added later.
    #[arg(long)]
    no_fence: bool,

    /// Serve one store of an undoable merge without the other
    ///
    /// What clients write to the origin then is lost to the store that is not served: the way back is no longer
    /// one. Needed only while the merge is not finished, or for the undo store.
    #[arg(long)]
    forget_undo: bool,

    /// Refuse every write
    #[arg(long, conflicts_with = "merge")]
    read_only: bool,

    #[command(flatten)]
    base: Base,

    #[command(flatten)]
    lifetime: Lifetime,

    /// Most memory for origin writes that wait to be written together, at most an eighth of --memory; 0: none
    /// waits
    ///
    /// A write to the origin that snapshots have to keep old data for is acknowledged from memory, like
    /// by any disk with a write cache; many are then made ready and written at once. A flush, or a second
    /// without one, writes them all. Snapshots with on-full=fail or wait, and a merge, turn it off.
    #[arg(long, value_name = "SIZE", default_value = "32M", value_parser = size::parse_or_none)]
    write_back: u64,

    /// Through the page cache or around it
    ///
    /// What a flush promises is the same. The page cache answers sooner, most of all clients with few
    /// requests at a time; around it, the server needs no more memory than its own, and what it
    /// serves is not cached twice where clients cache it themselves.
    #[arg(long, value_enum, value_name = "WAY", default_value_t = Io::Buffered)]
    io: Io,
}

impl Args {
    pub(crate) fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        if self.lifetime.fork || self.lifetime.run.is_some() {
            listening::refuse_activated()?;
        }
        match self.lifetime.fork && !background::is_child() {
            true => background::start(out),
            false => runtime::run(self.serve(out)),
        }
    }

    async fn serve(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let private = self.lifetime.private_socket(&self.nbd)?;
        let nbd = private.as_ref().map_or(&*self.nbd, |it| std::slice::from_ref(&it.address));
        listening::refuse_nowhere(nbd)?;
        // Where that cannot be had, it is served all the same.
        let _ = signals::outlive_terminals();
        // Where a thread or more descriptors cannot be had, everything else still can.
        let _ = (report::wait_for_nobody(), descriptors::raise_limit());
        let mut plan = self.plan()?;
        plan.add_those_of_lvm().await?;
        let mut first_merge = self.first_merge.clone();
        let state = self.state(&mut plan, &mut first_merge).await?;
        let merge = first_merge.of(&plan)?;
        let way_back = first_merge.way_back(&mut plan, merge.as_deref()).await?;
        plan.refuse_double_names()?;
        let (stop, asked) = receive_signals()?;
        let tls = self.encryption.tls()?;
        let access = self.access.of_sockets(nbd)?;
        let (options, origin, cows) =
            (self.options(&plan, &first_merge), plan.origin.clone(), plan.cows());
        plan.forget_undo = self.forget_undo;
        self.base.check(&mut plan, merge.as_deref())?;
        if self.no_fence {
            plan.ignore_fences();
        }
        // Before a device is opened or a store made: an address that is taken leaves nothing, and clients that come early wait.
        let mut listening = Listening::at(nbd, access, tls.is_some()).await?;
        let control = match &self.control {
            Some(path) => Some(open_control(path).await?),
            None => None,
        };
        let volume = plan.open(self.mode(), self.io.into(), merge.as_deref()).await?;
        let opener = FileOpener::new((&origin, &cows), self.mode(), self.io.into());
        let opener = opener.ignoring_fences(self.no_fence).forgetting_undo(self.forget_undo);
        let opener = opener.keeping(state.clone());
        let service = Service::with_opener(volume.clone(), options, opener, events::tell_events());
        let listeners = std::mem::take(&mut listening.listeners).into_iter();
        let service = listeners.fold(service, Service::nbd).tls(tls).control(control);
        let controller = service.controller().clone();
        cows.iter().for_each(|(name, cow)| controller.name_cow(name, cow));
        let merge = merge.as_deref().and_then(|name| volume.snapshot(name));
        let kept = (way_back.as_ref(), state.as_deref());
        let merged = first_merge.begin((&service, &volume), merge, kept).await?;
        let way_back = merged.and_then(|it| volume.partner(&it));
        let way_back = way_back.filter(|_| self.first_merge.undo.is_some());
        let (_pid_file, mut captive) = self.begin(&listening, out)?;
        let mut command_ended = None;
        let stopping = async { command_ended = captive::end(&stop, captive.as_mut()).await };
        let (serving, telling) =
            (service.run(stopping), events::tell_when_asked(&asked, &controller));
        match select(pin!(serving), pin!(telling)).await {
            Either::Left((ended, _)) => ended.map_err(|error| events::failure(&error))?,
            Either::Right((never, _)) => match never {},
        }
        let is_lost = way_back.is_some_and(|it| it.state() == State::Invalid);
        let own = if is_lost { Outcome::No } else { Outcome::Yes };
        Ok(command_ended.transpose()?.filter(|it| *it != Outcome::Other(0)).unwrap_or(own))
    }

    /// Everything is opened, and clients can come: says so, in each way that was asked for.
    fn begin(
        &self,
        listening: &Listening,
        out: &mut Output,
    ) -> Result<(Option<PidFile>, Option<Captive>), Failure> {
        let lifetime = &self.lifetime;
        let pid_file = lifetime.pid_file.as_deref().map(PidFile::write).transpose()?;
        let export = self.base.default_export.as_deref();
        let start = |command: &OsString| Captive::start(command, listening, export);
        let captive = lifetime.run.as_ref().map(start).transpose()?;
        for uri in listening.uris.iter().filter(|_| captive.is_none()) {
            out.line(format_args!("listening on {uri}"))?;
        }
        match lifetime.fork {
            true => background::leave(out)?,
            false => out.flush()?,
        }
        notify(NotifyState::Ready);
        Ok((pid_file, captive))
    }

    fn mode(&self) -> Mode {
        if self.read_only { Mode::Read } else { Mode::Write }
    }

    /// What clients have changed before, if it is kept.
    async fn state(
        &self,
        plan: &mut Plan,
        first_merge: &mut FirstMerge,
    ) -> Result<Option<Rc<StateFile>>, Failure> {
        let Some(path) = &self.state else { return Ok(None) };
        let mut state = StateFile::read(path)?;
        recall(&mut state, plan, first_merge).await?;
        Ok(Some(Rc::new(state)))
    }

    fn options(&self, plan: &Plan, first_merge: &FirstMerge) -> ServiceOptions {
        let options = ServiceOptions::default()
            .write_back_bytes(self.write_back)
            .window_bytes(first_merge.window)
            .rate_bytes_per_second(first_merge.rate)
            .connections(self.connections.into())
            .connection_bytes(self.connection_memory)
            .read_only(self.read_only)
            .ends_with_last_client(self.lifetime.exit_with_last_client)
            .alias(plan.alias.clone())
            .default_export(self.base.default_export.clone())
            .origin(plan.origin.display().to_string())
            .version(env!("CARGO_PKG_VERSION"));
        match self.memory {
            Some(bytes) => options.memory_bytes(bytes),
            None => options,
        }
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let Some(table) = &self.table else {
            // Without a table there is an origin.
            return Plan::of_options(
                self.origin.as_deref().unwrap_or(Path::new("")),
                &self.snapshots,
            );
        };
        let plan = Plan::of_table(table, self.origin.as_deref())?;
        let refuse = |found: &str| Err(Failure::about(table, found));
        match (&plan.merge, &self.first_merge.merge) {
            (Some(_), Some(_)) => refuse("has a snapshot-merge, and --merge is given as well"),
            (Some(_), None) if self.read_only => refuse("has a snapshot-merge: not --read-only"),
            (None, None) if self.first_merge.rate.is_some() => {
                refuse("merges nothing, and --rate is given")
            }
            _ => Ok(plan),
        }
    }
}

/// As [`size::parse`], for what has to suffice for a server.
fn memory_size(text: &str) -> Result<u64, String> {
    match size::parse(text)? {
        bytes if bytes < MIN_MEMORY_BYTES => {
            Err(format!("found {}, expected at least {}", Bytes(bytes), Bytes(MIN_MEMORY_BYTES)))
        }
        bytes => Ok(bytes),
    }
}

fn receive_signals() -> Result<(Stop, Asked), Failure> {
    let refused = |error| Failure::of("signals", format_args!("cannot be received: {error}"));
    Ok((Stop::on_signals().map_err(refused)?, Asked::on_usr1().map_err(refused)?))
}
