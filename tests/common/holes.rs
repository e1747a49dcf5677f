//! A disk that knows its holes, and whose answers about them a test can hold back.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::task::Poll;

use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device};

use super::bytes;

const SECTOR: u64 = 512;

/// When a question about holes is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    AtOnce,
    /// By what there is now, and told when the test lets it.
    Late,
    /// When the test lets it, by what there is then.
    Held,
}

/// Sectors that are not there are holes.
#[derive(Debug)]
pub(crate) struct Holes {
    len_bytes: u64,
    sectors: RefCell<BTreeMap<u64, [u8; 512]>>,
    answer: Cell<Answer>,
    /// Questions that wait for their answer.
    pub(crate) asking: Cell<u32>,
}

impl Holes {
    pub(crate) fn new(len_bytes: u64) -> Self {
        let (sectors, answer) = (RefCell::default(), Cell::new(Answer::AtOnce));
        Self { len_bytes, sectors, answer, asking: Cell::default() }
    }

    pub(crate) fn answer(&self, answer: Answer) {
        self.answer.set(answer);
    }

    pub(crate) fn fill(&self, range: Range<u64>, byte: u8) {
        let mut sectors = self.sectors.borrow_mut();
        sectors.extend((range.start / SECTOR..range.end / SECTOR).map(|n| (n, [byte; 512])));
    }

    fn data_from(&self, at: u64) -> Option<Range<u64>> {
        let sectors = self.sectors.borrow();
        let first = *sectors.range(at / SECTOR..).next()?.0;
        let count = (first..).take_while(|n| sectors.contains_key(n)).count() as u64;
        Some((first * SECTOR).max(at)..(first + count) * SECTOR)
    }

    async fn let_go(&self) {
        self.asking.set(self.asking.get() + 1);
        poll_fn(|context| match self.answer.get() {
            Answer::AtOnce => Poll::Ready(()),
            _ => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await;
        self.asking.set(self.asking.get() - 1);
    }
}

impl Device for Holes {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        let mut content = vec![0; len];
        for (n, byte) in (at..).zip(&mut content) {
            let sectors = self.sectors.borrow();
            *byte = sectors.get(&(n / SECTOR)).map_or(0, |sector| sector[bytes(n % SECTOR)]);
        }
        Ok(Buffer::copy_of(&content))
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        let mut sectors = self.sectors.borrow_mut();
        for (n, byte) in (at..).zip(&data) {
            sectors.entry(n / SECTOR).or_insert([0; 512])[bytes(n % SECTOR)] = *byte;
        }
        Ok(())
    }

    async fn write_zeroes(&self, at: u64, len: u64, _: Allocation) -> io::Result<()> {
        self.sectors.borrow_mut().retain(|n, _| !(at..at + len).contains(&(n * SECTOR)));
        Ok(())
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.write_zeroes(at, len, Allocation::MayPunch).await
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        let early = self.data_from(at);
        let is_late = self.answer.get() == Answer::Late;
        self.let_go().await;
        Ok(if is_late { early } else { self.data_from(at) })
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len_bytes)
    }

    fn block_bytes(&self) -> u32 {
        512
    }
}
