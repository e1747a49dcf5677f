use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use dmsnap::device::OpenError;
use dmsnap::ops;
use dmsnap::signature::Found;
use dmsnap_lvm::{AreaError, DiskProblem, GroupError, GroupProblem, LocateError, RewriteError};

use crate::name::Name;

/// What was found, and where: why something could not be done, or what deserves a warning.
#[derive(Debug, thiserror::Error)]
#[error("{subject}: {kind}")]
#[non_exhaustive]
pub struct ImageError {
    /// What it is about.
    pub subject: Subject,
    /// What was found.
    pub kind: Box<ImageErrorKind>,
}

/// What an [`ImageError`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// A file or a disk, by the path that the caller gave.
    Path(PathBuf),
    /// A partition of one.
    Partition {
        /// The disk.
        path: PathBuf,
        /// Its number, from 1 on.
        number: u32,
    },
    /// All images that were given together.
    Images(Vec<PathBuf>),
    /// A volume group, by its name.
    Group(String),
    /// A volume. Where two groups have one name, the uuid of its group stands there.
    Volume(Name),
}

/// One of the volumes that a name may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The name that means it alone.
    pub name: Name,
    /// The first image that its group lies on, if only that tells the groups apart.
    pub image: Option<PathBuf>,
}

/// What was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageErrorKind {
    /// A device or file failed, or what it says cannot be used.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// A file or disk cannot be opened.
    #[error("{0}")]
    Open(#[source] OpenError),
    /// A file or disk cannot be read where labels and metadata are looked for.
    #[error("cannot read at byte {at}: {source}")]
    Read {
        /// In bytes, from the front of the disk.
        at: u64,
        /// What the device said.
        source: io::Error,
    },
    /// A warning: the file system has no locks, or not all kinds.
    #[error("the file system has no locks; nobody knows who else has it open")]
    NotLocked,
    /// A warning: a kernel uses what is read.
    #[error("what is read may be of different moments: it is in use through {}", .through.display())]
    InUse {
        /// The loop device.
        through: PathBuf,
    },
    /// One disk of a RAID, which must not be written without the others.
    #[error("{}", ops::Error::RaidMember { found: *.0 })]
    RaidMember(Found),

    /// Two paths lead to the same storage.
    #[error("the same file or device as {}", .0.display())]
    SameImage(PathBuf),
    /// Something else lies where a physical volume could.
    #[error("no physical volume of LVM, but {0}")]
    Foreign(Found),
    /// A partition table hides the label.
    #[error("an LVM label on the whole disk is not used: there is a partition table")]
    HiddenLabel,
    /// No physical volume, and nothing in which one could lie.
    #[error("no LVM physical volume, and no partition table")]
    NoPartitionTable,
    /// No physical volume: the partition table has no entry.
    #[error("no LVM physical volume, and a partition table without partitions")]
    NoPartitions,
    /// No physical volume, in no partition either.
    #[error("no LVM physical volume, and none of its partitions is one")]
    NoPhysicalVolume,
    /// A part of a disk that could not be used.
    #[error("{0}")]
    Disk(#[source] DiskProblem),
    /// A metadata area that could not be used.
    #[error("{0}")]
    Area(#[source] AreaError),
    /// A metadata text that could not be used.
    #[error("{0}")]
    Text(#[source] GroupError),
    /// What is not as it should be in a volume group.
    #[error("{0}")]
    Group(#[source] GroupProblem),

    /// The images describe no volume group.
    #[error("no volume group is described here")]
    NoGroup,
    /// No volume group has this name or uuid.
    #[error("found no volume group {group}; there is {}", .known.join(", "))]
    GroupNotFound {
        /// What was looked for.
        group: String,
        /// The names of those that are there.
        known: Vec<String>,
    },
    /// No volume has this name.
    #[error("found no volume {name}; there is {}", .known.join(", "))]
    VolumeNotFound {
        /// What was looked for.
        name: Name,
        /// The names of those that are there.
        known: Vec<String>,
    },
    /// More than one volume has this name.
    #[error("{name} may be {} or {}", .candidates[0], .candidates[1])]
    Ambiguous {
        /// What was looked for.
        name: Name,
        /// Two of them.
        candidates: Box<[Candidate; 2]>,
        /// Their groups have the same name, and only uuids tell them apart.
        is_same_group_name: bool,
    },
    /// A warning: another volume group has the same name.
    #[error("another volume group has the name {group}, too")]
    SameGroupName {
        /// That name.
        group: String,
        /// How a volume of this one is named.
        example: Name,
    },

    /// A volume that is there, but not as a snapshot.
    #[error("is not a snapshot")]
    NotSnapshot {
        /// The snapshots of its group.
        known: Vec<String>,
    },
    /// A snapshot, where its name would stand for its COW device and another device was wanted.
    #[error("is a snapshot of {origin}")]
    IsSnapshot {
        /// Its origin, in the same group.
        origin: String,
    },
    /// The bytes of a volume cannot be found.
    #[error("{0}")]
    Locate(#[source] LocateError),
    /// A volume that is to be written to lies on a disk that was cut off.
    #[error("cannot be written to: {0}")]
    Short(#[source] GroupProblem),
    /// A volume of which some segments lie nowhere.
    #[error("is made of zeroes in part, which is not supported")]
    ZeroesInPart,
    /// A physical volume was not found.
    #[error("lacks a disk")]
    LacksDisk,
    /// The store of a snapshot cannot be used.
    #[error("{0}")]
    Store(#[source] ops::Error),

    /// The origin of a snapshot lies nowhere: there is nothing to merge into.
    #[error("its origin {origin} is virtual")]
    VirtualOrigin {
        /// The origin.
        origin: String,
    },
    /// LVM merges another snapshot into the same origin.
    #[error("another snapshot merges into {origin}")]
    OtherMerges {
        /// The origin.
        origin: String,
    },
    /// What another snapshot shows would be lost.
    #[error("cannot keep what it shows: {0}")]
    CannotKeep(#[source] ops::Error),
    /// Another snapshot has no room for what it shows.
    #[error("has no room for {chunks} chunks that it would have to keep")]
    NoRoom {
        /// How many it would have to keep.
        chunks: u64,
    },
    /// A merge was refused, or failed.
    #[error("{0}")]
    Merge(#[source] ops::Error),
    /// The undo store of a merge was refused, or failed.
    #[error("the way back: {0}")]
    WayBack(#[source] ops::Error),
    /// The metadata of a merge cannot be written.
    #[error("{0}")]
    Rewrite(#[source] RewriteError),
    /// Something else is where the old metadata text is to be kept.
    #[error("exists already, with something else in it")]
    BackupExists,
    /// The old metadata text cannot be kept.
    #[error("cannot keep the old metadata: {0}")]
    Backup(#[source] io::Error),
    /// The metadata was not written to every area. It is whole all the same, as it was or as it was to
    /// become, and another try goes on.
    #[error("cannot write the metadata: {source}")]
    WriteMetadata {
        /// The data was merged before; otherwise none of it was.
        merged: bool,
        /// What the disk said.
        source: io::Error,
    },
}

impl ImageError {
    pub(crate) fn new(subject: Subject, kind: ImageErrorKind) -> Self {
        Self { subject, kind: Box::new(kind) }
    }

    /// About a file or a disk.
    pub(crate) fn about(path: &Path, kind: ImageErrorKind) -> Self {
        Self::new(Subject::Path(path.to_owned()), kind)
    }

    /// For `map_err` on what the system says of a file or a disk.
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self + use<'_> {
        move |error| Self::about(path, ImageErrorKind::Io(error))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Partition { path, number } => {
                write!(f, "{}, partition {number}", path.display())
            }
            Self::Images(paths) => {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                f.write_str(&paths.join(","))
            }
            Self::Group(name) => f.write_str(name),
            Self::Volume(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.image {
            Some(image) => write!(f, "{} on {}", self.name, image.display()),
            None => self.name.fmt(f),
        }
    }
}
