use std::cell::Cell;

use dmsnap::sync::Event;

/// Seconds that pass when nothing else happens.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    now: Cell<u64>,
    /// Until when somebody has looked after the volume.
    kept: Cell<u64>,
    stopped: Cell<bool>,
    changed: Event,
}

impl Clock {
    /// Returns after this many seconds.
    pub(crate) async fn wait(&self, seconds: u64) {
        let until = self.now.get() + seconds;
        self.until(|| self.now.get() >= until).await;
    }

    async fn until(&self, reached: impl Fn() -> bool) {
        self.changed.wait_until(reached).await;
    }

    /// From now on seconds count.
    pub(crate) fn start(&self) {
        self.stopped.set(false);
        self.kept.set(self.now.get());
    }

    /// Nobody waits for the next second any more.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
        self.changed.notify();
    }

    /// A second passes.
    pub(crate) fn second(&self) {
        self.now.set(self.now.get() + 1);
        self.changed.notify();
    }

    /// Returns when there is a second in which nobody has looked after the volume; false when the
    /// clock is stopped.
    pub(crate) async fn next(&self) -> bool {
        self.until(|| self.stopped.get() || self.now.get() > self.kept.get()).await;
        !self.stopped.get()
    }

    /// The volume was looked after for one more second.
    pub(crate) fn kept(&self) {
        self.kept.set(self.kept.get() + 1);
    }

    /// Several seconds have passed since anybody looked after the volume.
    pub(crate) fn is_neglected(&self) -> bool {
        !self.stopped.get() && self.now.get() > self.kept.get() + 2
    }
}
