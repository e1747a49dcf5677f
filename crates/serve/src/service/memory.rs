use std::fs;

/// The least memory that a server can do with, in bytes: one request of a client may have 32 MiB.
pub const MIN_MEMORY_BYTES: u64 = 128 << 20;

/// The most that it is by default.
const MAX_USUAL_BYTES: u64 = 1 << 30;

/// One request that fits into no share, in bytes.
const ALONE_BYTES: u64 = 33 << 20;

/// The memory of a server, and what each part of it may have; all in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// What clients ask for.
    pub(super) requests: u64,
    /// Copies that the volume makes by itself.
    pub(super) copying: u64,
    /// Data in one window of a merge.
    pub(super) window: u64,
    /// Origin writes that wait to be written together.
    pub(super) write_back: u64,
    /// Returned buffers that are kept for the next requests.
    pub(super) kept: u64,
}

impl Memory {
    /// Shares `total` out; `write_back` is what is wanted for that.
    pub(super) fn of(total: u64, write_back: u64) -> Self {
        const MOST: u64 = 64 << 20;
        let total = total.max(MIN_MEMORY_BYTES);
        let (copying, kept) = ((total / 8).min(MOST), (total / 8).min(MOST));
        // A window is read together with what lies between its chunks.
        let window = (total / 16).min(MOST);
        let write_back = write_back.min(total / 8);
        let others = copying + kept + 2 * window + write_back + ALONE_BYTES;
        Self { requests: total - others, copying, window, write_back, kept }
    }
}

/// What a server may have by default: a quarter of what the machine, or the control group, has, but
/// not more than 1 GiB.
pub(super) fn usual_bytes() -> u64 {
    let machine = rustix::system::sysinfo();
    let machine = machine.totalram.saturating_mul(machine.mem_unit.into());
    let there = machine.min(of_control_group().unwrap_or(u64::MAX));
    (there / 4).clamp(MIN_MEMORY_BYTES, MAX_USUAL_BYTES)
}

/// The limit of the control group that this process is in, if there is one.
fn of_control_group() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let named = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    // In a container the name may be one of outside, and its own group the root.
    let files = [
        format!("/sys/fs/cgroup{}/memory.max", named.trim_end_matches('/')),
        "/sys/fs/cgroup/memory.max".to_owned(),
        "/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned(),
    ];
    let limit = |file: String| fs::read_to_string(file).ok()?.trim().parse().ok();
    files.into_iter().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_never_more_than_the_whole() {
        for total in [MIN_MEMORY_BYTES, 200 << 20, 1 << 30, 1 << 34, u64::MAX] {
            for wanted in [0, 32 << 20, u64::MAX] {
                let Memory { requests, copying, window, write_back, kept } =
                    Memory::of(total, wanted);
                let parts = requests + copying + 2 * window + write_back + kept + ALONE_BYTES;
                assert_eq!(parts, total, "{total}, {wanted}");
                assert!(requests >= total / 8, "{requests} of {total}");
                assert!(write_back <= wanted);
            }
        }
        assert!((MIN_MEMORY_BYTES..=MAX_USUAL_BYTES).contains(&usual_bytes()));
    }
}
