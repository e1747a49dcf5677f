//! Makes stores for the comparison, and looks at what merges have left.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use dmsnap_compare::order::Order;
use dmsnap_compare::store::{Made, read_areas};

/// Make stores, and look at what merges have left
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    task: Task,
    /// In bytes
    #[arg(long, global = true, default_value_t = 4096)]
    chunk: u64,
    #[arg(long, global = true, default_value_t = 0)]
    exceptions: u64,
    /// In bytes
    #[arg(long, global = true, default_value_t = 0)]
    origin_bytes: u64,
    #[arg(long, global = true, value_enum, default_value = "random")]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// A new store with its data
    Full { cow: PathBuf },
    /// A new store whose data are holes
    Sparse { cow: PathBuf },
    /// All exceptions back in their slots
    Reset { cow: PathBuf },
    /// Destroy some of what a merge has brought to the origin
    Spoil { origin: PathBuf },
    /// Has a merge brought it?
    Verify { origin: PathBuf },
    /// Read all exceptions, and nothing else
    Read { cow: PathBuf },
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let made = Made {
        exceptions: args.exceptions,
        origin_bytes: args.origin_bytes,
        order: args.order,
        ..Made::new(args.chunk)?
    };
    match args.task {
        Task::Full { cow } => {
            made.create(&cow)?;
            made.build(&cow, true)
        }
        Task::Sparse { cow } => {
            made.create(&cow)?;
            made.build(&cow, false)
        }
        Task::Reset { cow } => made.build(&cow, false),
        Task::Spoil { origin } => made.spoil(&origin),
        Task::Verify { origin } => made.verify(&origin),
        Task::Read { cow } => {
            let (_, exceptions) = read_areas(&File::open(cow)?)?;
            println!("{} exceptions", exceptions.len());
            Ok(())
        }
    }
}
