use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::command;
use crate::kernel::pair::{Pair, live};

/// Begins a merge and sends it this signal as soon as no more than `target` exceptions are left.
/// Gives how many are left in the end: always some, and fewer than there were.
pub(crate) fn stop_merge(pair: &Pair, signal: Signal, target: u64) -> u64 {
    stop_merge_with(pair, &[], signal, target)
}

/// The same with more options.
pub(crate) fn stop_merge_with(pair: &Pair, more: &[&str], signal: Signal, target: u64) -> u64 {
    let before = pair.exceptions();
    // The whole merge would take two seconds.
    let rate = (before * pair.chunk_bytes / 2).to_string();
    // The window at work when the signal comes is still finished, and maybe the one after it.
    let window = (before.div_ceil(20) * pair.chunk_bytes).to_string();
    let (cow, origin) = (pair.cow.to_string_lossy(), pair.origin.to_string_lossy());
    let args = ["merge", &*cow, &*origin, "--no-share", "--rate", &rate, "--window", &window];
    let args = [&args, more].concat();
    let mut merge = command(&args).spawn().expect("the command starts");
    let begun = Instant::now();
    while live(&pair.cow, pair.chunk_bytes) > target {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}: no progress", pair.name);
        assert!(merge.try_wait().expect("it can be asked").is_none(), "{}: it ended", pair.name);
        sleep(Duration::from_millis(1));
    }
    // If it has ended meanwhile, the numbers below tell.
    let _ = kill_process(Pid::from_child(&merge), signal);
    merge.wait().expect("it ends");
    let left = pair.exceptions();
    assert!(0 < left && left < before, "{}: {before} exceptions, then {left}", pair.name);
    left
}
