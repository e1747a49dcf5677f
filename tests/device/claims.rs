use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use dmsnap::device::{Caching, Device, File, Mode, OpenError, User};

use crate::device::neighbour::Neighbour;
use crate::device::scratch::{Scratch, open, run};

const MIB: u64 = 1 << 20;

async fn is_in_use(path: &std::path::Path, mode: Mode) -> bool {
    match File::open(path, mode, Caching::Buffered).await {
        Ok(_) => false,
        Err(OpenError::InUse(_)) => true,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

fn sevens() -> Bytes {
    Bytes::from_static(&[7; 512])
}

#[test]
fn a_shared_file_is_written_by_the_only_one_that_has_it() {
    for caching in [Caching::Buffered, Caching::Direct] {
        let scratch = Scratch::new();
        let image = scratch.hole("image", MIB);
        run(async {
            let [first, second] = [
                open(&image, Mode::Share, caching).await,
                open(&image, Mode::Share, caching).await,
            ];
            let reader = open(&image, Mode::Read, caching).await;
            assert!(is_in_use(&image, Mode::Write).await);
            assert!(!first.is_read_only() && reader.is_read_only());
            for attempt in 0..3 {
                let refused = first.write(0, sevens()).await.expect_err("others have it");
                assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{attempt}: {refused}");
                assert!(refused.to_string().contains("as long as others"), "{refused}");
            }
            let refused = reader.write(0, sevens()).await.expect_err("it is for reading");
            assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
            assert!(fs::read(&image).expect("readable").iter().all(|byte| *byte == 0));
            drop(reader);
            first.claim().await.expect_err("one is left");
            drop(second);
            first.write(512, sevens()).await.expect("nobody else has it");
            first.write_zeroes(1024, 512, dmsnap::device::Allocation::Keep).await.expect("zeroed");
            first.write_vectored(2048, vec![sevens(), sevens()]).await.expect("written");
            first.flush().await.expect("flushed");
            assert_eq!(first.read(512, 512).await.expect("read")[..], [7; 512]);
            assert_eq!(fs::read(&image).expect("readable")[2048..3072], [7; 1024]);
            for mode in [Mode::Read, Mode::Share, Mode::Write] {
                assert!(is_in_use(&image, mode).await, "{mode:?} next to a writer");
            }
            drop(first);
            open(&image, Mode::Write, caching).await;
        });
    }
}

#[test]
fn of_many_who_want_to_write_at_once_none_loses_its_lock() {
    let scratch = Scratch::new();
    let image = scratch.hole("image", MIB);
    run(async {
        let [a, b] = [
            open(&image, Mode::Share, Caching::Buffered).await,
            open(&image, Mode::Share, Caching::Buffered).await,
        ];
        let both = futures_util::join!(a.claim(), b.claim());
        assert!(both.0.is_err() && both.1.is_err(), "{both:?}");
        for one in [a, b] {
            assert!(is_in_use(&image, Mode::Write).await);
            drop(one);
        }
        let a = open(&image, Mode::Share, Caching::Buffered).await;
        let writes = (0..4).map(|n| a.write(n * 512, sevens()));
        for written in futures_util::future::join_all(writes).await {
            written.expect("written");
        }
    });
}

/// What takes `flock` alone, as tools of the system do.
#[test]
fn a_stranger_with_a_lock_refuses_a_write_and_the_share_is_held_all_the_same() {
    let scratch = Scratch::new();
    let image = scratch.hole("image", MIB);
    let theirs = fs::File::open(&image).expect("readable");
    run(async {
        let ours = open(&image, Mode::Share, Caching::Buffered).await;
        theirs.lock_shared().expect("shared");
        ours.claim().await.expect_err("the stranger has it");
        theirs.unlock().expect("unlocked");
        theirs.try_lock().expect_err("ours is shared again");
        ours.claim().await.expect("nobody else has it");
        theirs.try_lock_shared().expect_err("ours is exclusive");
    });
}

#[test]
fn qemu_shares_what_it_only_reads_as_well() {
    let scratch = Scratch::new();
    let image = scratch.hole("image", MIB);
    let socket = scratch.path("qemu.sock");
    run(async {
        let theirs = Neighbour::qemu_nbd(&socket, &image, &["--read-only"]);
        let ours = open(&image, Mode::Share, Caching::Buffered).await;
        ours.claim().await.expect_err("QEMU reads it");
        drop(theirs);
        ours.claim().await.expect("QEMU has gone");
        drop(ours);
        let _theirs = Neighbour::qemu_nbd(&socket, &image, &[]);
        let found = File::open(&image, Mode::Share, Caching::Buffered).await;
        let is_in_use = matches!(found, Err(OpenError::InUse(User::Qemu | User::Writer)));
        assert!(is_in_use, "next to QEMU's writer: {found:?}");
    });
}

#[test]
fn what_nobody_may_write_is_open_for_reading_alone() {
    let scratch = Scratch::new();
    let image = scratch.hole("image", MIB);
    fs::set_permissions(&image, fs::Permissions::from_mode(0o444)).expect("set");
    run(async {
        let ours = open(&image, Mode::Share, Caching::Direct).await;
        assert!(ours.is_read_only());
        let refused = ours.claim().await.expect_err("nobody may");
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(refused.to_string(), "open for reading alone: its mode is 0444");
        open(&image, Mode::Share, Caching::Direct).await;
    });
}

#[test]
fn a_writer_without_a_lock_keeps_out_who_would_share_and_write() {
    let scratch = Scratch::new();
    let image = scratch.hole("image", MIB);
    run(async {
        let ours = open(&image, Mode::Share, Caching::Buffered).await;
        let theirs = fs::File::options().append(true).open(&image).expect("writable");
        ours.claim().await.expect_err("somebody writes");
        assert!(is_in_use(&image, Mode::Share).await);
        drop(theirs);
        ours.claim().await.expect("nobody writes");
    });
}
