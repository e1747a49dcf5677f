//! Questions to the kernel, and one to the C library, that no library asks without `unsafe`. All of them are
//! here.

#![allow(unsafe_code, reason = "ioctl and fcntl take what their number says, unchecked")]

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::libc;
use rustix::ioctl::{Getter, NoArg, ioctl};

/// Linux: `BLKFLSBUF` of `linux/fs.h`.
const BLKFLSBUF: u32 = 0x1261;

/// Linux: `BLKROGET` of `linux/fs.h`.
const BLKROGET: u32 = 0x125E;

/// Linux: `LOOP_GET_STATUS64` of `linux/loop.h`.
const LOOP_GET_STATUS64: u32 = 0x4C05;

/// Linux: `F_SETSIG` of `asm-generic/fcntl.h`.
const F_SETSIG: libc::c_int = 10;

/// Linux: `struct loop_info64`.
#[derive(Clone, Copy)]
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const _: () = assert!(size_of::<LoopInfo>() == 232);

/// What a loop device is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LoopStatus {
    /// `st_dev` and `st_ino` of the file, in every mount namespace.
    pub(super) inode: (u64, u64),
    /// Its `st_rdev`, if it is a disk and no file.
    pub(super) disk: Option<u64>,
    /// Where the device begins in it, in bytes.
    pub(super) offset_bytes: u64,
    /// Where it ends, counted from there; `None`: with the file.
    pub(super) size_bytes: Option<u64>,
    /// The name that it was attached by: cut off after 63 bytes, and whatever the one who attached it said.
    pub(super) file_name: PathBuf,
}

/// What the loop device of this descriptor is attached to: any descriptor, also one for reading
/// only.
///
/// # Errors
///
/// `ENXIO` if it is attached to nothing; `ENOTTY` or `EINVAL` if it is not a loop device.
pub(super) fn loop_status(loop_device: impl AsFd) -> io::Result<LoopStatus> {
    // SAFETY: the number is that of a call which writes one `loop_info64`, the type has its layout, and
    // every bit pattern is a value of it. Other kinds of files refuse the number.
    let info = unsafe { ioctl(loop_device, Getter::<LOOP_GET_STATUS64, LoopInfo>::new()) }?;
    // Of a file, kernels tell its file system's device in both.
    let disk = (info.rdevice != info.device && info.rdevice != 0).then_some(info.rdevice);
    let name = info.file_name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(LoopStatus {
        file_name: OsStr::from_bytes(name).into(),
        inode: (info.device, info.inode),
        disk,
        offset_bytes: info.offset,
        size_bytes: (info.size_limit != 0).then_some(info.size_limit),
    })
}

/// Makes the kernel forget what it keeps in memory of a disk, after it has written what is dirty: the
/// next read sees the medium. Pages that somebody else has mapped or is reading at the moment stay.
///
/// # Errors
///
/// `EACCES` without the privilege; `ENOTTY` if it is not a disk.
pub(super) fn flush_disk_cache(disk: impl AsFd) -> io::Result<()> {
    // SAFETY: the number is that of a call without an argument.
    unsafe { ioctl(disk, NoArg::<BLKFLSBUF>::new()) }?;
    Ok(())
}

/// Whether the disk is set to be read only. The kernel refuses to open one for writing as if a permission
/// were missing.
///
/// # Errors
///
/// `ENOTTY` if it is not a disk.
pub(super) fn is_read_only(disk: impl AsFd) -> io::Result<bool> {
    // SAFETY: the number is that of a call which writes one `int`.
    let read_only = unsafe { ioctl(disk, Getter::<BLKROGET, libc::c_int>::new()) }?;
    Ok(read_only != 0)
}

/// Whether anybody else has this regular file open for writing: any process, under any name, or the kernel
/// itself (a loop device). `file` must be open for reading only.
///
/// The kernel grants a lease for reading exactly if there is no writer; it is given back at once.
///
/// # Errors
///
/// Where this cannot be found out: `EACCES` for the file of another user, `EINVAL` on file systems without
/// leases (networks, FUSE), ...
pub(super) fn is_open_for_writing(file: impl AsFd) -> io::Result<bool> {
    is_leased(file, libc::F_RDLCK)
}

/// Whether anybody else has this regular file open at all. As [`is_open_for_writing`].
///
/// # Errors
///
/// As [`is_open_for_writing`].
pub(super) fn is_open(file: impl AsFd) -> io::Result<bool> {
    is_leased(file, libc::F_WRLCK)
}

/// Whether a lease of this kind is refused because others have the file open.
fn is_leased(file: impl AsFd, kind: libc::c_int) -> io::Result<bool> {
    let file = file.as_fd().as_raw_fd();
    let set = |command, value: libc::c_int| {
        // SAFETY: these commands take an integer, and touch no memory of ours.
        match unsafe { libc::fcntl(file, command, value) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // Anyone who opens the file while the lease is held goes on when it is given back, but we are sent a signal.
    // SIGIO would end the process; SIGURG is ignored unless somebody waits for it.
    set(F_SETSIG, libc::SIGURG)?;
    match set(libc::F_SETLEASE, kind) {
        Ok(()) => set(libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Gives freed memory back to the system that the C library keeps, where it can be told to.
pub(super) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it is given no pointer, and touches no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::PathBuf;

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("dmsnap-{name}-{}", std::process::id()));
            fs::write(&path, [0; 4096]).expect("written");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn files_have_no_loop_status_and_no_disk_cache() {
        let scratch = Scratch::new("ioctl-file");
        let file = File::open(&scratch.0).expect("opened");
        assert!(loop_status(&file).is_err());
        assert!(flush_disk_cache(&file).is_err());
    }

    /// Needs root and a loop device; `tests/device/disks.rs` asks attached ones.
    #[test]
    fn a_loop_device_tells_its_status_or_that_it_has_none() {
        let Ok(node) = File::open("/dev/loop0") else {
            eprintln!("SKIPPED: no loop device can be opened here");
            return;
        };
        match loop_status(&node) {
            Ok(status) => assert_ne!(status.inode.1, 0, "{status:?}"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENXIO), "{error}"),
        }
        flush_disk_cache(&node).expect("a disk's cache can be flushed");
    }

    #[test]
    fn a_writer_of_a_file_is_noticed() {
        let scratch = Scratch::new("ioctl-lease");
        let look = File::open(&scratch.0).expect("opened");
        let reader = File::open(&scratch.0).expect("opened");
        match is_open_for_writing(&look) {
            Ok(found) => assert!(!found, "a reader does not write"),
            Err(error) => return eprintln!("SKIPPED: no leases here: {error}"),
        }
        assert!(is_open(&look).expect("asked before"), "a reader has it open");
        let writer = File::options().append(true).open(&scratch.0).expect("not kept waiting");
        assert!(is_open_for_writing(&look).expect("asked before"));
        drop((writer, reader));
        assert!(!is_open_for_writing(&look).expect("asked before"));
        assert!(!is_open(&look).expect("asked before"));
    }
}
