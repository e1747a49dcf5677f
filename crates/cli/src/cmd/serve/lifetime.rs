use std::ffi::OsString;
use std::path::PathBuf;

use super::captive::PrivateSocket;
use crate::report::Failure;

/// When a server begins and ends for those who start it.
#[derive(Debug, clap::Args)]
pub(super) struct Lifetime {
    /// Go into the background, and return 0 once it listens
    ///
    /// Everything is opened then, and every address can be connected to. An earlier failure is reported as without
    /// --fork, with its exit status. The server has a session of its own and stays in this folder; its stdin and stdout
    /// are closed, and so is stderr if it is not a file. A service manager that listens itself needs no --fork.
    #[arg(long, conflicts_with = "run")]
    pub(super) fork: bool,

    /// Write the server's process number there once it listens
    ///
    /// The file appears whole, in the place of one that is there, and is removed when the server ends by itself. A server
    /// that is killed leaves it.
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,

    /// End when the last client has gone, as qemu-nbd does without --persistent
    ///
    /// The first one must have come, and have had an export. Clients of the control socket do not count.
    #[arg(long)]
    pub(super) exit_with_last_client: bool,

    /// Serve as long as this command runs
    ///
    /// CMD is run by `sh -c` once it listens, with the variables uri, unixsocket, port, nbd and tls as nbdkit sets
    /// them, and with exportname. Without --nbd it listens on a Unix socket that nobody else finds. Nothing is printed on stdout but
    /// by CMD. The exit status is CMD's (128 and the number of the signal that ended it), or, if that is 0, the server's
    /// own. A server that is ended before CMD does not end CMD.
    #[arg(long, value_name = "CMD")]
    pub(super) run: Option<OsString>,
}

impl Lifetime {
    /// Where it listens for its command, unless it was told where.
    pub(super) fn private_socket(
        &self,
        addresses: &[String],
    ) -> Result<Option<PrivateSocket>, Failure> {
        match self.run.is_some() && addresses.is_empty() {
            true => PrivateSocket::new().map(Some),
            false => Ok(None),
        }
    }
}
