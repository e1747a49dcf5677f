use std::io;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestFault {
    /// It fails, having done nothing; the next ones succeed.
    Fails,
    /// It fails after it was done.
    FailsDone,
    /// It finds no space; reads fail as with [`Fails`](Self::Fails).
    NoSpace,
    /// A read ends before it should; anything else fails.
    Short,
    /// A flush fails and the writes before it are dropped, as disks and kernels do; anything else
    /// fails.
    DropsWrites,
    /// A flush fails and the writes before it are lost, but reads go on to see them, and later flushes
    /// succeed, as with Linux's page cache; anything else fails.
    KeepsPages,
    /// It succeeds, very late.
    Slow,
    /// The disk answers no more, from this request on, until somebody [heals](crate::Power::heal) it.
    Hangs,
    /// There is no room below the disk, for this and every later write, also in place, until somebody
    /// [heals](crate::Power::heal) it; reads and flushes go on.
    Full,
    /// The disk is gone: this and every later request fails.
    Gone,
}

impl RequestFault {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Fails,
        Self::FailsDone,
        Self::NoSpace,
        Self::Short,
        Self::DropsWrites,
        Self::KeepsPages,
        Self::Slow,
        Self::Hangs,
        Self::Full,
        Self::Gone,
    ];

    /// Its place among all of them.
    pub fn number(self) -> u64 {
        self as u64
    }

    /// True if it lasts until somebody [heals](crate::Power::heal) the disk.
    pub fn lasts(self) -> bool {
        matches!(self, Self::Hangs | Self::Full)
    }

    pub(crate) fn error(self) -> io::Error {
        match self {
            Self::NoSpace => io::Error::new(io::ErrorKind::StorageFull, "injected: no space"),
            Self::Short => io::Error::new(io::ErrorKind::UnexpectedEof, "injected: short read"),
            Self::Gone => io::Error::other("injected: the disk is gone"),
            _ => io::Error::other("injected error"),
        }
    }
}

/// How badly a disk has behaved.
pub(crate) fn badness(fired: &[(usize, RequestFault)], disk: usize) -> usize {
    let own = fired.iter().filter(|(other, _)| *other == disk);
    own.map(|(_, fault)| match fault {
        RequestFault::Slow | RequestFault::Hangs | RequestFault::Full => 0,
        RequestFault::Gone => 2,
        _ => 1,
    })
    .sum()
}
