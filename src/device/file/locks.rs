use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{FlockOperation, OFlags};

use super::descent::Descent;
use super::error::{OpenError, User};
use super::identity::Identity;
use super::mode::Mode;

/// QEMU (`block/file-posix.c`): a user of a permission has a lock for reading on the byte of its number
/// from here on ...
const USED: i64 = 100;

/// ... and one that does not want others to use it, on the byte of its number from here on.
const NOT_SHARED: i64 = 200;

/// QEMU's permissions, by number.
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const WRITE_UNCHANGED: i64 = 2;
const RESIZE: i64 = 3;

/// Our own: where a loop device begins in its file is byte 0 of what a lock is taken on. QEMU and other
/// programs use no bytes there, and no file reaches it.
const PARTS: i64 = 1 << 62;

/// What one open file claims.
#[derive(Clone, Copy, Debug)]
struct Claim {
    flock: FlockOperation,
    uses: &'static [i64],
    shares_not: &'static [i64],
}

impl Claim {
    /// `None` for those who only look: they take nothing and respect nothing.
    fn of(mode: Mode) -> Option<Self> {
        match mode {
            Mode::Look => None,
            Mode::Read | Mode::Share => Some(Self {
                flock: FlockOperation::NonBlockingLockShared,
                uses: &[CONSISTENT_READ],
                shares_not: &[WRITE, RESIZE],
            }),
            Mode::Write => Some(Self {
                flock: FlockOperation::NonBlockingLockExclusive,
                uses: &[CONSISTENT_READ, WRITE, RESIZE],
                shares_not: &[WRITE, WRITE_UNCHANGED, RESIZE],
            }),
        }
    }

    /// On the file that a loop device is attached to. Other loop devices may have other parts of it, so
    /// nothing is kept from others but what they would have to have for the whole.
    fn below_loop(mode: Mode) -> Option<Self> {
        let uses: &[i64] = match mode {
            Mode::Look => return None,
            Mode::Read | Mode::Share => &[CONSISTENT_READ],
            Mode::Write => &[CONSISTENT_READ, WRITE],
        };
        let flock = FlockOperation::NonBlockingLockShared;
        Some(Self { flock, uses, shares_not: &[] })
    }

    fn bytes(self) -> impl Iterator<Item = i64> {
        let uses = self.uses.iter().map(|permission| USED + permission);
        uses.chain(self.shares_not.iter().map(|permission| NOT_SHARED + permission))
    }

    /// What others must not have: they keep from us what we use, or use what we do not share.
    fn excludes(self) -> impl Iterator<Item = i64> {
        let uses = self.uses.iter().map(|permission| NOT_SHARED + permission);
        uses.chain(self.shares_not.iter().map(|permission| USED + permission))
    }
}

/// Whether the file system has locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Locked {
    Yes,
    /// One kind or both are missing: somebody else may have the file without our knowing.
    NotWholly,
}

/// Takes the locks of `mode`: an `flock`, which dmsnap and tools of the system take, and those of QEMU.
///
/// They are never waited for, but for a second: udev looks at a disk for a moment after every writer, under a
/// lock, and a process that was killed keeps its locks until the system has cleared up its ring. Without
/// patience the second of two commands in a row would find the device in use.
pub(super) async fn take(file: &fs::File, mode: Mode) -> Result<Locked, OpenError> {
    match Claim::of(mode) {
        None => Ok(Locked::Yes),
        Some(claim) => patiently(|| try_claim(file, claim)).await,
    }
}

/// Takes the locks on the file that a disk goes through by a loop device, as far as that can be opened from
/// here, and gives it, for as long as they are to be held.
pub(super) async fn take_below(
    descent: &Descent,
    mode: Mode,
) -> Result<Option<fs::File>, OpenError> {
    let Some(claim) = Claim::below_loop(mode) else { return Ok(None) };
    let Some(file) = open_below(descent, mode) else { return Ok(None) };
    let part = descent.identity.part();
    patiently(|| {
        let locked = try_claim(&file, claim)?;
        match lock_part(&file, mode, part) {
            Ok(()) => Ok(locked),
            Err(error) => {
                release(&file, claim);
                Err(error)
            }
        }
    })
    .await?;
    Ok(Some(file))
}

/// Only if it is surely that file.
fn open_below(descent: &Descent, mode: Mode) -> Option<fs::File> {
    let path = descent.file.as_deref()?;
    let open = |write| {
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = flags.bits().cast_signed();
        OpenOptions::new().read(true).write(write).custom_flags(flags).open(path).ok()
    };
    // What the name leads to may be a device by now that minds being opened.
    let is_file = fs::metadata(path).ok()?.is_file();
    let file = is_file.then(|| open(mode == Mode::Write).or_else(|| open(false))).flatten()?;
    let found = Identity::of_open(&file).ok()?;
    found.overlaps(&descent.identity).then_some(file)
}

/// Takes the locks of [`Mode::Write`] where those of [`Mode::Share`] are held; waits for others like [`take`],
/// if it is to be patient.
///
/// # Ordering
///
/// 1. QEMU's bytes, those that are missing
/// 2. a look for those of others
/// 3. the `flock` becomes exclusive
///
/// Of two who share a device neither gets past 2, so neither loses its `flock` in 3: a system gives up
/// the shared one first, and takes the exclusive one if nobody was quicker. If it is refused all the same, the
/// shared one is taken again, as soon as that can be had.
pub(super) async fn raise(file: &fs::File, patient: bool) -> Result<(), OpenError> {
    let raised = match patient {
        true => patiently(|| try_raise(file)).await,
        false => try_raise(file),
    };
    if raised.is_err() {
        lower(file).await;
    }
    raised
}

fn try_raise(file: &fs::File) -> Result<(), OpenError> {
    let Some(wanted) = Claim::of(Mode::Write) else { return Ok(()) };
    let raised = match try_bytes(file, wanted) {
        Ok(Some(user)) => Err(OpenError::InUse(user)),
        Err(error) if !has_no_locks(error) => Err(io::Error::from(error).into()),
        _ => flock(file, wanted),
    };
    if raised.is_err() {
        let _ = try_lower(file);
    }
    raised.map(drop)
}

/// Gives back what [`raise`] took.
pub(super) async fn lower(file: &fs::File) {
    // Only who knows nothing of QEMU's bytes can be in the way, and those go on saying that it is read.
    let _ = patiently(|| try_lower(file)).await;
}

fn try_lower(file: &fs::File) -> Result<(), OpenError> {
    let (Some(held), Some(taken)) = (Claim::of(Mode::Share), Claim::of(Mode::Write)) else {
        return Ok(());
    };
    let kept: Vec<_> = held.bytes().collect();
    for byte in taken.bytes().filter(|byte| !kept.contains(byte)) {
        let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_UNLCK, byte, 1)));
    }
    flock(file, held).map(drop)
}

/// As long as somebody else has it open, for a second.
pub(super) async fn patiently<T>(
    mut attempt: impl FnMut() -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 0..50 {
        match attempt() {
            Err(OpenError::InUse(User::Lock | User::Qemu | User::Writer | User::Loop(_))) => {
                compio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
    attempt()
}

/// As QEMU does it: first the own locks, then a look for those of others. So of two who come at the same time
/// both may be refused, but never both be let in. Nothing is held if it fails.
fn try_claim(file: &fs::File, claim: Claim) -> Result<Locked, OpenError> {
    let locked = flock(file, claim)?;
    match try_bytes(file, claim) {
        Ok(None) => Ok(locked),
        Ok(Some(user)) => {
            release(file, claim);
            Err(OpenError::InUse(user))
        }
        Err(error) if has_no_locks(error) => Ok(Locked::NotWholly),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// Does not wait.
fn flock(file: &fs::File, claim: Claim) -> Result<Locked, OpenError> {
    match rustix::fs::flock(file, claim.flock) {
        Ok(()) => Ok(Locked::Yes),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse(User::Lock)),
        Err(error) if has_no_locks(Errno::from_raw(error.raw_os_error())) => Ok(Locked::NotWholly),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// Who else has what cannot be shared; `None` if the locks are taken.
fn try_bytes(file: &fs::File, claim: Claim) -> Result<Option<User>, Errno> {
    for byte in claim.bytes() {
        let lock = range(libc::F_RDLCK, byte, 1);
        match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(Some(User::Qemu)),
            other => other?,
        };
    }
    for byte in claim.excludes() {
        // A lock for writing would meet any lock of others, and none of this open file's own.
        let mut lock = range(libc::F_WRLCK, byte, 1);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
        if i32::from(lock.l_type) != libc::F_UNLCK {
            return Ok(Some(User::Qemu));
        }
    }
    Ok(None)
}

fn release(file: &fs::File, claim: Claim) {
    for byte in claim.bytes() {
        let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_UNLCK, byte, 1)));
    }
    let _ = rustix::fs::flock(file, FlockOperation::Unlock);
}

/// Keeps other loop devices from the same part of a file: all, or those that write.
fn lock_part(file: &fs::File, mode: Mode, (from, to): (u64, u64)) -> Result<(), OpenError> {
    let kind = if mode == Mode::Write { libc::F_WRLCK } else { libc::F_RDLCK };
    let (Ok(from), len) = (i64::try_from(from), to.saturating_sub(from)) else { return Ok(()) };
    // A length of 0 means up to the largest position.
    let len =
        i64::try_from(len).ok().filter(|len| from.checked_add(*len).is_some_and(|to| to < PARTS));
    let Some(start) = PARTS.checked_add(from) else { return Ok(()) };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range(kind, start, len.unwrap_or(0)))) {
        Err(Errno::EAGAIN | Errno::EACCES) => Err(OpenError::InUse(User::Lock)),
        // Without such locks, or with a file that could be opened for reading only.
        _ => Ok(()),
    }
}

fn range(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

/// What a file system says that has no locks, or whose server has none.
fn has_no_locks(error: Errno) -> bool {
    matches!(error, Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::ENOLCK | Errno::EINVAL)
}
