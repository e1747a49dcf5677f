//! Errors of the command line that are found after it was parsed.

use std::ffi::OsString;
use std::fmt::Display;

use clap::error::ErrorKind;
use clap::{ArgMatches, Command};

/// The message with the usage of the command that was given, however deep it is, as if the parser had found
/// it.
pub(crate) fn error(
    mut command: Command,
    args: impl IntoIterator<Item = OsString>,
    kind: ErrorKind,
    message: impl Display,
) -> clap::Error {
    command.build();
    let given = command.clone().try_get_matches_from(args).ok();
    match given {
        Some(given) => deepest(&mut command, &given).error(kind, message),
        None => command.error(kind, message),
    }
}

fn deepest<'a>(command: &'a mut Command, given: &ArgMatches) -> &'a mut Command {
    let mut at = command;
    let mut given = given;
    while let Some((name, below)) = given.subcommand() {
        if at.find_subcommand(name).is_none() {
            break;
        }
        // It was found a moment ago.
        let Some(next) = at.find_subcommand_mut(name) else { unreachable!("{name}") };
        (at, given) = (next, below);
    }
    at
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn grammar() -> Command {
        let merge = || Command::new("merge").arg(Arg::new("COW").required(true));
        let lvm = Command::new("lvm").subcommand(merge());
        Command::new("dmsnap").subcommands([merge(), lvm])
    }

    #[test]
    fn the_usage_is_that_of_the_command_that_was_given() {
        for (args, usage) in [
            (&["dmsnap", "merge", "x"][..], "Usage: dmsnap merge <COW>"),
            (&["dmsnap", "lvm", "merge", "x"], "Usage: dmsnap lvm merge <COW>"),
        ] {
            let args = args.iter().map(OsString::from);
            let said = error(grammar(), args, ErrorKind::TooFewValues, "more");
            let said = said.render().to_string();
            assert!(said.contains(usage) && said.contains("more"), "{said}");
        }
    }
}
