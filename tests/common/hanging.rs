//! A device that hangs when it is told to.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device, Memory};

/// Which requests do not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hangs {
    Nothing,
    Writes,
    Flushes,
    Everything,
}

/// Memory behind a door that may be shut: requests wait there until it is open again.
#[derive(Debug)]
pub(crate) struct Hanging {
    memory: Memory,
    hangs: Cell<Hangs>,
    waiting: RefCell<Vec<Waker>>,
}

impl Hanging {
    pub(crate) fn new(content: Vec<u8>) -> Rc<Self> {
        let (hangs, waiting) = (Cell::new(Hangs::Nothing), RefCell::default());
        Rc::new(Self { memory: content.into(), hangs, waiting })
    }

    pub(crate) fn hangs(&self, hangs: Hangs) {
        self.hangs.set(hangs);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        self.memory.content()
    }

    async fn pass(&self, kind: Hangs) {
        poll_fn(|context| {
            let hangs = self.hangs.get();
            if hangs == kind || hangs == Hangs::Everything {
                self.waiting.borrow_mut().push(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }
}

impl Device for Hanging {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.pass(Hangs::Everything).await;
        self.memory.read(at, len).await
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        self.pass(Hangs::Writes).await;
        self.memory.write(at, data).await
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        self.pass(Hangs::Writes).await;
        self.memory.write_zeroes(at, len, allocation).await
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.pass(Hangs::Writes).await;
        self.memory.discard(at, len).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.pass(Hangs::Flushes).await;
        self.memory.flush().await
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.memory.len_bytes()
    }

    fn block_bytes(&self) -> u32 {
        512
    }
}
