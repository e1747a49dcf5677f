/// How far a task is, in bytes of the data it moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all, as far as known.
    pub total: u64,
}

/// The caller's side of a long task: hears how far it is, sets its pace, may ask it to stop.
///
/// The task has no clock; whoever wants a rate keeps one.
#[allow(async_fn_in_trait, reason = "tasks live on one thread: their futures need not be Send")]
pub trait Observer {
    /// The task is this far.
    fn progress(&self, progress: Progress);

    /// `bytes` are about to be moved: returns when they may be.
    async fn pace(&self, bytes: u64);

    /// Asked at every point where the task could stop and leave everything in order.
    fn stop_requested(&self) -> bool;
}

/// An observer that says nothing and wants nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn progress(&self, _: Progress) {}

    async fn pace(&self, _: u64) {}

    fn stop_requested(&self) -> bool {
        false
    }
}
