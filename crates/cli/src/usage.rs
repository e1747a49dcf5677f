//! Errors of the command line that are found after it was parsed.

use std::ffi::OsString;
use std::fmt::Display;

use clap::error::ErrorKind;
use clap::{ArgMatches, Command, CommandFactory};

/// Ends with the message and the usage of the command that was given, however deep it is, as if the parser
/// had found it.
pub(crate) fn refuse(kind: ErrorKind, message: impl Display) -> ! {
    error(std::env::args_os(), kind, message).exit()
}

fn error(
    args: impl IntoIterator<Item = OsString>,
    kind: ErrorKind,
    message: impl Display,
) -> clap::Error {
    let mut command = crate::Cli::command();
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
    use super::*;

    #[test]
    fn the_usage_is_that_of_the_command_that_was_given() {
        for (args, usage) in [
            (&["dmsnap", "merge", "x"][..], "Usage: dmsnap merge [OPTIONS] <COW> <ORIGIN>"),
            (&["dmsnap", "lvm", "merge", "x"], "Usage: dmsnap lvm merge [OPTIONS] <IMAGE>..."),
            (
                &["dmsnap", "export", "x", "y"],
                "Usage: dmsnap export [OPTIONS] <COW> <ORIGIN> <OUTPUT>",
            ),
        ] {
            let args = args.iter().map(OsString::from);
            let said = error(args, ErrorKind::TooFewValues, "more").render().to_string();
            assert!(said.contains(usage), "{said}");
        }
    }
}
