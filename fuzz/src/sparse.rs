use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device};

const SECTOR: u64 = 512;

/// The most that anybody may read at a time.
const LARGEST_READ: usize = 2 << 20;

/// A device of up to 2^63 bytes of which only some sectors are not zero. It panics when it is asked
/// for what lies beyond its end, counts what is written, and can be told to fail.
#[derive(Debug, Default)]
pub(crate) struct Sparse {
    len_bytes: Cell<u64>,
    sectors: RefCell<BTreeMap<u64, [u8; 512]>>,
    writes: Cell<u64>,
    /// So many more writes and flushes succeed.
    good: Cell<Option<u64>>,
}

impl Sparse {
    pub(crate) fn zeroed(len_bytes: u64) -> Self {
        Self { len_bytes: len_bytes.into(), ..Self::default() }
    }

    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        let mut sectors = self.sectors.borrow_mut();
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let offset = index(at % SECTOR);
            let (now, later) = rest.split_at(rest.len().min(512 - offset));
            let sector = sectors.entry(at / SECTOR).or_insert([0; 512]);
            sector[offset..offset + now.len()].copy_from_slice(now);
            (at, rest) = (at + now.len() as u64, later);
        }
    }

    /// Writes and flushes since the last call.
    pub(crate) fn take_writes(&self) -> u64 {
        self.writes.take()
    }

    /// After `good` more writes and flushes everything fails; `None`: nothing does.
    pub(crate) fn fail_after(&self, good: Option<u64>) {
        self.good.set(good);
    }

    /// What is cut off is gone: longer again, it reads as zeroes there, as a file does.
    pub(crate) fn resize(&self, len_bytes: u64) {
        self.len_bytes.set(len_bytes);
        let mut sectors = self.sectors.borrow_mut();
        sectors.split_off(&len_bytes.div_ceil(SECTOR));
        if let Some(last) = sectors.get_mut(&(len_bytes / SECTOR)) {
            last[index(len_bytes % SECTOR)..].fill(0);
        }
    }

    pub(crate) fn copy(&self) -> Self {
        let copy = Self::zeroed(self.len_bytes.get());
        *copy.sectors.borrow_mut() = self.sectors.borrow().clone();
        copy
    }

    pub(crate) fn content(&self, range: Range<u64>) -> Vec<u8> {
        let sectors = self.sectors.borrow();
        let mut content = vec![0; index(range.end - range.start)];
        for (number, sector) in sectors.range(range.start / SECTOR..range.end.div_ceil(SECTOR)) {
            let begin = number * SECTOR;
            let (from, to) = (begin.max(range.start), (begin + SECTOR).min(range.end));
            content[index(from - range.start)..index(to - range.start)]
                .copy_from_slice(&sector[index(from - begin)..index(to - begin)]);
        }
        content
    }

    /// Sixteen bytes of one sector, as a slot has them.
    pub(crate) fn two_numbers(&self, at: u64) -> (u64, u64) {
        let sectors = self.sectors.borrow();
        let Some(sector) = sectors.get(&(at / SECTOR)) else { return (0, 0) };
        let number = |at: usize| {
            let (bytes, _) = sector[at..].split_first_chunk().expect("within a sector");
            u64::from_le_bytes(*bytes)
        };
        (number(index(at % SECTOR)), number(index(at % SECTOR) + 8))
    }

    fn inside(&self, at: u64, len: u64) {
        let end = self.len_bytes.get().next_multiple_of(SECTOR);
        assert!(at.checked_add(len).is_some_and(|to| to <= end), "{at} + {len} of {end} bytes");
    }

    fn spend(&self) -> io::Result<()> {
        match self.good.get() {
            Some(0) => return Err(io::Error::from_raw_os_error(5)),
            Some(left) => self.good.set(Some(left - 1)),
            None => {}
        }
        self.writes.set(self.writes.get() + 1);
        Ok(())
    }
}

impl PartialEq for Sparse {
    fn eq(&self, other: &Self) -> bool {
        let trimmed = |of: &Self| {
            let mut sectors = of.sectors.borrow().clone();
            sectors.retain(|_, sector| *sector != [0; 512]);
            sectors
        };
        self.len_bytes == other.len_bytes && trimmed(self) == trimmed(other)
    }
}

impl Device for Sparse {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.inside(at, len as u64);
        assert!(len <= LARGEST_READ, "a read of {len} bytes");
        if self.good.get() == Some(0) {
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(Buffer::copy_of(&self.content(at..at + len as u64)))
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        self.inside(at, data.len() as u64);
        self.spend()?;
        self.len_bytes.set(self.len_bytes.get().max(at + data.len() as u64));
        self.put(at, &data);
        Ok(())
    }

    async fn write_zeroes(&self, at: u64, len: u64, _: Allocation) -> io::Result<()> {
        self.inside(at, len);
        self.spend()?;
        let end = at + len;
        let whole = at.div_ceil(SECTOR)..end / SECTOR;
        if whole.start > whole.end {
            self.put(at, &vec![0; index(len)]);
            return Ok(());
        }
        self.put(at, &vec![0; index(whole.start * SECTOR - at)]);
        self.put(whole.end * SECTOR, &vec![0; index(end - whole.end * SECTOR)]);
        self.sectors.borrow_mut().retain(|number, _| !whole.contains(number));
        Ok(())
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.write_zeroes(at, len, Allocation::MayPunch).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.spend()
    }

    async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        let end = self.len_bytes.get();
        let sectors = self.sectors.borrow();
        let next = sectors.range(at / SECTOR..).map(|(number, _)| *number);
        let next = next.map(|number| (number * SECTOR).max(at)..((number + 1) * SECTOR).min(end));
        Ok(next.filter(|data| data.start < data.end).min_by_key(|data| data.start))
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len_bytes.get())
    }

    async fn grow(&self, len_bytes: u64) -> io::Result<()> {
        match self.len_bytes.get() >= len_bytes {
            true => Ok(()),
            false => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn block_bytes(&self) -> u32 {
        512
    }
}

pub(crate) fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
