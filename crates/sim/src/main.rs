//! Runs the simulation: small worlds exhaustively, large ones from seeds.

mod runner; // many machines, on every core
#[cfg(feature = "planted")]
mod planted; // laws broken on purpose

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use dmsnap_sim::hunt::catch_panics;

/// Proves that no crash and no fault loses a byte.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every cut of every small world, and of every sequence of operations.
    Exhaustive {
        /// The longest sequences tried.
        #[arg(long, default_value_t = 2)]
        operations: u32,
    },
    /// Every request of every small world goes wrong once.
    Faults {
        /// Of each way to go wrong, one request in this many; each way begins with another one.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        every: u64,
    },
    /// Large worlds, from seeds.
    Random {
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// How long, in seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// As `random`, for long, with seeds that begin where the clock says.
    Soak {
        /// How long.
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        /// The first seed; by default another one each time.
        #[arg(long)]
        from: Option<u64>,
    },
    /// Runs one machine again, and makes its failure as small as it can be.
    Replay {
        /// The seed of a large world.
        #[arg(long, conflicts_with = "world", required_unless_present = "world")]
        seed: Option<u64>,
        /// The name of a small one.
        #[arg(long)]
        world: Option<String>,
        /// A fault planted in the code.
        #[cfg(feature = "planted")]
        #[arg(long)]
        planted: Option<String>,
    },
    /// Breaks each law in turn and says what catches it.
    #[cfg(feature = "planted")]
    Planted {
        /// Only this one.
        #[arg(long)]
        only: Option<String>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    catch_panics();
    let passed = match args.command {
        Command::Exhaustive { operations } => runner::exhaustive(operations),
        Command::Faults { every } => runner::faults(every),
        Command::Random { from, seconds } => runner::random(from, Duration::from_secs(seconds)),
        Command::Soak { minutes, from } => {
            runner::random(from.unwrap_or_else(clock), Duration::from_secs(60 * minutes))
        }
        #[cfg(not(feature = "planted"))]
        Command::Replay { seed, world } => runner::replay(seed, world.as_deref()),
        #[cfg(feature = "planted")]
        Command::Replay { seed, world, planted } => {
            planted::plant(planted.as_deref()) && runner::replay(seed, world.as_deref())
        }
        #[cfg(feature = "planted")]
        Command::Planted { only } => planted::every_law(only.as_deref()),
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A seed that nobody has tried.
fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_secs()) << 24
}
