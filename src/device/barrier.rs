use std::cell::Cell;
use std::io;

use futures_util::lock::Mutex;

use super::interface::Device;

/// The flushes of one device, one at a time, for all who share it. Not a meeting point of threads, as
/// [`std::sync::Barrier`] is.
///
/// Two things make a bare [`flush`](Device::flush) unsafe to share. A system tells a failed write-back
/// once, to the first flush that asks: one under way at the same time, or the next one, succeeds
/// as if nothing had been lost. So flushes take turns, and after one that failed none succeeds any more. And
/// a flush that begins after several have asked serves them all.
#[derive(Debug, Default)]
pub struct Barrier {
    turn: Mutex<()>,
    /// Flushes begun so far; the newest may be under way.
    begun: Cell<u64>,
    failed: Cell<bool>,
}

/// What is left of a flush whose future was dropped: nobody heard how it ended.
struct FailsWhenDropped<'a>(&'a Cell<bool>);

impl Drop for FailsWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

impl Barrier {
    /// Makes every write to `device` that has completed before this call durable.
    ///
    /// # Errors
    ///
    /// The error of the device; and from then on always one.
    pub async fn flush(&self, device: &impl Device) -> io::Result<()> {
        let before = self.begun.get();
        let _turn = self.turn.lock().await;
        if self.failed.get() {
            return Err(io::Error::other("an earlier flush failed: writes may be lost"));
        }
        // One that began after this call, for somebody else, has ended: it did the work.
        if self.begun.get() > before {
            return Ok(());
        }
        self.flush_now(device).await
    }

    /// The same, though an earlier flush failed: for a last word to a device that is given up. It
    /// says something about the writes since that failure only.
    ///
    /// # Errors
    ///
    /// The error of the device.
    pub async fn flush_after_failure(&self, device: &impl Device) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        self.flush_now(device).await
    }

    /// A write is lost that was acknowledged: no flush succeeds from now on.
    pub fn fail(&self) {
        self.failed.set(true);
    }

    /// True if one has failed: none will succeed.
    pub fn has_failed(&self) -> bool {
        self.failed.get()
    }

    async fn flush_now(&self, device: &impl Device) -> io::Result<()> {
        self.begun.set(self.begun.get() + 1);
        let unheard = FailsWhenDropped(&self.failed);
        device.flush().await?;
        std::mem::forget(unheard);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::ops::Range;
    use std::rc::Rc;

    use bytes::Bytes;
    use futures_executor::block_on;
    use futures_util::FutureExt;
    use futures_util::future::{join, join_all};

    use super::*;
    use crate::device::{Allocation, Buffer};

    /// Only flushes: each takes a turn of the executor, and ends as it is told.
    #[derive(Default)]
    struct Flushes {
        ends: RefCell<Vec<bool>>,
        under_way: Cell<u32>,
    }

    impl Device for Flushes {
        async fn read(&self, _: u64, len: usize) -> io::Result<Buffer> {
            Ok(Buffer::zeroed(len))
        }

        async fn write(&self, _: u64, _: Bytes) -> io::Result<()> {
            Ok(())
        }

        async fn write_zeroes(&self, _: u64, _: u64, _: Allocation) -> io::Result<()> {
            Ok(())
        }

        async fn discard(&self, _: u64, _: u64) -> io::Result<()> {
            Ok(())
        }

        async fn flush(&self) -> io::Result<()> {
            self.under_way.set(self.under_way.get() + 1);
            assert_eq!(self.under_way.get(), 1, "two flushes at a time");
            let mut turns = 2;
            std::future::poll_fn(|context| {
                context.waker().wake_by_ref();
                turns -= 1;
                if turns == 0 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
            self.under_way.set(0);
            match self.ends.borrow_mut().pop() {
                Some(true) => Ok(()),
                _ => Err(io::ErrorKind::StorageFull.into()),
            }
        }

        async fn next_data(&self, _: u64) -> io::Result<Option<Range<u64>>> {
            Ok(None)
        }

        fn len_bytes(&self) -> io::Result<u64> {
            Ok(0)
        }

        fn block_bytes(&self) -> u32 {
            512
        }
    }

    fn ending(ends: &[bool]) -> Rc<Flushes> {
        Rc::new(Flushes {
            ends: ends.iter().rev().copied().collect::<Vec<_>>().into(),
            ..Flushes::default()
        })
    }

    #[test]
    fn those_who_ask_meanwhile_share_the_next_flush() {
        let (device, barrier) = (ending(&[true, true]), Barrier::default());
        let asked = join_all((0..5).map(|_| barrier.flush(&device)));
        assert!(block_on(asked).into_iter().all(|ended| ended.is_ok()));
        // One for the first, which was under way when the others asked, and one for all of them.
        assert!(device.ends.borrow().is_empty());
    }

    #[test]
    fn after_a_failure_no_flush_succeeds() {
        let (device, barrier) = (ending(&[false, true, true]), Barrier::default());
        let (first, second) = block_on(join(barrier.flush(&device), barrier.flush(&device)));
        assert_eq!(first.expect_err("fails").kind(), io::ErrorKind::StorageFull);
        second.expect_err("the device would have said that all is well");
        block_on(barrier.flush(&device)).expect_err("and again");
        block_on(barrier.flush_after_failure(&device)).expect("the device takes it");
        block_on(barrier.flush(&device)).expect_err("what was lost before is lost");
    }

    #[test]
    fn a_flush_nobody_waits_for_counts_as_failed() {
        let (device, barrier) = (ending(&[true, true]), Barrier::default());
        assert!(barrier.flush(&device).now_or_never().is_none());
        device.under_way.set(0);
        block_on(barrier.flush(&device)).expect_err("nobody heard how it ended");
    }
}
