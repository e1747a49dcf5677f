use std::fs;
use std::path::Path;

use dmsnap::device::{Allocation, Caching, Device, File, Memory, Mode, share};

use crate::device::loops::{Mount, usable};
use crate::device::scratch::{Scratch, open, pattern, placed, run};

const LEN: usize = 1 << 20;

/// Ranges that no file system can share: their blocks are larger.
const UNALIGNED: [(u64, u64, u64); 4] =
    [(0, 512, 4096), (512, 0, 4096), (0, 0, 512), (4096, 8192, 2048)];

async fn pair(dir: &Path) -> (File, File, Vec<u8>) {
    let (from, to) = (dir.join("from"), dir.join("to"));
    fs::write(&from, pattern(1, LEN)).expect("written");
    let model = pattern(2, LEN);
    fs::write(&to, &model).expect("written");
    let from = open(&from, Mode::Read, Caching::Direct).await;
    (from, open(&to, Mode::Write, Caching::Direct).await, model)
}

async fn refused(from: &impl Device, to: &impl Device, (a, b, len): (u64, u64, u64)) -> bool {
    !share((from, a), (to, b), len).await.expect("not being able to is not an error")
}

#[test]
fn who_cannot_share_says_so_and_changes_nothing() {
    if !usable("sharing where it cannot be") {
        return;
    }
    let scratch = Scratch::new();
    let Some(mount) = Mount::ext4(scratch.dir()) else { return };
    run(async {
        let (from, to, model) = pair(&mount.path("")).await;
        assert!(from.kernel_file().is_some() && to.kernel_file().is_some());
        for range in UNALIGNED.into_iter().chain([(0, 0, 4096), (0, 8192, 65_536)]) {
            assert!(refused(&from, &to, range).await, "{range:?}");
        }
        assert!(fs::read(mount.path("to")).expect("readable") == model);
        // Of two file systems.
        let other = open(&scratch.file("other", &model), Mode::Read, Caching::Direct).await;
        assert!(refused(&other, &to, (0, 0, 4096)).await);
        // No file at all.
        let memory = Memory::from(pattern(3, LEN));
        assert!(memory.kernel_file().is_none());
        assert!(refused(&memory, &to, (0, 0, 4096)).await);
        assert!(refused(&to, &memory, (0, 0, 4096)).await);
        assert!(memory.content() == pattern(3, LEN));
        assert!(fs::read(mount.path("to")).expect("readable") == model);
    });
}

/// What is shared reads the same, and writing to either side afterwards changes only that side.
fn shares(mount: &Mount) {
    run(async {
        let (from, to, mut model) = pair(&mount.path("")).await;
        for range in UNALIGNED {
            assert!(refused(&from, &to, range).await, "{range:?}");
        }
        assert!(fs::read(mount.path("to")).expect("readable") == model);
        // Dirty in the page cache, and just written around it.
        drop(from);
        let from = open(&mount.path("from"), Mode::Write, Caching::Direct).await;
        let mut source = pattern(1, LEN);
        for (at, len) in [(4096, 8192), (20_001, 777)] {
            let data = pattern(at, len);
            let range = usize::try_from(at).expect("small")..;
            source[range][..len].copy_from_slice(&data);
            from.write(at, placed(&data, 0)).await.expect("written");
        }
        assert!(share((&from, 4096), (&to, 65_536), 131_072).await.expect("shared"));
        model[65_536..][..131_072].copy_from_slice(&source[4096..][..131_072]);
        to.flush().await.expect("durable");
        let read = to.read(0, LEN).await.expect("readable");
        assert!(read[..] == model, "read through the device");
        assert!(fs::read(mount.path("to")).expect("readable") == model);

        to.write(65_536, placed(&pattern(8, 4096), 0)).await.expect("written");
        model[65_536..][..4096].copy_from_slice(&pattern(8, 4096));
        from.write_zeroes(8192, 100_000, Allocation::MayPunch).await.expect("zeroed");
        source[8192..][..100_000].fill(0);
        assert!(fs::read(mount.path("to")).expect("readable") == model);
        assert!(fs::read(mount.path("from")).expect("readable") == source);
    });
}

#[test]
fn shared_extents_are_two_files_still() {
    if !usable("shared extents") {
        return;
    }
    let scratch = Scratch::new();
    let mounts = [Mount::btrfs(scratch.dir(), 256 << 20), Mount::xfs(scratch.dir(), 320 << 20)];
    mounts.iter().flatten().for_each(shares);
}
