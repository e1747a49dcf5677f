use clap::Command;
use clap_complete::Shell;

use crate::exit::Outcome;
use crate::output::Output;
use crate::report::Failure;

/// Print a script that lets a shell complete dmsnap's commands and options
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

const EXAMPLES: &str = "\
Examples:
  For bash, in this shell:
    source <(dmsnap completions bash)
  For fish, from now on:
    dmsnap completions fish > ~/.config/fish/completions/dmsnap.fish";

impl Args {
    pub(crate) fn run(&self, mut command: Command, out: &mut Output) -> Result<Outcome, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "dmsnap", &mut script);
        out.text(&script)?;
        Ok(Outcome::Yes)
    }
}
