//! `--fork`: a server that goes on when the command has returned.
//!
//! The command starts itself again, as a child with the same arguments, instead of forking: what would be copied of a
//! process that has threads or a ring is not usable. The child's stdout is a pipe on which the command waits.
//!
//! # Ordering
//!
//! 1. the child opens everything, listens, and writes where to its stdout
//! 2. it has a session of its own, ends what it has written with [`READY`], and closes the pipe
//! 3. the command prints what it has read, and returns 0
//!
//! If the child ends before 2, the command returns with its exit status; what was wrong the child has said on the stderr
//! of both. If the command is ended before 2, so is the child: by the same signal of the terminal, or because nobody
//! reads the pipe any more.

use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command, Stdio};

use rustix::fs::{FileType, fstat};
use rustix::process::{Pid, getppid, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdout};

use crate::exit::Outcome;
use crate::output::Output;
use crate::report::Failure;

/// Holds the process number of the command in its child. In a process whose parent is another one it means nothing.
const PARENT: &str = "DMSNAP_FORK_PARENT";

/// What ends the child's words; no line holds it.
const READY: u8 = 0;

/// Is this process the child?
pub(super) fn is_child() -> bool {
    let parent = env::var(PARENT).ok().and_then(|it| it.parse().ok());
    parent.is_some_and(|it: i32| getppid().map(Pid::as_raw_pid) == Some(it))
}

/// Starts the child, and returns when it is ready, or has ended.
pub(super) fn start(out: &mut Output) -> Result<Outcome, Failure> {
    let failed = |error: io::Error| Failure::of("--fork", format_args!("cannot start: {error}"));
    let mut given = env::args_os();
    let name = given.next().unwrap_or_default();
    // Whatever lies at that path by now, if /proc is there.
    let own = Path::new("/proc/self/exe");
    let mut child = Command::new(if own.exists() { own.as_os_str() } else { &*name });
    child.arg0(&name).args(given).env(PARENT, process::id().to_string());
    child.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = child.spawn().map_err(failed)?;
    let mut said = Vec::new();
    if let Some(words) = &mut child.stdout {
        words.read_to_end(&mut said).map_err(failed)?;
    }
    if said.pop_if(|last| *last == READY).is_some() {
        out.text(&said)?;
        return Ok(Outcome::Yes);
    }
    out.text(&said)?;
    match Outcome::of(child.wait().map_err(failed)?) {
        Outcome::Other(0) => Err(Failure::of("--fork", "the server has ended before it was ready")),
        ended => Ok(ended),
    }
}

/// The child is ready: what it has written is complete, and it has nothing to do with its parent any more.
pub(super) fn leave(out: &mut Output) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::of("--fork", format_args!("cannot go on alone: {error}"));
    out.flush()?;
    setsid().map_err(|error| failed(error.into()))?;
    let nothing = File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
    io::stdout().write_all(&[READY]).and_then(|()| io::stdout().flush()).map_err(failed)?;
    dup2_stdout(&nothing).map_err(|error| failed(error.into()))?;
    // A program that waits for the end of a pipe, or a user who leaves a terminal, need not wait for the server.
    let is_log =
        fstat(io::stderr().as_fd()).is_ok_and(|it| FileType::from_raw_mode(it.st_mode).is_file());
    match is_log {
        true => Ok(()),
        false => dup2_stderr(&nothing).map_err(|error| failed(error.into())),
    }
}
