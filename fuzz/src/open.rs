//! Real files: of any length, reached through links, of kinds that are not storage. What is opened reads and writes as
//! the file does; what is not is refused, and never waited for.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dmsnap::device::{Allocation, Caching, Device, File, Mode};

use crate::input::{Input, told};
use crate::socket::in_time;

/// Requests of one device, at most.
const MOST: u8 = 16;

/// Bytes of one request, at most.
const MOST_BYTES: u64 = 40 << 10;

/// A folder for one input.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("dmsnap-fuzz-open-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What lies there, how it is named and opened, then what is asked of it.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let folder = Folder::new();
    let (target, is_storage) = lay_out(&folder.0, &mut input);
    let path = named(&folder.0, &target, &mut input);
    let mode = [Mode::Look, Mode::Read, Mode::Write][usize::from(input.u8() % 3)];
    let caching = [Caching::Direct, Caching::Buffered][usize::from(input.u8() % 2)];
    told(|| format!("{} as {mode:?}, {caching:?}", path.display()));
    in_time(async {
        let opened = File::open(&path, mode, caching).await;
        // Also a process that may do everything does not write what is marked as read-only.
        let marked = is_storage
            && fs::metadata(&target).is_ok_and(|it| it.permissions().mode() & 0o222 == 0);
        match opened {
            Ok(_) if !is_storage || !path.exists() => panic!("{} was opened", path.display()),
            Ok(_) if marked && mode == Mode::Write => panic!("a read-only file was opened"),
            Ok(file) => ask(&file, &target, mode, &mut input).await,
            Err(error) if is_storage && path.exists() && !(marked && mode == Mode::Write) => {
                panic!("{}: {error}", path.display());
            }
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
    });
}

/// Makes something; true if it is storage.
fn lay_out(folder: &Path, input: &mut Input<'_>) -> (PathBuf, bool) {
    let target = folder.join("target");
    match input.u8() % 8 {
        0 => fs::create_dir(&target).expect("made"),
        1 => drop(UnixListener::bind(&target).expect("made")),
        2 => return ("/dev/null".into(), false),
        3 => return (target, false),
        _ => {
            let mut file =
                OpenOptions::new().write(true).create_new(true).open(&target).expect("made");
            let content: Vec<u8> = (0..input.below(3) * 5000 + input.below(700))
                .map(|n| u8::try_from(n % 251).unwrap_or(0))
                .collect();
            file.write_all(&content).expect("written");
            // Longer than any memory, perhaps, and by any number of bytes.
            let hole = [0, u64::from(input.u16()), u64::from(input.u32()) << 8];
            let hole = hole[usize::from(input.u8() % 3)];
            file.set_len(content.len() as u64 + hole).expect("sparse");
            if input.u8().is_multiple_of(5) {
                fs::set_permissions(&target, Permissions::from_mode(0o400)).expect("set");
            }
            return (target, true);
        }
    }
    (target, false)
}

/// A name of it: its own, or a chain of links, which may lead nowhere or in a circle.
fn named(folder: &Path, target: &Path, input: &mut Input<'_>) -> PathBuf {
    match input.u8() % 6 {
        0 => {
            let (one, other) = (folder.join("one"), folder.join("other"));
            symlink(&other, &one).expect("linked");
            symlink(&one, &other).expect("linked");
            one
        }
        1 => {
            let mut last = target.to_owned();
            for n in 0..input.u8() % 6 {
                let link = folder.join(format!("link-{n}"));
                symlink(&last, &link).expect("linked");
                last = link;
            }
            last
        }
        2 if target.is_file() => {
            let hard = folder.join("hard");
            fs::hard_link(target, &hard).expect("linked");
            hard
        }
        3 => folder
            .join(".")
            .join("..")
            .join(folder.file_name().expect("a name"))
            .join(target.file_name().expect("a name")),
        _ => target.to_owned(),
    }
}

/// Each answer is the file's own.
async fn ask(device: &File, path: &Path, mode: Mode, input: &mut Input<'_>) {
    let below = fs::File::open(path).expect("readable");
    let mut len = below.metadata().expect("known").len();
    assert_eq!(device.len_bytes().expect("known"), len);
    for _ in 0..input.u8() % MOST {
        let at = match input.u8() % 3 {
            0 => input.below(len.max(1)),
            1 => input.below(len / 512 + 2) * 512,
            _ => (len + 512).saturating_sub(input.below(2048)),
        };
        let bytes = match input.u8() % 2 {
            0 => input.below(MOST_BYTES),
            _ => input.below(MOST_BYTES / 512) * 512,
        };
        let count = usize::try_from(bytes).expect("small");
        let inside = at + bytes <= len;
        let kind = input.u8() % 8;
        told(|| format!("request {kind}: {bytes} bytes at {at} of {len}"));
        match kind {
            0..=2 => match device.read(at, count).await {
                Ok(read) => assert!(read[..] == exactly(&below, at, count)[..], "{count} at {at}"),
                Err(error) => assert!(!inside, "{error}"),
            },
            3 => {
                let Ok(Some(data)) = device.next_data(at).await else { continue };
                assert!(at <= data.start && data.start < data.end && data.end <= len, "{data:?}");
                let skipped = data.start.min(at + MOST_BYTES);
                let skipped = exactly(&below, at, usize::try_from(skipped - at).expect("small"));
                assert!(skipped.iter().all(|byte| *byte == 0), "data was called a hole");
            }
            _ if mode != Mode::Write || !inside => {}
            4 | 5 => {
                let data = Bytes::from(vec![input.u8(); count]);
                device.write(at, data.clone()).await.expect("written");
                assert!(exactly(&below, at, count) == data, "{count} at {at}");
            }
            6 => {
                let allocation = [Allocation::MayPunch, Allocation::Keep];
                let allocation = allocation[usize::from(input.u8() % 2)];
                device.write_zeroes(at, bytes, allocation).await.expect("zeroed");
                assert!(exactly(&below, at, count).iter().all(|byte| *byte == 0));
            }
            _ => {
                len += input.below(9000);
                device.grow(len).await.expect("sparse");
            }
        }
        assert_eq!(below.metadata().expect("known").len(), len, "the length has changed");
    }
    if mode == Mode::Write {
        device.flush().await.expect("flushed");
    }
}

/// What the file holds, read by somebody else. The rest of its last sector reads as zeroes.
fn exactly(below: &fs::File, at: u64, count: usize) -> Vec<u8> {
    let len = below.metadata().expect("known").len();
    let end = at + count as u64;
    assert!(
        count == 0 || end <= len.next_multiple_of(512),
        "{end} is past the last sector of {len} bytes"
    );
    let mut read = vec![0; count];
    let there = usize::try_from(len.saturating_sub(at)).map_or(count, |there| there.min(count));
    below.read_exact_at(&mut read[..there], at).expect("readable");
    read
}
