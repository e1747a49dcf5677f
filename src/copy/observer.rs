use std::cell::Cell;

/// How far a task is, in bytes of the data it moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all, as far as known.
    pub total: u64,
}

/// The caller's side of a long task: it hears the progress, sets the pace, and may ask the task to stop.
///
/// The task has no clock; a caller who wants a rate keeps one.
#[allow(async_fn_in_trait, reason = "tasks live on one thread: their futures need not be Send")]
pub trait Observer {
    /// The task is this far.
    fn progress(&self, _: Progress) {}

    /// `bytes` are about to be moved: returns when they may be.
    async fn pace(&self, _bytes: u64) {}

    /// A request is about to be made, a read or a write. A caller with one thread for the task and for clients lets
    /// them have their turn here.
    async fn give_way(&self) {}

    /// Asked at every point where the task could stop and leave everything in order.
    fn stop_requested(&self) -> bool {
        false
    }
}

/// An observer that says nothing and wants nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}

/// A part of a task: passes everything on to the observer of the whole.
pub(crate) struct Part<'a, P> {
    observer: &'a P,
    /// Bytes that were done before.
    before: u64,
    /// Bytes of the whole; `None` if they are what was done before and what this part says.
    whole: Option<u64>,
    done: Cell<u64>,
}

impl<'a, P> Part<'a, P> {
    /// The first part, or the only one, of `whole` bytes.
    pub(crate) fn first(observer: &'a P, whole: u64) -> Self {
        Self { observer, before: 0, whole: Some(whole), done: Cell::default() }
    }

    /// What comes after `before` bytes.
    pub(crate) fn after(observer: &'a P, before: u64) -> Self {
        Self { observer, before, whole: None, done: Cell::default() }
    }

    /// Bytes of this part that are done.
    pub(crate) fn done(&self) -> u64 {
        self.done.get()
    }
}

impl<P: Observer> Observer for Part<'_, P> {
    fn progress(&self, Progress { done, total }: Progress) {
        self.done.set(done);
        let total = self.whole.unwrap_or(self.before + total);
        self.observer.progress(Progress { done: self.before + done, total });
    }

    async fn pace(&self, bytes: u64) {
        self.observer.pace(bytes).await;
    }

    async fn give_way(&self) {
        self.observer.give_way().await;
    }

    fn stop_requested(&self) -> bool {
        self.observer.stop_requested()
    }
}
