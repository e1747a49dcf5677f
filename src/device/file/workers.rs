use io_uring::IoUring;

/// Threads of the kernel that may wait for files at a time, for each thread of ours. Each is there only while
/// it waits, and not long after.
const MAX_WORKERS: u32 = 16_384;

thread_local! {
    static ALLOWED: () = allow();
}

/// Lets requests of this thread wait in as many threads of the kernel as there are requests.
///
/// A request of the ring that would have to sleep does so in a thread of the kernel. How many of those there
/// are goes by the first ring that a thread makes, and that may be a tiny one, made to see what the kernel can
/// do: then two requests of a device that hangs stop every other file.
pub(super) fn allow_many() {
    ALLOWED.with(|()| {});
}

fn allow() {
    // The bound belongs to the thread, not to the ring by which it is asked for. Where rings are forbidden
    // nobody waits in them.
    if let Ok(ring) = IoUring::new(1) {
        // The second is that of sockets, and bounded by the limit of processes alone: unchanged.
        let _ = ring.submitter().register_iowq_max_workers(&mut [MAX_WORKERS, 0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_as_many_as_it_may_wait_for() {
        let Ok(ring) = IoUring::new(1) else {
            eprintln!("SKIPPED: io_uring is forbidden here");
            return;
        };
        allow_many();
        // Zero changes nothing, and tells what it is. No more than the limit of processes.
        let mut found = [0, 0];
        ring.submitter().register_iowq_max_workers(&mut found).expect("Linux 5.15 or later");
        assert!(found[0] > 100, "{found:?}");
    }
}
