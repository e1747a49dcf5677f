use std::path::PathBuf;

/// Which bytes of which file or disk a path leads to, whatever its name: the same for hard links, symbolic
/// links, two nodes of one disk, a partition and its part of the disk, and a loop device and its part of the
/// file it is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    of: What,
    /// In bytes. A file or a disk has all of them, however long it is.
    from: u64,
    to: u64,
}

/// What lies below everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    /// A file: its file system's device number and its inode.
    Inode(u64, u64),
    /// A disk, by its device number.
    Disk(u64),
}

/// A part of something that lies below a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Below {
    pub(super) what: What,
    pub(super) from: u64,
    /// `None`: to its end.
    pub(super) len: Option<u64>,
    /// A name that a file may have.
    pub(super) path: Option<PathBuf>,
}

impl Identity {
    /// Whether a write to one may change what is read from the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.of == other.of && self.from < other.to && other.from < self.to
    }

    /// What lies below everything else.
    pub(super) fn of_what(&self) -> What {
        self.of
    }

    /// Where it lies in what is below everything else, in bytes.
    pub(super) fn part(&self) -> (u64, u64) {
        (self.from, self.to)
    }

    pub(super) fn all_of(what: What) -> Self {
        Self { of: what, from: 0, to: u64::MAX }
    }

    /// The part of `below` that this is, if `below` is what it lies in.
    pub(super) fn moved(self, below: &Below) -> Self {
        let to = below.len.map_or(self.to, |len| self.to.min(len));
        let at = |position: u64| position.saturating_add(below.from);
        Self { of: below.what, from: at(self.from), to: at(to) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two loop devices on one file, a partition of one of them, and the file.
    #[test]
    fn parts_of_one_file_are_the_same_where_they_overlap() {
        let file = What::Inode(1, 2);
        let part = |from, len| {
            let below = Below { what: file, from, len, path: None };
            Identity::all_of(What::Disk(7)).moved(&below)
        };
        let (first, second) = (part(0, Some(1 << 20)), part(1 << 20, None));
        assert!(!first.overlaps(&second) && !second.overlaps(&first));
        assert!(part((1 << 20) - 1, Some(1)).overlaps(&first));
        for one in [first, second] {
            assert!(one.overlaps(&one));
            assert!(one.overlaps(&Identity::all_of(file)) && Identity::all_of(file).overlaps(&one));
            assert!(!one.overlaps(&Identity::all_of(What::Inode(1, 3))));
            assert!(!one.overlaps(&Identity::all_of(What::Disk(7))));
        }
        // A partition is cut off where its disk ends.
        let on_first = Identity { of: What::Disk(7), from: 4096, to: 1 << 30 };
        let below = Below { what: file, from: 0, len: Some(1 << 20), path: None };
        assert_eq!(on_first.moved(&below), Identity { of: file, from: 4096, to: 1 << 20 });
    }
}
