//! Merges a snapshot into its origin, and tells how far it is.
//!
//! ```text
//! cargo run --example merge_with_progress COW ORIGIN
//! ```

use std::cell::Cell;
use std::error::Error;
use std::path::Path;

use dmsnap::compio::runtime::Runtime;
use dmsnap::device::{Caching, File, Mode};
use dmsnap::ops::{self, MergeOptions, Merged, Observer, Progress};

fn main() -> Result<(), Box<dyn Error>> {
    match &std::env::args_os().collect::<Vec<_>>()[..] {
        [_, cow, origin] => {
            let tell = |percent| eprintln!("{percent} %");
            let merged = merge_with_progress(cow.as_ref(), origin.as_ref(), tell)?;
            println!("{} exceptions merged", merged.exceptions);
            Ok(())
        }
        _ => Err("usage: merge_with_progress COW ORIGIN".into()),
    }
}

/// Calls `tell` with each new percentage. A merge that is cut off, by whatever, goes on with the next call.
pub(crate) fn merge_with_progress(
    cow: &Path,
    origin: &Path,
    tell: impl Fn(u64),
) -> Result<Merged, Box<dyn Error>> {
    // Files are opened, used and closed inside one runtime.
    Runtime::new()?.block_on(async {
        let cow = File::open(cow, Mode::Write, Caching::Direct).await?;
        let origin = File::open(origin, Mode::Write, Caching::Direct).await?;
        let percent = Percent { tell, told: Cell::new(0) };
        Ok(ops::merge(cow, origin, MergeOptions::default(), &percent).await?)
    })
}

/// The caller's side of a long task. It could also set the pace, or ask the task to stop.
struct Percent<T> {
    tell: T,
    told: Cell<u64>,
}

impl<T: Fn(u64)> Observer for Percent<T> {
    fn progress(&self, progress: Progress) {
        let percent = progress.done * 100 / progress.total.max(1);
        if self.told.replace(percent) != percent {
            (self.tell)(percent);
        }
    }
}
