use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use dmsnap::device::{Access, Caching, Device, File, Identity, Mode, OpenError, is_same};

use crate::device::scratch::{Scratch, open, placed, run};

const MODES: [Mode; 3] = [Mode::Look, Mode::Read, Mode::Write];

async fn refusal(path: &Path, mode: Mode) -> OpenError {
    match File::open(path, mode, Caching::Direct).await {
        Ok(_) => panic!("{}: opened for {mode:?}", path.display()),
        Err(error) => error,
    }
}

#[test]
fn without_a_runtime_a_file_is_refused_and_nothing_panics() {
    let scratch = Scratch::new();
    let (there, new) = (scratch.file("image", &[0; 4096]), scratch.path("new"));
    futures_executor::block_on(async {
        let refused = refusal(&there, Mode::Read).await;
        assert!(refused.to_string().contains("no compio runtime"), "{refused}");
        let made = File::create_new(&new, 4096, Caching::Direct, Access::default()).await;
        assert!(matches!(made, Err(OpenError::NoRuntime)), "{made:?}");
    });
    assert!(!new.exists());
}

/// Every pair of modes. A lock is one of an open file, so two of this process do as well as two of
/// two processes.
#[test]
fn who_writes_is_alone_and_who_looks_disturbs_nobody() {
    let scratch = Scratch::new();
    let path = scratch.file("image", &[0; 4096]);
    run(async {
        for first in MODES {
            for second in MODES {
                let held = open(&path, first, Caching::Direct).await;
                let both = [first, second];
                let fine = both.contains(&Mode::Look) || !both.contains(&Mode::Write);
                match File::open(&path, second, Caching::Buffered).await {
                    Ok(_) => assert!(fine, "{second:?} next to {first:?}"),
                    Err(OpenError::InUse(_)) => assert!(!fine, "no {second:?} next to {first:?}"),
                    Err(error) => panic!("{second:?} next to {first:?}: {error}"),
                }
                drop(held);
                open(&path, Mode::Write, Caching::Direct).await;
            }
        }
    });
}

/// Somebody else's program that locks as `flock(1)` does is respected too.
#[test]
fn a_lock_of_somebody_else_is_respected() {
    let scratch = Scratch::new();
    let path = scratch.file("image", &[0; 4096]);
    let theirs = fs::File::open(&path).expect("readable");
    run(async {
        theirs.try_lock_shared().expect("free");
        assert!(matches!(refusal(&path, Mode::Write).await, OpenError::InUse(_)));
        open(&path, Mode::Read, Caching::Direct).await;
        theirs.unlock().expect("unlocked");
        let ours = open(&path, Mode::Write, Caching::Direct).await;
        assert!(theirs.try_lock_shared().is_err());
        drop(ours);
        theirs.try_lock().expect("free again: no open file is left behind");
        assert!(matches!(refusal(&path, Mode::Read).await, OpenError::InUse(_)));
    });
}

#[test]
fn a_file_opened_for_reading_cannot_be_written() {
    let scratch = Scratch::new();
    let path = scratch.file("image", &[3; 8192]);
    run(async {
        for (mode, caching) in [(Mode::Look, Caching::Direct), (Mode::Read, Caching::Buffered)] {
            let file = open(&path, mode, caching).await;
            assert!(file.write(0, placed(&[0; 4096], 0)).await.is_err());
            assert!(file.write(1, placed(&[0; 3], 0)).await.is_err());
            assert!(file.set_len(0).await.is_err());
        }
    });
    assert_eq!(fs::read(&path).expect("readable"), [3; 8192]);
}

/// Root may write to anything, but the mode says that nobody should.
#[test]
fn a_file_without_a_write_bit_is_refused_for_writing_to_root_too() {
    let scratch = Scratch::new();
    let path = scratch.file("image", &[0; 4096]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).expect("its mode can be set");
    run(async {
        let error = refusal(&path, Mode::Write).await;
        assert!(matches!(error, OpenError::ReadOnly(_)), "{error}");
        assert!(error.to_string().contains("0444"), "{error}");
        open(&path, Mode::Read, Caching::Direct).await;
    });
}

#[test]
fn what_is_no_storage_is_refused_and_never_waited_for() {
    let scratch = Scratch::new();
    let fifo = scratch.path("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).expect("made");
    let socket = scratch.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket);
    run(async {
        for path in [scratch.dir(), &fifo, Path::new("/dev/null"), &socket] {
            for mode in MODES {
                let error = refusal(path, mode).await;
                assert!(matches!(error, OpenError::NotStorage), "{}: {error}", path.display());
            }
        }
    });
}

#[test]
fn a_missing_file_is_the_systems_word() {
    let scratch = Scratch::new();
    run(async {
        for mode in MODES {
            match refusal(&scratch.path("missing"), mode).await {
                OpenError::System(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
                error => panic!("{error}"),
            }
        }
        assert_eq!(fs::read_dir(scratch.dir()).expect("readable").count(), 0, "nothing was made");
    });
}

#[test]
fn a_new_file_is_all_hole_locked_and_never_takes_anothers_place() {
    let scratch = Scratch::new();
    let path = scratch.path("new");
    run(async {
        for len in [0, 10_000, 1 << 30] {
            let file = File::create_new(&path, len, Caching::Direct, Access::default())
                .await
                .expect("made");
            assert_eq!(file.len_bytes().expect("asked"), len);
            assert_eq!(file.next_data(0).await.expect("asked"), None);
            assert!(matches!(refusal(&path, Mode::Read).await, OpenError::InUse(_)));
            assert_eq!(file.identity().expect("asked"), Identity::of(&path).expect("asked"));
            drop(file);
            fs::remove_file(&path).expect("removable");
        }
        let dear = scratch.file("dear", b"dear to somebody");
        let dangling = scratch.path("dangling");
        std::os::unix::fs::symlink(scratch.path("nowhere"), &dangling).expect("linked");
        for taken in [&dear, &dangling, &scratch.dir().to_owned()] {
            match File::create_new(taken, 4096, Caching::Direct, Access::default()).await {
                Err(OpenError::System(error)) => {
                    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}", taken.display());
                }
                other => panic!("{}: {other:?}", taken.display()),
            }
        }
        assert_eq!(fs::read(&dear).expect("readable"), b"dear to somebody");
        assert!(!scratch.path("nowhere").exists());
        // Longer than any file may be: nothing is left behind.
        let error = File::create_new(&path, u64::MAX, Caching::Direct, Access::default()).await;
        assert!(matches!(error, Err(OpenError::System(_))), "{error:?}");
        assert!(!path.exists());
    });
}

#[test]
fn a_file_is_the_same_under_all_its_names() {
    let scratch = Scratch::new();
    let [file, copy] = ["file", "copy"].map(|name| scratch.file(name, b"same bytes"));
    let (hard, soft) = (scratch.path("hard"), scratch.path("soft"));
    fs::hard_link(&file, &hard).expect("linked");
    std::os::unix::fs::symlink(&hard, &soft).expect("linked");
    for name in [&hard, &soft] {
        assert!(is_same(&file, name).expect("asked"));
    }
    assert!(!is_same(&file, &copy).expect("asked"));
    assert!(is_same(&file, &scratch.path("missing")).is_err());
    run(async {
        let open = open(&soft, Mode::Read, Caching::Direct).await;
        assert_eq!(open.identity().expect("asked"), Identity::of(&file).expect("asked"));
    });
}
