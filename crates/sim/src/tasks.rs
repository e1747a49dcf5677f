use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use dmsnap_serve::spawn_by;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};

/// What the server does in the background.
#[derive(Default)]
pub(crate) struct Tasks {
    new: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    running: Cell<usize>,
    stopped: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Tasks {
    /// Takes the tasks of everything on this thread.
    pub(crate) fn new() -> Rc<Self> {
        let tasks = Rc::new(Self::default());
        let taking = tasks.clone();
        spawn_by(Some(Rc::new(move |task| {
            taking.new.borrow_mut().push(task);
            taking.changed();
        })));
        tasks
    }

    fn changed(&self) {
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    pub(crate) fn start(&self) {
        self.stopped.set(false);
    }

    /// What is under way goes on to its end, and that is all.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
        self.changed();
    }

    /// Drives them until they are stopped.
    pub(crate) async fn drive(&self) {
        let mut under_way = FuturesUnordered::new();
        poll_fn(|context| {
            loop {
                under_way.extend(self.new.take());
                match under_way.poll_next_unpin(context) {
                    Poll::Ready(Some(())) => continue,
                    _ if self.new.borrow().is_empty() => break,
                    _ => {}
                }
            }
            if self.running.replace(under_way.len()) > under_way.len() {
                self.changed();
            }
            if under_way.is_empty() && self.stopped.get() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Returns when none is under way.
    pub(crate) async fn rest(&self) {
        poll_fn(|context| {
            if self.new.borrow().is_empty() && self.running.get() == 0 {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
