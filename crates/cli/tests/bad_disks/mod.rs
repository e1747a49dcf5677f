//! The built server and the commands on disks that fail, fill up, go away or are slow, with clients
//! that nobody here wrote. Clients get the right error, the other devices go on, nothing that was
//! flushed is lost once the disk is well again, and every step ends in time.
//!
//! The disks are files behind nbdkit and nbdfuse, which inject the errors. Needs root and FUSE.

mod disk; // a disk that fails when it is told to
pub(crate) mod client; // requests, and what became of each
mod failing; // errors of reads, writes and flushes
mod full; // no room
mod hanging; // disks whose requests do not end
mod gone; // disks that vanish, shrink, or take their time
mod merging; // a merge in between
mod commands; // the offline commands

use std::io::Write;
use std::path::Path;

use crate::serving::Serving;

/// True, and said once a test, where this machine cannot run them.
fn skipped(test: &str) -> bool {
    let missing = |path| !Path::new(path).exists();
    let reason = match (rustix::process::geteuid().is_root(), missing("/dev/fuse")) {
        (false, _) => "not root",
        (_, true) => "no /dev/fuse",
        _ => return false,
    };
    // Past the test harness, which keeps what a passing test prints to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED bad_disks, {test}: {reason}");
    true
}

/// Ends a server that has lost a snapshot: it said so, in one line, in others if its COW device did not take
/// the mark and then did, and in a last one if a client was promised what can no longer be kept.
#[track_caller]
fn ended_without(serving: Serving, name: &str) {
    let (status, said) = serving.end();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with(&format!("dmsnap: {name}: dropped: ")), "{said}");
    let of_the_mark = |line: &str| {
        line.contains("does not take the mark") || line.contains("marked as dropped now")
    };
    let rest: Vec<_> = lines[1..].iter().filter(|line| !of_the_mark(line)).collect();
    match (status.code(), &rest[..]) {
        (Some(0), []) => {}
        (Some(3), [last]) => {
            assert!(last.starts_with("dmsnap: shutdown: not all durable"), "{said}");
        }
        _ => panic!("{status}: {said}"),
    }
}
