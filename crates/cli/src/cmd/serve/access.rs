use std::path::Path;

use dmsnap_serve::nbd::SocketAccess;
use nix::unistd::Group;

use crate::report::Failure;

/// Who can connect to the Unix sockets of --nbd.
#[derive(Debug, clap::Args)]
pub(super) struct Access {
    /// Mode of the Unix sockets of --nbd, in octal
    ///
    /// Who may write to such a socket can connect: 660 lets the group in as well, 666 everybody. The socket of --control
    /// stays with its owner.
    #[arg(long, value_name = "MODE", value_parser = mode, requires = "nbd")]
    socket_mode: Option<u32>,

    /// Group of the Unix sockets of --nbd: a name or a number
    ///
    /// Without --socket-mode they have mode 660.
    #[arg(long, value_name = "GROUP", requires = "nbd")]
    socket_group: Option<String>,
}

impl Access {
    /// Refused if there is no socket that it could be about.
    pub(super) fn of_sockets(&self, addresses: &[String]) -> Result<SocketAccess, Failure> {
        let (option, usual) = match (self.socket_mode, &self.socket_group) {
            (None, None) => return Ok(SocketAccess::OWNER),
            (Some(_), _) => ("--socket-mode", 0o600),
            (None, Some(_)) => ("--socket-group", 0o660),
        };
        if !addresses.iter().any(|it| it.starts_with("unix:")) {
            return Err(Failure::of(option, "is about Unix sockets, and --nbd names none"));
        }
        let group = self.socket_group.as_deref().map(group).transpose()?;
        Ok(SocketAccess::new(self.socket_mode.unwrap_or(usual), group))
    }
}

fn mode(text: &str) -> Result<u32, String> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits(text) && *mode <= 0o777);
    mode.ok_or_else(|| "it is a mode in octal, from 0 to 777".into())
}

/// The number of a group.
fn group(name: &str) -> Result<u32, Failure> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let failure = |found: String| Failure::about(Path::new("--socket-group"), found);
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(failure(format!("no group is named {name}"))),
        Err(error) => Err(failure(format!("cannot look for the group {name}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode("660"), Ok(0o660));
        assert_eq!(mode("0666"), Ok(0o666));
        for wrong in ["", "+660", "888", "1777", "rw", "0o660"] {
            assert!(mode(wrong).is_err(), "{wrong}");
        }
    }
}
