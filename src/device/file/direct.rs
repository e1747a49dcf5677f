use std::fs;

use rustix::fs::StatxFlags;

/// What direct I/O demands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Direct {
    pub(super) memory: u64,
    pub(super) position: u64,
}

impl Direct {
    /// What the kernel says it needs; `None` where it says it cannot.
    pub(super) fn of(file: &fs::File, is_disk: bool) -> Option<Self> {
        if is_disk {
            let block = rustix::fs::ioctl_blksszget(file).ok()?.into();
            return Some(Self { memory: block, position: block });
        }
        let stat = rustix::fs::statx(
            file,
            c"",
            rustix::fs::AtFlags::EMPTY_PATH,
            StatxFlags::BASIC_STATS | StatxFlags::DIOALIGN,
        )
        .ok()?;
        let told = stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
        match (told, stat.stx_dio_mem_align, stat.stx_dio_offset_align) {
            // Kernels before 6.1 do not tell: a page is enough wherever it works at all.
            (false, ..) => Some(Self { memory: 4096, position: 4096 }),
            (true, _, 0) => None,
            (true, memory, position) => {
                Some(Self { memory: memory.max(1).into(), position: position.into() })
            }
        }
    }

    pub(super) fn allows(self, position: u64, lens: impl IntoIterator<Item = (u64, u64)>) -> bool {
        position.is_multiple_of(self.position)
            && lens.into_iter().all(|(address, len)| {
                address.is_multiple_of(self.memory) && len.is_multiple_of(self.position)
            })
    }
}
