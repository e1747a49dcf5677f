use std::fs;
use std::io;
use std::path::PathBuf;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::exit::{Outcome, STATUSES};
use crate::report::Failure;

/// Write the manual pages, one per command, to a directory
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where they go; it is made if it is missing, and pages that are there are replaced
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  For all users of this machine:
    dmsnap man /usr/local/share/man/man1
  To read one without installing it:
    dmsnap man /tmp && man /tmp/dmsnap-merge.1";

impl Args {
    pub(crate) fn run(&self, mut command: Command) -> Result<Outcome, Failure> {
        let failed =
            |error| Failure::about(&self.dir, format_args!("cannot make this directory: {error}"));
        fs::create_dir_all(&self.dir).map_err(failed)?;
        command.build();
        self.write(&command)?;
        Ok(Outcome::Yes)
    }

    /// The page of a command, and those of the commands below it.
    fn write(&self, command: &Command) -> Result<(), Failure> {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name());
        let path = self.dir.join(format!("{name}.1"));
        let written = page(command).and_then(|page| fs::write(&path, page));
        written.map_err(|error| Failure::about(&path, format_args!("cannot write: {error}")))?;
        command.get_subcommands().try_for_each(|command| self.write(command))
    }
}

fn page(command: &Command) -> io::Result<String> {
    let man = Man::new(command.clone())
        .source(format!("dmsnap {}", env!("CARGO_PKG_VERSION")))
        .manual("Device-mapper snapshots in user space");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let end = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    verbatim_sections(&end).to_writer(&mut page)?;
    if !end.contains(STATUSES) {
        verbatim_sections(STATUSES).to_writer(&mut page)?;
    }
    Ok(with_one_preamble(&String::from_utf8_lossy(&page)))
}

/// Every section brings the two lines that define the apostrophe; the first are enough.
fn with_one_preamble(page: &str) -> String {
    let preamble: Vec<&str> = page.lines().take(2).collect();
    let lines = page.lines().enumerate();
    let kept = lines.filter(|(i, line)| *i < preamble.len() || !preamble.contains(line));
    kept.flat_map(|(_, line)| [line.trim_end(), "\n"]).collect()
}

/// What stands at the end of `--help`, as sections whose lines stay as they are.
fn verbatim_sections(text: &str) -> Roff {
    let mut roff = Roff::new();
    let mut open = false;
    for line in text.lines() {
        match line.strip_suffix(':').filter(|title| !title.starts_with(' ')) {
            Some(title) => {
                if open {
                    roff.control("fi", []);
                }
                roff.control("SH", [title.to_uppercase().as_str()]);
                roff.control("nf", []);
                open = true;
            }
            None => {
                roff.text([roman(line)]);
            }
        }
    }
    if open {
        roff.control("fi", []);
    }
    roff
}
