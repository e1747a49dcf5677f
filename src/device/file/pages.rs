use std::cell::{Cell, RefCell};
use std::ops::Range;

use crate::sync::Event;

/// The unit of the page cache, in bytes.
const PAGE_BYTES: u64 = 4096;

/// Which way a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Cached,
    Direct,
}

/// Writes under way of a file that is written in both ways.
///
/// Kernels keep the two ways coherent from one write to the next, but not while both touch one page: the
/// buffered write keeps the page's old bytes and can bring them back over those of the direct one, which Linux
/// then reports as an I/O error of the next flush. So only one way is in use for a page at a time.
#[derive(Debug, Default)]
pub(super) struct Pages {
    next: Cell<u64>,
    under_way: RefCell<Vec<(u64, Range<u64>, Way)>>,
    left: Event,
}

/// One write under way; over when dropped.
#[derive(Debug)]
pub(super) struct PageWrite<'a>(&'a Pages, u64);

impl Pages {
    /// Returns when no write that goes the other way touches a page of these bytes.
    pub(super) async fn enter(&self, at: u64, len: u64, way: Way) -> PageWrite<'_> {
        let end = at.saturating_add(len).checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX);
        let pages = at / PAGE_BYTES * PAGE_BYTES..end;
        let id = self.next.get();
        self.next.set(id + 1);
        let clashes = |(_, other, its): &(u64, Range<u64>, Way)| {
            *its != way && other.start < pages.end && pages.start < other.end
        };
        self.left.wait_until(|| !self.under_way.borrow().iter().any(clashes)).await;
        self.under_way.borrow_mut().push((id, pages.clone(), way));
        PageWrite(self, id)
    }
}

impl Drop for PageWrite<'_> {
    fn drop(&mut self) {
        self.0.under_way.borrow_mut().retain(|(id, ..)| *id != self.1);
        self.0.left.notify();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn one_page_is_written_in_one_way_at_a_time() {
        let pages = Pages::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut enter = |at, len, way| match pin!(pages.enter(at, len, way)).poll(&mut context) {
            Poll::Ready(write) => Some(write),
            Poll::Pending => None,
        };
        let cached = enter(4097, 5, Way::Cached).expect("the first");
        let other = enter(8191, 1, Way::Cached).expect("the same way");
        assert!(enter(4096, 512, Way::Direct).is_none() && enter(0, 8192, Way::Direct).is_none());
        assert!(enter(0, 4096, Way::Direct).is_some() && enter(8192, 1, Way::Direct).is_some());
        drop(cached);
        assert!(enter(4096, 512, Way::Direct).is_none(), "one is left");
        drop(other);
        let _direct = enter(4096, 512, Way::Direct).expect("nobody is there");
        assert!(enter(5000, 1, Way::Cached).is_none());
    }
}
