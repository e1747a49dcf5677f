use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use dmsnap::device::{Allocation, Caching, Device, File, Identity, Mode, OpenError, is_same};

use crate::device::loops::{Loop, Mount, usable};
use crate::device::scratch::{Scratch, open, pattern, placed, run};

const LEN: usize = 8 << 20;

/// Loop devices over `file`, one after the other: of 512-byte sectors and of 4096-byte sectors.
const KINDS: [fn(&Path) -> Loop; 2] = [Loop::over, Loop::with_large_sectors];

async fn refusal(path: &Path, mode: Mode) -> OpenError {
    match File::open(path, mode, Caching::Direct).await {
        Ok(_) => panic!("{}: opened for {mode:?}", path.display()),
        Err(error) => error,
    }
}

#[test]
fn a_disk_takes_requests_of_every_alignment() {
    if !usable("requests to disks") {
        return;
    }
    let scratch = Scratch::new();
    for kind in KINDS {
        for caching in [Caching::Direct, Caching::Buffered] {
            let mut model = pattern(1, LEN);
            let image = scratch.file("image", &model);
            let disk = kind(&image);
            run(async {
                let file = open(disk.path(), Mode::Write, caching).await;
                assert_eq!(file.is_direct(), caching == Caching::Direct);
                assert_eq!(file.len_bytes().expect("asked"), LEN as u64);
                assert!(file.kernel_file().is_none(), "a disk has no extents to share");
                assert_eq!(file.next_data(5).await.expect("asked"), Some(5..LEN as u64));
                let block = file.block_bytes();
                assert!(block.is_power_of_two() && (512..=4096).contains(&block), "{block}");
                let mut seed = 2;
                for at in [0, 4096, 512, 70_001, 1_048_575] {
                    for (len, place) in [(4096, 0), (65_536, 0), (512, 512), (1, 3), (9999, 1)] {
                        let data = pattern(seed, len);
                        seed += 1;
                        let range = usize::try_from(at).expect("small")..;
                        model[range][..len].copy_from_slice(&data);
                        file.write(at, placed(&data, place)).await.expect("written");
                        let read = file.read(at, len).await.expect("readable");
                        assert!(read[..] == data, "{caching:?}: {len} bytes at {at}");
                    }
                }
                assert!(file.read(0, LEN).await.expect("readable")[..] == model);
                let beyond = file.read(LEN as u64 - 512, 1024).await;
                assert_eq!(beyond.err().map(|it| it.kind()), Some(ErrorKind::UnexpectedEof));
                let beyond = file.write(LEN as u64 - 512, placed(&[1; 1024], 0)).await;
                assert!(beyond.is_err(), "a disk does not grow by writing");
                assert!(file.set_len(4096).await.is_err(), "nor shrink");
                model[LEN - 512..]
                    .copy_from_slice(&file.read(LEN as u64 - 512, 512).await.expect("readable"));
                file.flush().await.expect("durable");
            });
            drop(disk);
            assert!(fs::read(&image).expect("readable") == model, "{caching:?}: below the disk");
        }
    }
}

#[test]
fn a_disk_is_zeroed_and_discarded_within_bounds() {
    if !usable("zeroes on disks") {
        return;
    }
    let scratch = Scratch::new();
    for kind in KINDS {
        for allocation in [Allocation::MayPunch, Allocation::Keep] {
            let mut model = pattern(1, LEN);
            let image = scratch.file("image", &model);
            fs::File::open(&image).and_then(|file| file.sync_all()).expect("durable");
            let allocated = || fs::metadata(&image).expect("there").blocks() * 512;
            let before = allocated();
            let disk = kind(&image);
            run(async {
                let file = open(disk.path(), Mode::Write, Caching::Direct).await;
                for (at, len) in
                    [(4096, 4096), (1 << 20, 4 << 20), (512, 512), (7001, 5), (20_001, 99_999)]
                {
                    file.write_zeroes(at, len, allocation).await.expect("zeroed");
                    let [at, len] = [at, len].map(|n| usize::try_from(n).expect("small"));
                    model[at..at + len].fill(0);
                    assert!(
                        file.read(0, LEN).await.expect("readable")[..] == model,
                        "{len} at {at}"
                    );
                }
                let beyond = file.write_zeroes(LEN as u64 - 4096, 8192, allocation).await;
                assert_eq!(beyond.err().map(|it| it.kind()), Some(ErrorKind::UnexpectedEof));
                file.flush().await.expect("durable");
                if allocation == Allocation::MayPunch {
                    assert!(allocated() <= before - (4 << 20), "the file below has its hole");
                } else {
                    assert_eq!(allocated(), before, "the file below keeps its blocks");
                }
                let (from, to) = (6 << 20, 7 << 20);
                file.discard(from, to - from).await.expect("loop devices discard");
                let [from, to] = [from, to].map(|n| usize::try_from(n).expect("small"));
                let found = file.read(0, LEN).await.expect("readable");
                assert!(found[..from] == model[..from] && found[to..] == model[to..]);
            });
        }
    }
}

#[test]
fn a_disk_that_grows_is_noticed() {
    if !usable("a growing disk") {
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.hole("image", 1 << 20);
    let disk = Loop::over(&image);
    run(async {
        let file = open(disk.path(), Mode::Write, Caching::Direct).await;
        assert_eq!(file.len_bytes().expect("asked"), 1 << 20);
        fs::File::options()
            .write(true)
            .open(&image)
            .and_then(|it| it.set_len(3 << 20))
            .expect("grown");
        crate::device::loops::tool(
            std::process::Command::new("losetup").arg("-c").arg(disk.path()),
        );
        assert_eq!(file.len_bytes().expect("asked"), 3 << 20);
        file.write((3 << 20) - 4096, placed(&[9; 4096], 0)).await.expect("the new part is there");
    });
}

#[test]
fn a_disk_has_one_writer() {
    if !usable("the locks of disks") {
        return;
    }
    let scratch = Scratch::new();
    let disk = Loop::over(&scratch.hole("image", 1 << 20));
    run(async {
        let writer = open(disk.path(), Mode::Write, Caching::Direct).await;
        for mode in [Mode::Write, Mode::Read] {
            let error = refusal(disk.path(), mode).await;
            assert!(matches!(error, OpenError::InUse(_)), "{mode:?}: {error}");
        }
        open(disk.path(), Mode::Look, Caching::Direct).await;
        drop(writer);
        let reader = open(disk.path(), Mode::Read, Caching::Direct).await;
        open(disk.path(), Mode::Read, Caching::Direct).await;
        assert!(matches!(refusal(disk.path(), Mode::Write).await, OpenError::InUse(_)));
        drop(reader);
        open(disk.path(), Mode::Write, Caching::Direct).await;
    });
}

/// As udev does after every writer: two commands in a row must not stumble over it.
#[test]
fn whoever_looks_at_a_disk_for_a_moment_is_waited_for() {
    if !usable("a disk that is looked at") {
        return;
    }
    let scratch = Scratch::new();
    let disk = Loop::over(&scratch.hole("image", 1 << 20));
    let theirs = fs::File::open(disk.path()).expect("readable");
    theirs.try_lock_shared().expect("free");
    let moment = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        theirs.unlock()
    });
    run(async { open(disk.path(), Mode::Write, Caching::Direct).await });
    moment.join().expect("no panic").expect("unlocked");
}

#[test]
fn a_mounted_disk_is_not_written_to() {
    if !usable("mounted disks") {
        return;
    }
    let scratch = Scratch::new();
    let Some(mount) = Mount::ext4(scratch.dir()) else { return };
    run(async {
        let error = refusal(mount.device(), Mode::Write).await;
        assert!(matches!(error, OpenError::InUse(_)), "{error}");
        open(mount.device(), Mode::Look, Caching::Direct).await;
    });
}

#[test]
fn a_read_only_disk_says_that_it_is_one() {
    if !usable("read-only disks") {
        return;
    }
    let scratch = Scratch::new();
    let disk = Loop::read_only(&scratch.file("image", &pattern(1, 1 << 20)));
    run(async {
        let error = refusal(disk.path(), Mode::Write).await;
        assert!(matches!(error, OpenError::ReadOnly(_)), "{error}");
        let file = open(disk.path(), Mode::Read, Caching::Direct).await;
        assert!(file.read(0, 1 << 20).await.expect("readable")[..] == pattern(1, 1 << 20));
    });
}

#[test]
fn a_loop_device_is_the_file_behind_it() {
    if !usable("what is behind a loop device") {
        return;
    }
    let scratch = Scratch::new();
    let (image, other) = (scratch.hole("image", 1 << 20), scratch.hole("other", 1 << 20));
    let (disk, second) = (Loop::over(&image), Loop::over(&other));
    assert!(is_same(disk.path(), &image).expect("asked"));
    assert!(!is_same(disk.path(), &other).expect("asked"));
    assert!(!is_same(disk.path(), second.path()).expect("asked"));
    let node = scratch.path("node");
    std::os::unix::fs::symlink(disk.path(), &node).expect("linked");
    assert!(is_same(&node, &image).expect("asked"));
    run(async {
        let file = open(disk.path(), Mode::Read, Caching::Direct).await;
        assert_eq!(file.identity().expect("asked"), Identity::of(&image).expect("asked"));
    });
}

/// A loop device writes through the file behind it: it cannot do better than the disk below that.
#[test]
fn a_loop_device_is_torn_where_the_disk_below_its_file_is() {
    if !usable("disks upon disks") {
        return;
    }
    let scratch = Scratch::new();
    let Some(mount) = Mount::ext4(scratch.dir()) else { return };
    let image = mount.path("image");
    fs::write(&image, [0; 1 << 20]).expect("there is room");
    run(async {
        let below = open(mount.device(), Mode::Look, Caching::Direct).await.block_bytes();
        assert_eq!(below, 512, "a loop device of 512-byte sectors");
        assert_eq!(open(&image, Mode::Look, Caching::Direct).await.block_bytes(), below);
        let disk = Loop::with_large_sectors(&image);
        assert_eq!(open(disk.path(), Mode::Look, Caching::Direct).await.block_bytes(), below);
    });
}

/// Device-mapper, a volume manager above a partition, or the whole disk below one write past the cache of
/// a disk, which stays as long as anybody has the disk open. Here that is a disk below another one.
#[test]
fn what_went_past_the_cache_of_a_disk_is_seen() {
    if !usable("disks that were written past their cache") {
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.file("image", &pattern(1, LEN));
    let below = Loop::over(&image);
    let above = Loop::over(below.path());
    // Somebody has it open, and has looked at it.
    let mut monitor = fs::File::open(above.path()).expect("opens");
    std::io::copy(&mut monitor, &mut std::io::sink()).expect("readable");
    for (n, mode) in (2..).zip([Mode::Look, Mode::Read, Mode::Write]) {
        for caching in [Caching::Direct, Caching::Buffered] {
            let now = pattern(10 * n + u64::from(caching == Caching::Direct), LEN);
            run(async {
                // As a kernel's own devices do: `File` would not write below a loop device.
                let mut whole = fs::File::options().write(true).open(below.path()).expect("opens");
                whole.write_all(&now).and_then(|()| whole.sync_all()).expect("written");
                drop(whole);
                let file = open(above.path(), mode, caching).await;
                for (at, len) in [(0, 512), (0, LEN), (4096, 65_536), (70_001, 300)] {
                    let read = file.read(at, len).await.expect("readable");
                    let at = usize::try_from(at).expect("small");
                    assert!(read[..] == now[at..at + len], "{mode:?}, {caching:?}: {at}");
                }
            });
        }
    }
}
