/// How one of its commands is called.
macro_rules! example {
    ($words:literal) => {
        concat!("Examples:\n  dmsnap ctl --control unix:/run/d.ctl ", $words)
    };
}

mod waiting; // until a merge has ended
mod differing; // where two devices differ
mod merge; // merges of a running server

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use dmsnap::format::ChunkSize;
use dmsnap_serve::MergeProgress;
use dmsnap_serve::control::{
    Client, ClientError, Code, Grow, MakeStore, NewSnapshot, SnapshotStatus, StartMerge, Status,
    TuneMerge, UndoMerge,
};
use serde::Serialize;

use self::merge::MergeCommand;
use super::spec::{Spec, unix_path};
use super::status;
use crate::exit::Outcome;
use crate::output::Output;
use crate::report::Failure;
use crate::size;

/// Look at a running `dmsnap serve`, and change it
///
/// The server must have been started with --control. Its socket can be opened by the server's owner
/// (and by root) alone. What was asked for is done when this returns; clients of the
/// exports go on all the while.
///
/// With --json the answer is the server's own; docs/openapi.json describes it, for any HTTP client.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// The server's control socket, as it was given to `dmsnap serve`
    #[arg(long, global = true, value_name = "unix:PATH", value_parser = unix_path)]
    control: Option<PathBuf>,

    /// The answer as JSON, where there is one
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  A server that can be changed:
    dmsnap serve disk.img --nbd unix:/run/d.sock --control unix:/run/d.ctl
  What it serves, and how full the stores are:
    dmsnap ctl --control unix:/run/d.ctl status
  The same as `dmsetup status` would say it:
    dmsnap ctl --control unix:/run/d.ctl status --dmsetup
  And again whenever it changes, for a program:
    dmsnap ctl --control unix:/run/d.ctl status --watch --json
  A snapshot of this moment, in a new store of 10 GiB; its export is there at once:
    dmsnap ctl --control unix:/run/d.ctl snapshot create monday=/srv/monday.cow --make --size 10G
  Stop serving it:
    dmsnap ctl --control unix:/run/d.ctl snapshot remove monday
  Back to Monday, while clients go on, slowly, and faster in the night:
    dmsnap ctl --control unix:/run/d.ctl merge start monday --rate 20M
    dmsnap ctl --control unix:/run/d.ctl merge rate none
  What has changed since Monday:
    dmsnap ctl --control unix:/run/d.ctl diff monday origin
  The same with a way back, and the way back:
    dmsnap ctl --control unix:/run/d.ctl merge start monday --undo /srv/undo.cow
    dmsnap ctl --control unix:/run/d.ctl merge undo monday
  Metrics for Prometheus, with curl:
    curl --unix-socket /run/d.ctl http://localhost/metrics";

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show origin, snapshots, merge and exports, and their state
    #[command(after_long_help = example!("status --json"))]
    Status {
        /// Lines as `dmsetup status` prints them
        #[arg(long, conflicts_with = "json")]
        dmsetup: bool,

        /// Lines that `dmsnap serve --table` takes to serve the same
        ///
        /// Paths are as they were given to the server. What a table cannot say is left out: on-full and max-size.
        #[arg(long, conflicts_with_all = ["json", "dmsetup", "watch"])]
        table: bool,

        /// Again as soon as it changes, at most ten times a second, until the server ends
        #[arg(long)]
        watch: bool,
    },
    /// Add, remove or drop a snapshot
    #[command(subcommand)]
    #[command(after_long_help = example!("snapshot remove monday"))]
    Snapshot(SnapshotCommand),
    /// Merge a snapshot into the origin
    #[command(subcommand)]
    #[command(after_long_help = example!("merge pause"))]
    Merge(MergeCommand),
    /// List where two snapshots differ, or a snapshot and the origin
    ///
    /// As `dmsnap diff` does of stores that nobody serves; with --json one answer of the server, which
    /// has at most 4096 ranges and tells where to go on. A snapshot that was dropped, or whose merge was
    /// begun, is refused. The exit status is 0 if nothing differs, and 1 if something does.
    #[command(after_long_help = example!("diff origin monday"))]
    Diff(differing::Args),
    /// Make the file of a store longer
    #[command(after_long_help = example!("grow monday 20G"))]
    Grow {
        /// The snapshot
        name: String,
        /// Size of its COW file, not less than it has
        #[arg(value_parser = size::parse)]
        size: u64,
    },
    /// Make everything written to the exports durable
    #[command(after_long_help = example!("flush monday"))]
    Flush {
        /// Only this snapshot
        name: Option<String>,
    },
    /// End the server, as SIGTERM does: everything is published and flushed
    #[command(after_long_help = example!("shutdown"))]
    Shutdown,
}

#[derive(Debug, clap::Subcommand)]
enum SnapshotCommand {
    /// Add a snapshot, and its export
    ///
    /// An empty store makes one of this moment. Nothing can be added while a merge is not finished.
    #[command(after_long_help = example!("snapshot create monday=/srv/monday.cow --make --size 10G"))]
    Create {
        /// As with `dmsnap serve --snapshot`; COW is a file or device of the server's machine
        #[arg(value_name = "NAME=COW[,OPTION]...", value_parser = Spec::parser())]
        snapshot: Spec,

        /// Make a new, empty store on COW first
        #[arg(long)]
        make: bool,

        /// Unit of copying of the new store
        #[arg(
            long,
            value_name = "SIZE",
            default_value = size::CHUNK_SIZE,
            value_parser = size::parse_chunk_size,
            requires = "make"
        )]
        chunk_size: ChunkSize,

        /// Size of the file to make, if COW does not exist
        #[arg(long, value_name = "SIZE", value_parser = size::parse, requires = "make")]
        size: Option<u64>,
    },
    /// Stop serving a snapshot; its store stays
    ///
    /// Its clients are disconnected first. From then on writes to the origin no longer keep old data
    /// for it.
    #[command(after_long_help = example!("snapshot remove monday"))]
    Remove {
        /// The snapshot
        name: String,
    },
    /// Drop a snapshot for good, as a write to the origin does when the store is full
    #[command(after_long_help = example!("snapshot invalidate monday"))]
    Invalidate {
        /// The snapshot
        name: String,
    },
}

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let client = Client::new(self.control()?);
        match &self.command {
            Command::Status { table: true, .. } => {
                status::table(&self.asked(client.status().await)?, out)?;
            }
            Command::Status { dmsetup, watch: false, .. } => {
                self.show(&self.asked(client.status().await)?, *dmsetup, out)?;
            }
            Command::Status { dmsetup, watch: true, .. } => {
                self.watch(client, *dmsetup, out).await?;
            }
            Command::Snapshot(command) => self.snapshot(client, command, out).await?,
            Command::Merge(command) => return self.merge(client, command, out).await,
            Command::Diff(args) => return self.diff(client, args, out).await,
            Command::Grow { name, size } => {
                let grown = client.grow(name, Grow { size_bytes: *size }).await;
                self.tell(out, &self.asked(grown)?, status::snapshot)?;
            }
            Command::Flush { name } => self.asked(client.flush(name.as_deref()).await)?,
            Command::Shutdown => self.asked(client.shut_down().await)?,
        }
        Ok(Outcome::Yes)
    }

    /// A global option can be required by nothing but this.
    fn control(&self) -> Result<&Path, Failure> {
        let missing = "--control unix:PATH is not given: which server is meant?";
        let kind = ErrorKind::MissingRequiredArgument;
        self.control.as_deref().ok_or_else(|| Failure::usage(kind, missing))
    }

    fn show(&self, all: &Status, dmsetup: bool, out: &mut Output) -> Result<(), Failure> {
        match (dmsetup, self.json) {
            (true, _) => status::dmsetup(all, out),
            (false, true) => out.json(all),
            (false, false) => status::status(all, out),
        }
    }

    /// Until the server ends, or nobody reads any more.
    async fn watch(
        &self,
        client: Client<'_>,
        dmsetup: bool,
        out: &mut Output,
    ) -> Result<(), Failure> {
        let mut events = self.asked(client.events().await)?;
        while let Some(all) = self.asked(events.next().await)? {
            self.show(&all, dmsetup, out)?;
            if !self.json {
                out.line("")?;
            }
            out.flush()?;
            if out.closed() {
                break;
            }
        }
        Ok(())
    }

    async fn snapshot(
        &self,
        client: Client<'_>,
        command: &SnapshotCommand,
        out: &mut Output,
    ) -> Result<(), Failure> {
        let done = match command {
            SnapshotCommand::Create { snapshot, make, chunk_size, size } => {
                let chunk_bytes = chunk_size.bytes();
                let make = make.then_some(MakeStore { chunk_bytes, size_bytes: *size });
                let wanted = snapshot.clone().into_request();
                let wanted = wanted.map_err(|found| Failure::of("snapshot", found))?;
                client.create(&NewSnapshot { make, ..wanted }).await
            }
            SnapshotCommand::Remove { name } => return self.asked(client.remove(name).await),
            SnapshotCommand::Invalidate { name } => client.invalidate(name).await,
        };
        let done: SnapshotStatus = self.asked(done)?;
        self.tell(out, &done, status::snapshot)
    }

    async fn diff(
        &self,
        client: Client<'_>,
        args: &differing::Args,
        out: &mut Output,
    ) -> Result<Outcome, Failure> {
        let differs = match self.json {
            true => {
                let page = self.asked(args.page(client).await)?;
                out.json(&page)?;
                !page.ranges.is_empty()
            }
            false => self.asked(args.list(client, out).await)??,
        };
        Ok(if differs { Outcome::No } else { Outcome::Yes })
    }

    async fn merge(
        &self,
        client: Client<'_>,
        command: &MergeCommand,
        out: &mut Output,
    ) -> Result<Outcome, Failure> {
        let merge = match command {
            MergeCommand::Start { name, rate, window, undo, max_size, wait, progress } => {
                let undo =
                    undo.as_deref().map(|path| merge::way_back(path, *max_size)).transpose()?;
                let start = StartMerge {
                    snapshot: name.clone(),
                    rate_bytes_per_second: *rate,
                    window_bytes: *window,
                    undo,
                };
                let started = self.asked(client.start_merge(&start).await)?;
                self.waited(client, started, (*wait, *progress)).await?
            }
            MergeCommand::Undo { name, wait, progress } => {
                let undo = UndoMerge { snapshot: name.clone() };
                let undone = self.asked(client.undo_merge(&undo).await)?;
                self.waited(client, undone, (*wait, *progress)).await?
            }
            MergeCommand::Pause => self.asked(client.pause_merge().await)?,
            MergeCommand::Resume => self.asked(client.resume_merge().await)?,
            MergeCommand::Cancel => {
                let snapshot = self.asked(client.cancel_merge().await)?;
                self.tell(out, &snapshot, status::snapshot)?;
                return Ok(Outcome::Yes);
            }
            MergeCommand::Rate { rate, window } => {
                let tune = TuneMerge { rate_bytes_per_second: Some(*rate), window_bytes: *window };
                self.asked(client.tune_merge(tune).await)?
            }
        };
        self.tell(out, &merge, status::merge)?;
        let wanted = matches!(command, MergeCommand::Start { undo: Some(_), .. });
        Ok(if wanted && merge.way_back_lost { Outcome::No } else { Outcome::Yes })
    }

    /// When it has ended, if that is wanted.
    async fn waited(
        &self,
        client: Client<'_>,
        started: MergeProgress,
        (wait, progress): (bool, bool),
    ) -> Result<MergeProgress, Failure> {
        if !wait {
            return Ok(started);
        }
        let name = started.snapshot.clone();
        let ended = waiting::wait(client, started, progress).await?;
        match ended {
            waiting::Ended::Finished(merge) => Ok(merge),
            waiting::Ended::Otherwise(found) => Err(Failure::of(&name, found)),
            waiting::Ended::Lost(error) => Err(self.failure(&error)),
        }
    }

    fn tell<T: Serialize>(
        &self,
        out: &mut Output,
        answer: &T,
        show: impl Fn(&T, &mut Output) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.json { out.json(answer) } else { show(answer, out) }
    }

    fn asked<T>(&self, answer: Result<T, ClientError>) -> Result<T, Failure> {
        answer.map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &ClientError) -> Failure {
        // Without one nothing was asked.
        let socket = self.control.as_deref().unwrap_or(Path::new(""));
        match error {
            ClientError::Connection(_) => Failure::about(socket, error)
                .advise("is a server running with this --control, and is it yours?"),
            ClientError::Refused(refusal) => match refusal.code {
                // They name what they are about.
                Code::NotMerging => Failure::of("merge", refusal),
                Code::ReadOnly => Failure::of("the server refuses", refusal)
                    .advise("it was started with --read-only"),
                _ => Failure::of("the server refuses", refusal),
            },
            error => Failure::about(socket, error),
        }
    }
}
