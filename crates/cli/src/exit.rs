use std::process::ExitCode;

/// How a command ended, and the exit status that says so. Scripts depend on these numbers.
///
/// [`USAGE`], for a command line that is wrong, is not one of them: the parser gives it as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Outcome {
    /// Did what was asked; the answer is yes, sound, or the same.
    Yes = 0,
    /// Did what was asked; the answer is no, damaged, or different.
    No = 1,
    /// Could not be done: the message on stderr says why.
    Failed = 3,
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

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome as u8)
    }
}
