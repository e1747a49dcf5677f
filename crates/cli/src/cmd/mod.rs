//! One file per subcommand: its arguments, whose help is their doc comment, and `run`.

mod create;
mod info;
mod check;
mod repair;
mod dump;
mod restore;
mod pack;
mod unpack;
mod wipe;
mod export;
mod ranges; // of bytes, as lines
mod diff;
mod compare;
mod merging; // what merges of devices and in volume groups have in common
mod undoable; // a merge with a way back, and the way back
mod merge;
mod undo;
mod table;
mod spec; // a snapshot as the command line names it
mod status; // how a server is, for people and for programs that know dmsetup
mod serve;
mod lvm;
mod ctl;
mod completions;
mod man;

use crate::exit::Outcome;
use crate::output::Output;
use crate::report::Failure;
use crate::runtime;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Create(create::Args),
    Info(info::Args),
    Check(check::Args),
    Repair(repair::Args),
    Dump(dump::Args),
    Restore(restore::Args),
    Pack(pack::Args),
    Unpack(unpack::Args),
    Wipe(wipe::Args),
    Export(export::Args),
    Diff(diff::Args),
    Compare(compare::Args),
    Merge(merge::Args),
    Undo(undo::Args),
    Table(table::Args),
    Serve(serve::Args),
    Lvm(lvm::Args),
    Ctl(ctl::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    /// `grammar` makes the whole command line's, for what is made of it.
    pub(crate) fn run(
        &self,
        grammar: fn() -> clap::Command,
        out: &mut Output,
    ) -> Result<Outcome, Failure> {
        match self {
            Self::Create(args) => runtime::run(args.run(out)),
            Self::Info(args) => runtime::run(args.run(out)),
            Self::Check(args) => runtime::run(args.run(out)),
            Self::Repair(args) => runtime::run(args.run(out)),
            Self::Dump(args) => runtime::run(args.run(out)),
            Self::Restore(args) => runtime::run(args.run(out)),
            Self::Pack(args) => runtime::run(args.run(out)),
            Self::Unpack(args) => runtime::run(args.run(out)),
            Self::Wipe(args) => runtime::run(args.run(out)),
            Self::Export(args) => runtime::run(args.run(out)),
            Self::Diff(args) => runtime::run(args.run(out)),
            Self::Compare(args) => runtime::run(args.run(out)),
            Self::Merge(args) => runtime::run(args.run(out)),
            Self::Undo(args) => runtime::run(args.run(out)),
            Self::Table(args) => runtime::run(args.run(out)),
            Self::Serve(args) => args.run(out),
            Self::Lvm(args) => runtime::run(args.run(out)),
            Self::Ctl(args) => runtime::run(args.run(out)),
            Self::Completions(args) => args.run(grammar(), out),
            Self::Man(args) => args.run(grammar()),
        }
    }
}
