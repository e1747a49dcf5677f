use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::fault::RequestFault;
use crate::record::Event;

/// Disks that are in trouble until somebody helps.
#[derive(Debug, Default)]
struct Trouble {
    hung: Vec<usize>,
    full: Vec<usize>,
    waiting: Vec<Waker>,
}

/// The power supply of all disks of one machine. Writes, flushes, zeroings and discards count as
/// operations; reads do not, but fail without power.
#[derive(Clone, Debug, Default)]
pub struct Power {
    inner: Rc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    operations: Cell<u64>,
    cut_after: Cell<Option<u64>>,
    faults: RefCell<Vec<(u64, RequestFault)>>,
    /// Reads included.
    requests: Cell<u64>,
    request_faults: RefCell<Vec<(u64, RequestFault)>>,
    fired: RefCell<Vec<(usize, RequestFault)>>,
    disks: Cell<usize>,
    record: RefCell<Option<Vec<Event>>>,
    trouble: RefCell<Trouble>,
    when_wrong: Wrong,
}

/// Called with the number of a disk, and whether it has dropped its volatile writes.
type OnWrong = Box<dyn Fn(&Power, usize, bool)>;

#[derive(Default)]
struct Wrong(RefCell<Option<OnWrong>>);

impl fmt::Debug for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wrong")
    }
}

impl Power {
    /// Never cut.
    pub fn steady() -> Self {
        Self::default()
    }

    /// Cut after this many operations: the next one does not reach its disk.
    pub fn cut_after(operations: u64) -> Self {
        let power = Self::default();
        power.inner.cut_after.set(Some(operations));
        power
    }

    /// Never cut, and everything that reaches a disk is kept: every cut can be tried afterwards.
    pub fn recording() -> Self {
        let power = Self::default();
        power.inner.record.replace(Some(Vec::new()));
        power
    }

    /// Makes operation number `operation` (from 0) go wrong.
    pub fn fail(&self, operation: u64, fault: RequestFault) {
        self.inner.faults.borrow_mut().push((operation, fault));
    }

    /// Makes request number `request` (from 0, reads included) go wrong.
    pub fn fail_request(&self, request: u64, fault: RequestFault) {
        self.inner.request_faults.borrow_mut().push((request, fault));
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.inner.operations.get()
    }

    /// Requests so far, reads included.
    pub fn requests(&self) -> u64 {
        self.inner.requests.get()
    }

    /// The faults that requests met so far, each with the number of its disk.
    pub fn fired(&self) -> Vec<(usize, RequestFault)> {
        self.inner.fired.borrow().clone()
    }

    /// What was recorded so far; nothing is recorded any more.
    pub fn take_record(&self) -> Vec<Event> {
        self.inner.record.take().unwrap_or_default()
    }

    /// Adds to the record, if one is kept.
    pub fn tell(&self, event: impl FnOnce() -> Event) {
        if let Some(record) = self.inner.record.borrow_mut().as_mut() {
            record.push(event());
        }
    }

    /// Calls this with the number of each disk of which a request goes wrong, and of each that drops
    /// its volatile writes (true), at that moment.
    pub fn when_wrong(&self, call: impl Fn(&Self, usize, bool) + 'static) {
        self.inner.when_wrong.0.replace(Some(Box::new(call)));
    }

    pub(crate) fn lost(&self, disk: usize) {
        self.tell(|| Event::Lost { disk });
        self.wrong(disk, true);
    }

    /// Reads of the disk find something else than before, of what was lost already.
    pub(crate) fn changed(&self, disk: usize) {
        self.wrong(disk, true);
    }

    fn wrong(&self, disk: usize, lost: bool) {
        if let Some(call) = self.inner.when_wrong.0.borrow().as_ref() {
            call(self, disk, lost);
        }
    }

    /// Disks that answer no more.
    pub fn hung(&self) -> Vec<usize> {
        self.inner.trouble.borrow().hung.clone()
    }

    /// There is no room below the disk.
    pub(crate) fn is_full(&self, disk: usize) -> bool {
        self.inner.trouble.borrow().full.contains(&disk)
    }

    /// Disks that hang answer again, and those without room have some. True if there were any.
    pub fn heal(&self) -> bool {
        let Trouble { hung, full, waiting } = self.inner.trouble.take();
        waiting.into_iter().for_each(Waker::wake);
        !hung.is_empty() || !full.is_empty()
    }

    /// Returns when the disk answers.
    pub(crate) async fn answers(&self, disk: usize) {
        poll_fn(|context| {
            let mut trouble = self.inner.trouble.borrow_mut();
            if !trouble.hung.contains(&disk) {
                return Poll::Ready(());
            }
            trouble.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// A number for a new disk of this machine.
    pub(crate) fn plug_in(&self) -> usize {
        let number = self.inner.disks.get();
        self.inner.disks.set(number + 1);
        number
    }

    pub(crate) fn is_on(&self) -> bool {
        self.inner.cut_after.get().is_none_or(|cut| self.inner.operations.get() <= cut)
    }

    /// Counts a request of a disk and says what becomes of it.
    pub(crate) fn request(&self, disk: usize) -> Option<RequestFault> {
        let number = self.inner.requests.get();
        self.inner.requests.set(number + 1);
        let faults = self.inner.request_faults.borrow();
        let (_, fault) = faults.iter().find(|(at, _)| *at == number)?;
        self.inner.fired.borrow_mut().push((disk, *fault));
        match fault {
            RequestFault::Hangs => self.inner.trouble.borrow_mut().hung.push(disk),
            RequestFault::Full => self.inner.trouble.borrow_mut().full.push(disk),
            _ => {}
        }
        self.tell(|| Event::Fault { disk, fault: *fault });
        self.wrong(disk, false);
        Some(*fault)
    }

    /// Counts an operation and says what becomes of it.
    pub(crate) fn spend(&self) -> Result<(), (io::Error, Option<RequestFault>)> {
        let number = self.inner.operations.get();
        self.inner.operations.set(number + 1);
        if !self.is_on() {
            return Err((io::Error::other("the power is off"), None));
        }
        let faults = self.inner.faults.borrow();
        match faults.iter().find(|(at, _)| *at == number) {
            Some((_, fault)) => Err((fault.error(), Some(*fault))),
            None => Ok(()),
        }
    }
}
