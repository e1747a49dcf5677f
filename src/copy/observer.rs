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
