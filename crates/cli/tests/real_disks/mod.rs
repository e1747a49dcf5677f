//! The built server on disks and file systems that are real: small ext4, xfs and btrfs on loop devices, full or
//! frozen. A device in trouble harms only requests that need it; nothing that was
//! flushed is lost, and a snapshot is dropped only where that is the rule, for good.
//!
//! Needs root and loop devices. `DMSNAP_REAL_DISKS=long` tries every way to open devices, many times.

mod disks; // file systems that fill up or freeze
mod full; // no room below a file, also for what it has already
mod stopped; // frozen file systems

/// The ways to open devices that are tried, and how often.
fn rounds() -> Vec<&'static str> {
    match std::env::var("DMSNAP_REAL_DISKS").is_ok_and(|it| it == "long") {
        true => ["buffered", "direct"].repeat(20),
        false => vec!["buffered"],
    }
}
