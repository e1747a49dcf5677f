use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

/// How a command ended, and the exit status that says so. Scripts depend on these numbers.
///
/// [`USAGE`], for a command line that is wrong, is not one of them: the parser gives it as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// 0: did what was asked; the answer is yes, sound, or the same.
    Yes,
    /// 1: did what was asked; the answer is no, damaged, or different.
    No,
    /// 3: could not be done: the message on stderr says why.
    Failed,
    /// Another program has said how it ended: the one that `serve --run` runs, or the server of `serve --fork`.
    Other(u8),
}

/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;

/// The same in words, for `--help` and the manual.
pub(crate) const STATUSES: &str = "\
Exit status:
  0  done; the answer is yes, sound, or the same
  1  done; the answer is no, damaged, or different
  2  usage error
  3  could not be done, or was stopped: stderr says why, in one line";

impl Outcome {
    /// What another program's end means here; one that a signal has ended has 128 and its number, as for a shell.
    pub(crate) fn of(status: ExitStatus) -> Self {
        let signal = || 128 + status.signal().unwrap_or(0);
        let code = status.code().unwrap_or_else(signal);
        Self::Other(u8::try_from(code).unwrap_or(u8::MAX))
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Yes => 0,
            Outcome::No => 1,
            Outcome::Failed => 3,
            Outcome::Other(status) => status,
        })
    }
}
