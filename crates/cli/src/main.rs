//! The command `dmsnap`: device-mapper snapshot stores without a kernel.
//!
//! Words, progress and exit statuses live here; what is done to a store is `dmsnap::ops`.

#![forbid(unsafe_code)]

mod table; // what `dmsetup table` prints
mod device_arg; // a path, or an LVM volume
mod size; // `4k` -> bytes -> `4 KiB`
mod usage; // a command line that is wrong
mod exit; // how a command ended
mod messages; // lines that wait for nobody
mod report; // one line on stderr
mod stream; // OUTPUT that is not a file
mod output; // stdout, which may go away
mod columns; // tables for people
mod runtime; // io_uring
mod formats; // what was given instead of it
mod refusals; // what is refused of images, in words
mod files; // files, opened or made
mod rereadable; // input that is read twice
mod devices; // what the command line names, opened
mod progress; // how far, how fast, how long
mod signals; // stop, and tell
mod descriptors; // open files
mod cmd; // one file per subcommand

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cmd::Command;
use crate::exit::Outcome;
use crate::output::Output;
use crate::report::Failure;

/// Create, inspect, check, export and merge device-mapper snapshot stores
///
/// A store is what the Linux kernel's snapshot target (and so LVM) keeps on the COW device: a
/// header, areas of exceptions, and the copied chunks. dmsnap reads and writes it in user space,
/// on regular files and block devices alike, and no kernel module or device-mapper is needed. What
/// the kernel wrote dmsnap opens, and the other way round.
///
/// Sizes are bytes, or a number and one of k, M, G, T (powers of 1024, upper or lower case) or s
/// (sectors of 512 bytes): 4096, 4k, 16M, 8s.
#[derive(Debug, Parser)]
#[command(name = "dmsnap", version, propagate_version = true, after_long_help = exit::STATUSES)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    // Before anything else. Where the system refuses it, all else works the same.
    let _ = signals::outlive_questions();
    let _ = signals::outlive_size_limits();
    let cli = Cli::parse();
    let mut out = Output::stdout();
    let done = cli.command.run(Cli::command, &mut out);
    let done = done.and_then(|outcome| out.flush().map(|()| outcome));
    let status = done.map_or_else(|failure| refused(&failure, &mut out), ExitCode::from);
    report::finish();
    status
}

fn refused(failure: &Failure, out: &mut Output) -> ExitCode {
    // What was found before the failure is still worth having, and comes first.
    let _ = out.flush();
    let Some(kind) = failure.wrong_usage() else {
        report::tell(failure);
        return Outcome::Failed.into();
    };
    let error = usage::error(Cli::command(), std::env::args_os(), kind, failure);
    // If stderr is gone, nobody can be told.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE))
}
